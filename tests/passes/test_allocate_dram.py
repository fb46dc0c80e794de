"""The allocate-dram pass: aligned addresses, shared memory for what does not live at once, and the capacity."""

import math
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.parser import Parser

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.tile import (
    SHARED_KINDS,
    CollectiveOp,
    CommandOp,
    GlobalOp,
    KernelOp,
    MemRefType,
    ProgramOp,
    RepeatOp,
    StageOp,
    ViewOp,
    memref_type,
)
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.base import PassError


def compiled(model: str, deployment: str, chip: Chip | None = None, **changes: Any) -> ModuleOp:
    small = shrink_deployment(load_deployment(deployment, changes))
    config, source = load_model_config(model)
    module = shrink_model(import_hf(config, source, model), small, 3)
    target = chip or shrink_chip(load_chip("sg2262"))
    return compile_model(module, target, load_topology("p1-r1-b4-c32"), small, "tile")


def ranges(module: Operation) -> dict[str, list[range]]:
    """The bytes of every array in an op, by kind."""
    found: dict[str, list[range]] = {}
    for op in module.walk():
        if isinstance(op, GlobalOp):
            found.setdefault(op.kind.data, []).append(place(op))
    return found


@pytest.mark.parametrize(
    ("model", "deployment"), [("llama-3.1-8b", "llama-8b-prefill"), ("deepseek-v3", "dsv3-decode-ep32")]
)
def test_what_stays_never_overlaps_and_activations_share(model: str, deployment: str) -> None:
    module = compiled(model, deployment)
    found = ranges(module)
    step = load_chip("sg2262").alignment_bytes
    assert all(r.start % step == 0 for group in found.values() for r in group)
    stays = staying(found)
    for a, b in combinations(sorted(stays, key=lambda r: r.start), 2):
        assert a.stop <= b.start
    shared = [*found["activation"], *found["output"]]
    assert all(r.start >= max(s.stop for s in stays) for r in shared)
    peak = max(r.stop for r in shared) - min(r.start for r in shared)
    assert peak < sum(len(r) for r in shared)  # memory is used again


def staying(found: dict[str, list[range]]) -> list[range]:
    return [r for kind, group in found.items() if kind not in SHARED_KINDS for r in group]


def test_too_little_dram_says_by_how_much() -> None:
    data = shrink_chip(load_chip("sg2262")).model_dump()
    data["dram"]["capacity_gib"] = 2**-18  # 4 KiB
    with pytest.raises(PassError) as error:
        compiled("llama-3.1-8b", "llama-8b-decode", Chip.model_validate(data))
    top = max(r.stop for group in ranges(compiled("llama-3.1-8b", "llama-8b-decode")).values() for r in group)
    assert str(error.value) == (
        f"allocate-dram: program 'llama-3.1-8b' needs {top} bytes of DRAM, sg2262-small has 4096: "
        f"{top - 4096} bytes too many"
    )


def stages(module: ModuleOp) -> list[StageOp]:
    return [op for op in module.walk() if isinstance(op, StageOp)]


def test_every_stage_has_the_memory_after_the_inputs_for_itself() -> None:
    module = compiled("llama-3.1-8b", "llama-8b-prefill", pp=2)
    (tokens,) = ranges(module)["input"]
    step = load_chip("sg2262").alignment_bytes
    base = -(-tokens.stop // step) * step
    for stage in stages(module):
        found = ranges(stage)
        assert "input" not in found
        stays = sorted(staying(found), key=lambda r: r.start)
        assert stays[0].start == base
        assert all(a.stop <= b.start for a, b in pairwise(stays))
        assert all(r.start >= stays[-1].stop for r in found["activation"])


def test_the_stage_that_needs_too_much_is_named() -> None:
    """Of 3 layers the last stage runs 2 and the head, so that a chip may hold the first stage and not the second."""
    tops = [max(r.stop for group in ranges(s).values() for r in group) for s in stages(two_stages())]
    assert tops[0] < tops[1]
    data = shrink_chip(load_chip("sg2262")).model_dump()
    data["dram"]["capacity_gib"] = tops[0] / 2**30
    with pytest.raises(PassError) as error:
        two_stages(Chip.model_validate(data))
    assert str(error.value) == (
        f"allocate-dram: stage 1 of program 'llama-3.1-8b' needs {tops[1]} bytes of DRAM, sg2262-small has {tops[0]}: "
        f"{tops[1] - tops[0]} bytes too many"
    )
    data["dram"]["capacity_gib"] = tops[1] / 2**30
    two_stages(Chip.model_validate(data))


def two_stages(chip: Chip | None = None) -> ModuleOp:
    return compiled("llama-3.1-8b", "llama-8b-decode", chip, pp=2, pp_layers="1,2")


# -- what lives at once -----------------------------------------------------------------------------------------

Marks = np.ndarray[Any, np.dtype[np.int64]]


def moments(block: Block) -> Iterator[tuple[list[SSAValue], list[SSAValue]]]:
    """What kernels and collectives read and write of the activations, as they run, in every iteration of a repeat."""
    for op in block.ops:
        match op:
            case RepeatOp():
                for _ in range(op.count.value.data):
                    yield from moments(op.body.block)
            case KernelOp() | CollectiveOp():
                commands = [c for c in op.walk() if isinstance(c, CommandOp)]
                yield (
                    activations(v for c in commands for v in c.reads()),
                    activations(v for c in commands for v in c.writes()),
                )
            case _:
                pass


def activations(values: Iterable[SSAValue]) -> list[SSAValue]:
    in_dram = [v for v in dict.fromkeys(values) if isinstance(v.type, MemRefType)]
    return [v for v in in_dram if array_of(v).kind.data == "activation"]


def array_of(value: SSAValue) -> GlobalOp:
    owner = value.owner
    if isinstance(owner, ViewOp):
        return array_of(owner.source)
    assert isinstance(owner, GlobalOp)
    return owner


def byte_places(value: SSAValue) -> Marks:
    """The bytes of its array that a value names."""
    type_, array = memref_type(value), memref_type(array_of(value).result)
    width = array.bytes // math.prod(array.dims)
    steps = [np.arange(n) * step for n, step in zip(type_.dims, type_.steps, strict=True)]
    elements = reduce(np.add.outer, steps).ravel() + type_.offset.data.constant
    return (elements[:, None] * width + np.arange(width)).ravel()


def check_memory(block: Block) -> int:
    """Run the program on marks: each write leaves a mark of its own, each read must find the mark written last there.

    What was never written holds no mark, whatever stands there.  Returns how many bytes with marks were read.
    """
    arrays = [op for op in block.ops if isinstance(op, GlobalOp) and op.kind.data == "activation"]
    memory = np.zeros(max((place(a).stop for a in arrays), default=0), np.int64)
    own = {a: np.zeros(memref_type(a.result).bytes, np.int64) for a in arrays}
    found = 0
    for mark, (reads, writes) in enumerate(moments(block), 1):
        for a, b in combinations(dict.fromkeys(map(array_of, (*reads, *writes))), 2):
            assert not overlap(a, b), f"{a.path} and {b.path} are used at once"
        for value in reads:
            array, at = array_of(value), byte_places(value)
            at = at[own[array][at] > 0]
            np.testing.assert_array_equal(memory[place(array).start + at], own[array][at], err_msg=str(array.path))
            found += len(at)
        for value in writes:
            array, at = array_of(value), byte_places(value)
            memory[place(array).start + at] = own[array][at] = mark
    return found


def place(array: GlobalOp) -> range:
    assert array.address is not None, array.path
    return range(array.address.value.data, array.address.value.data + memref_type(array.result).bytes)


def overlap(a: GlobalOp, b: GlobalOp) -> bool:
    return place(a).start < place(b).stop and place(b).start < place(a).stop


@pytest.mark.parametrize(
    ("model", "deployment", "changes"),
    [
        ("llama-3.1-8b", "llama-8b-decode", {}),
        ("llama-3.1-8b", "llama-8b-prefill", {"cp": 4}),
        ("llama-3.1-8b", "llama-8b-prefill", {"cp": 4, "tp": 2, "sp": True, "pp": 2}),
        ("deepseek-v3", "dsv3-decode-ep32", {}),
        ("deepseek-v3", "dsv3-prefill-ep32", {"dp": 1, "cp": 4, "ep": 4}),
        ("deepseek-v3", "dsv3-prefill-ep32", {"dp": 2, "cp": 4, "ep": 8, "ring_exchange": "smallest"}),
        ("deepseek-v3", "dsv3-decode-ep32", {"q_len": 2, "dp": 1, "cp": 2, "ep": 2}),
    ],
)
def test_every_kernel_finds_what_was_written_for_it(model: str, deployment: str, changes: dict[str, Any]) -> None:
    module = compiled(model, deployment, **changes)
    program = next(op for op in module.walk() if isinstance(op, ProgramOp))
    blocks = [stage.body.block for stage in stages(module)] or [program.body.block]
    assert all(check_memory(block) > 0 for block in blocks)


def planned(lines: list[str], sizes: dict[str, int] | None = None) -> dict[str, GlobalOp]:
    """The arrays of a program of one line per collective, `a b > c` reads a and b and writes c, by name.

    The pass does not look at what a collective does with its arrays.
    `repeat 3` .. `end` runs the lines between three times.  Arrays are in the order of their names in the text, 32
    bytes wide, or as many times that as `sizes` says.
    """
    names = list(dict.fromkeys(w for line in lines for w in line.split() if w.isalpha() and w not in ("repeat", "end")))
    text = [
        f'%{n} = tile.global() {{kind = "activation", layers = false}} at "{n}" '
        f": !tile.memref<[{8 * (sizes or {}).get(n, 1)}], f32>"
        for n in names
    ]
    for line in lines:
        if line == "end":
            text.append("}")
        elif line.startswith("repeat"):
            text.append(f'tile.repeat() {{symbol = "s", count = {line.split()[1]}, first = 0}} at "r" {{')
        else:
            reads, writes = (", ".join(f"%{n}" for n in side.split()) for side in line.split(">"))
            text.append(f'tile.collective([{reads}], [{writes}]) {{collective = #dist.dispatch}} at "{line}"')
    program = "\n".join(['tile.program() {sym_name = "p", phase = "decode"} at "p" {', *text, "}"])
    module = Parser(make_context(), program).parse_module()
    module.attributes["arch.chip"] = ChipAttr(load_chip("sg2262"))
    AllocateDramPass().apply(make_context(), module)
    block = next(op for op in module.walk() if isinstance(op, ProgramOp)).body.block
    check_memory(block)
    return {op.path.data: op for op in block.ops if isinstance(op, GlobalOp)}


def slots(lines: list[str]) -> str:
    """`a0 b1 c0`: which 32 bytes every array has."""
    found = planned(lines)
    return " ".join(f"{name}{place(op).start // 32}" for name, op in found.items())


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        # Made and read in the inner repeat: t makes room in the same iteration, b when the repeat ends, a never.
        (
            "> a | repeat 2 | a > b | repeat 3 | b > t | t > u | > z | end | > v | end",
            "a0 b1 t2 u3 z2 v1",
        ),
        # Carried: c is for the next iteration, so z may not have its place; after the repeat r may.
        ("> c | repeat 3 | c > t | t > c | > z | end | > r", "c0 t1 z1 r0"),
        # Made before the repeat: q is read again in the next iteration.
        ("> q | repeat 3 | q > t | > z | end | > r", "q0 t1 z1 r0"),
        # Made in the inner repeat, read in it and after it: z may not have its place, y after the reader may.
        ("repeat 2 | repeat 3 | > t | t > v | v > w | > z | end | v > x | > y | end", "t0 v1 w0 z0 x0 y0"),
        # Read by the inner repeat and carried around the outer one.
        ("> h | repeat 2 | repeat 3 | h > t | > z | end | > y | y > h | > x | end", "h0 t1 z1 y1 x1"),
        # A ring: k is sent, m received and handed over; both are new in every iteration of the outer repeat.
        ("repeat 2 | > k | repeat 3 | k > m | m > k | > z | end | > y | end", "k0 m1 z1 y0"),
        # As before, with a state that is read after the ring.
        (
            "repeat 2 | > k | k > s | repeat 3 | k > m | m s > s | m > k | > z | end | s > y | > x | end",
            "k0 s1 m2 z2 y0 x0",
        ),
        # What leaves a repeat lives all through it, so v may not have the place of t.
        ("repeat 3 | > t | > v | end | v > r", "t0 v1 r0"),
        # Two inner repeats: what the first leaves lives through the second, its own t does not.
        ("repeat 2 | repeat 2 | > t | t > a | end | repeat 2 | > u | a u > b | end | b > c | end", "t0 a1 u0 b2 c0"),
    ],
)
def test_lifetimes_in_nested_repeats(program: str, expected: str) -> None:
    assert slots(program.split(" | ")) == expected


NAMES = "abcdef"
SIDES = ("", *NAMES, *map(" ".join, combinations(NAMES, 2)))


@st.composite
def programs(draw: st.DrawFn, depth: int = 3) -> list[str]:
    """Random lines over six arrays, with repeats in repeats."""
    lines: list[str] = []
    for _ in range(draw(st.integers(2, 4))):
        if depth and draw(st.booleans()):
            lines += ["repeat 2", *draw(programs(depth - 1)), "end"]
        else:
            lines.append(" > ".join(draw(st.sampled_from(SIDES)) for _ in range(2)))
    return lines


@settings(max_examples=100, deadline=None)
@given(programs(), st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_random_repeats_find_what_was_written_for_them(lines: list[str], sizes: list[int]) -> None:
    planned(lines, dict(zip(NAMES, sizes, strict=True)))
