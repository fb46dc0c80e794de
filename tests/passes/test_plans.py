"""Every legal plan computes the same tensor, at tile and command level, and asks of the engines what it states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.rates import CoreRates
from pmc.backends.g5.stream import simulate
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, layer, tile
from pmc.dialects.accounting import AccountingAttr
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses import matmul_tiling as matmuls
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.resources import Resources
from pmc.dialects.analyses.workload import attention_shape, matmul_shape
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.allocate_lmem import AllocateLmemPass
from pmc.passes.emit_g5 import EmitG5Pass
from pmc.passes.lower_to_tiles import LowerToTilesPass

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking: the plan is in the message, and a failure would cost minutes."""

CUBE = (4, 2)


def tiny_chip(cores: int = 6, lmem_bytes: int = 64 * 1024) -> Chip:
    """A cube of 4 x 2, so that small sizes have several tiles and edges."""
    fields = with_fp32(load_chip("sg2262")).model_dump()
    fields.update(cores=cores, dies=1, die_to_die=None)
    fields["cube"].update(m=CUBE[0], n=CUBE[1], k={t: None if k is None else 4 for t, k in fields["cube"]["k"].items()})
    fields["command_level"]["noc"].update(mesh_columns=cores, mesh_rows=1, cluster_columns=1, cluster_rows=1)
    fields["command_level"]["lmem"]["bytes_per_core"] = lmem_bytes
    return Chip.model_validate(fields)


CHIP = tiny_chip()


def matmul_text(kind: str, groups: int, m: int, n: int, k: int, out: str) -> str:
    dims = {
        "matmul": (f"[{m}, {k}]", f"[{k}, {n}]", f"[{m}, {n}]", ""),
        "gated_matmul": (f"[{m}, {k}]", f"[{k}, {n}]", f"[{m}, {n}]", ""),
        "gated_experts": (f"[{groups}, {m}, {k}]", f"[{groups}, {k}, {n}]", f"[{groups}, {m}, {n}]", ""),
        "grouped_matmul": (f"[{groups}, {m}, {k}]", f"[{groups}, {k}, {n}]", f"[{groups}, {m}, {n}]", ""),
        "head_matmul": (
            f"[{m}, {groups * k}]", f"[{k}, {groups * n}]", f"[{m}, {groups * n}]",
            f"{{group = {n}, transpose = false}} ",
        ),
    }  # fmt: skip
    x, w, y, properties = dims[kind]
    axes = ", ".join(['""'] * w.count(",") + ['""'])
    name, up = kind, ""
    if kind.startswith("gated"):
        name, up = "gated_matmul", f'%u = layer.weight() {{axes = [{axes}]}} at "p.u" : !layer.tensor<{w}, f32>\n  '
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x: !layer.tensor<{x}, f32>):
  %w = layer.weight() {{axes = [{axes}]}} at "p.w" : !layer.tensor<{w}, f32>
  {up}%y = layer.{name}(%x, %w{", %u" if up else ""}) {properties}at "p.y" : !layer.tensor<{y}, {out}>
  layer.return([%y]) at "p"
}}"""


def attention_text(
    sequences: int,
    kv_heads: int,
    group: int,
    q_len: int,
    kv_len: int,
    shared: bool,
    mask: str = "",
    sinks: bool = False,
) -> str:
    """`mask` is more properties, such as `, window = 3`."""
    heads, d, v = kv_heads * group, 4, 4 if shared else 6
    rows = f"[{sequences * q_len}, {heads * d}]"
    keys = f"!layer.tensor<[{sequences}, {kv_len}, {kv_heads * d}], f32>"
    values = f"!layer.tensor<[{sequences}, {kv_len}, {kv_heads * v}], f32>"
    causal = "true" if q_len > 1 or "window" in mask or "chunk" in mask else "false"
    argument = "" if shared else f", %v: {values}"
    operands = f"[%q], [%k], {'%k' if shared else '%v'}{', %s' if sinks else ''}"
    argument += f", %s: !layer.tensor<[{heads}], f32>" if sinks else ""
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%q: !layer.tensor<{rows}, f32>, %k: {keys}{argument}):
  %y = layer.attention({operands}) {{qk_dims = [{d}], v_dim = {v},
       q_len = <{q_len}>, scale = 0.5, causal = {causal}{mask}}} at "p.y"
       : !layer.tensor<[{sequences * q_len}, {heads * v}], f32>
  layer.return([%y]) at "p"
}}"""


def lowered(text: str, plan: PlanAttr, chip: Chip) -> tuple[ModuleOp, ModuleOp]:
    """The program at the tile level and as commands, its one op under `plan`."""
    ctx = make_context()
    module = Parser(ctx, text).parse_module()
    module.verify()
    module.attributes["arch.chip"] = ChipAttr(chip)
    op = the_op(module)
    op.attributes[PLAN] = plan
    for step in (LowerToTilesPass(), AllocateLmemPass(), AllocateDramPass()):
        step.apply(ctx, module)
        module.verify()
    tiles = module.clone()
    EmitG5Pass().apply(ctx, module)
    module.verify()
    return tiles, module


def the_op(module: ModuleOp) -> layer.MatrixOp:
    (op,) = (op for op in module.walk() if isinstance(op, layer.MatrixOp))
    return op


def check_values(text: str, plan: PlanAttr, chip: Chip = CHIP) -> g5.ProgramOp:
    tiles, commands = lowered(text, plan, chip)
    (program,) = (op for op in tiles.walk() if isinstance(op, tile.ProgramOp))
    (stream,) = (op for op in commands.walk() if isinstance(op, g5.StreamOp))
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        op.path.data: random.standard_normal((1, *op.memref.dims))
        for op in program.walk()
        if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS
    }
    expected = reference(the_op(Parser(make_context(), text).parse_module()), {p: a[0] for p, a in arrays.items()})
    for run in (
        run_tiles(program, arrays),
        run_stream(stream, arrays, chip.commands.lmem.bytes_per_core),
    ):
        (found,) = run.outputs.values()
        assert np.abs(found.reshape(expected.shape) - expected).max() <= 1e-5 * np.abs(expected).max(), str(plan)
    programs = [op for op in commands.walk() if isinstance(op, g5.ProgramOp) and op.op_name.data != "copy"]
    return programs[0]


def reference(op: layer.MatrixOp, arrays: dict[str, Array]) -> Array:
    """What the op computes, written down once more."""
    match op:
        case layer.MatmulOp() | layer.GroupedMatmulOp():
            return np.matmul(arrays["x"], arrays["p.w"])
        case layer.GatedMatmulOp():
            gate, up = (np.matmul(arrays["x"], arrays[path]) for path in ("p.w", "p.u"))
            return gate / (1 + np.exp(-gate)) * up
        case layer.HeadMatmulOp():
            x, w, group = arrays["x"], arrays["p.w"], op.group.value.data
            heads = w.shape[1] // group
            y = np.einsum("mhk,khn->mhn", x.reshape(len(x), heads, -1), w.reshape(len(w), heads, group))
            return y.reshape(len(x), -1)
        case layer.AttentionOp():
            s, k = attention_shape(op), arrays["k"]
            rows = k.shape[1]
            v = arrays.get("v", k).reshape(s.sequences, rows, s.kv_heads, s.v_dim)
            q = arrays["q"].reshape(s.sequences, s.q_len, s.kv_heads, s.group, -1)
            scores = 0.5 * np.einsum("bqhgd,bkhd->bhgqk", q, k.reshape(s.sequences, rows, s.kv_heads, -1))
            if op.soft_cap is not None:
                cap = op.soft_cap.value.data
                scores = cap * (1 - 2 / (np.exp(2 * scores / cap) + 1))
            if bool(op.causal):
                key: Array = np.arange(int(rows))
                query: Array = rows - s.q_len + np.arange(int(s.q_len))[:, None]
                first = query - (op.window.value.data - 1) if op.window is not None else 0 * query
                if op.chunk is not None and op.kv_len is not None:
                    before = op.kv_len.data.constant - rows
                    first = (query + before) // op.chunk.value.data * op.chunk.value.data - before
                scores = np.where((key <= query) & (key >= first), scores, -np.inf)
            p = np.exp(scores)
            total = p.sum(axis=-1, keepdims=True)
            if "s" in arrays:
                total = total + np.exp(arrays["s"]).reshape(s.kv_heads, s.group, 1, 1)
            y = np.einsum("bhgqk,bkhd->bqhgd", p / total, v)
            return y.reshape(s.sequences * s.q_len, -1)
        case _:
            raise TypeError(op.name)


def check_resources(
    program: g5.ProgramOp, r: Resources, dtype: str, chip: Chip = CHIP, one_is_busiest: bool = True
) -> None:
    """The commands of the busiest core, engine by engine, are what the plan states; bytes and MACs exactly.

    Before and after the barrier of a merge different cores may be the busiest, unless `one_is_busiest`.
    """
    found = program_resources(program, chip)
    assert found.macs == r.macs[0]
    merge = r.merge
    assert merge is not None

    def stated(name: str) -> int:
        return int(getattr(r, name)[0] + getattr(merge, name)[0])

    for name in ("dram_read", "dram_written"):
        assert getattr(found, name) == stated(name), name
    assert {t: int(v.max()) for t, v in found.tiu_steps.items()} == {t: int(v[0]) for t, v in r.tiu_steps.items()}
    assert found.tiu_commands.max() == r.tiu_commands[0]
    counts = {
        name: (getattr(found, name).max(), getattr(r, name)[0], stated(name))
        for name in ("gdma_bytes", "gdma_commands", "sdma_bytes", "sdma_commands")
    }
    before = r.vec_steps[0] + r.vec_end_steps[0]
    vec = sum(v.max() for v in found.vec_steps.values())
    counts["vec"] = (vec, before, stated("vec_steps") + stated("vec_end_steps"))
    for name, (count, before, most) in counts.items():
        assert count == most if one_is_busiest else before <= count <= most, (name, dtype)


def draw_matmul_plan(draw: Any, chip: Chip, groups: int) -> PlanAttr:
    cores: list[int] = []
    for limit in (groups, 3, 3, 3):
        left = chip.cores // int(np.prod(cores)) if cores else chip.cores
        cores.append(draw(st.integers(1, max(1, min(left, limit)))))
    merge = "none" if cores[3] == 1 else draw(st.sampled_from(["sdma", "dram"]))
    sizes = [draw(st.sampled_from([step * i for i in (1, 2, 3, 8)])) for step in (CUBE[0], CUBE[1], 4)]
    multicast = draw(st.sampled_from([(), ("a", "b")]))
    order = "gmnk" if merge == "sdma" else draw(st.sampled_from(matmuls.ORDERS))
    return PlanAttr.of(cores, sizes, order, draw(st.sampled_from([1, 2])), multicast, merge)


@given(st.data())
@settings(max_examples=20, deadline=None, phases=PHASES)
def test_any_plan_of_a_matmul(data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(["matmul", "grouped_matmul", "head_matmul", "gated_matmul", "gated_experts"]))
    groups = 1 if kind in ("matmul", "gated_matmul") else draw(st.integers(1, 3))
    m, n, k = draw(st.integers(1, 19)), draw(st.integers(1, 13)), draw(st.integers(1, 27))
    text = matmul_text(kind, groups, m, n, k, draw(st.sampled_from(["f32", "bf16"])).replace("bf16", "f32"))
    plan = draw_matmul_plan(draw, CHIP, groups)
    module = Parser(make_context(), text).parse_module()
    shape = matmul_shape(the_op(module))
    # A partition that leaves cores without a part is one of fewer cores.
    tilings = matmuls.tiling_of(plan)
    parts = [int(p[0]) for p in matmuls.chunks(shape, tilings, CHIP).parts]
    if parts[3] == 1 and plan.merge.data != "none":
        plan = PlanAttr.of([*plan.core_counts[:3], 1], plan.tile_sizes, plan.order.data, plan.buffer_slots)
    assume(matmuls.plan_fault(shape, plan, CHIP) is None)
    program = check_values(text, plan)
    assert program.cores.value.data == np.prod(parts)
    check_resources(program, matmuls.resources(shape, matmuls.tiling_of(plan), CHIP), "f32")


@given(st.data())
@settings(max_examples=20, deadline=None, phases=PHASES)
def test_any_plan_of_an_attention(data: st.DataObject) -> None:
    draw = data.draw
    sequences, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))
    q_len = draw(st.integers(1, 7))
    kv_len = draw(st.integers(q_len, 29))
    reach, past = draw(st.integers(1, kv_len + 1)), draw(st.integers(0, 9))
    masks = ["", f", window = {reach}", f", chunk = {reach}, kv_len = <{kv_len}>"]
    if kv_len >= q_len + reach - 1:
        masks.append(f", chunk = {reach}, kv_len = <{kv_len + past}>")
    mask = draw(st.sampled_from(masks))
    mask += draw(st.sampled_from(["", ", soft_cap = 0.75"]))
    text = attention_text(sequences, kv_heads, group, q_len, kv_len, draw(st.booleans()), mask, draw(st.booleans()))
    p = draw(st.integers(1, 3))
    u = draw(st.integers(1, max(1, 6 // p)))
    s = draw(st.integers(1, max(1, 6 // (p * u))))
    sizes = [
        draw(st.integers(1, 5)),
        draw(st.sampled_from([g for g in (1, 2, 4) if group % g == 0])),
        draw(st.sampled_from([4, 8, 12, 40])),
    ]
    merge = "none" if s == 1 else draw(st.sampled_from(["sdma", "dram"]))
    multicast = draw(st.sampled_from([(), ("q", "kv")]))
    plan = PlanAttr.of([p, u, s], sizes, "pus", draw(st.sampled_from([1, 2])), multicast, merge)
    shape = attention_shape(the_attention(text))
    if int(attentions.grid_of(shape, attentions.tiling_of(plan), CHIP).parts[2][0]) == 1:
        plan = PlanAttr.of([p, u, 1], sizes, "pus", plan.buffer_slots, multicast)
    assume(attentions.plan_fault(shape, plan, CHIP) is None)
    program = check_values(text, plan)
    rates = CoreRates(CHIP, load_accounting("physical"))
    r = PlanSearch(rates).attention_resources(shape, attentions.tiling_of(plan))
    check_resources(program, r, "f32", one_is_busiest=shape.reach is None or plan.merge.data == "none")


@pytest.mark.parametrize("window", [12, 13, 1000])
def test_a_window_of_all_keys_is_none(window: int) -> None:
    """The same commands under the same plan, found by the same search, and the same shape."""
    plan = PlanAttr.of([2, 2, 1], [2, 1, 4], "pus")
    plain, all_keys = (attention_text(2, 1, 2, 5, 12, False, mask) for mask in ("", f", window = {window}"))
    assert attention_shape(the_attention(plain)) == attention_shape(the_attention(all_keys))
    for before, after in zip(lowered(plain, plan, CHIP), lowered(all_keys, plan, CHIP), strict=True):
        assert str(after) == str(before)
    shorter = attention_text(2, 1, 2, 5, 12, False, ", window = 11")
    assert str(lowered(shorter, plan, CHIP)[0]) != str(lowered(plain, plan, CHIP)[0])


@pytest.mark.parametrize("mask", ["", ", window = 5", ", chunk = 4, kv_len = <29>"])
@pytest.mark.parametrize(("cores", "merge"), [([1, 3, 1], "none"), ([1, 3, 2], "dram")])
def test_cores_that_read_together_come_to_it_together(mask: str, cores: list[int], merge: str) -> None:
    """In the simulator a load waits for all cores that it serves: none of them may be at another tile of keys."""
    plan = PlanAttr.of(cores, [2, 1, 4], "pus", 2, ("q", "kv"), merge)
    module = lowered(attention_text(1, 1, 2, 13, 29, False, mask), plan, CHIP)[1]
    module.attributes["arch.accounting"] = AccountingAttr(load_accounting("physical"))
    assert simulate(module).parts[-1].duration_ps > 0


def the_attention(text: str) -> layer.FlashAttentionOp:
    op = the_op(Parser(make_context(), text).parse_module())
    assert isinstance(op, layer.FlashAttentionOp)
    return op
