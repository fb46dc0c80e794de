"""Every legal plan of the ops of sparse attention computes the same tensor, and asks of the engines what it states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, layer, tile
from pmc.dialects.analyses import gather_tiling, index_tiling, topk_tiling
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.allocate_lmem import AllocateLmemPass
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


def index_text(sequences: int, q_len: int, kv_len: int, heads: int) -> str:
    t = sequences * q_len
    q, k = [f"[{t}, {heads * d}]" for d in (5, 3)], [f"[{sequences}, {kv_len}, {d}]" for d in (5, 3)]
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%q0: !layer.tensor<{q[0]}, f32>, %q1: !layer.tensor<{q[1]}, f32>, %k0: !layer.tensor<{k[0]}, f32>,
     %k1: !layer.tensor<{k[1]}, f32>, %w: !layer.tensor<[{t}, {heads}], f32>):
  %y = layer.index_scores([%q0, %q1], [%k0, %k1], %w) {{qk_dims = [5, 3], q_len = <{q_len}>, scale = 0.25}} at "p.y"
       : !layer.tensor<[{t}, {kv_len}], f32>
  layer.return([%y]) at "p"
}}"""


def topk_text(sequences: int, q_len: int, kv_len: int, top_k: int) -> str:
    t = sequences * q_len
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%s: !layer.tensor<[{t}, {kv_len}], f32>):
  %y = layer.topk_select(%s) {{top_k = {top_k}, q_len = <{q_len}>}} at "p.y"
       : !layer.tensor<[{t}, {min(kv_len, top_k)}], i32>
  layer.return([%y]) at "p"
}}"""


def gather_text(sequences: int, q_len: int, kv_len: int, rows: int, width: int, domain: str = "dram") -> str:
    t = sequences * q_len
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%c: !layer.tensor<[{sequences}, {kv_len}, {width}], f32>, %i: !layer.tensor<[{t}, {rows}], i32>):
  %y = layer.gather_rows(%c, %i) {{q_len = <{q_len}>, bandwidth_domain = "{domain}"}} at "p.y"
       : !layer.tensor<[{t}, {rows}, {width}], f32>
  layer.return([%y]) at "p"
}}"""


def the_op(module: ModuleOp) -> Any:
    kinds = (layer.IndexScoresOp, layer.TopkSelectOp, layer.GatherRowsOp)
    (op,) = (op for op in module.walk() if isinstance(op, kinds))
    return op


def op_of(text: str) -> Any:
    return the_op(Parser(make_context(), text).parse_module())


def check(
    text: str, plan: PlanAttr, arrays: dict[str, Array], expected: Array, stated: Resources, lmem_bytes: int
) -> g5.ProgramOp:
    """Tiles and commands give `expected`; the buffers and the commands of the busiest core are what the plan states."""
    ctx = make_context()
    module = Parser(ctx, text).parse_module()
    module.verify()
    module.attributes["arch.chip"] = ChipAttr(CHIP)
    the_op(module).attributes[PLAN] = plan
    for step in (LowerToTilesPass(), AllocateLmemPass(), AllocateDramPass()):
        step.apply(ctx, module)
        module.verify()
    tiles, align = module.clone(), CHIP.alignment_bytes
    buffers = [op for op in module.walk() if isinstance(op, tile.AllocOp)]
    assert (
        sum(op.slots.value.data * -(-tile.buffer_type(op.result).bytes // align) * align for op in buffers)
        == lmem_bytes
    )
    EmitG5Pass().apply(ctx, module)
    module.verify()
    (program,) = (op for op in tiles.walk() if isinstance(op, tile.ProgramOp))
    (stream,) = (op for op in module.walk() if isinstance(op, g5.StreamOp))
    names = [op.path.data for op in program.walk() if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS]
    assert set(names) == set(arrays)
    for run in (run_tiles(program, arrays), run_stream(stream, arrays, CHIP.commands.lmem.bytes_per_core)):
        (found,) = run.outputs.values()
        assert np.abs(found.reshape(expected.shape) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    (commands,) = (op for op in stream.walk() if isinstance(op, g5.ProgramOp))
    counted = program_resources(commands, CHIP)
    for name in ("dram_read", "dram_written", "macs"):
        assert getattr(counted, name) == getattr(stated, name)[0], name
    assert {t: int(v.max()) for t, v in counted.tiu_steps.items()} == {
        t: int(v[0]) for t, v in stated.tiu_steps.items()
    }
    for name in ("tiu_commands", "gdma_bytes", "gdma_commands", "sdma_bytes", "sdma_commands"):
        assert getattr(counted, name).max() == getattr(stated, name)[0], name
    total = sum((v for v in counted.vec_steps.values()), np.zeros(commands.cores.value.data, np.int64))
    assert total.max() == stated.vec_steps[0]
    assert commands.cores.value.data == stated.cores[0]
    return commands


@given(st.data())
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_any_plan_of_index_scores(data: st.DataObject) -> None:
    draw = data.draw
    sequences, q_len, heads = draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 4))
    kv_len = draw(st.integers(q_len, 29))
    text = index_text(sequences, q_len, kv_len, heads)
    cores_u = draw(st.integers(1, CORES))
    cores = [cores_u, draw(st.integers(1, CORES // cores_u))]
    tile_sizes = [draw(st.integers(1, 5)), draw(st.sampled_from([3, 4, 8, 40]))]
    plan = PlanAttr.of(cores, tile_sizes, "us", draw(st.sampled_from([1, 2])))
    op = op_of(text)
    shape = index_tiling.index_shape(op)
    assume(index_tiling.plan_fault(shape, plan, CHIP) is None)
    random = np.random.default_rng(0)
    dims = {"q0": (sequences * q_len, heads * 5), "q1": (sequences * q_len, heads * 3), "w": (sequences * q_len, heads)}
    dims.update(k0=(sequences, kv_len, 5), k1=(sequences, kv_len, 3))  # type: ignore[arg-type]
    arrays: dict[str, Array] = {name: random.standard_normal((1, *size)) for name, size in dims.items()}
    q, k = ([arrays[f"{n}{i}"][0] for i in range(2)] for n in "qk")
    expected = np.zeros((sequences * q_len, kv_len))
    for t in range(sequences * q_len):
        for h in range(heads):
            product = sum(k[i][t // q_len] @ q[i][t].reshape(heads, -1)[h] for i in range(2))
            expected[t] += 0.25 * arrays["w"][0, t, h] * np.maximum(product, 0)
    check(
        text,
        plan,
        arrays,
        expected,
        index_tiling.resources(shape, plan, CHIP),
        index_tiling.lmem_bytes(shape, plan, CHIP),
    )


@given(st.data())
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_any_plan_of_a_selection(data: st.DataObject) -> None:
    draw = data.draw
    sequences, q_len = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    kv_len, top_k = draw(st.integers(q_len, 29)), draw(st.integers(1, 33))
    text = topk_text(sequences, q_len, kv_len, top_k)
    tile_sizes = [draw(st.integers(1, 5)), draw(st.sampled_from([3, 4, 8, 40]))]
    plan = PlanAttr.of([draw(st.integers(1, CORES))], tile_sizes, "rs", draw(st.sampled_from([1, 2])))
    selection = topk_tiling.selection_of(op_of(text))
    assume(topk_tiling.plan_fault(selection, plan, CHIP) is None)
    # Few different scores: ties are common.
    scores = np.random.default_rng(draw(st.integers(0, 99))).integers(-2, 3, (sequences * q_len, kv_len)) / 2
    expected = np.zeros((sequences * q_len, min(kv_len, top_k)))
    for t, row in enumerate(scores):
        seen = kv_len - q_len + t % q_len + 1
        order = sorted((s >= seen, -row[s] if s < seen else 0, s) for s in range(kv_len))
        expected[t] = sorted(s for _, _, s in order[:top_k])
    need = topk_tiling.lmem_bytes(selection, plan, CHIP)
    check(text, plan, {"s": scores[None]}, expected, topk_tiling.resources(selection, plan, CHIP), need)


@given(st.data())
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_any_plan_of_a_gather(data: st.DataObject) -> None:
    draw = data.draw
    sequences, q_len, width = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    kv_len = draw(st.integers(1, 29))
    rows = draw(st.integers(1, kv_len))
    text = gather_text(sequences, q_len, kv_len, rows, width, draw(st.sampled_from(["dram", "on_chip"])))
    cores_t = draw(st.integers(1, CORES))
    cores = [cores_t, draw(st.integers(1, CORES // cores_t))]
    plan = PlanAttr.of(cores, [draw(st.sampled_from([1, 3, 4, 40]))], "tj", draw(st.sampled_from([1, 2])))
    gather = gather_tiling.gather_of(op_of(text))
    assume(gather_tiling.plan_fault(gather, plan, CHIP) is None)
    random = np.random.default_rng(0)
    cache, indices = (
        random.standard_normal((sequences, kv_len, width)),
        random.integers(0, kv_len, (sequences * q_len, rows)),
    )
    expected = np.stack([cache[t // q_len][indices[t]] for t in range(sequences * q_len)])
    stated = gather_tiling.resources(gather, plan, CHIP)
    need = gather_tiling.lmem_bytes(gather, plan, CHIP)
    commands = check(text, plan, {"c": cache[None], "i": indices[None]}, expected, stated, need)
    engines = {op.ENGINE for op in commands.walk() if isinstance(op, g5.GatherRowsOp)}
    assert engines == {"sdma"}


def test_plans_that_are_chosen_are_legal_or_refused() -> None:
    shape = index_tiling.index_shape(op_of(index_text(2, 3, 29, 4)))
    for plan in index_tiling.plans(shape, CHIP):
        assert index_tiling.plan_fault(shape, plan, CHIP) is None
    selection = topk_tiling.selection_of(op_of(topk_text(2, 3, 29, 5)))
    assert topk_tiling.plan_fault(selection, topk_tiling.plan_selection(selection, CHIP), CHIP) is None
    gather = gather_tiling.gather_of(op_of(gather_text(2, 3, 29, 5, 7)))
    assert gather_tiling.plan_fault(gather, gather_tiling.plan_gather(gather, CHIP), CHIP) is None
    small = tiny_chip(256)
    for found in (
        lambda: index_tiling.plans(shape, small),
        lambda: topk_tiling.plan_selection(selection, small),
        lambda: gather_tiling.plan_gather(gather, tiny_chip(128)),
    ):
        with pytest.raises(PmcError, match=r"no tile of .* fits: "):
            found()


def test_a_row_that_does_not_exist_is_not_gathered() -> None:
    text = gather_text(1, 1, 5, 2, 3)
    plan = PlanAttr.of([1, 1], [2], "tj")
    gather = gather_tiling.gather_of(op_of(text))
    stated, need = gather_tiling.resources(gather, plan, CHIP), gather_tiling.lmem_bytes(gather, plan, CHIP)
    arrays = {"c": np.zeros((1, 1, 5, 3)), "i": np.array([[[0, 5]]])}
    with pytest.raises(PmcError, match="gathers row 5 of a matrix of 5 rows"):
        check(text, plan, arrays, np.zeros((1, 2, 3)), stated, need)
