"""Programs without a barrier at their end: the functional simulator refuses what would depend on luck."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from pmc.backends.numeric.errors import NumericError
from pmc.backends.numeric.streams import run_stream
from pmc.compiler.context import make_context
from pmc.dialects import g5

COPY = """
  g5.program() {{cores = 2, op_name = "copy"}} at "{path}" {{
    g5.gdma {{direction = "load", dram = <core*16 + {source}>, lmem = <{lmem}>, shape = [<4>], dram_strides = [<1>],
        lmem_strides = [<1>], element_type = f32}} at "{path}"
    g5.gdma {{direction = "store", dram = <{target}>, lmem = <{lmem}>, shape = [<4>], dram_strides = [<1>],
        lmem_strides = [<1>], element_type = f32}} at "{path}"
    {barrier}
  }}"""


def stream(first_barrier: bool, second_lmem: int, second_source: int, last_barrier: bool = True) -> g5.StreamOp:
    """Two copies of 8 floats by two cores: 0..31 -> 32..63, then `second_source` -> 64..95."""
    first = COPY.format(
        path="a", source=0, target="core*16 + 32", lmem=0, barrier='g5.barrier() at "a"' if first_barrier else ""
    )
    second = COPY.format(
        path="b", source=second_source, target="core*16 + 64", lmem=second_lmem,
        barrier='g5.barrier() at "b"' if last_barrier else "",
    )  # fmt: skip
    arrays = "".join(
        f'g5.array() {{kind = "{kind}", layers = false, address = {address}, type = !tile.memref<[8], f32>}} '
        f'at "{name}"\n'
        for name, kind, address in (("x", "input", 0), ("y", "activation", 32), ("z", "output", 64))
    )
    text = f'g5.stream() {{sym_name = "s", phase = "decode"}} at "s" {{\n{arrays}{first}{second}\n}}'
    module = Parser(make_context(), text).parse_module()
    assert isinstance(module, ModuleOp)
    module.verify()
    (found,) = (op for op in module.ops if isinstance(op, g5.StreamOp))
    return found


def run(program: g5.StreamOp) -> list[float]:
    values = np.arange(8.0)[None]
    result: list[float] = run_stream(program, {"x": values}, 1024).outputs["z"][0].tolist()
    return result


def test_programs_with_barriers_run_one_after_the_other() -> None:
    assert run(stream(first_barrier=True, second_lmem=0, second_source=32)) == list(range(8))


def test_programs_that_share_nothing_need_no_barrier() -> None:
    assert run(stream(first_barrier=False, second_lmem=16, second_source=0)) == list(range(8))


def test_lmem_in_use_is_refused() -> None:
    message = (
        r"^g5.program at 'b' uses LMEM that the program at 'a' may still use: a g5.barrier is missing between them$"
    )
    with pytest.raises(NumericError, match=message):
        run(stream(first_barrier=False, second_lmem=0, second_source=0))


def test_dram_of_another_core_is_refused() -> None:
    # Core 0 of the second program reads what core 1 of the first one wrote.
    message = r"^gdma command 1 of core 0 at 'b': reads element \[0\] of its block of DRAM, which core 1 wrote"
    with pytest.raises(NumericError, match=message):
        run(stream(first_barrier=False, second_lmem=16, second_source=48))


def test_results_without_a_barrier_are_refused() -> None:
    message = r"^the end of g5.stream 's' comes after the program at 'b', which ends without a g5.barrier$"
    with pytest.raises(NumericError, match=message):
        run(stream(first_barrier=True, second_lmem=0, second_source=32, last_barrier=False))
