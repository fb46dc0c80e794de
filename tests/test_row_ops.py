"""The row-wise ops of many decoder families in one small program: the same values from the layer level to commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.compiler.check import with_plans
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import Observer, parse_module, run_pipeline, set_target
from pmc.compiler.invariants import Invariants
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment
from pmc.dialects import g5, layer
from pmc.dialects.analyses import row_tiling
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.arch import ChipAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.dist import sharding_of
from pmc.dialects.layer_op import RowOp
from pmc.dialects.tensor import tensor
from pmc.dialects.tile_plan import PLAN, PlanAttr

HIDDEN, HEADS, WIDTH, FFN, EXPERTS, VOCABULARY, POSITIONS, STREAMS = 24, 4, 8, 20, 4, 40, 64, 3


class Text:
    """Writes a program of the layer level, line by line; every method gives the name of its value."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.types: dict[str, str] = {"%tokens": "!layer.tensor<[batch*q_len], i32>"}

    def add(self, op: str, operands: str, type_: str, path: str, properties: str = "") -> str:
        name = f"%v{len(self.types)}"
        braces = f" {{{properties}}}" if properties else ""
        self.lines.append(f'{name} = {op}({operands}){braces} at "{path}" : {type_}')
        self.types[name] = type_
        return name

    def weight(self, path: str, *dims: int, axes: str = "", role: str = "") -> str:
        """`axes` are the logical axes of the dims, with commas between."""
        names = axes.split(",") if axes else [""] * len(dims)
        quoted = ", ".join(f'"{name}"' for name in names)
        shape = ", ".join(str(d) for d in dims)
        properties = f"axes = [{quoted}]" + (f', role = "{role}"' if role else "")
        return self.add("layer.weight", "", f"!layer.tensor<[{shape}], f32>", path, properties)

    def rows(self, op: str, operands: str, path: str, properties: str = "", columns: int | None = None) -> str:
        """An op whose result is as its first operand, or has other columns."""
        type_ = self.types[operands.split(",")[0]]
        if columns is not None:
            head, _, tail = type_.rpartition(", ")
            type_ = f"{head.rpartition(', ')[0]}, {columns}], {tail}"
        return self.add(op, operands, type_, path, properties)

    def linear(self, x: str, path: str, k: int, n: int, axes: str, bias: bool = True) -> str:
        """A product and its bias; with four axes one of each expert."""
        experts = (EXPERTS,) if axes.startswith("expert,") else ()
        w = self.weight(f"{path}.weight", *experts, k, n, axes=axes)
        y = self.rows("layer.grouped_matmul" if experts else "layer.matmul", f"{x}, {w}", path, columns=n)
        if not bias:
            return y
        names = axes.split(",")
        kept = ",".join([*names[: len(experts)], names[-1]])
        b = self.weight(f"{path}.bias", *experts, n, axes=kept, role="bias")
        return self.rows("layer.add_bias", f"{y}, {b}", f"{path}.add_bias")

    def program(self, result: str) -> str:
        body = "\n".join(self.lines)
        return (
            'builtin.module { layer.program() {sym_name = "p", phase = "decode"} at "p" {\n'
            f'^bb0(%tokens: {self.types["%tokens"]}):\n{body}\nlayer.return([{result}]) at "p"\n}} }}'
        )


def attention(t: Text, x: str) -> str:
    """Biases on q, k, v and on the projection back; half of every head is rotated."""
    width = HEADS * WIDTH
    q, k, v = (t.linear(x, f"attn.{n}_proj", HIDDEN, width, ",heads") for n in "qkv")
    turned = (
        f"head_dim = {WIDTH}, theta = 100.0, interleaved = true, q_len = <q_len>, kv_len = <kv_len>, rotary_dim = 4"
    )
    gain = t.weight("attn.q_norm.weight", WIDTH)
    norm = f"eps = 1.0e-05, group = {WIDTH}"
    q = t.rows("layer.rms_norm", f"{q}, {gain}", "attn.q_norm", f"{norm}, zero_centered = unit")
    k = t.rows("layer.rms_norm", k, "attn.k_norm", norm)
    q, k = (t.rows("layer.rope", value, f"attn.{n}_rope", turned) for n, value in (("q", q), ("k", k)))
    caches: list[str] = []
    for name, new in (("k", k), ("v", v)):
        type_ = f"!layer.tensor<[batch, kv_len, {width}], f32>"
        axes = 'axes = ["batch", "position", "kv_heads"], role = "key_value_heads"'
        cache = t.add("layer.state", "", type_, f"attn.{name}_cache", axes)
        caches.append(t.add("layer.kv_append", f"{cache}, {new}", type_, f"attn.{name}_append"))
    dims = f"qk_dims = [{WIDTH}], v_dim = {WIDTH}, q_len = <q_len>, scale = 0.25, causal = true"
    y = t.add("layer.attention", f"[{q}], [{caches[0]}], {caches[1]}", t.types[q], "attn.attention", dims)
    return t.linear(y, "attn.o_proj", width, HIDDEN, "heads,")


FUNCTIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid")
GATED = {
    "gelu": "", "gelu_tanh": "", "relu": "", "relu2": "", "sigmoid": "",
    "clamped_silu": ", limit = 0.5", "clamped_swiglu": ", limit = 0.5, alpha = 1.702",
}  # fmt: skip


def feed_forward(t: Text, x: str) -> str:
    """Every activation, one after the other: no model has them all."""
    y = t.linear(x, "ffn.up_proj", HIDDEN, FFN, ",ffn")
    for name in FUNCTIONS:
        y = t.rows("layer.activation", y, f"ffn.{name}", f'function = "{name}"')
    up = t.linear(x, "ffn.gate_proj", HIDDEN, FFN, ",ffn")
    for name, parameters in GATED.items():
        y = t.rows("layer.gated_activation", f"{up}, {y}", f"ffn.gated_{name}", f'function = "{name}"{parameters}')
    return t.linear(y, "ffn.down_proj", FFN, HIDDEN, "ffn,")


def experts(t: Text, x: str) -> str:
    """Experts with biases, as in gpt-oss, and a shared expert with a gate, as in Qwen3-Next."""
    logits = t.linear(x, "moe.router", HIDDEN, EXPERTS, ",")
    pair = [f"!layer.tensor<[batch*q_len, 2], {e}>" for e in ("f32", "i32")]
    t.lines.append(
        f'%chosen, %indices = layer.router_topk({logits}, []) {{top_k = 2, scoring = "softmax", groups = 1, '
        f'top_groups = 1, normalize = true, scale = 1.0}} at "moe.topk" : {", ".join(pair)}'
    )
    # What top-k gives once more: the weights of experts that something else has chosen.
    weights = t.add(
        "layer.router_weights", f"{logits}, %indices", pair[0], "moe.weights",
        'scoring = "softmax", normalize = true, scale = 1.0',
    )  # fmt: skip
    slots = f"!layer.tensor<[{EXPERTS}, batch*q_len, {HIDDEN}], f32>"
    y = t.add("layer.dispatch", f"{x}, %indices", slots, "moe.dispatch", 'capacity = "worst"')
    gate, up = (t.linear(y, f"moe.experts.{n}_proj", HIDDEN, FFN, "expert,,expert_ffn") for n in ("gate", "up"))
    y = t.rows(
        "layer.gated_activation", f"{gate}, {up}", "moe.experts.act",
        'function = "clamped_swiglu", limit = 7.0, alpha = 1.702',
    )  # fmt: skip
    y = t.linear(y, "moe.experts.down_proj", FFN, HIDDEN, "expert,expert_ffn,")
    y = t.add("layer.combine", f"{y}, %indices, {weights}", t.types[x], "moe.combine")
    shared = t.rows(
        "layer.activation",
        t.linear(x, "moe.shared.up_proj", HIDDEN, FFN, ",ffn"),
        "moe.shared.act",
        'function = "relu2"',
    )
    shared = t.linear(shared, "moe.shared.down_proj", FFN, HIDDEN, "ffn,", bias=False)
    gate = t.linear(x, "moe.shared.gate", HIDDEN, 1, ",", bias=False)
    shared = t.rows("layer.row_gate", f"{shared}, {gate}", "moe.shared.row_gate")
    return t.rows("layer.add", f"{y}, {shared}", "moe.add_shared")


def streams(t: Text, x: str) -> str:
    """The rows as streams that are read, written and read once more, as around a block and before the head."""
    s = t.rows("layer.copy_streams", x, "hc.copy", f"streams = {STREAMS}", STREAMS * HIDDEN)
    for path, columns, factors in (("hc", (2 + STREAMS) * STREAMS, 3), ("hc.head", STREAMS, 1)):
        normed = t.rows("layer.rms_norm", s, f"{path}.norm", f"eps = 1.0e-05, group = {STREAMS * HIDDEN}")
        logits = t.linear(normed, f"{path}.fn", STREAMS * HIDDEN, columns, ",", bias=False)
        scale, base = t.weight(f"{path}.scale", factors), t.weight(f"{path}.base", columns, role="bias")
        how = f"streams = {STREAMS}, iterations = {4 if factors > 1 else 0}, eps = 1.0e-06"
        weights = t.rows("layer.stream_weights", f"{logits}, {scale}, {base}", f"{path}.weights", how)
        count = f"streams = {STREAMS}"
        x = t.rows("layer.collapse_streams", f"{s}, {weights}", f"{path}.collapse", count, HIDDEN)
        if factors > 1:
            s = t.rows("layer.mix_streams", f"{s}, {x}, {weights}", f"{path}.mix", count)
    return x


def program() -> ModuleOp:
    t = Text()
    table = t.weight("embed.weight", VOCABULARY, HIDDEN, axes="vocab,")
    x = t.add("layer.embedding", f"%tokens, {table}", f"!layer.tensor<[batch*q_len, {HIDDEN}], f32>", "embed")
    x = t.rows("layer.scale", x, "embed.scale", "factor = 1.5")
    positions = t.weight("positions.weight", POSITIONS, HIDDEN)
    lengths = "q_len = <q_len>, kv_len = <kv_len>, offset = 2"
    x = t.rows("layer.position_embedding", f"{x}, {positions}", "positions", lengths)
    x = streams(t, x)
    type_ = t.types["%h"] = t.types["%r"] = t.types[x]
    t.lines.append(f'%r = layer.repeat 2 from 0 of 2 (%h = {x}) at "blocks" : {type_} {{')
    x = "%h"
    for part, path, op, properties in (
        (attention, "attn", "rms_norm", f", group = {HIDDEN}"),
        (feed_forward, "ffn", "rms_norm", f", group = {HIDDEN}, zero_centered = unit"),
        (experts, "moe", "layer_norm", ""),
    ):
        operands = [x, t.weight(f"{path}.norm.weight", HIDDEN)]
        if path == "moe":
            operands.append(t.weight(f"{path}.norm.bias", HIDDEN, role="bias"))
        normed = t.rows(f"layer.{op}", ", ".join(operands), f"{path}.norm", f"eps = 1.0e-05{properties}")
        x = t.rows("layer.add", f"{x}, {part(t, normed)}", f"{path}.residual")
    t.lines.append(f'layer.yield([{x}]) at "blocks"\n}}')
    gain = t.weight("lm_head.norm.weight", HIDDEN)
    x = t.rows("layer.layer_norm", f"%r, {gain}", "lm_head.norm", "eps = 1.0e-05, zero_centered = unit")
    logits = t.linear(x, "lm_head", HIDDEN, VOCABULARY, ",vocab")
    logits = t.rows("layer.soft_cap", logits, "lm_head.soft_cap", "cap = 1.5")
    return parse_module(t.program(logits), "row_ops.mlir")


def targeted(changes: Mapping[str, object]) -> tuple[ModuleOp, Deployment]:
    name = "llama-8b-prefill" if "cp" in changes else "llama-8b-decode"
    f32 = {f"quantization.{n}": "f32" for n in ("weights", "activations", "kv_cache", "attention")}
    deployment = shrink_deployment(load_deployment(name, {**f32, **changes, "expert_capacity": "worst"}))
    module = program()
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), deployment)
    return module, deployment


MESHES: tuple[dict[str, object], ...] = (
    {"tp": 1},
    {"tp": 2, "dp": 2, "ep": 4, "sp": True},
    {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2},
    {"tp": 2, "dp": 2, "ep": 4, "fuse_rows": True, "fuse_gates": True},
    {"tp": 1, "dp": 4, "ep": 2, "moe_tp": 2},
    {"tp": 2, "cp": 2, "ep": 4},
    {"tp": 2, "pp": 2, "ep": 2, "prefetch_weights": True, "pipeline_loops": True},
)


class Kept(Observer):
    """Holds every module against what the levels above say of it, and keeps what the plans of row-wise ops state."""

    def __init__(self, deployment: Deployment) -> None:
        self.invariants = Invariants(deployment)
        self.stated: dict[str, list[Resources]] = {}
        """By path, stage by stage."""

    def after(self, step: int, name: str, module: ModuleOp) -> None:
        assert self.invariants.broken(name, module) is None
        if name == "select-tiles":
            chip = module.attributes["arch.chip"]
            assert isinstance(chip, ChipAttr)
            for op in module.walk():
                plan = op.attributes.get(PLAN)
                if isinstance(op, RowOp | layer.PositionEmbeddingOp) and isinstance(plan, PlanAttr):
                    rows = row_tiling.rows_of(op, chip.data.cores)
                    self.stated.setdefault(op.path.data, []).append(row_tiling.resources(rows, plan, chip.data))


@pytest.mark.parametrize(
    ("mesh", "plans"), [*((mesh, "chosen") for mesh in MESHES), (MESHES[0], "random"), (MESHES[-1], "random")], ids=str
)
def test_all_levels_compute_the_same(mesh: dict[str, object], plans: Literal["chosen", "random"]) -> None:
    module, deployment = targeted(mesh)
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    environment = seeded_layer_environment(module, bindings, 3)
    expected = run_layer(module, environment).outputs[0]
    steps = with_plans(default_pipeline(deployment, "commands"), plans, 5)[2:]
    split = next(i for i, step in enumerate(steps) if step.name == "partition-stages")
    kept = Kept(deployment)
    run_pipeline(module, steps[:split], [kept])
    np.testing.assert_allclose(run_dist(module, environment).outputs[0], expected, atol=1e-9)
    run_pipeline(module, steps[split:-1], [kept])
    np.testing.assert_allclose(run_tiles(module, environment).outputs[0], expected, atol=1e-4)
    run_pipeline(module, steps[-1:], [kept])
    np.testing.assert_allclose(run_commands(module, environment).outputs[0], expected, atol=1e-4)
    programs = [op for op in module.walk() if isinstance(op, g5.ProgramOp)]
    assert {f"layer.{name}" for name in NAMES} <= {op.op_name.data for op in programs}
    check_stated(module, programs, kept.stated)


NAMES = (
    "rope",
    "rms_norm",
    "layer_norm",
    "scale",
    "soft_cap",
    "row_gate",
    "add_bias",
    "activation",
    "gated_activation",
    "copy_streams",
    "stream_weights",
    "collapse_streams",
    "mix_streams",
    "router_weights",
)


def check_stated(module: ModuleOp, programs: Sequence[g5.ProgramOp], stated: Mapping[str, list[Resources]]) -> None:
    """The commands of a row-wise op move the bytes and take the steps that its plan states."""
    chip = module.attributes["arch.chip"]
    assert isinstance(chip, ChipAttr)
    for program in programs:
        if program.op_name.data.removeprefix("layer.") not in NAMES:
            continue
        r = stated[program.path.data].pop(0)
        found = program_resources(program, chip.data)
        for name in ("dram_read", "dram_written"):
            assert getattr(found, name) == int(getattr(r, name)[0]), (program.path.data, name)
        for name in ("gdma_bytes", "gdma_commands"):
            assert getattr(found, name).max() == int(getattr(r, name)[0]), (program.path.data, name)
        assert sum(v.max() for v in found.vec_steps.values()) == int(r.vec_steps[0]), program.path.data


@pytest.mark.parametrize("granularity", ["chip", "core", "tile"])
def test_every_model_of_time_knows_the_ops(granularity: str) -> None:
    module, deployment = targeted({"tp": 2, "dp": 2, "ep": 4})
    run_pipeline(module, default_pipeline(deployment, "dist")[2:])
    result = evaluate_module(module, granularity)
    timed = {step.op for step in result.steps if step.time_us > 0}
    assert {f"layer.{name}" for name in NAMES} <= timed


@pytest.mark.parametrize("sp", [False, True])
def test_factors_and_gates_take_partial_sums_and_biases_do_not(sp: bool) -> None:
    """What goes on as a partial sum meets another one, and one reduction serves both."""
    module, deployment = targeted({"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2, "sp": sp})
    run_pipeline(module, default_pipeline(deployment, "dist")[2:3])
    ops = {op.path.data: op for op in module.walk() if isinstance(op, RowOp)}

    def partial(path: str) -> list[tuple[str, ...]]:
        op = ops[path]
        return [sharding_of(tensor(v)).partial for v in (*op.operands, *op.results)]

    assert partial("embed.scale") == [("tp",), ("tp",)]
    assert partial("moe.shared.row_gate") == [("tp",), (), ("tp",)]
    for path in ("attn.o_proj", "ffn.down_proj"):
        assert partial(f"{path}.add_bias") == [(), (), ()]
    # One rank adds the biases of the experts, whose sums are added up for tokens.
    assert partial("moe.experts.down_proj.add_bias") == [("tp",), (), ("tp",)]
    assert [str(op.share.data) for op in ops.values() if isinstance(op, layer.AddBiasOp) and op.share is not None] == [
        "max(-tp.rank + 1, 0)"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mesh", "rows"), [({"tp": 2, "cp": 2, "ep": 4}, ("cp",)), ({"tp": 2, "dp": 2, "ep": 4, "sp": True}, ("dp", "tp"))]
)
def test_tokens_part_again_behind_their_positions(mesh: dict[str, object], rows: tuple[str, ...]) -> None:
    """The table is read for whole sequences, and nothing behind it is computed on two ranks."""
    module, deployment = targeted(mesh)
    run_pipeline(module, default_pipeline(deployment, "dist")[2:3])
    (op,) = (op for op in module.walk() if isinstance(op, layer.PositionEmbeddingOp))
    (norm,) = (op for op in module.walk() if isinstance(op, layer.RmsNormOp) and op.path.data == "attn.norm")
    assert sharding_of(tensor(op.y)).dims[0] == tuple(axis for axis in rows if axis == "dp")
    assert sharding_of(tensor(norm.x)).dims[0] == rows
