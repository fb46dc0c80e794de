"""Attention to selected blocks of keys (MiniMax-M3): the config, which keys a query reads, shards, what is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.numeric.sparse_attention import block_scores, gather_blocks, topk_select
from pmc.compiler.check import FP32, Proof, check_model
from pmc.compiler.config import ConfigError, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import with_fp32
from pmc.compiler.small import small_target
from pmc.dialects import dist, layer, model
from pmc.dialects.assembly import PmcOp
from pmc.dialects.expr import expr
from pmc.dialects.tensor import tensor
from pmc.passes.expand_blocks import ExpandBlocksPass
from tests.reference.configs import MINIMAX_M3

PUBLISHED: dict[str, Any] = {
    "architectures": ["MiniMaxM3ForCausalLM"],
    "attention_output_gate": False,
    "dense_intermediate_size": 12288,
    "first_k_dense_replace": 3,
    "head_dim": 128,
    "hidden_act": "swigluoai",
    "hidden_size": 6144,
    "intermediate_size": 3072,
    "max_position_embeddings": 1048576,
    "moe_intermediate_size": 3072,
    "moe_layer_freq": [0] * 3 + [1] * 57,
    "n_shared_experts": 1,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 60,
    "num_key_value_heads": 4,
    "num_local_experts": 128,
    "num_mtp_modules": 7,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "qk_norm_type": "per_head",
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000,
    "rotary_dim": 64,
    "routed_scaling_factor": 2.0,
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 3072,
    "sparse_attention_config": {
        "sparse_attention_freq": [0] * 3 + [1] * 57,
        "sparse_block_size": 128,
        "sparse_disable_index_value": [0] * 3 + [1] * 57,
        "sparse_index_dim": 128,
        "sparse_init_block": 0,
        "sparse_local_block": 1,
        "sparse_num_index_heads": 4,
        "sparse_score_type": "max",
        "sparse_topk_blocks": 16,
        "use_sparse_attention": True,
    },
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_gemma_norm": True,
    "use_qk_norm": True,
    "use_routing_bias": True,
    "vocab_size": 200064,
}
"""The file of MiniMax-M3."""


def expanded(phase: str = "decode") -> ModuleOp:
    module = import_hf(deepcopy(PUBLISHED), "m3", "m3")
    ExpandBlocksPass(phase).apply(Context(), module)
    return module


def one(module: ModuleOp, kind: type[Any], path: str = "") -> Any:
    found = (op for op in module.walk() if isinstance(op, PmcOp) and isinstance(op, kind))
    return next(op for op in found if "block_sparse" in op.path.data and op.path.data.endswith(path))


# -- the config -------------------------------------------------------------------------------------------------


def test_parameters_of_the_published_file_are_counted_by_hand() -> None:
    module = import_hf(deepcopy(PUBLISHED), "m3", "m3")
    hidden, layers, sparse = 6144, 60, 57
    attention = hidden * (64 + 4 + 4) * 128 + 64 * 128 * hidden + 2 * 128
    indexer = hidden * (4 + 1) * 128 + 2 * 128
    expert, dense = 3 * hidden * 3072, 3 * hidden * 12288
    moe = 129 * expert + 128 * hidden + 128  # 128 experts and the shared one, router and its bias
    norms = (2 * layers + 1) * hidden
    total = 2 * 200064 * hidden + norms + layers * attention + sparse * (indexer + moe) + 3 * dense
    assert model.parameter_count(module) == total == 426_174_572_928
    idle = 124 * expert * sparse + (200064 - 1) * hidden
    assert model.active_parameter_count(module) == total - idle


def changed(**changes: Any) -> dict[str, Any]:
    """The tiny config with other fields; those of the indexer by their names."""
    config = deepcopy(MINIMAX_M3)
    indexer: Any = config["sparse_attention_config"]
    for name, value in changes.items():
        (indexer if name.startswith(("sparse_", "use_sparse")) else config)[name] = value
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparse_num_index_heads": 2}, "sparse_num_index_heads: 2, must be num_key_value_heads, which is 4"),
        ({"sparse_init_block": 1}, "sparse_init_block: 1 is not supported, only 0 is"),
        ({"sparse_score_type": "mean"}, "sparse_score_type: 'mean' is not supported, only 'max' is"),
        ({"use_sparse_attention": False}, "use_sparse_attention: False is not supported, only True is"),
        ({"sparse_disable_index_value": [0, 0, 1]}, "sparse_disable_index_value: index values, as of layer 1, are not"),
        ({"sparse_attention_freq": [0, 1]}, "sparse_attention_freq: expected a list with an entry for each of the 3"),
        ({"sparse_attention_freq": [0, 2, 1]}, "sparse_attention_freq: expected 0 or 1 for every layer, found 2"),
        ({"sparse_local_block": 0}, "sparse_local_block: expected an integer of at least 1, found 0"),
        ({"sparse_local_block": 4}, "index_local_blocks 4 is more than index_topk_blocks 3"),
        ({"sparse_block_size": 1}, "index_block_size is 1, must be at least 2"),
        ({"sparse_index_dim": 6}, "index_head_dim 6 is less than the 8 columns that are rotated"),
        ({"rotary_dim": 4}, "rotary_dim: is not what partial_rotary_factor says, 8 columns of a head"),
        ({"first_k_dense_replace": 2}, "first_k_dense_replace: 2 is not what moe_layer_freq says"),
        ({"hidden_act": "silu"}, "hidden_act: 'silu' is not supported, only 'swigluoai' is"),
    ],
)
def test_what_is_not_known_of_the_family_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_hf(changed(**changes), "mine.json", "mine")
    assert message in str(error.value)


# -- which keys are read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "top_k", "always", "kv_len"), [(4, 3, 1, 22), (3, 2, 2, 13), (5, 4, 1, 11), (4, 9, 2, 8)]
)
def test_the_slots_that_a_query_sees_are_the_keys_that_a_mask_leaves(
    block: int, top_k: int, always: int, kv_len: int
) -> None:
    """Against the mask of the published code, for the last seven queries of two sequences and three heads."""
    rng, q_len, heads, d = np.random.default_rng(3), 7, 3, 4
    q, k = rng.normal(size=(2 * q_len, heads * d)), rng.normal(size=(2, kv_len, d))
    module = import_hf(changed(sparse_block_size=block, sparse_topk_blocks=top_k, sparse_local_block=always), "t", "t")
    ExpandBlocksPass("prefill").apply(Context(), module)
    topk, attention = one(module, layer.TopkSelectOp), one(module, layer.SparseAttentionOp)
    at = {"batch": 2, "q_len": q_len, "kv_len": kv_len}
    scores = block_scores(q, k, block)
    last = np.array([topk.position(expr(t)).evaluate(at) for t in range(2 * q_len)])
    numbers = topk_select(scores.reshape(-1, scores.shape[-1]), top_k, np.repeat(last, heads), always)
    numbers = numbers.reshape(2 * q_len, heads, -1)
    keys = np.broadcast_to(np.arange(kv_len)[:, None], (2, kv_len, heads)).astype(float)  # every key is its number
    found = gather_blocks(keys, numbers, block)
    for t in range(2 * q_len):
        position, sequence = kv_len - q_len + t % q_len, t // q_len
        seen = int(attention.last_slot(expr(t)).evaluate(at)) + 1
        for head in range(heads):
            products = k[sequence, : position + 1] @ q[t, head * d : head * d + d]
            starts = range(0, position + 1, block)
            worth = [products[start : start + block].max() for start in starts]
            worth[-always:] = [np.inf] * len(worth[-always:])
            taken = sorted(np.argsort(-np.array(worth), kind="stable")[:top_k])
            expected = [s for b in taken for s in range(b * block, min((b + 1) * block, position + 1))]
            assert found[t, :seen, head].tolist() == expected


def test_sizes_follow_from_blocks_that_have_begun() -> None:
    module = expanded()
    scores, topk, gather = (one(module, kind) for kind in (layer.BlockScoresOp, layer.TopkSelectOp, layer.GatherRowsOp))

    def sizes(value: Any, kv_len: int) -> list[int]:
        return [int(dim.evaluate({"batch": 2, "q_len": 3, "kv_len": kv_len})) for dim in tensor(value).dims]

    assert sizes(scores.y, 1000) == [6, 4, 8]
    assert (sizes(topk.y, 1000), sizes(topk.y, 100_000)) == ([6, 4, 8], [6, 4, 16])
    assert sizes(gather.y, 100_000) == [6, 16 * 128, 4 * 128]
    # Scores grow with the keys, attention does not: 2 * queries * keys * heads * columns, with values twice as much.
    at = {"batch": 2, "q_len": 3, "kv_len": 100_000}
    assert scores.work().flops.evaluate(at) == 2 * 6 * 100_000 * 4 * 128
    assert one(module, layer.SparseAttentionOp).work().flops.evaluate(at) == 2 * 6 * 2048 * 64 * 256


# -- shards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tp", "own"), [(2, 2), (8, 1)])
def test_a_rank_scores_for_its_own_key_heads(tp: int, own: int) -> None:
    """Nothing is exchanged between the index queries and attention, with fewer key heads than ranks too."""
    module = import_hf(deepcopy(PUBLISHED), "m3", "m3")
    deployment = load_deployment("decode", {"tp": tp, "dp": 32 // tp, "ep": 32, "batch": 64, "kv_len": 4096})
    compile_model(module, load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment, "dist")
    scores, attention = one(module, layer.BlockScoresOp), one(module, layer.SparseAttentionOp)
    assert (scores.heads, attention.kv_heads(0), attention.heads) == (own, own, 64 // tp)
    inside = [op.path.data for op in module.walk() if isinstance(op, dist.CollectiveOp) and "indexer" in op.path.data]
    assert inside == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("phase", "mesh"),
    [("decode", {"tp": 4, "ep": 2, "moe_tp": 2}), ("prefill", {"cp": 2, "ep": 2, "q_len": 8, "kv_len": 42})],
)
def test_meshes_keep_the_meaning_down_to_commands(phase: str, mesh: dict[str, int]) -> None:
    types = {f"quantization.{kind}": found for kind, found in FP32.items()}
    deployment = load_deployment(phase, {**types, "kv_len": 41, **mesh})
    chip, topology = with_fp32(load_chip("sg2262")), load_topology("p1-r1-b4-c32")
    small = small_target(changed(), "tiny", chip, topology, deployment, {})
    result = check_model(small.model, small.chip, small.topology, small.deployment, proof=Proof(unroll=False))
    assert result.guilty is None
    assert result.checks[-1].name == "emit-g5"
