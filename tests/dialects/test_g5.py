"""The g5 dialect: text forms round-trip, verifiers reject what is no command, loops mean what `expand` says."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.ir import Block
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from pmc.dialects import g5
from pmc.dialects.analyses.expand import ENGINE_NUMBER, expand
from pmc.dialects.dist import Dist
from pmc.dialects.errors import PmcError
from pmc.dialects.g5_table import CommandTableAttr, command_table
from pmc.dialects.layer import Layer
from pmc.dialects.table import Table
from pmc.dialects.tile import Tile

COPY = (
    'g5.gdma {direction = "load", dram = <core*64 + k*16>, lmem = <mod(k.seq, 2)*32>, shape = [<16>], '
    'dram_strides = [<1>], lmem_strides = [<1>], element_type = i8} after [tiu-1] at "mm"'
)
MM2 = (
    "g5.tiu {acc = #g5.lmem<64, pitch 4, f32>, a = #g5.lmem<mod(k.seq, 2)*32, pitch 4, f8E4M3FN>, "
    "b = #g5.lmem<128, pitch 4, f8E4M3FN>, m = <4>, n = <4>, k = <4>, accumulate = <k>, transpose_b = false} "
    'after [gdma-0, vec-1] at "mm"'
)
REDUCE = (
    "g5.cdma {collective = #dist.all_reduce<tp>, algorithm = #dist.two_level<inner = 4>, "
    "ins = [#g5.dram<layer*64 + 8, [4, 4], strides [4, 1], f32>], "
    'outs = [#g5.dram<128, [4, 4], strides [4, 1], f32>]} at "mm"'
)


def parse(text: str) -> ModuleOp:
    context = Context()
    for dialect in (Builtin, Layer, Dist, Tile, g5.G5):
        context.load_dialect(dialect)
    return Parser(context, text).parse_module()


def stream(*steps: str) -> str:
    body = "\n".join(steps)
    return f"""builtin.module {{
      g5.stream() {{sym_name = "step", phase = "decode"}} at "" {{
        g5.array() {{kind = "input", layers = false, address = 0, type = !tile.memref<[64], i8>}} at "x"
        {body}
      }}
    }}"""


def program(*ops: str, cores: int = 2) -> str:
    return f'g5.program() {{cores = {cores}, op_name = "layer.matmul"}} at "mm" {{ {" ".join(ops)} }}'


def loop(symbol: str, count: str, *ops: str) -> str:
    return f'g5.loop {symbol} < <{count}> at "mm" {{ {" ".join(ops)} }}'


EXAMPLE = stream(
    'g5.repeat() {symbol = "layer", count = 2, first = 1} at "b" {',
    program(loop("k", "core + 2", COPY, MM2)),
    REDUCE,
    "}",
)


def test_custom_and_generic_form_round_trip() -> None:
    module = parse(EXAMPLE)
    module.verify()
    text = str(module)
    for line in (COPY, MM2, REDUCE):
        assert line in text
    assert str(parse(text)) == text
    from io import StringIO

    from xdsl.printer import Printer

    generic = StringIO()
    Printer(generic, print_generic_format=True).print_op(module)
    again = parse(generic.getvalue())
    again.verify()
    assert str(again) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (stream(program(COPY)), "'k' in 'dram' is not in scope"),
        (stream(REDUCE), "'layer' in 'ins' is not in scope"),
        (stream(program(loop("k", "2", COPY.replace('"load"', '"copy"')))), "direction must be load or store"),
        (stream(program(loop("k", "2", COPY.replace("[<16>]", "[<16>, <1>]")))), "needs 2 strides on both sides"),
        (stream(program(COPY.replace("k.seq", "core").replace("k*16", "core"))), None),
        (
            stream(program('g5.vec {kind = #tile.add, ins = [], outs = [], updates = [], rows = <1>, columns = <1>} '
                           'at "mm"')),
            "g5.vec #tile.add at 'mm': takes (2, 1, 0) inputs, outputs and updates (a, b, out), found (0, 0, 0)",
        ),
        (
            stream(program('g5.hau {kind = #tile.add, ins = [], outs = [], updates = [], rows = <1>, columns = <1>} '
                           'at "mm"')),
            "g5.hau #tile.add at 'mm': the kind is one of g5.vec",
        ),
    ],
)  # fmt: skip
def test_the_verifier_says_what_is_wrong(text: str, message: str | None) -> None:
    module = parse(text)
    if message is None:
        module.verify()
        return
    with pytest.raises(VerifyException) as error:
        module.verify()
    assert message in str(error.value)


BARRIER = 'g5.barrier() at "meet"'
LATE = COPY.replace("element_type = i8", "element_type = i8, late = unit")
SHARED = COPY.replace("element_type = i8", "element_type = i8, serves = #tile.cores<CORES>")

GATHERED = (
    "g5.cdma {collective = #dist.all_gather<tp, dim = 0>, algorithm = #dist.flat_ring, "
    'ins = [#g5.dram<0, [2], strides [1], i8>], outs = [#g5.dram<64, [4], strides [1], i8>]} at "mm"'
)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (
            loop("k", "core + 1", BARRIER),
            "g5.barrier at 'meet': some cores miss the barrier: loop 'k' around it runs core + 1 times, which differs "
            "from core to core",
        ),
        (loop("n", "2 - core", loop("k", "3", BARRIER)), "loop 'n' around it runs -core + 2 times"),
        (
            LATE.replace("k.seq", "core").replace("k*16", "core"),
            "g5.gdma at 'mm': only a command in a loop can be late",
        ),
        (loop("k", "3", SHARED.replace("CORES", "core, 2")), "core 1 names the cores [1, 2], the kernel has 0..1"),
        (loop("k", "3", SHARED.replace("CORES", "1 - core, 1")), "core 0 is not among the cores [1] that it names"),
        (loop("k", "3", GATHERED), "g5.cdma at 'mm': a command of the chip, which stands between programs"),
        (loop("k", "3", SHARED.replace("CORES", "0, 3")), "g5.gdma at 'mm': names 3 cores 1 apart, the kernel has 2"),
    ],
)
def test_what_cores_cannot_do_together_is_one_line(ops: str, message: str) -> None:
    with pytest.raises(VerifyException) as error:
        parse(stream(program(ops))).verify()
    assert message in str(error.value)


def test_a_program_has_cores_that_exist() -> None:
    text = stream(program(loop("k", "3", COPY)))
    for count, most in (("0", "65536"), ("65537", "65536")):
        with pytest.raises(VerifyException, match=f"cores is {count}, must be 1 to {most}"):
            parse(text.replace("cores = 2", f"cores = {count}")).verify()


def test_cores_may_meet_in_loops_share_reads_and_be_late() -> None:
    body = loop("k", "3", SHARED.replace("CORES", "0, 2"), LATE, BARRIER)
    module = parse(stream(program(body)))
    module.verify()
    assert str(parse(str(module))) == str(module)


def test_an_unknown_engine_is_a_parse_error() -> None:
    with pytest.raises(ParseError, match="unknown engine 'gpu', expected one of tiu, gdma"):
        parse(EXAMPLE.replace("[tiu-1]", "[gpu-1]"))


def test_a_lag_that_is_longer_than_any_program_is_a_parse_error() -> None:
    with pytest.raises(ParseError, match=f"a lag must be less than {2**40}, found {10**30}"):
        parse(EXAMPLE.replace("[tiu-1]", f"[tiu-{10**30}]"))


# -- the meaning of loops ---------------------------------------------------------------------------------------


def random_program(pick: random.Random) -> str:
    counter = iter(range(100))

    def body(depth: int, symbols: tuple[str, ...], even: bool) -> str:
        ops: list[str] = []
        for _ in range(pick.randint(1, 3)):
            if depth < 3 and pick.random() < 0.5:
                name = f"i{next(counter)}"
                count = pick.choice(["0", "2", "core", "3 - core", *(f"{s} + 1" for s in symbols)])
                ops.append(loop(name, count, body(depth + 1, (*symbols, name), even and "core" not in count)))
            else:
                address = " + ".join(["core*1000", *(f"{s}*{10**i}" for i, s in enumerate(symbols))])
                running = " + ".join(["7", *(f"{s}.seq" for s in symbols)])
                engine = pick.choice(["tiu-1", "gdma-0", "gdma-2"])
                ops.append(
                    (LATE if depth and pick.random() < 0.4 else COPY)
                    .replace("core*64 + k*16", address).replace("mod(k.seq, 2)*32", running)
                    .replace("tiu-1", engine)
                )  # fmt: skip
            if even and pick.random() < 0.2:
                ops.append(BARRIER)
            if pick.random() < 0.3:
                ops.append(MM2.replace("mod(k.seq, 2)*32", "0").replace("accumulate = <k>", "accumulate = <0>"))
        return " ".join(ops)

    return stream(program(body(0, (), even=True), cores=4))


Row = tuple[object, ...]


def interpret(
    block: Block, symbols: dict[str, int], issued: list[int], kept: dict[g5.CommandOp, Row], last: bool = True
) -> Iterator[Row]:
    """The commands of one core by running the loops one iteration at a time; `kept` are late ones not yet given."""

    def given(op: g5.CommandOp, row: Row) -> Row:
        order = sum(issued[: len(g5.ENGINES)])
        issued[ENGINE_NUMBER[op.ENGINE]] += 1
        return (order, issued[-1], op.ENGINE, issued[ENGINE_NUMBER[op.ENGINE]], *row)

    for op in block.ops:
        if isinstance(op, g5.LoopOp):
            name = op.symbol.data
            late: dict[g5.CommandOp, Row] = {}
            trips = op.count.data.evaluate(symbols)
            for i in range(trips):
                symbols[name] = i
                yield from interpret(op.body.block, symbols, issued, late, i == trips - 1)
                symbols[f"{name}.seq"] += 1
        elif isinstance(op, g5.BarrierOp):
            issued[-1] += 1
        elif isinstance(op, g5.CommandOp):
            waits = [0] * len(g5.ENGINES)
            for engine, lag in op.dependencies:
                waits[ENGINE_NUMBER[engine]] = max(0, issued[ENGINE_NUMBER[engine]] - lag)
            address = op.dram.data.evaluate(symbols) if isinstance(op, g5.GdmaOp) else -1
            slot = op.lmem.data.evaluate(symbols) if isinstance(op, g5.GdmaOp) else -1
            if op in kept:
                yield given(op, kept.pop(op))
            if isinstance(op, g5.GdmaOp) and op.late is not None and not last:
                kept[op] = (waits, address, slot)
            else:
                yield given(op, (waits, address, slot))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_expand_equals_running_the_loops(seed: int) -> None:
    module = parse(random_program(random.Random(seed)))
    module.verify()
    top = next(op for op in module.walk() if isinstance(op, g5.ProgramOp))
    names = [op.symbol.data for op in top.walk() if isinstance(op, g5.LoopOp)]
    cores = [0, 1, 3]
    expanded: dict[int, list[Row]] = {core: [] for core in cores}
    for runs in expand(top, cores, {}):
        op = runs.op
        address = runs.value(op.dram.data) if isinstance(op, g5.GdmaOp) else np.full(runs.count, -1)
        slot = runs.value(op.lmem.data) if isinstance(op, g5.GdmaOp) else np.full(runs.count, -1)
        columns = (runs.core, runs.order, runs.phase, runs.ids, runs.dependencies, address, slot)
        for core, order, phase, number, waits, at, where in zip(*(c.tolist() for c in columns), strict=True):
            expanded[core].append((order, phase, op.ENGINE, number, waits, at, where))
    for core in cores:
        symbols: dict[str, int] = {"core": core, **{f"{n}.seq": 0 for n in names}}
        expected = list(interpret(top.body.block, symbols, [0] * (len(g5.ENGINES) + 1), {}))
        assert sorted(expanded[core], key=lambda row: str(row[0]).zfill(9)) == expected


def test_a_loop_is_expanded_up_to_a_million_iterations() -> None:
    def count(trips: int) -> int:
        module = parse(stream(program(loop("k", str(trips), COPY))))
        return sum(runs.count for op in module.walk() if isinstance(op, g5.ProgramOp) for runs in expand(op, [0], {}))

    assert count(2**20) == 2**20
    with pytest.raises(PmcError, match="runs 1048577 times on all cores together"):
        count(2**20 + 1)


# -- tables -----------------------------------------------------------------------------------------------------


def table(count: int) -> Table:
    rows = np.stack([np.arange(1, count + 1), np.arange(count) % 2, np.arange(count) * 4096 - 5], axis=1)
    return command_table(["id", "kind:direction", "dram"], rows)


def test_the_text_of_a_table() -> None:
    assert table(3).lines() == ["1 load -5; 2 store 4091; 3 load 8187"]
    assert table(20).reduced().lines() == [
        "1 load -5; 2 store 4091; 3 load 8187; 4 store 12283; "
        "17 load 65531; 18 store 69627; 19 load 73723; 20 store 77819"
    ]
    assert table(20).reduced().digest == table(20).digest != table(21).digest


@pytest.mark.parametrize("count", [0, 1, 8, 9, 100])
def test_tables_round_trip(count: int) -> None:
    for whole in (table(count), table(count).reduced()):
        attribute = CommandTableAttr(whole)
        context = Context()
        context.load_dialect(g5.G5)
        assert Parser(context, str(attribute)).parse_attribute() == attribute


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("9 load", "9 store", "do not have the hash"),
        ("9 load", "9 push", "'push' is not one of load, store, gather"),
        ("9 load", "9", "every row needs 3 values"),
        ("9 rows", "30 rows", "shows all or 8, found 9"),
    ],
)
def test_a_table_that_was_tampered_with_is_rejected(wrong: str, right: str, message: str) -> None:
    context = Context()
    context.load_dialect(g5.G5)
    text = str(CommandTableAttr(table(9)))
    assert wrong in text
    with pytest.raises(ParseError, match=message):
        Parser(context, text.replace(wrong, right, 1)).parse_attribute()
