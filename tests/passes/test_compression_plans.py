"""Every legal plan of a compression and of attention over its entries computes what the published code does.

And asks of the engines what it states.  The loops of this file are those of `DeepseekV4CSACompressor` and
`DeepseekV4Attention` in transformers 5.23, an entry and a query at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.rates import CoreRates
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.precision import EXACT64
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tensor_ops import Context, run_tensor_op
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, layer, tile
from pmc.dialects.analyses import attention_tiling, compress_tiling
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.analyses.workload import attention_shape
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.allocate_lmem import AllocateLmemPass
from pmc.passes.emit_g5 import EmitG5Pass
from pmc.passes.lower_to_tiles import LowerToTilesPass

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
CORES = 6
SCALE = 0.5


def tiny_chip() -> Chip:
    """A cube of 4 x 2 and 6 cores, so that small sizes have several tiles and edges."""
    fields = with_fp32(load_chip("sg2262")).model_dump()
    fields.update(cores=CORES, dies=1, die_to_die=None)
    fields["cube"].update(m=4, n=2, k={t: None if k is None else 4 for t, k in fields["cube"]["k"].items()})
    fields["command_level"]["noc"].update(mesh_columns=CORES, mesh_rows=1, cluster_columns=1, cluster_rows=1)
    fields["command_level"]["lmem"]["bytes_per_core"] = 64 * 1024
    return Chip.model_validate(fields)


CHIP = tiny_chip()
SEARCH = PlanSearch(CoreRates(CHIP, load_accounting("physical")))


def program(arguments: dict[str, list[int]], op: str, result: list[int]) -> str:
    types = ", ".join(f"%{name}: !layer.tensor<{dims}, f32>" for name, dims in arguments.items())
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0({types}):
  %y = {op} at "p.y" : !layer.tensor<{result}, f32>
  layer.return([%y]) at "p"
}}"""


def the_op(module: ModuleOp) -> Any:
    (op,) = (op for op in module.walk() if isinstance(op, layer.CompressOp | layer.CompressedAttentionOp))
    return op


def op_of(text: str) -> Any:
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return the_op(module)


def check(text: str, plan: PlanAttr, arrays: dict[str, Array], y: Array, stated: Resources, lmem_bytes: int) -> None:
    """Op, tiles and commands give `y`; buffers and the commands of the busiest core are what the plan states."""
    of_op = run_tensor_op(op_of(text), _operands(text, arrays), Context({}, EXACT64))[0]
    np.testing.assert_allclose(of_op, y, atol=1e-10)
    ctx = make_context()
    module = Parser(ctx, text).parse_module()
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    the_op(module).attributes[PLAN] = plan
    for step in (LowerToTilesPass(), AllocateLmemPass(), AllocateDramPass()):
        step.apply(ctx, module)
        module.verify()
    tiles, align = module.clone(), CHIP.alignment_bytes
    buffers = [op for op in tiles.walk() if isinstance(op, tile.AllocOp)]
    sizes = (op.slots.value.data * -(-tile.buffer_type(op.result).bytes // align) * align for op in buffers)
    assert sum(sizes) == lmem_bytes
    EmitG5Pass().apply(ctx, module)
    module.verify()
    (kernels,) = (op for op in tiles.walk() if isinstance(op, tile.ProgramOp))
    (stream,) = (op for op in module.walk() if isinstance(op, g5.StreamOp))
    names = [op.path.data for op in kernels.walk() if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS]
    assert set(names) == set(arrays)
    ranked = {name: values[None] for name, values in arrays.items()}
    for run in (run_tiles(kernels, ranked), run_stream(stream, ranked, CHIP.commands.lmem.bytes_per_core)):
        (found,) = run.outputs.values()
        assert np.abs(found.reshape(y.shape) - y).max() <= 1e-5 * max(1.0, np.abs(y).max())
    (commands,) = (op for op in stream.walk() if isinstance(op, g5.ProgramOp))
    counted, merge = program_resources(commands, CHIP), stated.merge
    assert merge is not None
    for name in ("dram_read", "dram_written"):
        assert getattr(counted, name) == getattr(stated, name)[0] + getattr(merge, name)[0], name
    assert counted.macs == stated.macs[0]
    for name in ("gdma_bytes", "gdma_commands", "tiu_commands"):
        before, after = getattr(stated, name)[0], getattr(merge, name)[0]
        # Before and after the barrier of a merge different cores may be the busiest.
        assert before <= getattr(counted, name).max() <= before + after, name
    vec = sum(int(v.max()) for v in counted.vec_steps.values())
    before = stated.vec_steps[0] + stated.vec_end_steps[0]
    assert before <= vec <= before + merge.vec_steps[0] + merge.vec_end_steps[0]
    assert commands.cores.value.data == stated.cores[0]


def _operands(text: str, arrays: dict[str, Array]) -> list[Array]:
    return [arrays[str(value.name_hint)] for value in op_of(text).operands]


# -- compression ------------------------------------------------------------------------------------------------


def compress_text(batch: int, q_len: int, kv_len: int, rows: int, ratio: int, series: int, width: int) -> str:
    closing = kv_len // ratio - (kv_len - q_len) // ratio
    tokens = [batch, rows, series * width]
    overlapping = "true" if series == 2 else "false"
    op = (
        f"layer.compress(%kv, %gate, %bias) {{ratio = {ratio}, overlapping = {overlapping}, q_len = <{q_len}>, "
        f"kv_len = <{kv_len}>}}"
    )
    arguments = {"kv": tokens, "gate": tokens, "bias": [ratio, series * width]}
    return program(arguments, op, [batch * closing, width])


def pooled(kv: Array, gate: Array, bias: Array, q_len: int, kv_len: int, series: int) -> Array:
    """The entries that close, a column at a time."""
    ratio, width = len(bias), kv.shape[2] // series
    found: list[list[float]] = []
    for b in range(len(kv)):
        for entry in range((kv_len - q_len) // ratio, kv_len // ratio):
            row: list[float] = []
            for c in range(width):
                slots = [(entry * ratio + j, c + width * (series - 1), j) for j in range(ratio)]
                if series == 2 and entry > 0:
                    slots += [((entry - 1) * ratio + j, c, j) for j in range(ratio)]
                places = [(position - (kv_len - kv.shape[1]), column, j) for position, column, j in slots]
                p = np.exp([gate[b, at, column] + bias[j, column] for at, column, j in places])
                row.append(float(np.dot(p, [kv[b, at, column] for at, column, _ in places]) / p.sum()))
            found.append(row)
    return np.array(found)


@given(st.data())
@settings(max_examples=15, deadline=None, phases=PHASES)
def test_any_plan_of_a_compression(data: st.DataObject) -> None:
    draw = data.draw
    batch, ratio, series = draw(st.integers(1, 3)), draw(st.integers(2, 5)), draw(st.integers(1, 2))
    q_len, past, width = draw(st.integers(1, 9)), draw(st.integers(0, 11)), draw(st.sampled_from([3, 6, 70]))
    kv_len = q_len + past
    assume(kv_len // ratio > past // ratio)
    rows = min(kv_len, series * ratio + q_len - 1)  # those of the window that the block keeps
    text = compress_text(batch, q_len, kv_len, rows, ratio, series, width)
    cores_e = draw(st.integers(1, CORES))
    cores = [cores_e, draw(st.integers(1, CORES // cores_e))]
    plan = PlanAttr.of(
        cores, [draw(st.sampled_from([4, 5, 80] if width < 64 else [27, 80]))], "ce", draw(st.sampled_from([1, 2]))
    )
    work = compress_tiling.compression_of(op_of(text))
    assume(compress_tiling.plan_fault(work, plan, CHIP) is None)
    random = np.random.default_rng(0)
    shapes = {"kv": (batch, rows, series * width), "gate": (batch, rows, series * width)}
    arrays = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    arrays["bias"] = random.standard_normal((ratio, series * width))
    expected = pooled(arrays["kv"], arrays["gate"], arrays["bias"], q_len, kv_len, series)
    stated = compress_tiling.resources(work, plan, CHIP)
    check(text, plan, arrays, expected, stated, compress_tiling.lmem_bytes(work, plan, CHIP))


def test_the_chosen_plan_is_legal() -> None:
    work = compress_tiling.compression_of(op_of(compress_text(3, 9, 9, 9, 2, 2, 70)))
    plan = compress_tiling.plan_compression(work, CHIP)
    assert compress_tiling.plan_fault(work, plan, CHIP) is None
    assert plan.core_counts == (6, 1)


# -- attention over entries -------------------------------------------------------------------------------------

WIDTH = 4


def attention_text(batch: int, q_len: int, kv_len: int, ratio: int, heads: int, gathered: int | None) -> str:
    t = batch * q_len
    keys = [batch, kv_len // ratio, WIDTH] if gathered is None else [t, gathered, WIDTH]
    op = (
        f"layer.compressed_attention([%q], [%k], %k, %acc, %row_max, %row_sum) {{qk_dims = [{WIDTH}], v_dim = {WIDTH}, "
        f"q_len = <{q_len if gathered is None else 1}>, scale = {SCALE}, causal = false, ratio = {ratio}, "
        f"sequence_q_len = <{q_len}>, sequence_kv_len = <{kv_len}>}}"
    )
    arguments = {"q": [t, heads * WIDTH], "k": keys, "acc": [t, heads * WIDTH]}
    arguments |= {"row_max": [t, heads], "row_sum": [t, heads]}
    return program(arguments, op, [t, heads * WIDTH])


def attended(arrays: dict[str, Array], q_len: int, kv_len: int, ratio: int, heads: int) -> Array:
    """What follows from the state that there is, and the entries that each query sees."""
    q, k = arrays["q"], arrays["k"]
    y = np.zeros_like(q)
    for token in range(len(q)):
        seen = (kv_len - q_len + token % q_len + 1) // ratio
        entries = k[token if len(k) == len(q) and q_len > 1 else token // q_len][:seen]
        for h in range(heads):
            own = slice(h * WIDTH, (h + 1) * WIDTH)
            p = np.exp(SCALE * (entries @ q[token, own]))
            before = np.exp(arrays["row_max"][token, h])
            total = before * arrays["row_sum"][token, h] + p.sum()
            y[token, own] = (before * arrays["acc"][token, own] + p @ entries) / total
    return y


@given(st.data())
@settings(max_examples=30, deadline=None, phases=PHASES)
def test_any_plan_of_attention_over_entries(data: st.DataObject) -> None:
    draw = data.draw
    batch, heads, ratio = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4])), draw(st.integers(2, 4))
    q_len, past = draw(st.sampled_from([1, 2, 5, 13])), draw(st.sampled_from([0, 3, 10, 40]))
    kv_len = q_len + past
    assume(kv_len >= ratio)
    gathered = draw(st.integers(1, kv_len // ratio)) if draw(st.booleans()) else None
    text = attention_text(batch, q_len, kv_len, ratio, heads, gathered)
    shape = attention_shape(op_of(text))
    cores_p = draw(st.integers(1, 3))
    cores_u = draw(st.integers(1, CORES // cores_p))
    cores = [cores_p, cores_u, draw(st.integers(1, CORES // (cores_p * cores_u)))]
    merge = "none" if cores[2] == 1 else draw(st.sampled_from(["sdma", "dram"]))
    tile_g = draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0]))
    sizes = [draw(st.sampled_from([1, 2, 8])), tile_g, draw(st.sampled_from([4, 8]))]
    multicast = draw(st.sampled_from([(), ("q", "kv")]))
    slots = draw(st.sampled_from([1, 2]))
    plan = PlanAttr.of(cores, sizes, "pus", slots, multicast, merge)
    if int(attention_tiling.grid_of(shape, attention_tiling.tiling_of(plan), CHIP).parts[2][0]) == 1:
        plan = PlanAttr.of([*cores[:2], 1], sizes, "pus", slots, multicast)
    assume(attention_tiling.plan_fault(shape, plan, CHIP) is None)
    random = np.random.default_rng(0)
    op = op_of(text)
    arrays = {
        str(v.name_hint): random.standard_normal([d.constant for d in v.type.dims]) for v in dict.fromkeys(op.operands)
    }
    arrays["row_sum"] = np.exp(arrays["row_sum"])
    tiling = attention_tiling.tiling_of(plan)
    stated = SEARCH.attention_resources(shape, tiling)
    least = SEARCH.attention_resources(shape, tiling, at_least=True)
    for name in ("vec_steps", "gdma_bytes", "gdma_commands", "dram_read", "macs", "vec_end_steps"):
        assert getattr(least, name)[0] <= getattr(stated, name)[0], name
    expected = attended(arrays, q_len, kv_len, ratio, heads)
    check(text, plan, arrays, expected, stated, int(attention_tiling.lmem_bytes(shape, tiling, CHIP)[0]))
