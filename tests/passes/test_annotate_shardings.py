"""The annotate-shardings pass: the rules of Megatron-LM as exact shardings, and what cannot be sharded."""

from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.parser import Parser

from pmc.backends.numeric.dist import layouts, run_dist
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.compiler.config import load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.frontend import import_hf
from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import Axis, Mesh, MeshAttr, Sharding, sharding_of
from pmc.dialects.levels import MESH
from pmc.dialects.tensor import tensor
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import PassError
from pmc.passes.bind_symbols import BindSymbolsPass
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass
from pmc.passes.partition_stages import PartitionStagesPass
from tests.reference.configs import CONFIGS

CONTEXT = make_context()
MINIMAX = {**CONFIGS["minimax-m2"], "num_hidden_layers": 1}
Op = TypeVar("Op", bound=Operation)

LLAMA = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, vocab_size=64,
    intermediate_size=48, head_dim=8,
)  # fmt: skip
DEEPSEEK = dict(
    hidden_size=32, num_hidden_layers=3, first_k_dense_replace=1, num_attention_heads=8, num_key_value_heads=8,
    vocab_size=64, intermediate_size=48, n_routed_experts=16, moe_intermediate_size=16, q_lora_rank=24,
    kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, n_group=4, topk_group=2,
    num_experts_per_tok=3,
)  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {"llama-3.1-8b": LLAMA, "deepseek-v3": DEEPSEEK}
BINDINGS = {
    "prefill": {"batch": 3, "q_len": 5, "kv_len": 5},
    "decode": {"batch": 5, "q_len": 1, "kv_len": 7},
}


def program(name: str, phase: str = "decode", **changes: object) -> ModuleOp:
    config, source = load_model_config(name)
    module = import_hf({**config, **SMALL[name], **changes}, source, name)
    ExpandBlocksPass(phase=phase, capacity="worst").apply(CONTEXT, module)
    return module


def annotated(name: str, phase: str = "decode", changes: dict[str, object] | None = None, **mesh: Any) -> ModuleOp:
    module = program(name, phase, **(changes or {}))
    AnnotateShardingsPass(**mesh).apply(CONTEXT, module)
    module.verify()
    return module


def mesh_of(module: ModuleOp) -> Mesh:
    attribute = module.attributes[MESH]
    assert isinstance(attribute, MeshAttr)
    return attribute.data


def at(module: ModuleOp, path: str, op: str = "", result: int = 0) -> Sharding:
    """The sharding of the result of the first op (of that name) with this path."""
    found = [o for o in module.walk() if isinstance(o, layer.LayerOp) and o.path.data == path and o.name.endswith(op)]
    return sharding_of(tensor(found[0].results[result]))


def reshards(module: ModuleOp) -> list[tuple[str, str, str]]:
    """Path, sharding before and sharding after of every reshard, in program order."""
    return [
        (op.path.data, text(sharding_of(tensor(op.x))), text(sharding_of(tensor(op.y))))
        for op in module.walk()
        if isinstance(op, dist.ReshardOp)
    ]


def ops_of(module: ModuleOp, kind: type[Op]) -> list[Op]:
    return [op for op in module.walk() if isinstance(op, kind)]


def text(sharding: Sharding) -> str:
    dims = " ".join("x".join(axes) or "-" for axes in sharding.dims)
    return dims + (f" sum {'x'.join(sharding.partial)}" if sharding.partial else "")


# -- the mesh ---------------------------------------------------------------------------------------------------


def test_a_dense_mesh_counts_ranks_tp_then_pp_then_dp() -> None:
    mesh = mesh_of(annotated("llama-3.1-8b", tp=2, pp=3, dp=4))
    assert mesh == Mesh(24, (Axis("tp", 2, 1), Axis("dp", 4, 6), Axis("pp", 3, 2)))


def test_a_mesh_with_experts_keeps_the_ranks_of_a_stage_together() -> None:
    mesh = mesh_of(annotated("deepseek-v3", tp=2, dp=4, ep=4, moe_tp=2, pp=3))
    axes = (Axis("tp", 2, 1), Axis("dp", 4, 2), Axis("pp", 3, 8), Axis("moe_tp", 2, 1), Axis("ep", 4, 2))
    assert mesh == Mesh(24, axes)


@pytest.mark.parametrize(
    ("name", "mesh", "expected"),
    [
        # Without experts: tp, cp, then pp, then dp.
        (
            "llama-3.1-8b", dict(tp=2, cp=4, pp=3, dp=5),
            Mesh(120, (Axis("tp", 2, 1), Axis("cp", 4, 2), Axis("dp", 5, 24), Axis("pp", 3, 8))),
        ),
        # With them a stage is tp x cp x dp, and the same 16 ranks are moe_tp x ep.
        (
            "deepseek-v3", dict(tp=2, cp=4, dp=2, moe_tp=2, ep=8, pp=3),
            Mesh(48, (
                Axis("tp", 2, 1), Axis("cp", 4, 2), Axis("dp", 2, 8), Axis("pp", 3, 16), Axis("moe_tp", 2, 1),
                Axis("ep", 8, 2),
            )),
        ),
        # Pairs of tp ranks share one of four key heads, inside their rank of cp.
        (
            "llama-3.1-8b", dict(tp=8, cp=2),
            Mesh(16, (
                Axis("tp", 8, 1), Axis("cp", 2, 8), Axis("dp", 1, 16), Axis("pp", 1, 16), Axis("tp_kv", 4, 2),
            )),
        ),
    ],
)  # fmt: skip
def test_context_parallel_ranks_stand_between_tp_and_what_is_outside(
    name: str, mesh: dict[str, Any], expected: Mesh
) -> None:
    assert mesh_of(annotated(name, "prefill", **mesh)) == expected


def test_without_context_parallelism_the_mesh_has_no_axis_for_it() -> None:
    assert mesh_of(annotated("llama-3.1-8b", tp=2, cp=1)) == mesh_of(annotated("llama-3.1-8b", tp=2))
    assert "cp" not in {axis.name for axis in mesh_of(annotated("llama-3.1-8b", cp=1)).axes}


def test_fewer_key_heads_than_ranks_get_an_axis_on_which_neighbours_share_a_head() -> None:
    module = annotated("llama-3.1-8b", tp=8)
    assert mesh_of(module).axis("tp_kv") == Axis("tp_kv", 4, 2)
    assert at(module, "blocks.dense.gqa.k_cache") == Sharding(((), (), ("tp_kv",)))
    assert at(module, "blocks.dense.gqa.q_proj").dims[1] == ("tp",)


def is_replicated(sharding: Sharding) -> bool:
    """Whether every rank holds the whole value."""
    return sharding == Sharding(((),) * len(sharding.dims))


def test_one_key_head_is_replicated() -> None:
    module = annotated("llama-3.1-8b", changes={"num_key_value_heads": 1}, tp=4)
    assert is_replicated(at(module, "blocks.dense.gqa.k_cache"))
    assert text(at(module, "blocks.dense.gqa.q_proj")) == "- tp"
    assert text(at(module, "blocks.dense.gqa.k_proj")) == "- -"


# -- the rules of Megatron-LM -----------------------------------------------------------------------------------


def test_llama_is_sharded_as_in_megatron() -> None:
    module = annotated("llama-3.1-8b", tp=4, dp=2)
    gqa, ffn = "blocks.dense.gqa", "blocks.dense.ffn"
    expected = {
        ("embed.weight", "weight"): "tp -",
        ("embed", "embedding"): "dp - sum tp",
        (f"{gqa}.norm", ""): "dp -",
        (f"{gqa}.q_proj.weight", ""): "- tp",
        (f"{gqa}.q_proj", ""): "dp tp",
        (f"{gqa}.k_proj", ""): "dp tp",
        (f"{gqa}.k_cache", ""): "dp - tp",
        (f"{gqa}.v_append", ""): "dp - tp",
        (f"{gqa}.o_proj.weight", ""): "tp -",
        (f"{gqa}.o_proj", ""): "dp - sum tp",
        (f"{gqa}.residual", ""): "dp -",
        (f"{ffn}.gate_proj", ""): "dp tp",
        (f"{ffn}.silu_mul", ""): "dp tp",
        (f"{ffn}.down_proj", ""): "dp - sum tp",
        (f"{ffn}.residual", ""): "dp -",
        ("lm_head.proj.weight", ""): "- tp",
        ("lm_head.proj", ""): "dp tp",
    }
    found = {key: text(at(module, *key)) for key in expected}
    assert found == expected


def test_one_reduction_after_o_proj_and_down_and_nothing_else() -> None:
    # 3 layers are one repeat, so a body shows its two reductions once.
    assert reshards(annotated("llama-3.1-8b", tp=4, dp=2)) == [
        ("embed", "dp - sum tp", "dp -"),
        ("blocks.dense.gqa.o_proj", "dp - sum tp", "dp -"),
        ("blocks.dense.ffn.down_proj", "dp - sum tp", "dp -"),
        ("lm_head.proj", "dp tp", "dp -"),
    ]


def test_sequence_parallelism_splits_the_residual_stream_over_tp() -> None:
    module = annotated("llama-3.1-8b", tp=4, dp=2, sp=True)
    for path in ("blocks.dense.gqa.norm", "blocks.dense.gqa.residual", "blocks.dense.ffn.residual", "lm_head.norm"):
        assert text(at(module, path)) == "dpxtp -", path
    assert reshards(module) == [
        ("embed", "dp - sum tp", "dpxtp -"),
        ("blocks.dense.gqa.norm", "dpxtp -", "dp -"),
        ("blocks.dense.gqa.o_proj", "dp - sum tp", "dpxtp -"),
        ("blocks.dense.ffn.norm", "dpxtp -", "dp -"),
        ("blocks.dense.ffn.down_proj", "dp - sum tp", "dpxtp -"),
        ("lm_head.norm", "dpxtp -", "dp -"),
        ("lm_head.proj", "dp tp", "dp -"),
    ]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_latents_of_mla_are_replicated_and_heads_split(phase: str) -> None:
    module = annotated("deepseek-v3", phase, tp=4, dp=2, ep=2, moe_tp=4)
    mla = "blocks.moe.mla"
    expected = {
        f"{mla}.q_a_proj.weight": "- -",
        f"{mla}.kv_a_proj.weight": "- -",
        f"{mla}.q_a_proj": "dp -",
        f"{mla}.kv_a_proj": "dp -",
        f"{mla}.q_b_proj.weight": "- tp",
        f"{mla}.kv_b_proj.weight": "- tp",
        f"{mla}.q_b_proj": "dp tp",
        f"{mla}.o_proj.weight": "tp -",
        f"{mla}.o_proj": "dp - sum tp",
    }
    assert {path: text(at(module, path)) for path in expected} == expected
    caches = [op for op in module.walk() if isinstance(op, layer.StateOp)]
    assert {text(sharding_of(tensor(op.result))) for op in caches} == {"dp - -"}


def test_without_parallelism_nothing_is_sharded_and_nothing_moves() -> None:
    for name in SMALL:
        module = annotated(name)
        assert reshards(module) == []
        values = [v for op in module.walk() if isinstance(op, layer.LayerOp) for v in op.results]
        assert all(is_replicated(sharding_of(tensor(v))) for v in values)


# -- experts ----------------------------------------------------------------------------------------------------


MOE = "blocks.moe.moe"


def test_experts_over_dp_ranks_only() -> None:
    """ep = dp: dispatch and combine need no other movement."""
    module = annotated("deepseek-v3", dp=8, ep=8)
    assert text(at(module, f"{MOE}.dispatch")) == "ep - -"
    assert text(at(module, f"{MOE}.experts.gate_proj.weight")) == "ep - -"
    assert text(at(module, f"{MOE}.combine")) == "dp -"
    assert reshards(module) == []


def test_experts_split_over_tp_leave_partial_sums_through_combine_and_one_reduction() -> None:
    """moe_tp = tp: routed and shared experts are partial sums over the same ranks, added before they are reduced."""
    module = annotated("deepseek-v3", tp=2, dp=4, ep=4, moe_tp=2)
    expected = {
        f"{MOE}.experts.gate_proj.weight": "ep - tp",
        f"{MOE}.dispatch": "ep - -",
        f"{MOE}.experts.gate_proj": "ep - tp",
        f"{MOE}.experts.down_proj": "ep - - sum tp",
        f"{MOE}.combine": "dp - sum tp",
        f"{MOE}.shared.down_proj": "dp - sum tp",
        f"{MOE}.add_shared": "dp - sum tp",
        f"{MOE}.residual": "dp -",
    }
    assert {path: text(at(module, path)) for path in expected} == expected
    assert [r for r in reshards(module) if r[0].startswith(MOE)] == [
        (f"{MOE}.add_shared", "dp - sum tp", "dp -"),
    ]


def test_experts_over_all_ranks_take_each_token_from_one_tp_rank() -> None:
    """ep = dp*tp: the copies of a token on its tp ranks are cut apart before dispatch, so none is sent twice."""
    module = annotated("deepseek-v3", tp=2, dp=4, ep=8)
    assert text(at(module, f"{MOE}.dispatch")) == "ep - -"
    assert text(at(module, f"{MOE}.combine")) == "dpxtp -"
    assert [r for r in reshards(module) if r[0].startswith(MOE)] == [
        (f"{MOE}.norm", "dp -", "dpxtp -"),
        (f"{MOE}.topk", "dp -", "dpxtp -"),
        (f"{MOE}.topk", "dp -", "dpxtp -"),
        (f"{MOE}.shared.down_proj", "dp - sum tp", "dpxtp -"),
        (f"{MOE}.add_shared", "dpxtp -", "dp -"),
    ]


def test_split_experts_off_the_tp_ranks_gather_their_slots() -> None:
    """moe_tp without tp: an expert's ranks each hold part of its slots and exchange them."""
    module = annotated("deepseek-v3", dp=8, ep=2, moe_tp=4)
    assert text(at(module, f"{MOE}.dispatch")) == "ep moe_tp -"
    assert text(at(module, f"{MOE}.experts.down_proj")) == "ep - - sum moe_tp"
    assert [r for r in reshards(module) if r[0].startswith(MOE)] == [
        (f"{MOE}.dispatch", "ep moe_tp -", "ep - -"),
        (f"{MOE}.experts.down_proj", "ep - - sum moe_tp", "ep moe_tp -"),
    ]


@pytest.mark.parametrize(
    ("mesh", "dispatched", "combined"),
    [
        (dict(cp=4, dp=2, ep=8), "ep - -", "dpxcp -"),
        (dict(tp=2, cp=2, dp=2, ep=4, moe_tp=2), "ep - -", "dpxcp - sum tp"),
        (dict(tp=2, cp=4, ep=8), "ep - -", "cpxtp -"),  # the copies on tp ranks are cut apart
        (dict(cp=8, ep=2, moe_tp=4), "ep moe_tp -", "cp -"),
    ],
)
def test_experts_take_the_rows_of_each_rank_of_cp(mesh: dict[str, Any], dispatched: str, combined: str) -> None:
    module = annotated("deepseek-v3", "prefill", **mesh)
    (dispatch,) = ops_of(module, layer.DispatchOp)
    rows = combined.removesuffix(" sum tp")
    assert [text(sharding_of(tensor(v))) for v in (dispatch.x, dispatch.indices)] == [rows, rows]
    assert text(sharding_of(tensor(dispatch.y))) == dispatched
    assert text(at(module, f"{MOE}.combine")) == combined


@pytest.mark.parametrize(
    ("mesh", "capacity"),
    [
        # 5 sequences of 12 tokens: the padded tokens of one rank, times the ranks that can send them.
        (dict(cp=4, dp=2, ep=8), 3 * 3 * 8),
        (dict(tp=2, cp=2, dp=2, ep=4, moe_tp=2), 3 * 6 * 4),
        (dict(tp=2, cp=4, ep=8), 8 * 8),  # ceil(5 * 3 / 2)
        (dict(cp=4, ep=2, moe_tp=2), 5 * 3 * 4),
    ],
)
def test_worst_capacity_counts_the_rows_of_a_rank_of_cp(mesh: dict[str, Any], capacity: int) -> None:
    (dispatch,) = ops_of(annotated("deepseek-v3", "prefill", **mesh), layer.DispatchOp)
    assert tensor(dispatch.y).dims[1].evaluate({"batch": 5, "q_len": 12, "kv_len": 12}) == capacity


@pytest.mark.parametrize(
    ("mesh", "capacity"),
    [
        # 17 sequences of one query: the padded tokens of one rank, times the ranks that can send them.
        (dict(dp=8, ep=8), 3 * 8),
        (dict(tp=2, dp=4, ep=4, moe_tp=2), 5 * 4),
        (dict(tp=2, dp=4, ep=8), 3 * 8),  # ceil(ceil(17 / 4) / 2)
        (dict(dp=8, ep=2, moe_tp=4), 3 * 8),
        (dict(dp=1, ep=1), 17),
    ],
)
def test_worst_capacity_holds_all_padded_tokens_of_a_group(mesh: dict[str, Any], capacity: int) -> None:
    module = annotated("deepseek-v3", **mesh)
    dispatch = next(op for op in module.walk() if isinstance(op, layer.DispatchOp))
    assert tensor(dispatch.y).dims[1].evaluate({"batch": 17, "q_len": 1}) == capacity
    for name in ("gate_proj", "silu_mul", "down_proj"):  # what follows has as many slots
        op = next(o for o in module.walk() if isinstance(o, layer.LayerOp) and o.path.data == f"{MOE}.experts.{name}")
        assert tensor(op.results[0]).dims[1] == tensor(dispatch.y).dims[1]


# -- what cannot be sharded -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "mesh", "message"),
    [
        ("llama-3.1-8b", {}, dict(tp=0), "annotate-shardings: tp is 0, must be at least 1"),
        ("llama-3.1-8b", {}, dict(dp=-2), "annotate-shardings: dp is -2, must be at least 1"),
        ("llama-3.1-8b", {}, dict(cp=0), "annotate-shardings: cp is 0, must be at least 1"),
        (
            "deepseek-v3", {}, dict(tp=2, cp=2, dp=2, ep=4),
            "annotate-shardings: dp*cp*tp = 2*2*2 = 8 must equal moe_tp*ep*moe_dp = 1*4*1 = 4: "
            "attention and experts share the ranks of a stage",
        ),
        (
            "deepseek-v3", {}, dict(tp=2, dp=4, ep=4),
            "annotate-shardings: dp*cp*tp = 4*1*2 = 8 must equal moe_tp*ep*moe_dp = 1*4*1 = 4: "
            "attention and experts share the ranks of a stage",
        ),
        (
            "llama-3.1-8b", {}, dict(ep=4),
            "annotate-shardings: ep = 4, moe_tp = 1, moe_dp = 1, but the model has no experts",
        ),
        (
            "llama-3.1-8b", {}, dict(tp=6),
            "annotate-shardings: tp = 6 is not a multiple of the 4 key heads it exceeds",
        ),
        (
            "deepseek-v3", {"n_routed_experts": 12}, dict(dp=8, ep=8),
            "annotate-shardings: the expert dim of 'blocks.moe.moe.dispatch' has 12 elements, "
            "not divisible by ep = 8",
        ),
        (
            "llama-3.1-8b", {"num_attention_heads": 6, "num_key_value_heads": 1}, dict(tp=4),
            "annotate-shardings: the 6 heads of 'blocks.dense.gqa.attention' are not divisible by tp = 4",
        ),
        (
            "llama-3.1-8b", {"num_attention_heads": 12, "num_key_value_heads": 6}, dict(tp=4),
            "annotate-shardings: the 6 key heads of 'blocks.dense.gqa.attention' are not divisible by tp = 4",
        ),
        (
            "deepseek-v3", {"num_attention_heads": 6, "num_key_value_heads": 6}, dict(tp=4, ep=1, moe_tp=4),
            "annotate-shardings: the 6 heads of 'blocks.dense.mla.attention' are not divisible by tp = 4",
        ),
        (
            "deepseek-v3", {"moe_intermediate_size": 18}, dict(dp=4, ep=1, moe_tp=4),
            "annotate-shardings: the expert_ffn dim of 'blocks.moe.moe.experts.gate_proj.weight' has 18 elements, "
            "not divisible by moe_tp = 4",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_sharded_is_one_line(
    name: str, changes: dict[str, object], mesh: dict[str, Any], message: str
) -> None:
    with pytest.raises(PassError) as error:
        annotated(name, changes=changes, **mesh)
    assert str(error.value) == message


def test_dp_needs_the_symbol_batch() -> None:
    module = program("llama-3.1-8b")
    BindSymbolsPass(batch=4, q_len=1, kv_len=8).apply(CONTEXT, module)
    with pytest.raises(PassError) as error:
        AnnotateShardingsPass(dp=2).apply(CONTEXT, module)
    assert str(error.value) == (
        "annotate-shardings: 'llama-3.1-8b' has no symbol 'batch' for dp = 2 to divide; "
        "run this pass before bind-symbols"
    )


def test_cp_needs_the_symbols_of_lengths() -> None:
    module = program("llama-3.1-8b", "prefill")
    BindSymbolsPass(batch=4, q_len=8, kv_len=8).apply(CONTEXT, module)
    with pytest.raises(PassError) as error:
        AnnotateShardingsPass(cp=2).apply(CONTEXT, module)
    assert str(error.value) == (
        "annotate-shardings: 'llama-3.1-8b' has no symbol 'q_len' for cp = 2 to divide; "
        "run this pass before bind-symbols"
    )
    AnnotateShardingsPass(tp=2).apply(CONTEXT, module)  # heads are split all the same


def test_cp_needs_the_length_of_the_cache() -> None:
    body = """
    layer.program() {sym_name = "p", phase = "prefill"} at "p" {
    ^bb0(%x: !layer.tensor<[batch*q_len, 8], bf16>):
      %c = layer.state() {axes = ["batch", "position", ""]} at "c" : !layer.tensor<[batch, 64, 8], bf16>
      %k = layer.kv_append(%c, %x) at "k" : !layer.tensor<[batch, 64, 8], bf16>
      layer.return([%x]) at "p"
    }
    """
    module = Parser(make_context(), body).parse_module()
    with pytest.raises(PassError) as error:
        AnnotateShardingsPass(cp=2).apply(make_context(), module)
    assert str(error.value) == (
        "annotate-shardings: 'c' has no symbol 'kv_len' for cp = 2 to divide; run this pass before bind-symbols"
    )


def test_an_unknown_logical_axis_names_the_known_ones() -> None:
    module = program("llama-3.1-8b")
    weight = next(op for op in module.walk() if isinstance(op, layer.WeightOp))
    weight.properties["axes"] = type(weight.axes)([type(weight.axes.data[0])(a) for a in ("vocabulary", "")])
    with pytest.raises(
        PassError, match=r"'embed.weight' has the unknown axis 'vocabulary' \(known: batch, position, entry, heads"
    ):
        AnnotateShardingsPass(tp=2).apply(CONTEXT, module)


def test_the_pass_reads_the_layer_level_only() -> None:
    module = annotated("llama-3.1-8b", tp=2)
    with pytest.raises(PassError, match="the module is at the dist level, this pass reads the layer level"):
        AnnotateShardingsPass(tp=2).apply(CONTEXT, module)


# -- the program still computes the same ------------------------------------------------------------------------


def worst_difference(name: str, phase: str, exchange: str = "expanded", **mesh: Any) -> dict[str, float]:
    """The largest error of results, caches and values on the way, after every sharding pass."""
    module = program(name, phase)
    cp = mesh.get("cp", 1)
    bindings = {symbol: value if symbol == "batch" else value * cp for symbol, value in BINDINGS[phase].items()}
    environment = seeded_layer_environment(module, bindings, 1)
    reference = run_layer(module, environment, record=True)
    known = None
    errors: dict[str, float] = {}
    for module_pass in (
        AnnotateShardingsPass(**mesh), InsertCollectivesPass(exchange), LocalizePass(), PartitionStagesPass(),
    ):  # fmt: skip
        module_pass.apply(CONTEXT, module)
        module.verify()
        known = known or layouts(module)
        run = run_dist(module, environment, record=known)
        pairs = list(zip(run.outputs, reference.outputs, strict=True))
        pairs += [(run.states[path], values) for path, values in reference.states.items()]
        for key, values in run.values.items():
            # Slots of experts are filled in another order on other meshes; their sums come back in `combine`.  The last
            # row of a rank of cp is no row that the program of one rank makes.
            if not any(part in key.path for part in ("dispatch", "experts", "of_rank")):
                pairs += list(zip(values, reference.values[key], strict=True))
        errors[module_pass.name] = max(float(np.abs(a - b).max()) for a, b in pairs)
        assert all(a.shape == b.shape for a, b in pairs)
    return errors


@pytest.mark.parametrize(
    ("name", "phase", "mesh"),
    [
        ("llama-3.1-8b", "decode", dict(tp=4, dp=2)),
        ("llama-3.1-8b", "prefill", dict(tp=4, dp=3, sp=True, pp=2)),
        ("llama-3.1-8b", "decode", dict(tp=8, pp=3)),
        ("llama-3.1-8b", "decode", dict(tp=2, sp=True)),
        ("deepseek-v3", "decode", dict(dp=8, ep=8)),
        ("deepseek-v3", "prefill", dict(tp=2, dp=4, ep=8, pp=2)),
        ("deepseek-v3", "decode", dict(tp=2, dp=4, ep=4, moe_tp=2, sp=True)),
        ("deepseek-v3", "prefill", dict(dp=8, ep=2, moe_tp=4)),
        ("deepseek-v3", "decode", dict(tp=4, dp=2, ep=4, moe_tp=2)),
        ("deepseek-v3", "prefill", dict(tp=4, dp=2, ep=1, moe_tp=8, sp=True)),
        ("llama-3.1-8b", "prefill", dict(tp=8, cp=3, dp=2)),  # neighbours on tp share a key head
        ("llama-3.1-8b", "decode", dict(tp=2, cp=2, pp=3, sp=True)),
        ("deepseek-v3", "prefill", dict(cp=4, ep=2, moe_tp=2)),
        ("deepseek-v3", "prefill", dict(tp=2, cp=2, ep=4, sp=True, exchange="smallest")),
        ("deepseek-v3", "decode", dict(cp=2, dp=2, ep=4, pp=2)),
    ],
)
def test_every_sharding_pass_keeps_all_values(name: str, phase: str, mesh: dict[str, Any]) -> None:
    # FP64; sums are taken in another order.
    assert all(error < 1e-9 for error in worst_difference(name, phase, **mesh).values())


def meshes(experts: bool) -> st.SearchStrategy[dict[str, Any]]:
    def build(tp: int, cp: int, dp: int, pp: int, sp: bool, pick: int) -> dict[str, Any]:
        mesh: dict[str, Any] = dict(tp=tp, cp=cp, dp=dp, pp=pp, sp=sp, exchange=("expanded", "smallest")[pick % 2])
        if experts:
            stage = tp * cp * dp
            ways = [e for e in (1, 2, 4, 8, 16) if stage % e == 0 and 16 % (stage // e) == 0]
            mesh["ep"] = ways[pick % len(ways)]
            mesh["moe_tp"] = stage // mesh["ep"]
        return mesh

    tp, cp, dp = (
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([1, 1, 2, 4] if experts else [1, 1, 2, 3]),
        st.sampled_from([1, 2, 4]) if experts else st.integers(1, 4),
    )
    return st.builds(build, tp, cp, dp, st.integers(1, 3), st.booleans(), st.integers(0, 9))


@pytest.mark.long
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_meshes_keep_all_values(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SMALL)))
    mesh = data.draw(meshes(name == "deepseek-v3"))
    phase = data.draw(st.sampled_from(["prefill", "decode"]))
    assert all(error < 1e-9 for error in worst_difference(name, phase, **mesh).values())


def test_paths_and_locations_survive() -> None:
    module = program("deepseek-v3")
    before = [(op.name, op.path.data) for op in module.walk() if isinstance(op, PmcOp)]
    AnnotateShardingsPass(tp=2, dp=2, ep=2, moe_tp=2).apply(CONTEXT, module)
    after = [
        (op.name, op.path.data) for op in module.walk() if isinstance(op, PmcOp) and not isinstance(op, dist.ReshardOp)
    ]
    assert after == before


def test_an_argument_with_columns_is_split_by_its_rows() -> None:
    body = """
    layer.program() {sym_name = "p", phase = "decode"} at "p" {
    ^bb0(%x: !layer.tensor<[batch*q_len, 8], bf16>):
      %w = layer.weight() {axes = ["", "ffn"]} at "w" : !layer.tensor<[8, 4], bf16>
      %y = layer.matmul(%x, %w) at "y" : !layer.tensor<[batch*q_len, 4], bf16>
      layer.return([%y]) at "p"
    }
    """
    module = Parser(make_context(), body).parse_module()
    AnnotateShardingsPass(tp=2, dp=2, sp=True).apply(make_context(), module)
    module.verify()
    assert at(module, "y", "layer.matmul") == Sharding((("dp",), ("tp",)))


def test_a_repeat_keeps_its_numbers_and_its_symbol() -> None:
    body = """
    layer.program() {sym_name = "p", phase = "decode"} at "p" {
    ^bb0(%x: !layer.tensor<[batch*q_len, 8], bf16>):
      %y = layer.repeat 3 from 1 of 4 as "step" (%h = %x) at "steps" : !layer.tensor<[batch*q_len, 8], bf16> {
        %z = layer.add(%h, %h) at "add" : !layer.tensor<[batch*q_len, 8], bf16>
        layer.yield([%z]) at "steps"
      }
      layer.return([%y]) at "p"
    }
    """
    module = Parser(make_context(), body).parse_module()
    AnnotateShardingsPass(dp=2).apply(make_context(), module)
    (repeat,) = ops_of(module, layer.RepeatOp)
    assert repeat.symbol is not None and repeat.symbol.data == "step"
    assert (repeat.trip_count, repeat.first.value.data, repeat.total.value.data) == (3, 1, 4)


def test_ranks_with_parts_of_a_normalised_row_exchange_its_sums() -> None:
    module = import_hf(MINIMAX, "config.json", "tiny")
    ExpandBlocksPass(phase="decode").apply(CONTEXT, module)
    whole = {op.path.data for op in module.walk() if isinstance(op, layer.RmsNormOp)}
    AnnotateShardingsPass(tp=2, moe_tp=2).apply(CONTEXT, module)
    module.verify()
    assert "blocks.moe.gqa.q_norm" in whole
    (sums,) = (op for op in module.walk() if isinstance(op, layer.SquareSumOp) and "q_norm" in op.path.data)
    (norm,) = (op for op in module.walk() if isinstance(op, layer.SplitRmsNormOp) and "q_norm" in op.path.data)
    assert sharding_of(tensor(sums.y)) == Sharding(((), ()), ("tp",))
    assert sharding_of(tensor(norm.sums)) == Sharding(((), ()))
    assert norm.width.value.data == 4 * 16 and sharding_of(tensor(norm.y)) == Sharding(((), ("tp",)))
    # The residual is normalised whole.
    assert [op.path.data for op in module.walk() if isinstance(op, layer.RmsNormOp)] == [
        "blocks.moe.gqa.norm", "blocks.moe.moe.norm", "lm_head.norm",
    ]  # fmt: skip


def test_rows_that_one_rank_has_are_normalised_by_one_op() -> None:
    module = import_hf(MINIMAX, "config.json", "tiny")
    ExpandBlocksPass(phase="decode").apply(CONTEXT, module)
    AnnotateShardingsPass(dp=2, ep=2).apply(CONTEXT, module)
    assert not [op for op in module.walk() if isinstance(op, layer.SquareSumOp | layer.SplitRmsNormOp)]
