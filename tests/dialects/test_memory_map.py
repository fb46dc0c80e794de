"""The verifier of DRAM addresses: what is aligned, fits, and is overwritten while it is needed."""

from __future__ import annotations

import re

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import parse_module
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.memory_map import Access, Loop, PlacedArray, placement_fault, reuse_fault
from pmc.passes.allocate_dram import AllocateDramPass

SG2262 = load_chip("sg2262")


def array(name: str, address: int, size: int = 32, kind: str = "activation") -> PlacedArray:
    return PlacedArray(name, kind, address, size, kind in ("activation", "output", "scratch"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([array("a", 0), array("b", 16)], "activation 'b' at 16..47 does not start at a multiple of 32 bytes"),
        (
            [array("a", SG2262.dram_bytes - 32, 33)],
            "activation 'a' at 137438953440..137438953472 leaves the DRAM of sg2262, which has 137438953472 bytes",
        ),
        ([array("a", -32)], "activation 'a' at -32..-1 leaves the DRAM of sg2262, which has 137438953472 bytes"),
        (
            [array("w", 0, 65, "weight"), array("a", 64)],
            "weight 'w' at 0..64 and activation 'a' at 64..95 overlap, of which not both give their memory to others",
        ),
        (
            [array("a", 0, 65), array("c", 32), array("x", 64, 32, "input")],
            "activation 'a' at 0..64 and input 'x' at 64..95 overlap, of which not both give their memory to others",
        ),
        (
            [array("w", 0, 256, "weight"), array("v", 32, 32, "weight"), array("a", 96)],
            "weight 'w' at 0..255 and weight 'v' at 32..63 overlap, of which not both give their memory to others",
        ),
        ([array("w", 0, 64, "weight"), array("a", 64, 64), array("b", 96)], None),
    ],
)
def test_addresses_are_aligned_inside_the_chip_and_apart(arrays: list[PlacedArray], message: str | None) -> None:
    assert placement_fault(arrays, SG2262) == message


def test_without_a_chip_only_overlaps_are_known() -> None:
    assert placement_fault([array("a", 1, 2)], None) is None
    assert placement_fault([array("w", 1, 2, "weight"), array("a", 2)], None) is not None


def steps(text: str) -> list[Access | Loop]:
    """`> a | 3 | a > b | end`: writes a, then three times reads a and writes b; arrays are letters from a on."""
    stack: list[list[Access | Loop]] = [[]]
    counts: list[int] = []
    for part in text.split(" | "):
        if part == "end":
            body = stack.pop()
            stack[-1].append(Loop(counts.pop(), body))
        elif part.isdigit():
            counts.append(int(part))
            stack.append([])
        else:
            reads, writes = ([ord(name) - ord("a") for name in side.split()] for side in part.split(">"))
            stack[-1].append(Access(part, reads, writes))
    return stack[0]


A, B = array("a", 0), array("b", 0)
SPOILED = "reads activation 'a' at 0..31, which activation 'b' at 0..31 has overwritten"


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("> a | a > | > b | b >", None),
        ("> a | > b | a >", f"'a >' {SPOILED}"),
        ("> a | > b | > a | a >", None),
        ("> a | a > b", "'a > b' uses activation 'a' at 0..31 and activation 'b' at 0..31, which overlap"),
        # The next iteration reads a again.
        ("> a | 3 | a > | > b | end", f"'a >' {SPOILED}"),
        ("> a | 1 | a > | > b | end", None),
        ("3 | > a | a > | > b | end", None),
        # The first run of the inner repeat spoils what the second run of the outer one needs.
        ("> a | 2 | 1 | a > | end | 2 | > b | end | end", f"'a >' {SPOILED}"),
        ("2 | > a | 2 | a > | end | > b | end", None),
    ],
)
def test_a_value_is_read_before_it_is_overwritten(program: str, fault: str | None) -> None:
    assert reuse_fault([A, B], steps(program)) == fault


def test_iterations_that_differ_are_all_looked_at() -> None:
    arrays = [array("a", 0), array("b", 0)]
    inner = Loop(1, [Access("y", [], [1])], (0, 0, 1))
    wrong = [Access("x", [], [0]), Loop(3, [inner, Access("z", [0], [])])]
    fault = "'z' reads activation 'a' at 0..31, which activation 'b' at 0..31 has overwritten"
    assert reuse_fault(arrays, wrong) == fault
    assert reuse_fault(arrays, [Access("x", [], [0]), Loop(3, [Access("z", [0], [])]), inner]) is None


def test_an_output_lasts_and_scratch_does_not() -> None:
    output = array("a", 0, kind="output")
    assert reuse_fault([output, B], steps("> b | > a")) is None
    assert reuse_fault([output, B], steps("> a | > b")) == (
        "output 'a' at 0..31 is overwritten by activation 'b' at 0..31 before the program ends"
    )
    assert reuse_fault([array("a", 0, kind="scratch"), B], steps("2 | a > a | > b | end")) is None


PROGRAM = """
tile.program() {sym_name = "p", phase = "decode"} at "p" {
  %a = tile.global() {kind = "activation", layers = false} at "a" : !tile.memref<[8], f32>
  %b = tile.global() {kind = "activation", layers = false} at "b" : !tile.memref<[8], f32>
  tile.kernel() {cores = 1, op_name = "copy"} at "make" {
    %0 = tile.alloc() {slots = 1} at "make" : !tile.buffer<[1, 8], f32>
    tile.store(%a, %0) {offsets = [<0>], sizes = [<8>]} at "make"
  }
  tile.repeat() {symbol = "layer", count = 2, first = 0} at "r" {
    %v = tile.view(%a) at "a" : !tile.memref<[4], f32>
    tile.kernel() {cores = 1, op_name = "copy"} at "read" {
      %1 = tile.alloc() {slots = 1} at "read" : !tile.buffer<[1, 8], f32>
      tile.load(%v, %1) {offsets = [<0>], sizes = [<4>]} at "read"
      tile.store(%b, %1) {offsets = [<0>], sizes = [<8>]} at "read"
    }
  }
}
"""


def allocated(chip: Chip = SG2262) -> str:
    module = Parser(make_context(), PROGRAM).parse_module()
    module.attributes["arch.chip"] = ChipAttr(chip)
    AllocateDramPass().apply(make_context(), module)
    module.verify()
    return str(module)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (32, None),
        (0, "'read' uses activation 'a' at 0..31 and activation 'b' at 0..31, which overlap"),
        (8, "activation 'b' at 8..39 does not start at a multiple of 32 bytes"),
        (2**40, "activation 'b' at 1099511627776..1099511627807 leaves the DRAM of sg2262"),
    ],
)
def test_a_dump_with_another_address_is_refused(address: int, message: str | None) -> None:
    text = allocated()
    changed = text.replace("address = 32}", f"address = {address}}}")
    assert (changed == text) == (address == 32)
    module: ModuleOp = Parser(make_context(), changed).parse_module()
    if message is None:
        module.verify()
        return
    with pytest.raises(VerifyException, match=re.escape(f"tile.program 'p': {message}")):
        module.verify()


def test_a_stream_with_another_address_is_refused() -> None:
    stream = """
builtin.module {
  g5.stream() {sym_name = "p", phase = "decode"} at "p" {
    g5.array() {kind = "weight", layers = false, address = 0, type = !tile.memref<[8], f32>} at "w"
    g5.stage() {index = 0} at "p" {
      g5.array() {kind = "activation", layers = false, address = 32, type = !tile.memref<[8], f32>} at "a"
      g5.array() {kind = "activation", layers = false, address = 32, type = !tile.memref<[8], f32>} at "b"
    }
    g5.stage() {index = 1} at "p" {
      g5.array() {kind = "weight", layers = false, address = 32, type = !tile.memref<[8], f32>} at "v"
    }
  }
}
"""
    parse_module(stream, "test")
    old, new = (f'address = {at}, type = !tile.memref<[8], f32>}} at "v"' for at in (32, 16))
    assert old in stream
    with pytest.raises(PmcError, match=r"g5.stream 'p': weight 'w' at 0..31 and weight 'v' at 16..47 overlap"):
        parse_module(stream.replace(old, new), "test")
