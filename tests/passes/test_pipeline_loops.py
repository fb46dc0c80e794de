"""`pipeline-loops`: what waits for what in a pipelined attention, its values under random plans, gain and limits."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import VerifyException

from pmc.backends.g5.program import lower
from pmc.backends.g5.run import run
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, tile
from pmc.dialects.analyses.kernel_work import kernel_work
from pmc.dialects.arch import Chip, ChipAttr
from pmc.passes.base import PassError

CHIP = load_chip("sg2262")
LOWER = "lower-to-tiles,{}allocate-lmem,allocate-dram"
PIPELINED, PLAIN = LOWER.format("pipeline-loops,"), LOWER.format("")


def chip_with_lmem(lmem_bytes: int) -> Chip:
    """A chip of which a core has that much LMEM."""
    data = with_fp32(CHIP).model_dump()
    data["command_level"]["lmem"]["bytes_per_core"] = lmem_bytes
    return Chip.model_validate(data)


def attention(
    q_len: int = 1,
    kv_len: int = 1024,
    tile_s: int = 256,
    heads: int = 16,
    cores: str = "[64, 1, 1]",
    element: str = "bf16",
    tile_q: int = 1,
    sequences: int = 64,
    slots: int = 2,
) -> str:
    """64 sequences whose keys are their values, one head of keys for all heads of queries."""
    rows, d = sequences * q_len, 64
    merge = "" if cores.endswith("1]") else ", merge dram"
    plan = f'#tile.plan<cores {cores}, tile [{tile_q}, {heads}, {tile_s}], order "pus", slots {slots}{merge}>'
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%q: !layer.tensor<[{rows}, {heads * d}], {element}>, %k: !layer.tensor<[{sequences}, {kv_len}, {d}], {element}>):
  %y = layer.attention([%q], [%k], %k) {{qk_dims = [{d}], v_dim = {d}, q_len = <{q_len}>, scale = 0.125,
    causal = {"true" if q_len > 1 else "false"}}} at "p.y" attributes {{tile.plan = {plan}}}
    : !layer.tensor<[{rows}, {heads * d}], {element}>
  layer.return([%y]) at "p"
}}"""


def compiled(text: str, passes: str, chip: Chip = CHIP) -> ModuleOp:
    module = Parser(make_context(), text).parse_module()
    module.attributes["arch.chip"] = ChipAttr(chip)
    run_pipeline(module, list(parse_pipeline(passes)))
    return module


def time_us(module: ModuleOp, chip: Chip = CHIP) -> float:
    (program,) = (op for op in module.walk() if isinstance(op, g5.ProgramOp))
    return run(lower(program, chip, {}), chip).last_ps / 1e6


def commands_in(module: ModuleOp, symbol: str) -> list[str]:
    """The commands of a loop with their waits, those of loops inside it left out."""
    loop = next(op for op in module.walk() if isinstance(op, g5.LoopOp) and op.symbol.data == symbol)
    found: list[str] = []
    for op in loop.body.block.ops:
        if isinstance(op, g5.CommandOp):
            waits = ", ".join(f"{engine}-{lag}" for engine, lag in op.dependencies)
            found.append(f"{op.ENGINE} after {waits}")
    return found


def test_the_scores_of_the_next_keys_do_not_wait_for_the_softmax() -> None:
    text = attention()
    plain = compiled(text, PLAIN + ",emit-g5")
    # Keys of two tiles ago were last used by the product with the values; scores wait for the softmax before.
    assert commands_in(plain, "s") == [
        "gdma after tiu-2",
        "tiu after gdma-0, vec-0",
        "vec after tiu-0",
        "tiu after gdma-0, vec-0",
    ]
    pipelined = compiled(text, PIPELINED + ",emit-g5")
    assert commands_in(pipelined, "s") == ["gdma after tiu-1", "tiu after gdma-0, vec-0"]
    # The softmax lets the product of the scores run that was given before it.
    assert commands_in(pipelined, "s_late") == ["vec after tiu-1", "tiu after gdma-1, vec-0"]
    assert commands_in(pipelined, "s_last") == ["vec after tiu-0", "tiu after gdma-0, vec-0"]


def test_an_attention_bound_by_its_units_gains_and_one_bound_by_its_loads_loses_its_tail() -> None:
    for heads, tile_s, least, most in ((128, 256, 0.72, 0.85), (128, 128, 0.72, 0.85), (16, 256, 1.0, 1.05)):
        text = attention(heads=heads, tile_s=tile_s, kv_len=4096)
        before, after = (time_us(compiled(text, passes + ",emit-g5")) for passes in (PLAIN, PIPELINED))
        assert least <= after / before <= most, (heads, tile_s, after / before)


@pytest.mark.parametrize("seed", range(12))
def test_values_and_work_stay_under_random_plans(seed: int) -> None:
    pick = random.Random(seed)
    q_len, sequences = pick.choice([1, 1, 5]), pick.choice([2, 3])
    shape: dict[str, Any] = {
        "q_len": q_len, "kv_len": pick.randint(max(q_len, 20), 90), "tile_s": pick.choice([8, 16, 24]), "heads": 4,
        "cores": pick.choice(["[2, 1, 1]", "[1, 2, 1]", "[2, 1, 2]", "[1, 1, 3]"]), "element": "f32",
        "tile_q": pick.choice([1, q_len]), "sequences": sequences, "slots": pick.choice([1, 2]),
    }  # fmt: skip
    if shape["cores"] == "[1, 2, 1]" and q_len == 1:
        shape["cores"] = "[2, 1, 1]"
    text, chip = attention(**shape), with_fp32(CHIP)
    found: list[Array] = []
    for passes in (PLAIN, PIPELINED):
        module = compiled(text, passes, chip)
        (program,) = (op for op in module.walk() if isinstance(op, tile.ProgramOp))
        values = np.random.default_rng(seed)
        arrays: dict[str, Array] = {
            op.path.data: values.standard_normal((1, *op.memref.dims))
            for op in program.walk()
            if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS
        }
        (tiles,) = run_tiles(program, arrays).outputs.values()
        commands = compiled(text, passes + ",emit-g5", chip)
        (stream,) = (op for op in commands.walk() if isinstance(op, g5.StreamOp))
        (bytes_moved,) = run_stream(stream, arrays, chip.commands.lmem.bytes_per_core).outputs.values()
        found += [tiles, bytes_moved]
    loops = {op.symbol.data for op in module.walk() if isinstance(op, tile.ForOp)}
    assert ("s_late" in loops) is ("s" in loops), "a loop over keys that is none has one tile"
    assert all(np.array_equal(found[0], other) for other in found[1:]), shape
    kernels = [
        [op for op in compiled(text, p, chip).walk() if isinstance(op, tile.KernelOp)] for p in (PLAIN, PIPELINED)
    ]
    assert [kernel_work(op) for op in kernels[0]] == [kernel_work(op) for op in kernels[1]]


def test_a_loop_whose_slots_do_not_fit_stays_as_it_is() -> None:
    text = attention(heads=128, tile_s=512, element="f32")
    plain = compiled(text, PLAIN, with_fp32(CHIP))
    most = max(op.byte_range.stop for op in plain.walk() if isinstance(op, tile.AllocOp))
    more = 4 * (512 * 64 + 128 * 512)
    for lmem_bytes, fits in ((most + more + 4096, True), (int(most / 0.45) + 4096, True), (most + more - 4096, False)):
        data = chip_with_lmem(lmem_bytes).model_dump()
        data["command_level"]["lmem"]["tile_budget_fraction"] = min(1.0, (most + 2048) / lmem_bytes)
        module = compiled(text, PIPELINED, Chip.model_validate(data))
        assert any(isinstance(op, tile.PreviousOp) for op in module.walk()) is fits


def test_other_loops_and_a_pass_that_is_off_leave_the_text_alone() -> None:
    matmul = """
layer.program() {sym_name = "m", phase = "decode"} at "m" {
^bb0(%x: !layer.tensor<[64, 4096], bf16>):
  %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[4096, 1024], bf16>
  %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 16, 512],
    order "gmnk", slots 2>} : !layer.tensor<[64, 1024], bf16>
  layer.return([%y]) at "m"
}"""
    for text, option in ((matmul, "pipeline-loops,"), (attention(), "pipeline-loops{enabled=false},")):
        plain, passed = compiled(text, PLAIN), compiled(text, LOWER.format(option))
        assert [str(op) for op in plain.ops] == [str(op) for op in passed.ops]


KERNEL = """
tile.program() {{sym_name = "s", phase = "decode"}} at "" {{
  tile.kernel() {{cores = 1, op_name = "layer.add"}} at "k" {{
    %o = tile.alloc() {{slots = 1}} at "k" : !tile.buffer<[4, 4], f32>
    tile.for i < <3> at "k" {{
      {body}
    }}
  }}
}}"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '%a = tile.alloc() {slots = 1} at "k" : !tile.buffer<[4, 4], f32> '
            '%b = tile.previous(%a) at "k" : !tile.buffer<[4, 4], f32>',
            "tile.previous at 'k': needs a buffer that a loop allocates with at least 2 slots",
        ),
        (
            '%b = tile.previous(%o) at "k" : !tile.buffer<[4, 4], f32>',
            "tile.previous at 'k': needs a buffer that a loop allocates with at least 2 slots",
        ),
        (
            '%a = tile.alloc() {slots = 2} at "k" : !tile.buffer<[4, 4], f32> '
            '%b = tile.previous(%a) at "k" : !tile.buffer<[4, 8], f32>',
            "tile.previous at 'k': is !tile.buffer<[4, 8], f32>, the buffer is !tile.buffer<[4, 4], f32>",
        ),
        (
            '%a = tile.alloc() {slots = 2, extra = 2} at "k" : !tile.buffer<[4, 4], f32>',
            "tile.alloc at 'k': extra is 2, must be 0 to 1, less than the slots",
        ),
    ],
)
def test_a_previous_slot_needs_a_buffer_that_rotates(body: str, message: str) -> None:
    with pytest.raises(VerifyException, match=re.escape(message)):
        Parser(make_context(), KERNEL.format(body=body)).parse_module().verify()


def test_the_first_iteration_has_nothing_before_it() -> None:
    body = (
        '%a = tile.alloc() {slots = 2} at "k" : !tile.buffer<[4, 4], f32> '
        '%b = tile.previous(%a) at "k" : !tile.buffer<[4, 4], f32>'
    )
    module = Parser(make_context(), KERNEL.format(body=body)).parse_module()
    (program,) = (op for op in module.walk() if isinstance(op, tile.ProgramOp))
    with pytest.raises(NumericError, match=r"tile\.previous at 'k': no iteration came before"):
        run_tiles(program, {})


def test_extra_slots_that_the_lmem_does_not_hold_are_an_error() -> None:
    data = CHIP.model_dump()
    data["command_level"]["lmem"]["tile_budget_fraction"] = 1.0
    body = '%a = tile.alloc() {slots = 3, extra = 2} at "k" : !tile.buffer<[512, 512], f32>'
    with pytest.raises(PassError, match="needs 3145792 bytes of LMEM with its extra slots, a core has 2097152"):
        compiled(KERNEL.format(body=body), "allocate-lmem", Chip.model_validate(data))
