"""Every legal plan of a recurrence computes what its published equations say, and asks of the engines what it states.

The loops of this file are those of `transformers` 5.23, written out token by token: `causal_conv1d_update`,
`mamba2_selective_state_update`, `torch_recurrent_gated_delta_rule`.  The state before the step is not zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument
from xdsl.parser import Parser
from xdsl.utils.arg_spec import ArgSpec

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.precision import EXACT64
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tensor_ops import Context, run_tensor_op
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, layer, tile
from pmc.dialects.accounting import AccountingAttr
from pmc.dialects.analyses import conv_tiling, recurrence_tiling
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.allocate_lmem import AllocateLmemPass
from pmc.passes.base import PassError
from pmc.passes.emit_g5 import EmitG5Pass
from pmc.passes.lower_to_tiles import LowerToTilesPass

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
CORES = 6


def tiny_chip(lmem_bytes: int = 64 * 1024) -> Chip:
    """A cube of 4 x 2 and 6 cores, so that small sizes have several tiles and edges."""
    fields = with_fp32(load_chip("sg2262")).model_dump()
    fields.update(cores=CORES, dies=1, die_to_die=None)
    fields["cube"].update(m=4, n=2, k={t: None if k is None else 4 for t, k in fields["cube"]["k"].items()})
    fields["command_level"]["noc"].update(mesh_columns=CORES, mesh_rows=1, cluster_columns=1, cluster_rows=1)
    fields["command_level"]["lmem"]["bytes_per_core"] = lmem_bytes
    return Chip.model_validate(fields)


CHIP = tiny_chip()


def the_op(module: ModuleOp) -> Any:
    (op,) = (op for op in module.walk() if isinstance(op, layer.StateUpdateOp))
    return op


def operand_names(op: Any) -> list[str]:
    """What the inputs of a program are called, in the order of the operands of its op."""
    return [str(v.name_hint) if isinstance(v, BlockArgument) else v.owner.path.data for v in op.operands]


def op_of(text: str) -> Any:
    return the_op(Parser(make_context(), text).parse_module())


def compiled(text: str, plan: PlanAttr) -> tuple[ModuleOp, ModuleOp]:
    """The kernel of the one op of a program, and its commands."""
    ctx = make_context()
    module = Parser(ctx, text).parse_module()
    module.verify()
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    the_op(module).attributes[PLAN] = plan
    for step in (LowerToTilesPass(), AllocateLmemPass(), AllocateDramPass()):
        step.apply(ctx, module)
        module.verify()
    tiles = module.clone()
    EmitG5Pass().apply(ctx, module)
    module.verify()
    return tiles, module


def check(
    text: str, plan: PlanAttr, arrays: dict[str, Array], y: Array, after: Array, stated: Resources, lmem_bytes: int
) -> None:
    """Tiles and commands give `y` and the state `after`; buffers and commands are what the plan states."""
    tiles, module = compiled(text, plan)
    op = op_of(text)
    of_op = run_tensor_op(op, [arrays[name] for name in operand_names(op)], Context({}, EXACT64))
    np.testing.assert_allclose(of_op[0], y, atol=1e-10)
    np.testing.assert_allclose(of_op[1], after, atol=1e-10)
    align = CHIP.alignment_bytes
    buffers = [op for op in tiles.walk() if isinstance(op, tile.AllocOp)]
    sizes = (op.slots.value.data * -(-tile.buffer_type(op.result).bytes // align) * align for op in buffers)
    assert sum(sizes) == lmem_bytes
    (program,) = (op for op in tiles.walk() if isinstance(op, tile.ProgramOp))
    (stream,) = (op for op in module.walk() if isinstance(op, g5.StreamOp))
    names = [op.path.data for op in program.walk() if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS]
    assert set(names) == set(arrays)
    ranked = {name: values[None] for name, values in arrays.items()}
    for run in (run_tiles(program, ranked), run_stream(stream, ranked, CHIP.commands.lmem.bytes_per_core)):
        (output,) = run.outputs.values()
        (state,) = run.states.values()
        for found, expected in ((output, y), (state, after)):
            error = np.abs(found.reshape(expected.shape) - expected).max()
            assert error <= 1e-5 * max(1.0, np.abs(expected).max())
    (commands,) = (op for op in stream.walk() if isinstance(op, g5.ProgramOp))
    counted = program_resources(commands, CHIP)
    for name in ("dram_read", "dram_written"):
        assert getattr(counted, name) == getattr(stated, name)[0], name
    for name in ("gdma_bytes", "gdma_commands"):
        assert getattr(counted, name).max() == getattr(stated, name)[0], name
    total = sum((v for v in counted.vec_steps.values()), np.zeros(commands.cores.value.data, np.int64))
    assert total.max() == stated.vec_steps[0]
    assert commands.cores.value.data == stated.cores[0]


def silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


# -- causal convolution -----------------------------------------------------------------------------------------


def conv_text(sequences: int, q_len: int, channels: int, taps: int, activation: str, bias: bool) -> str:
    t, c = sequences * q_len, channels
    arguments = ", ".join([f"%x: !layer.tensor<[{t}, {c}], f32>", f"%w: !layer.tensor<[{c}, {taps}], f32>"])
    if bias:
        arguments += f", %bias: !layer.tensor<[{c}], f32>"
    state = f"!layer.tensor<[{sequences}, {taps - 1}, {c}], f32>"
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0({arguments}):
  %s = layer.state() {{axes = ["batch", "", "heads"], role = "conv"}} at "p.state" : {state}
  %y, %after = layer.causal_conv(%x, %w, %s, [{"%bias" if bias else ""}]) {{activation = "{activation}"}} at "p.y"
       : !layer.tensor<[{t}, {c}], f32>, {state}
  layer.return([%y]) at "p"
}}"""


def convolved(arrays: dict[str, Array], activation: str) -> tuple[Array, Array]:
    """`causal_conv1d_update`, one token after the other."""
    x, weight, state = arrays["x"], arrays["w"], arrays["p.state"].copy()
    y = np.zeros_like(x)
    q_len = len(x) // len(state)
    for t, row in enumerate(x):
        b = t // q_len
        window = np.concatenate([state[b], row[None]])
        total = (window * weight.T).sum(axis=0) + arrays.get("bias", 0.0)
        y[t] = silu(total) if activation == "silu" else total
        state[b] = window[1:]
    return y, state


@given(st.data())
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_any_plan_of_a_causal_convolution(data: st.DataObject) -> None:
    draw = data.draw
    sequences, q_len, taps = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(2, 5))
    channels, bias = draw(st.sampled_from([5, 64, 70, 150])), draw(st.booleans())
    activation = draw(st.sampled_from(["silu", "none"]))
    text = conv_text(sequences, q_len, channels, taps, activation, bias)
    cores_b = draw(st.integers(1, CORES))
    cores = [cores_b, draw(st.integers(1, CORES // cores_b))]
    tile_sizes = [draw(st.integers(1, 5)), draw(st.sampled_from([3, 16, 40, 160]))]
    plan = PlanAttr.of(cores, tile_sizes, conv_tiling.ORDER, draw(st.sampled_from([1, 2])))
    conv = conv_tiling.convolution_of(op_of(text))
    assume(conv_tiling.plan_fault(conv, plan, CHIP) is None)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "x": (sequences * q_len, channels), "w": (channels, taps), "p.state": (sequences, taps - 1, channels),
        **({"bias": (channels,)} if bias else {}),
    }  # fmt: skip
    arrays = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    y, after = convolved(arrays, activation)
    stated, need = conv_tiling.resources(conv, plan, CHIP), conv_tiling.lmem_bytes(conv, plan, CHIP)
    check(text, plan, arrays, y, after, stated, need)


# -- recurrences of heads ---------------------------------------------------------------------------------------

P, N = 5, 3
"""Widths of a head and of a key head."""


def ssm_text(sequences: int, q_len: int, groups: int, heads: int) -> str:
    t = sequences * q_len
    shapes = {"x": [t, heads * P], "b": [t, groups * N], "c": [t, groups * N], "dt": [t, heads], "a": [heads]}
    return _recurrence("ssm_scan", "", {**shapes, "d": [heads]}, [sequences, heads * P, N], [t, heads * P])


def delta_text(sequences: int, q_len: int, groups: int, heads: int) -> str:
    t = sequences * q_len
    shapes = {"v": [t, heads * P], "q": [t, groups * N], "k": [t, groups * N], "g": [t, heads], "beta": [t, heads]}
    return _recurrence("gated_delta", "{scale = 0.3}", shapes, [sequences, heads * N, P], [t, heads * P])


def kda_text(sequences: int, q_len: int, groups: int, heads: int) -> str:
    """The same with a decay for every row of the state."""
    narrow, wide = (f"%g: !layer.tensor<{[sequences * q_len, width]}, f32>" for width in (heads, heads * N))
    return delta_text(sequences, q_len, groups, heads).replace(narrow, wide)


def _recurrence(name: str, properties: str, shapes: dict[str, list[int]], state: list[int], y: list[int]) -> str:
    arguments = ", ".join(f"%{name}: !layer.tensor<{shape}, f32>" for name, shape in shapes.items())
    operands = ", ".join(f"%{name}" for name in shapes)
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0({arguments}):
  %s = layer.state() {{axes = ["batch", "heads", ""], role = "recurrent"}} at "p.state" : !layer.tensor<{state}, f32>
  %y, %after = layer.{name}({operands}, %s) {properties} at "p.y"
       : !layer.tensor<{y}, f32>, !layer.tensor<{state}, f32>
  layer.return([%y]) at "p"
}}"""


def scanned(arrays: dict[str, Array], groups: int, heads: int) -> tuple[Array, Array]:
    """`mamba2_selective_state_update`, one token of one head after the other."""
    x, state = arrays["x"], arrays["p.state"].copy()
    y, q_len = np.zeros_like(x), len(x) // len(state)
    for t in range(len(x)):
        for h in range(heads):
            b, own, group = t // q_len, slice(h * P, h * P + P), slice(h * groups // heads * N, None)
            dt, decay = arrays["dt"][t, h], np.exp(-np.exp(arrays["a"][h]) * arrays["dt"][t, h])
            state[b, own] = decay * state[b, own] + dt * np.outer(x[t, own], arrays["b"][t, group][:N])
            y[t, own] = state[b, own] @ arrays["c"][t, group][:N] + arrays["d"][h] * x[t, own]
    return y, state


def delta_ruled(arrays: dict[str, Array], groups: int, heads: int) -> tuple[Array, Array]:
    """`torch_recurrent_gated_delta_rule`, one token of one head after the other; g of `recurrent_kimi_delta_attention`
    has a number for every row of the state of a head."""
    v, state = arrays["v"], arrays["p.state"].copy()
    y, q_len = np.zeros_like(v), len(v) // len(state)
    for t in range(len(v)):
        for h in range(heads):
            b, own, rows = t // q_len, slice(h * P, h * P + P), slice(h * N, h * N + N)
            q, k = (arrays[name][t].reshape(groups, N)[h * groups // heads] for name in "qk")
            state[b, rows] *= np.exp(arrays["g"][t].reshape(heads, -1)[h])[:, None]
            delta = arrays["beta"][t, h] * (v[t, own] - state[b, rows].T @ k)
            state[b, rows] += np.outer(k, delta)
            y[t, own] = state[b, rows].T @ q * 0.3
    return y, state


RECURRENCES = {"ssm_scan": (ssm_text, scanned), "gated_delta": (delta_text, delta_ruled)}


def inputs_of(text: str, seed: int = 0) -> dict[str, Array]:
    """Random inputs of a program; decays are below 1, steps above 0."""
    random = np.random.default_rng(seed)
    op = op_of(text)
    shapes = [tuple(d.constant for d in v.type.dims) for v in op.operands]
    arrays = {name: random.standard_normal(shape) for name, shape in zip(operand_names(op), shapes, strict=True)}
    changes: dict[str, Callable[[Array], Array]] = {"dt": np.abs, "g": _minus, "beta": _share}
    return {name: changes.get(name, np.asarray)(values) for name, values in arrays.items()}


def _minus(g: Array) -> Array:
    return -np.abs(g)


def _share(beta: Array) -> Array:
    return 1 / (1 + np.exp(-beta))


@pytest.mark.parametrize("name", RECURRENCES)
@given(st.data())
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_any_plan_of_a_recurrence(name: str, data: st.DataObject) -> None:
    draw, (written, computed) = data.draw, RECURRENCES[name]
    sequences, q_len = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    groups, group_heads = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    if name == "gated_delta" and draw(st.booleans()):
        written = kda_text
    text = written(sequences, q_len, groups, groups * group_heads)
    cores_b = draw(st.integers(1, CORES))
    cores_g = draw(st.integers(1, CORES // cores_b))
    cores = [cores_b, cores_g, draw(st.integers(1, CORES // (cores_b * cores_g)))]
    several = draw(st.booleans())
    tile_sizes = [draw(st.integers(1, 5)), draw(st.integers(2, 3)) if several else 1]
    tile_sizes.append(group_heads if several else draw(st.integers(1, 5)))
    plan = PlanAttr.of(cores, tile_sizes, recurrence_tiling.ORDER, draw(st.sampled_from([1, 2])))
    found = recurrence_tiling.recurrence_of(op_of(text))
    assume(recurrence_tiling.plan_fault(found, plan, CHIP) is None)
    arrays = inputs_of(text)
    y, after = computed(arrays, groups, groups * group_heads)
    stated = recurrence_tiling.resources(found, plan, CHIP)
    check(text, plan, arrays, y, after, stated, recurrence_tiling.lmem_bytes(found, plan, CHIP))


# -- arrays -----------------------------------------------------------------------------------------------------


def lowered(text: str) -> ModuleOp:
    """The tiles of a program whose plans are those that are chosen."""
    module = Parser(make_context(), text).parse_module()
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    module.attributes["arch.accounting"] = AccountingAttr(load_accounting("physical"))
    run_pipeline(module, [ArgSpec(name, {}) for name in ("select-tiles", "lower-to-tiles")])
    return module


@pytest.mark.parametrize("name", RECURRENCES)
def test_the_state_and_the_inputs_are_overwritten(name: str) -> None:
    """Nothing reads the inputs of heads again, so the outputs take their array; the state has one array."""
    text = RECURRENCES[name][0](2, 3, 2, 4)
    first = "%x" if name == "ssm_scan" else "%v"
    doubled = f'  %z = layer.add({first}, {first}) at "p.z" : !layer.tensor<[6, 20], f32>\n  %y, '
    text = text.replace("  %y, ", doubled, 1).replace(f"{name}({first},", f"{name}(%z,")
    kinds = [op.kind.data for op in lowered(text).walk() if isinstance(op, tile.GlobalOp)]
    assert sorted(kind for kind in kinds if kind != "input") == ["output", "state"]


def test_the_state_before_is_gone_after_the_step() -> None:
    text = ssm_text(2, 3, 2, 4)
    line = next(line for line in text.splitlines() if "layer.ssm_scan" in line)
    again = line.replace("%y, %after", "%u, %later").replace("%x", "%y").replace('"p.y"', '"p.u"')
    state = text.splitlines()[text.splitlines().index(line) + 1]
    text = text.replace(f"{line}\n{state}", "\n".join([line, state, again, state]))
    with pytest.raises(PassError) as error:
        lowered(text)
    assert str(error.value) == (
        "lower-to-tiles: the cache of layer.ssm_scan at 'p.y' is read after the update, "
        "only the result of ssm_scan may be"
    )


@pytest.mark.parametrize(("name", "message"), [("ssm_scan", "a recurrence"), ("causal_conv", "a causal convolution")])
def test_a_state_that_does_not_fit_is_refused(name: str, message: str) -> None:
    text = ssm_text(2, 3, 2, 4) if name == "ssm_scan" else conv_text(2, 3, 64, 4, "silu", True)
    op, small = op_of(text), tiny_chip(256)
    plans = {"ssm_scan": lambda: recurrence_tiling.plan_recurrence(recurrence_tiling.recurrence_of(op), small)}
    plans["causal_conv"] = lambda: conv_tiling.plan_convolution(conv_tiling.convolution_of(op), small)
    with pytest.raises(PmcError, match=f"no tile of {message} fits: its tiles need .* the budget of a core is 115"):
        plans[name]()


def test_parts_of_a_projection_are_read_where_they_are() -> None:
    """x, B and C are columns of one array, as a convolution leaves them: no kernel copies them."""
    t, heads, groups = 6, 4, 2
    wide = heads * P + 2 * groups * N
    parts = {"x": (0, heads * P), "b": (heads * P, groups * N), "c": (heads * P + groups * N, groups * N)}
    text = ssm_text(2, 3, groups, heads)
    arguments = ", ".join(f"%{n}: !layer.tensor<[{t}, {size}], f32>" for n, (_, size) in parts.items())
    slices = "\n".join(
        f"  %{n} = layer.slice(%all) {{group = {wide}, offset = {at}, size = {size}}} "
        f'at "p.{n}" : !layer.tensor<[{t}, {size}], f32>'
        for n, (at, size) in parts.items()
    )
    text = text.replace(arguments, f"%all: !layer.tensor<[{t}, {wide}], f32>")
    text = text.replace("  %s = layer.state", f"{slices}\n  %s = layer.state", 1)
    whole = inputs_of(ssm_text(2, 3, groups, heads))
    y, after = scanned(whole, groups, heads)
    module = lowered(text)
    assert {op.op_name.data for op in module.walk() if isinstance(op, tile.KernelOp)} == {"layer.ssm_scan"}
    (program,) = (op for op in module.walk() if isinstance(op, tile.ProgramOp))
    held = {**whole, "all": np.concatenate([whole[n] for n in parts], axis=1)}
    run = run_tiles(program, {n: values[None] for n, values in held.items() if n not in parts})
    np.testing.assert_allclose(run.outputs["p.y"][0], y, atol=1e-5)
    np.testing.assert_allclose(run.states["p.state"][0], after, atol=1e-5)
