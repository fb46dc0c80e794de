"""The expand-blocks pass: structure, FLOPs and weights of the expansion."""

import math
from collections import Counter
from io import StringIO
from typing import Any

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.printer import Printer

from pmc.compiler.config import load_model_config
from pmc.compiler.frontend import import_hf
from pmc.dialects import layer, model
from pmc.dialects.assembly import PmcOp
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import WorkInterface
from pmc.dialects.tensor import tensor
from pmc.passes.base import PassError
from pmc.passes.expand_blocks import ExpandBlocksPass

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "vocab_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
MIXTRAL: dict[str, Any] = {
    **QWEN3,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
MODELS = ("llama-3.1-8b", "deepseek-v3", "qwen3", "mixtral")


def imported(name: str, **changes: object) -> ModuleOp:
    if name in ("qwen3", "mixtral"):
        config, source = (QWEN3 if name == "qwen3" else MIXTRAL), name
    else:
        config, source = load_model_config(name)
    return import_hf({**config, **changes}, source, name)


def context() -> Context:
    ctx = Context()
    for dialect in (Builtin, model.Model, layer.Layer):
        ctx.load_dialect(dialect)
    return ctx


def expanded(name: str, phase: str, absorb_mla: bool = True, capacity: str = "balanced", **changes: object) -> ModuleOp:
    module = imported(name, **changes)
    ExpandBlocksPass(phase, absorb_mla, capacity).apply(context(), module)
    module.verify()
    return module


def at(module: ModuleOp, path: str) -> Operation:
    found = [op for op in module.walk() if isinstance(op, PmcOp) and op.path.data == path]
    assert len(found) == 1, (path, found)
    return found[0]


def operand_paths(op: Operation) -> list[str]:
    return [o.path.data for v in op.operands if isinstance(o := v.owner, PmcOp)]


def kinds(module: ModuleOp, prefix: str) -> list[str]:
    """The ops below a path in order, without sources and views."""
    return [
        op.path.data.removeprefix(prefix)
        for op in module.walk()
        if isinstance(op, layer.LayerOp)
        and op.path.data.startswith(prefix)
        and not isinstance(op, layer.SourceOp | layer.SliceOp)
    ]


def text(module: ModuleOp, generic: bool) -> str:
    stream = StringIO()
    Printer(stream, print_generic_format=generic).print_op(module)
    return stream.getvalue()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_round_trip(name: str, phase: str) -> None:
    module = expanded(name, phase)
    for generic in (False, True):
        printed = text(module, generic)
        parsed = Parser(context(), printed).parse_module()
        parsed.verify()
        assert text(parsed, generic) == printed


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_expansion_holds_every_parameter_once(name: str, phase: str) -> None:
    module = expanded(name, phase)
    total = 0
    paths: Counter[str] = Counter()
    for op in module.walk():
        if isinstance(op, layer.WeightOp):
            paths[op.path.data] += 1
            repeat = op.parent_op()
            count = repeat.trip_count if isinstance(repeat, layer.RepeatOp) else 1
            total += 0 if op.transpose_of else count * tensor(op.result).elements.constant
    assert total == model.parameter_count(imported(name))
    assert set(paths.values()) == {1}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_every_op_has_the_location_of_the_config(phase: str) -> None:
    module = expanded("deepseek-v3", phase)
    assert {str(op.location) for op in module.walk() if isinstance(op, PmcOp)} == {'loc("deepseek-v3":1:1)'}


def test_repeats_keep_their_counts() -> None:
    module = expanded("deepseek-v3", "decode")
    repeats = [op for op in module.walk() if isinstance(op, layer.RepeatOp)]
    assert [(r.path.data, r.first.value.data, r.trip_count, r.total.value.data) for r in repeats] == [
        ("blocks.dense", 0, 3, 3),
        ("blocks.moe", 0, 58, 58),
    ]


def test_gqa() -> None:
    module = expanded("llama-3.1-8b", "decode")
    prefix = "blocks.dense.gqa."
    assert kinds(module, prefix) == [
        "norm",
        "q_proj",
        "k_proj",
        "v_proj",
        "q_rope",
        "k_rope",
        "k_append",
        "v_append",
        "attention",
        "o_proj",
        "residual",
    ]
    attention = at(module, prefix + "attention")
    assert isinstance(attention, layer.AttentionOp)
    assert operand_paths(attention) == [prefix + p for p in ("q_rope", "k_append", "v_append")]
    assert (attention.heads, attention.kv_heads(0)) == (32, 8)
    assert attention.scale.value.data == 1 / math.sqrt(128)
    assert attention.causal
    rope = at(module, prefix + "q_rope")
    assert isinstance(rope, layer.RopeOp)
    assert not rope.interleaved
    cache = at(module, prefix + "k_cache")
    assert isinstance(cache, layer.StateOp)
    assert cache.axis_names() == ("batch", "position", "kv_heads")


def test_qk_norm_is_per_head_and_before_rope() -> None:
    module = expanded("qwen3", "decode")
    for h in "qk":
        norm = at(module, f"blocks.dense.gqa.{h}_norm")
        assert isinstance(norm, layer.RmsNormOp)
        assert norm.group.value.data == 32
        assert operand_paths(at(module, f"blocks.dense.gqa.{h}_rope")) == [f"blocks.dense.gqa.{h}_norm"]


def test_tied_head_is_the_transpose_of_the_embedding() -> None:
    module = expanded("qwen3", "decode")
    weight = at(module, "lm_head.proj.weight")
    assert isinstance(weight, layer.WeightOp)
    assert weight.transpose_of is not None
    table = at(module, weight.transpose_of.data)
    assert tensor(weight.result).dims == tensor(table.results[0]).dims[::-1]


def test_mla_prefill_expands_the_latent() -> None:
    module = expanded("deepseek-v3", "prefill")
    prefix = "blocks.moe.mla."
    assert kinds(module, prefix) == [
        "norm",
        "q_a_proj",
        "q_a_layernorm",
        "q_b_proj",
        "q_rope",
        "kv_a_proj",
        "kv_a_layernorm",
        "k_rope",
        "c_kv_append",
        "k_rope_append",
        "kv_b_proj",
        "attention",
        "o_proj",
        "residual",
    ]
    attention = at(module, prefix + "attention")
    assert isinstance(attention, layer.AttentionOp)
    assert operand_paths(attention) == [prefix + p for p in ("q_nope", "q_rope", "k_nope", "k_rope_append", "v")]
    assert attention.piece_dims() == (128, 64)
    assert (attention.kv_heads(0), attention.kv_heads(1)) == (128, 1)


def test_mla_decode_attends_over_the_latent() -> None:
    module = expanded("deepseek-v3", "decode")
    prefix = "blocks.moe.mla."
    attention = at(module, prefix + "attention")
    assert isinstance(attention, layer.AttentionOp)
    assert attention.v is attention.k[0]
    assert operand_paths(attention)[:4] == [prefix + p for p in ("k_absorb", "q_rope", "c_kv_append", "k_rope_append")]
    assert (attention.heads, attention.kv_heads(0), attention.kv_heads(1)) == (128, 1, 1)
    # The latent is read once although it is keys and values: 4096 * (512 + 64) * 2 B per sequence.
    q_bytes = expr("batch") * expr("q_len") * 128 * (512 + 64) * 2
    assert attention.work().bytes_read == q_bytes + expr("batch") * expr("kv_len") * 576 * 2
    assert "kv_b_proj" not in kinds(module, prefix)


def test_mla_decode_can_stay_expanded() -> None:
    decode = expanded("deepseek-v3", "decode", absorb_mla=False)
    prefill = expanded("deepseek-v3", "prefill")
    assert kinds(decode, "blocks.moe.mla.") == kinds(prefill, "blocks.moe.mla.")


def test_mla_softmax_scale_has_the_yarn_factor() -> None:
    # DeepseekV3Attention: 192**-0.5 * (0.1 * 1.0 * ln 40 + 1)**2 = 0.0721688 * 1.3688879**2
    yarn = at(expanded("deepseek-v3", "decode"), "blocks.moe.mla.attention")
    assert isinstance(yarn, layer.AttentionOp)
    assert yarn.scale.value.data == pytest.approx(0.135233779, rel=1e-8)
    plain = at(expanded("deepseek-v3", "decode", rope_scaling=None), "blocks.moe.mla.attention")
    assert isinstance(plain, layer.AttentionOp)
    assert plain.scale.value.data == pytest.approx(192**-0.5)


def test_direct_query_projection() -> None:
    module = expanded("deepseek-v3", "decode", q_lora_rank=None)
    assert kinds(module, "blocks.moe.mla.")[:3] == ["norm", "q_proj", "q_rope"]


def test_moe() -> None:
    module = expanded("deepseek-v3", "decode")
    prefix = "blocks.moe.moe."
    assert kinds(module, prefix) == [
        "norm",
        "router",
        "topk",
        "dispatch",
        "experts.gate_proj",
        "experts.up_proj",
        "experts.silu_mul",
        "experts.down_proj",
        "combine",
        "shared.gate_proj",
        "shared.up_proj",
        "shared.silu_mul",
        "shared.down_proj",
        "add_shared",
        "residual",
    ]
    topk = at(module, prefix + "topk")
    assert isinstance(topk, layer.RouterTopkOp)
    assert topk.bias is not None
    assert (topk.groups.value.data, topk.top_groups.value.data, topk.scale.value.data) == (8, 4, 2.5)
    # Routed experts before shared ones: their sharding decides the sum's.
    assert operand_paths(at(module, prefix + "add_shared")) == [
        prefix + "combine",
        prefix + "shared.down_proj",
    ]


def test_mixtral_has_no_shared_experts_and_no_bias() -> None:
    module = expanded("mixtral", "decode")
    assert kinds(module, "blocks.moe.moe.")[-2:] == ["combine", "residual"]
    topk = at(module, "blocks.moe.moe.topk")
    assert isinstance(topk, layer.RouterTopkOp)
    assert topk.bias is None
    assert topk.normalize


@pytest.mark.parametrize(("capacity", "slots"), [("balanced", 512), ("worst", 16384)])
def test_capacity(capacity: str, slots: int) -> None:
    dispatch = at(expanded("deepseek-v3", "decode", capacity=capacity), "blocks.moe.moe.dispatch")
    _, c, _ = tensor(dispatch.results[0]).dims
    assert c.evaluate({"batch": 2048, "q_len": 8}) == slots  # 16384 tokens * 8 of 256 experts; all tokens


@pytest.mark.parametrize(("phase", "rows"), [("prefill", "batch"), ("decode", "batch*q_len")])
def test_logits(phase: str, rows: str) -> None:
    module = expanded("llama-3.1-8b", phase)
    assert str(tensor(at(module, "lm_head.proj").results[0]).dims[0]) == rows
    assert ("last_token" in kinds(module, "lm_head.")) == (phase == "prefill")


# facts of the blocks: matmul (M, K, N) is 2*M*K*N; T = 64 tokens of one query each, 4096 keys.
T, KEYS = 64, 4096
DECODE_FLOPS = {
    "mla.q_a_proj": 2 * T * 7168 * 1536,
    "mla.q_b_proj": 2 * T * 1536 * 128 * (128 + 64),
    "mla.kv_a_proj": 2 * T * 7168 * (512 + 64),
    "mla.k_absorb": 2 * 128 * T * 128 * 512,
    "mla.attention": 2 * T * KEYS * 128 * (512 + 64 + 512),
    "mla.v_absorb": 2 * 128 * T * 512 * 128,
    "mla.o_proj": 2 * T * 128 * 128 * 7168,
    "moe.router": 2 * T * 7168 * 256,
    # 64 * 8 of 256 experts: 2 rows for each expert, no padding
    "moe.experts.gate_proj": 2 * T * 8 * 7168 * 2048,
    "moe.experts.up_proj": 2 * T * 8 * 7168 * 2048,
    "moe.experts.down_proj": 2 * T * 8 * 2048 * 7168,
    "moe.shared.gate_proj": 2 * T * 7168 * 2048,
    "moe.shared.up_proj": 2 * T * 7168 * 2048,
    "moe.shared.down_proj": 2 * T * 2048 * 7168,
}


def cube_flops(module: ModuleOp, prefix: str, **bindings: int) -> dict[str, int]:
    return {
        op.path.data.removeprefix(prefix): work.flops.evaluate(bindings)
        for op in module.walk()
        if isinstance(op, PmcOp)
        and isinstance(op, WorkInterface)
        and op.path.data.startswith(prefix)
        and (work := op.work()).unit == "cube"
    }


def test_flops_of_a_deepseek_v3_decode_layer() -> None:
    module = expanded("deepseek-v3", "decode")
    assert cube_flops(module, "blocks.moe.", batch=T, q_len=1, kv_len=KEYS) == DECODE_FLOPS


def test_flops_of_deepseek_v3_prefill_attention() -> None:
    # Two sequences, 4096 queries over themselves: causal, n(n+1)/2 pairs; kv_b over all cached tokens.
    flops = cube_flops(expanded("deepseek-v3", "prefill"), "blocks.moe.mla.", batch=2, q_len=KEYS, kv_len=KEYS)
    assert flops["attention"] == 2 * 2 * (KEYS * (KEYS + 1) // 2) * 128 * (192 + 128)
    assert flops["kv_b_proj"] == 2 * 2 * KEYS * 512 * 128 * (128 + 128)


def test_weight_flops_are_twice_the_active_parameters() -> None:
    """Decode of one token multiplies it once with every active matrix, attention and norms apart."""
    name = "llama-3.1-8b"
    module, source = expanded(name, "decode"), imported(name)
    total = 0
    for op in module.walk():
        if isinstance(op, layer.MatmulOp):
            repeat = op.parent_op()
            count = repeat.trip_count if isinstance(repeat, layer.RepeatOp) else 1
            total += count * op.work().flops.evaluate({"batch": 1, "q_len": 1, "kv_len": 1})
    norms = 65 * 4096
    assert total == 2 * (model.active_parameter_count(source) - 4096 - norms)


def test_options_and_level_are_checked() -> None:
    with pytest.raises(PassError, match=r"^expand-blocks: phase is 'train', must be prefill or decode$"):
        ExpandBlocksPass("train")
    with pytest.raises(PassError, match=r"^expand-blocks: capacity is 'none', must be balanced or worst$"):
        ExpandBlocksPass("decode", capacity="none")
    with pytest.raises(PassError, match="the module is at the layer level, this pass reads the model level"):
        ExpandBlocksPass("decode").apply(context(), expanded("qwen3", "decode"))
