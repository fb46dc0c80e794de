"""DeepSeek sparse attention from the config to commands: the cases D1 to D11 of its plan, and what is refused.

D1 to D3 are about the decomposition, D4 to D8 about commands and time, D9 about results of parameters that were never
validated, D10 are mutations of the compiler that the other cases must notice (`tests/check/mutants.py`), D11 is that
all else stays as it is: the other tests.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import ConfigError, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.dialects import layer, model
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.levels import Level
from pmc.dialects.tensor import tensor

KV_LEN, TOP_K = expr("kv_len"), 2048
CHAIN = (
    ("indexer.wq_b", "layer.matmul"),
    ("indexer.wk", "layer.matmul"),
    ("indexer.scores", "layer.index_scores"),
    ("indexer.topk", "layer.topk_select"),
    ("gather_c_kv", "layer.gather_rows"),
    ("gather_k_rope", "layer.gather_rows"),
    ("attention", "layer.sparse_attention"),
)
"""What sparse attention is made of besides the projections of MLA, in order."""


def compiled(deployment: Deployment, level: Level, **changes: Any) -> ModuleOp:
    config, source = load_model_config("deepseek-v3.2")
    module = import_hf({**config, **changes}, source, "deepseek-v3.2")
    compile_model(module, load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment, level)
    return module


def deployed(phase: str, **changes: Any) -> Deployment:
    return load_deployment(f"dsv32-{phase}-ep32", changes)


def one(module: ModuleOp, kind: type[Any], path: str = "") -> Any:
    """The op of a kind in the layers of experts."""
    found = [op for op in module.walk() if isinstance(op, kind) and "moe.dsa" in op.path.data]  # type: ignore[attr-defined]
    return next(op for op in found if op.path.data.endswith(path))


# -- the config -------------------------------------------------------------------------------------------------


def test_the_preset_has_the_indexer_of_the_published_config() -> None:
    config, source = load_model_config("deepseek-v3.2")
    module = import_hf(config, source, "v32")
    blocks = [block for block, _ in model.model_blocks(module) if isinstance(block, model.DsaOp)]
    assert [b.path.data for b in blocks] == ["blocks.dense.dsa", "blocks.moe.dsa"]
    sizes = [b.properties[n] for b in blocks for n in ("index_n_heads", "index_head_dim", "index_topk")]
    assert [getattr(size, "value").data for size in sizes] == [64, 128, 2048] * 2  # noqa: B009
    v3 = import_hf(*load_model_config("deepseek-v3"), "v3")
    # Index queries from the latent, the index key and its norm with a bias, the weights of the heads; 61 layers.
    added = 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    assert model.parameter_count(module) - model.parameter_count(v3) == 61 * added == 851_524_864


@pytest.mark.parametrize("field", ["index_n_heads", "index_head_dim", "index_topk"])
def test_a_missing_field_of_the_indexer_is_named(field: str) -> None:
    config, _ = load_model_config("deepseek-v3.2")
    without = {name: value for name, value in config.items() if name != field}
    with pytest.raises(ConfigError) as error:
        import_hf(without, "mine.json", "mine")
    assert str(error.value) == f"mine.json: {field}: missing, expected an integer of at least 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"q_lora_rank": None},
            "mine.json: q_lora_rank: null, but the indexer projects the query latent: expected an integer",
        ),
        (
            {"index_head_dim": 64},
            "mine.json: model.dsa at 'blocks.dense.dsa': index_head_dim 64 must be more than the rotated "
            "qk_rope_head_dim 64",
        ),
        ({"index_topk": 0}, "mine.json: index_topk: expected an integer of at least 1, found 0"),
    ],
)
def test_an_indexer_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    config, _ = load_model_config("deepseek-v3.2")
    with pytest.raises(ConfigError) as error:
        import_hf({**config, **changes}, "mine.json", "mine")
    assert str(error.value) == message


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(PmcError, match=r"cp = 2, but .*indexer\.topk' selects among all keys .* set cp to 1"):
        compiled(deployed("prefill", dp=16, cp=2), "dist")
    with pytest.raises(PmcError, match=r"absorb-mla is false, but model\.dsa at .* attends over the latent"):
        compiled(deployed("decode", absorb_mla=False), "layer")
    with pytest.raises(
        PmcError, match=r"index_heads dim of .*weights_proj\.weight' has 6 elements, not divisible by tp"
    ):
        compiled(deployed("decode", tp=4, dp=8), "dist", index_n_heads=6)


# -- the decomposition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_d1_the_indexer_scores_all_keys(phase: str) -> None:
    module = compiled(deployed(phase), "layer")
    ops = [(op.path.data, op.name) for op in module.walk() if isinstance(op, layer.LayerOp)]
    places = [ops.index((f"blocks.moe.dsa.{path}", name)) for path, name in CHAIN]
    assert places == sorted(places)
    scores = one(module, layer.IndexScoresOp)
    assert tensor(scores.y).dims[1] == KV_LEN  # not what is selected
    assert [tensor(key).dims[1] for key in scores.k] == [KV_LEN, KV_LEN]
    at = {"batch": 3, "q_len": 2, "kv_len": 5000}
    assert scores.work().flops.evaluate(at) == 2 * 6 * 5000 * 64 * 128
    assert scores.compute_dtype() == "f8E4M3FN"


def test_d2_the_indexer_dominates_long_contexts() -> None:
    module = compiled(deployed("decode"), "layer")
    scores, attention = one(module, layer.IndexScoresOp), one(module, layer.SparseAttentionOp)
    ratios: list[float] = []
    for kv_len in (2**17, 2**18, 2**19, 2**20):
        at = {"batch": 1, "q_len": 1, "kv_len": kv_len}
        ratios.append(scores.work().flops.evaluate(at) / attention.work().flops.evaluate(at))
    # keys * 64 heads of 128 against 2048 keys * 128 heads of (512 + 64) + 512
    assert ratios == pytest.approx([n * 64 * 128 / (TOP_K * 128 * 1088) for n in (2**17, 2**18, 2**19, 2**20)])
    assert ratios == sorted(ratios) and ratios[0] > 3


@pytest.mark.parametrize(("kv_len", "keys"), [(1000, 1000), (2048, 2048), (100_000, 2048)])
def test_d3_scores_are_of_all_keys_and_attention_of_those_selected(kv_len: int, keys: int) -> None:
    module = compiled(deployed("decode"), "layer")
    scores, attention = one(module, layer.IndexScoresOp), one(module, layer.SparseAttentionOp)
    at = {"batch": 1, "q_len": 1, "kv_len": kv_len}
    assert tensor(scores.y).dims[1].evaluate(at) == kv_len
    assert {tensor(value).dims[1].evaluate(at) for value in (*attention.k, attention.v)} == {keys}
    assert attention.work().flops.evaluate(at) == 2 * keys * 128 * (576 + 512)
    quadratic = [op for op in module.walk() if isinstance(op, layer.AttentionOp)]
    assert not quadratic  # nothing else attends to all keys
