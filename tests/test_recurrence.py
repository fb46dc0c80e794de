"""A mixer of recurrences in a model, from the layer level to commands: meshes, phases, loops, what is refused.

What a kernel computes is held against the published loops in `tests/passes/test_recurrence_plans.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, f32
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.arg_spec import ArgSpec

from pmc.backends.cost.model import Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.g5.stream import simulate
from pmc.backends.numeric.dist import layouts, run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.layer import LayerRun, run_layer, seeded_layer_environment
from pmc.backends.numeric.op_by_op import first_deviation
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.compiler.check import Plans, with_plans
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import parse_module, run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.invariants import Invariants
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.compiler.unrolled import wrong_table
from pmc.dialects import g5, layer, tile
from pmc.dialects.deployment import Deployment
from pmc.dialects.expr import Expr, expr
from pmc.dialects.tensor import TensorType, tensor
from pmc.passes.base import PassError

VALUE_DIM, KEY_DIM, TAPS = 5, 3, 4
BATCH = expr("batch")
RECURRENT = ("causal_conv", "ssm_scan", "gated_delta")
KERNELS = (*RECURRENT, "softplus", "gated_rms_norm", "l2_norm", "decay")


class Mixer:
    """Builds ops one behind the other, from `at` on."""

    def __init__(self, at: Operation) -> None:
        self.at = at
        self.element: Attribute = tensor(at.results[0]).element_type
        self.rows, width = tensor(at.results[0]).dims
        self.heads = width.constant // VALUE_DIM

    def op(self, kind: type[Any], name: str, operands: list[Any], types: list[TensorType], **properties: Any) -> Any:
        made = kind.make(operands, types, f"blocks.dense.mixer.{name}", properties, like=self.at)
        block = self.at.parent_block()
        assert block is not None
        block.insert_op_after(made, self.at)
        self.at = made
        return made

    def like(self, kind: type[Any], name: str, operands: list[Any], **properties: Any) -> SSAValue:
        """An op whose result has the type of its first operand."""
        found: SSAValue = self.op(kind, name, operands, [tensor(operands[0])], **properties).results[0]
        return found

    def source(self, kind: type[Any], name: str, axes: list[str], *dims: Expr | int, **properties: Any) -> SSAValue:
        names, element = ArrayAttr([StringAttr(axis) for axis in axes]), properties.pop("element", self.element)
        found: SSAValue = self.op(kind, name, [], [TensorType.of(dims, element)], axes=names, **properties).result
        return found

    def weight(self, name: str, axes: list[str], *dims: Expr | int, **properties: Any) -> SSAValue:
        return self.source(layer.WeightOp, name, axes, *dims, **properties)

    def project(self, name: str, x: SSAValue, width: int) -> SSAValue:
        axis = "" if width == KEY_DIM else "heads"  # all ranks have a key head that all heads share
        weight = self.weight(f"{name}.weight", ["", axis], tensor(x).dims[1], width)
        types = [TensorType.of((self.rows, width), self.element)]
        found: SSAValue = self.op(layer.MatmulOp, name, [x, weight], types).y
        return found

    def wide(self, x: SSAValue, width: int) -> tuple[list[SSAValue], list[TensorType]]:
        """Operands and results of a projection whose columns are those of heads, however many there are."""
        weight = self.weight("a_proj.weight", ["", "heads"], tensor(x).dims[1], width)
        return [x, weight], [TensorType.of((self.rows, width), self.element)]

    def convolved(self, x: SSAValue) -> SSAValue:
        width = tensor(x).dims[1]
        weight, bias = self.weight("conv.weight", ["heads", ""], width, TAPS), self.weight("conv.b", ["heads"], width)
        state = self.source(layer.StateOp, "conv.state", ["batch", "", "heads"], BATCH, TAPS - 1, width, role="conv")
        types, operands = [tensor(x), tensor(state)], [x, weight, state, [bias]]
        found: SSAValue = self.op(layer.CausalConvOp, "conv", operands, types, activation="silu").y
        return found

    def state(self, name: str, *dims: Expr | int) -> SSAValue:
        axes = ["batch", "heads", ""]
        return self.source(layer.StateOp, name, axes, BATCH, *dims, role="recurrent", element=f32)

    def scanned(self, x: SSAValue, keys: int) -> SSAValue:
        b, c = (self.project(name, x, keys) for name in "bc")
        bias, a_log, d = (self.weight(name, ["heads"], self.heads) for name in ("dt_bias", "A_log", "D"))
        dt = self.like(layer.SoftplusOp, "dt", [self.project("dt_proj", x, self.heads), bias], low=0.01, high=0.9)
        state = self.state("scan.state", self.heads * VALUE_DIM, KEY_DIM)
        types = [tensor(x), tensor(state)]
        found: SSAValue = self.op(layer.SsmScanOp, "scan", [x, b, c, dt, a_log, d, state], types).y
        return found

    def delta_ruled(self, v: SSAValue, keys: int, decays: int) -> SSAValue:
        """`decays` of a head: one, or one per row of its state."""
        q, k = (
            self.like(layer.L2NormOp, name, [self.project(f"{name}_proj", v, keys)], eps=1e-6, group=KEY_DIM)
            for name in "qk"
        )
        bias, a_log = (self.weight(name, ["heads"], self.heads) for name in ("beta_bias", "decay_log"))
        width = self.heads * decays
        projected = self.op(layer.MatmulOp, "a_proj", *self.wide(v, width)).y
        g = self.like(layer.DecayOp, "g", [projected, a_log, self.weight("decay_bias", ["heads"], width)])
        projected = self.project("beta_proj", v, self.heads)
        beta = self.like(layer.SoftplusOp, "beta", [projected, bias], low=0.0, high=1.0)
        state = self.state("delta.state", self.heads * KEY_DIM, VALUE_DIM)
        types = [tensor(v), tensor(state)]
        found: SSAValue = self.op(layer.GatedDeltaOp, "delta", [v, q, k, g, beta, state], types, scale=0.5).y
        return found


def add_mixer(up: layer.MatmulOp, groups: int, decays: int) -> None:
    """Both recurrences with what is around them, behind a projection; `groups` key heads, `decays` per head."""
    users = [use.operation for use in up.y.uses]
    m = Mixer(up)
    y = m.convolved(up.y)
    y = m.scanned(y, groups * KEY_DIM)
    w = m.weight("norm.weight", ["heads"], tensor(y).dims[1])
    y = m.like(
        layer.GatedRmsNormOp, "norm", [y, up.y, w], eps=1e-5, group=VALUE_DIM, gate_first=True, activation="silu"
    )
    y = m.delta_ruled(y, groups * KEY_DIM, decays)
    w = m.weight("head_norm.weight", [""], VALUE_DIM)
    gate: Any = {"gate_first": False, "activation": "silu" if decays == 1 else "sigmoid"}
    y = m.like(layer.GatedRmsNormOp, "head_norm", [y, up.y, w], eps=1e-5, group=VALUE_DIM, **gate)
    for user in users:
        user.operands[list(user.operands).index(up.y)] = y


EXACT: dict[str, Any] = {f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")}


def mixed_model(
    deployment: str, groups: int, dtype: str | None = "float32", decays: int = KEY_DIM, **changes: Any
) -> tuple[ModuleOp, Deployment]:
    """A small Llama at the layer level whose feed-forward blocks have a mixer; the deployment it is to go through."""
    small = shrink_deployment(load_deployment(deployment, changes))
    config, source = load_model_config("llama-3.1-8b")
    module = shrink_model(import_hf(config, source, "llama"), small, 2, dtype)
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), small)
    run_pipeline(module, default_pipeline(small, "layer"))
    for op in list(module.walk()):
        if isinstance(op, layer.MatmulOp) and op.path.data.endswith("up_proj"):
            add_mixer(op, groups, decays)
    module.verify()
    return module, small


def agree(found: LayerRun, expected: LayerRun, tolerance: float) -> None:
    """Outputs and all states, those of the recurrences too."""
    np.testing.assert_allclose(found.outputs[0], expected.outputs[0], atol=tolerance)
    assert set(found.states) == set(expected.states)
    for path, values in expected.states.items():
        np.testing.assert_allclose(found.states[path], values, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(
    ("deployment", "groups", "changes"),
    [
        ("llama-8b-decode", 2, {"tp": 1, "decays": 1}),
        ("llama-8b-decode", 4, {"tp": 2, "dp": 2, "pp": 2, "sp": True}),
        ("llama-8b-prefill", 1, {"tp": 2, "decays": 1}),
        ("llama-8b-prefill", 2, {"tp": 2, "dp": 2}),
        ("llama-8b-prefill", 2, {"tp": 1, "fuse_rows": True, "pipeline_loops": True, "prefetch_weights": True}),
        ("llama-8b-decode", 2, {"tp": 2, "late_stores": False, "pipeline_loops": True, "prefetch_weights": True}),
    ],
)
def test_a_mixer_computes_the_same_at_every_level(deployment: str, groups: int, changes: dict[str, Any]) -> None:
    module, small = mixed_model(deployment, groups, **EXACT, **changes)
    environment = inputs(module, small)
    expected = run_layer(module, environment)
    mixed = [path for path in expected.states if ".mixer." in path]
    assert len(mixed) == 3 and all(np.abs(environment.states[path]).min() > 0 for path in mixed)
    for path in mixed:
        assert np.abs(expected.states[path] - environment.states[path]).max() > 0.1, "the step changes no state"
    drawn = module.clone()
    lowering = Lowering(module, small, "chosen")
    lowering.until("localize")
    agree(run_dist(module, environment), expected, 1e-9)
    lowering.until("emit-g5")
    names = {op.op_name.data for op in module.walk() if isinstance(op, g5.ProgramOp)}
    assert names >= {f"layer.{name}" for name in KERNELS}
    agree(run_commands(module, environment), expected, 1e-4)
    assert wrong_table(module) is None
    Lowering(drawn, small, "random").until("emit-g5")
    agree(run_commands(drawn, environment), expected, 1e-4)


def inputs(module: ModuleOp, small: Deployment) -> Environment:
    bindings = {"batch": small.batch, "q_len": small.q_len, "kv_len": small.kv_len}
    return seeded_layer_environment(module, bindings, 3)


class Lowering:
    """Runs a module through the pipeline, a stretch at a time; nothing that `pmc check` holds passes to is broken."""

    def __init__(self, module: ModuleOp, small: Deployment, plans: Plans) -> None:
        self.module = module
        self.specs = with_plans(default_pipeline(small, "commands"), plans, 1)
        self.kept = Invariants(small)
        self.done = 1  # expand-blocks

    def until(self, name: str) -> None:
        """All passes up to one."""
        end = [spec.name for spec in self.specs].index(name) + 1
        for spec in self.specs[self.done : end]:
            run_pipeline(self.module, [spec])
            assert self.kept.broken(spec.name, self.module) is None
        self.done = end


@pytest.mark.parametrize("deployment", ["llama-8b-decode", "llama-8b-prefill"])
def test_kernels_compute_what_their_ops_do_in_the_types_of_the_deployment(deployment: str) -> None:
    module, small = mixed_model(deployment, 2, None, tp=2)
    environment = inputs(module, small)
    lowering = Lowering(module, small, "random")
    lowering.until("annotate-shardings")
    known = layouts(module)
    lowering.until("select-tiles")
    program = module.clone()
    lowering.until("allocate-lmem")
    run = run_tiles(module, environment, known)
    deviation, beside = first_deviation(program, environment, run.ranked)
    assert deviation is None
    assert {key.op for key in run.ranked} >= {f"layer.{name}" for name in KERNELS}
    agree(run, beside, 1e-4)
    types = {op.name: [str(tensor(v).element_type) for v in op.results] for op in program.walk() if is_mixer(op)}
    assert types["layer.ssm_scan"] == types["layer.gated_delta"] == ["bf16", "f32"]
    assert types["layer.causal_conv"] == ["bf16", "bf16"]


def is_mixer(op: Operation) -> bool:
    return isinstance(op, layer.StateUpdateOp) and not isinstance(op, layer.KvAppendOp)


def test_commands_of_a_longer_prompt_are_as_many() -> None:
    counts: list[int] = []
    for q_len in (60, 600):
        module, small = mixed_model("llama-8b-prefill", 2, **EXACT, tp=1)
        Lowering(module, small.model_copy(update={"q_len": q_len, "kv_len": q_len}), "chosen").until("allocate-lmem")
        kernels = [op for op in module.walk() if isinstance(op, tile.KernelOp) and ".mixer." in op.path.data]
        recurrent = [op for op in kernels if op.op_name.data.partition(".")[2] in RECURRENT]
        assert len(recurrent) == 3
        counts.append(sum(1 for kernel in recurrent for _ in kernel.walk()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("groups", "changes", "message"),
    [
        (
            2,
            {"cp": 2},
            r"layer\.causal_conv at 'blocks\.dense\.mixer\.conv' goes through a sequence from its first token to its "
            r"last, cp = 2 would split it: only dp and tp can",
        ),
        (2, {"tp": 4}, r"the 2 groups of 'blocks\.dense\.mixer\.scan' are not divisible by tp = 4"),
    ],
)
def test_what_a_recurrence_cannot_be_split_by_is_refused(groups: int, changes: dict[str, Any], message: str) -> None:
    module, small = mixed_model("llama-8b-prefill", groups, **EXACT, **changes)
    with pytest.raises(PassError, match=message):
        Lowering(module, small, "chosen").until("emit-g5")


# -- time -------------------------------------------------------------------------------------------------------

SIZES = {
    # Nemotron-H: 128 heads of 64 columns in 8 groups, a state of 128 per column.
    "ssm_scan": ("x", 128, 64, 8, 128, ("dt",), ("a_log", "d")),
    # Qwen3-Next: 32 value heads and 16 key heads of 128.
    "gated_delta": ("v", 32, 128, 16, 128, ("g", "beta"), ()),
    # Kimi Linear: 32 heads of 128, each row of a state with a decay of its own.
    "kda": ("v", 32, 128, 32, 128, ("g", "beta"), ()),
}


def step_of(name: str, sequences: int, q_len: int) -> ModuleOp:
    """A program of one recurrence at its real size on the shipped chip, with a plan."""
    first, heads, value_dim, groups, key_dim, numbers, constants = SIZES[name]
    t = sequences * q_len
    wide, keys = f"!layer.tensor<[{t}, {heads * value_dim}], bf16>", f"!layer.tensor<[{t}, {groups * key_dim}], bf16>"
    arguments = [f"%{first}: {wide}", f"%k0: {keys}", f"%k1: {keys}"]
    of_rows = {"g": key_dim} if name == "kda" else {}
    arguments += [f"%{n}: !layer.tensor<[{t}, {heads * of_rows.get(n, 1)}], f32>" for n in numbers]
    arguments += [f"%{n}: !layer.tensor<[{heads}], f32>" for n in constants]
    operands = ", ".join(argument.partition(":")[0] for argument in arguments)
    rows, columns = (value_dim, key_dim) if name == "ssm_scan" else (key_dim, value_dim)
    state = f"!layer.tensor<[{sequences}, {heads * rows}, {columns}], f32>"
    op, scale = (name, "") if name == "ssm_scan" else ("gated_delta", "{scale = 0.1}")
    text = f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0({", ".join(arguments)}):
  %s = layer.state() {{axes = ["", "", ""], role = "recurrent"}} at "p.state" : {state}
  %y, %after = layer.{op}({operands}, %s) {scale} at "p.y" : {wide}, {state}
  layer.return([%y]) at "p"
}}"""
    module = parse_module(text, "p.mlir")
    set_target(module, CHIP, load_topology("p1-r1-b1-c8"), load_deployment("llama-8b-decode", {}), ACCOUNTING)
    run_pipeline(module, [ArgSpec("select-tiles", {})])
    return module


CHIP, ACCOUNTING = load_chip("sg2262"), load_accounting("physical")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("sequences", [8, 64])
def test_a_decode_step_takes_the_time_of_the_state(name: str, sequences: int) -> None:
    """Read and written once, and little else: DRAM at its peak would take three fifths of the time or more."""
    module = step_of(name, sequences, 1)
    (op,) = (op for op in module.walk() if isinstance(op, layer.RecurrenceOp))
    cost = TileCostModel(Target(CHIP, None, None), ACCOUNTING).cost(op, {})
    assert cost is not None
    state_s = 2 * tensor(op.updated[0]).bytes.constant / CHIP.dram_bytes_per_s
    assert 3 * float(cost.compute_s) < float(cost.memory_s)
    assert state_s < float(cost.time_s) < 1.6 * state_s
    names = ("lower-to-tiles", "allocate-lmem", "allocate-dram", "emit-g5")
    run_pipeline(module, [ArgSpec(step, {}) for step in names])
    assert 1.0 <= simulate(module).total_us * 1e-6 / float(cost.time_s) < 1.3


@pytest.mark.parametrize("name", SIZES)
def test_the_time_of_a_prompt_is_that_of_the_vector_unit(name: str) -> None:
    """Token by token: twice the tokens take twice as long, and commands as long as the plan says."""
    times: list[float] = []
    for q_len in (256, 512):
        module = step_of(name, 1, q_len)
        (op,) = (op for op in module.walk() if isinstance(op, layer.RecurrenceOp))
        cost = TileCostModel(Target(CHIP, None, None), ACCOUNTING).cost(op, {})
        assert cost is not None and float(cost.compute_s) > float(cost.memory_s)
        run_pipeline(module, [ArgSpec(n, {}) for n in ("lower-to-tiles", "allocate-lmem", "allocate-dram", "emit-g5")])
        times.append(simulate(module).total_us * 1e-6)
        assert 1.0 <= times[-1] / float(cost.time_s) < 1.1
    assert 1.8 < times[1] / times[0] < 2.0
