"""`prefetch-weights`: which kernel loads for which, the values under random plans, the gain, and what is refused."""

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
from pmc.backends.g5.stream import simulate
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.streams import HOST_KINDS, run_stream
from pmc.backends.numeric.tile import run_tiles
from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, tile
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.analyses.kernel_work import kernel_work
from pmc.dialects.arch import Chip, ChipAttr
from pmc.passes.base import PassError

CHIP = load_chip("sg2262")
LOWER = "lower-to-tiles,{}allocate-lmem,allocate-dram"
PLAIN, AHEAD = LOWER.format(""), LOWER.format("prefetch-weights,")


def plan(cores: str = "[1, 1, 64, 1]", tile: str = "[64, 16, 256]", order: str = "gmnk", more: str = "") -> str:
    return f'#tile.plan<cores {cores}, tile {tile}, order "{order}", slots 2{more}>'


def chain(*plans: str, m: int = 64, width: int = 1024, element: str = "bf16", norm: bool = False) -> str:
    """Products one after the other, with a norm between if asked for."""
    x, w = f"!layer.tensor<[{m}, {width}], {element}>", f"!layer.tensor<[{width}, {width}], {element}>"
    lines = [f'%g = layer.weight() {{axes = [""]}} at "norm.weight" : !layer.tensor<[{width}], {element}>']
    value = "%x"
    for index, text in enumerate(plans):
        if norm and index:
            rows = f'{{tile.plan = #tile.plan<cores [1, 1], tile [8, 1, {width}], order "oi", slots 1>}}'
            name = f'at "norm{index}" attributes {rows} : {x}'
            lines.append(f"%n{index} = layer.rms_norm({value}, %g) {{eps = 1.0e-05, group = {width}}} {name}")
            value = f"%n{index}"
        lines.append(f'%w{index} = layer.weight() {{axes = ["", ""]}} at "w{index}" : {w}')
        lines.append(
            f'%y{index} = layer.matmul({value}, %w{index}) at "p{index}" attributes {{tile.plan = {text}}} : {x}'
        )
        value = f"%y{index}"
    body = "\n  ".join(lines)
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x: {x}):
  {body}
  layer.return([{value}]) at "p"
}}"""


def repeated(*plans: str, m: int = 64, width: int = 1024, element: str = "bf16", runs: str = "3 from 1 of 5") -> str:
    """A product, then a repeat of layers of products."""
    x, w = f"!layer.tensor<[{m}, {width}], {element}>", f"!layer.tensor<[{width}, {width}], {element}>"

    def product(to: str, of: str, path: str, text: str) -> str:
        weight = f'%w{to} = layer.weight() {{axes = ["", ""]}} at "{path}.weight" : {w}'
        return f'{weight}\n  %{to} = layer.matmul(%{of}, %w{to}) at "{path}" attributes {{tile.plan = {text}}} : {x}'

    lines = [product(f"y{i}", f"y{i - 1}" if i else "h", f"p{i}", text) for i, text in enumerate(plans)]
    body = "\n  ".join(lines)
    return f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x: {x}):
  {product("first", "x", "first", plan() if m == 64 else plans[0])}
  %r = layer.repeat {runs} (%h = %first) at "r" : {x} {{
  {body}
  layer.yield([%y{len(plans) - 1}]) at "r"
  }}
  layer.return([%r]) at "p"
}}"""


def compiled(text: str, passes: str, chip: Chip = CHIP) -> ModuleOp:
    module = Parser(make_context(), text).parse_module()
    module.attributes["arch.chip"] = ChipAttr(chip)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    run_pipeline(module, list(parse_pipeline(passes)))
    return module


def hand_overs(module: ModuleOp) -> list[tuple[str, str, int]]:
    """Who loads for whom, and how many bytes."""
    found: list[tuple[str, str, int]] = []
    for kernel in (op for op in module.walk() if isinstance(op, tile.KernelOp)):
        for load in (op for op in kernel.walk() if isinstance(op, tile.LoadOp)):
            if load.path.data != kernel.path.data:
                found.append((kernel.path.data, load.path.data, tile.buffer_type(load.buffer).bytes))
    return found


BLOCK = 256 * 16 * 2
"""Bytes of a block of weights of `plan()`."""


def test_every_kernel_loads_for_the_next_one() -> None:
    module = compiled(chain(plan(), plan(), plan()), AHEAD)
    assert hand_overs(module) == [("p0", "p1", BLOCK), ("p1", "p2", BLOCK)]
    allocs = [op for op in module.walk() if isinstance(op, tile.AllocOp) and isinstance(op.parent_op(), tile.ProgramOp)]
    # Both are there while p1 runs, and end where the LMEM of a core does.
    assert [op.byte_range for op in allocs] == [range(2**21 - BLOCK, 2**21), range(2**21 - 2 * BLOCK, 2**21 - BLOCK)]


def test_kernels_between_go_on_beside_what_is_handed_over() -> None:
    module = compiled(chain(plan(), plan(), norm=True), AHEAD)
    assert hand_overs(module) == [("p0", "p1", BLOCK)]


def test_a_kernel_loads_no_more_than_its_last_products_hide() -> None:
    small = plan(tile="[64, 16, 16]")
    assert hand_overs(compiled(chain(small, plan()), AHEAD)) == []
    # Not the kernel right before, but one before that has the time.
    assert hand_overs(compiled(chain(plan(), small, plan()), AHEAD))[1:] == [("p0", "p2", BLOCK)]
    # Time that is used up for one is gone for another: 85 ns of products hide 4 ns and 61 ns, but not 122 ns.
    long = plan(tile="[64, 16, 512]")
    taken = hand_overs(compiled(chain(plan(), small, plan(), long), AHEAD))
    assert taken == [("p0", "p1", 16 * 16 * 2), ("p0", "p2", BLOCK), ("p2", "p3", 2 * BLOCK)]


def test_a_part_is_hidden_where_nobody_hides_the_whole() -> None:
    """The products of a block take 85 ns and its load 61 ns."""
    small, half, long = (plan(tile=f"[64, 16, {k}]") for k in (16, 128, 512))
    assert hand_overs(compiled(chain(plan(), long), AHEAD)) == [("p0", "p1", 2 * BLOCK)]
    # 5 of 61 ns are less than a tenth.
    assert hand_overs(compiled(chain(small, plan()), AHEAD)) == []
    # The nearest one has 43 of 122 ns, but the one before it 171, less 30.
    assert hand_overs(compiled(chain(long, half, long), AHEAD))[1:] == [("p0", "p2", 2 * BLOCK)]


def test_the_last_kernel_of_a_layer_loads_for_the_first_of_the_next_one() -> None:
    module = compiled(repeated(plan(), plan()), AHEAD)
    assert hand_overs(module) == [("p0", "p1", BLOCK), ("p1", "p0", BLOCK)]
    assert [(op.path.data, op.cores.value.data) for op in copies(module)] == [("p0", 64)]
    loads = [op for op in module.walk() if isinstance(op, tile.LoadOp) and op.path.data == "p0"]
    weights = [op for op in loads if tile.memref_type(op.memref).dims == (3, 1024, 1024)]
    # For the first run, in all iterations but the first of a run, and for the next run.
    assert [str(op.offsets.data[0].data) for op in weights] == ["0", "layer - 1", "min(layer + 1, 3) - 1"]


def test_runs_of_a_body_hand_over_only_what_they_can() -> None:
    for text in (
        repeated(plan(), plan(), runs="1 from 1 of 5"),  # one run
        repeated(plan(), plan("[1, 1, 32, 1]")),  # the last kernel has fewer cores than the first
        repeated(plan()),  # a kernel still reads what it would load for the next run
    ):
        assert len(copies(compiled(text, AHEAD))) == len(copies(compiled(text, PLAIN)))


def copies(module: ModuleOp) -> list[tile.KernelOp]:
    return [op for op in module.walk() if isinstance(op, tile.KernelOp) and op.op_name.data == "copy"]


@pytest.mark.parametrize("seed", range(4))
def test_values_and_work_stay_where_layers_hand_over(seed: int) -> None:
    pick = random.Random(seed)
    plans = [random_plan(pick) for _ in range(3)]
    text = repeated(*plans, m=pick.choice([16, 40]), width=pick.choice([48, 72]), element="f32")
    assert_same_values(text, f"prefetch-weights{{choose=random seed={seed}}},", seed)


def test_a_layer_that_takes_weights_begins_with_its_products() -> None:
    """The block of the first kernel is loaded behind the products of the last one, whose time stays."""
    before, after = (simulate(compiled(repeated(plan(), plan()), passes + ",emit-g5")) for passes in (PLAIN, AHEAD))
    times = [{(part.path, part.op): part.duration_ps for part in step.parts} for step in (before, after)]
    first, last = ((times[1][name, "layer.matmul"] - times[0][name, "layer.matmul"]) for name in ("p0", "p1"))
    assert first < 0 and last < 0
    # Once, before the repeat: start-up, page miss and the bytes of the block of all cores out of DRAM.
    assert times[1]["p0", "copy"] < 1_000_000


@pytest.mark.parametrize("choose", ["best", "random"])
def test_what_has_no_room_or_no_use_stays_as_it_is(choose: str) -> None:
    passes = LOWER.format(f"prefetch-weights{{choose={choose}}},")
    full = CHIP.model_dump()
    full["command_level"]["lmem"].update(bytes_per_core=95232, tile_budget_fraction=1.0)
    for text, chip in (
        (chain(plan(), plan()), Chip.model_validate(full)),
        # More cores than the kernel before has.
        (chain(plan("[1, 1, 32, 1]"), plan()), CHIP),
        # A block of weights stays for all blocks of rows.
        (chain(plan(), plan(tile="[16, 16, 1024]", order="gnkm")), CHIP),
    ):
        plain, passed = compiled(text, PLAIN, chip), compiled(text, passes, chip)
        assert [str(op) for op in plain.ops] == [str(op) for op in passed.ops]


def test_a_pass_that_is_off_leaves_the_text_alone() -> None:
    text = chain(plan(), plan())
    plain, passed = compiled(text, PLAIN), compiled(text, LOWER.format("prefetch-weights{enabled=false},"))
    assert [str(op) for op in plain.ops] == [str(op) for op in passed.ops]
    with pytest.raises(PassError, match="choose is 'some', must be best or random"):
        compiled(text, LOWER.format("prefetch-weights{choose=some},"))


ORDERS = ("gmnk", "gmnk", "gnkm", "gmkn")


def random_plan(pick: random.Random) -> str:
    cores = pick.choice(["[1, 1, 4, 1]", "[1, 2, 2, 1]", "[1, 1, 2, 2]", "[1, 1, 3, 1]"])
    sizes = f"[{16 * pick.randint(1, 2)}, {8 * pick.randint(1, 3)}, {8 * pick.randint(1, 8)}]"
    merge = ", merge dram" if cores == "[1, 1, 2, 2]" else ""
    multicast = pick.choice(["", ", multicast [a, b]"])
    return plan(cores, sizes, pick.choice(ORDERS), multicast + merge)


@pytest.mark.parametrize("seed", range(10))
def test_values_and_work_stay_under_random_plans(seed: int) -> None:
    pick = random.Random(seed)
    plans = [random_plan(pick) for _ in range(4)]
    text = chain(*plans, m=pick.choice([16, 40]), width=pick.choice([48, 72]), element="f32", norm=pick.random() < 0.5)
    assert_same_values(text, f"prefetch-weights{{choose=random seed={seed}}},", seed)


def assert_same_values(text: str, prefetch: str, seed: int) -> None:
    """Kernels and commands with and without the pass give the same, and kernels do as much."""
    chip, ahead = with_fp32(CHIP), LOWER.format(prefetch)
    found: list[Array] = []
    work: list[tuple[int, int, int]] = []
    for passes in (PLAIN, ahead):
        module = compiled(text, passes, chip)
        (program,) = (op for op in module.walk() if isinstance(op, tile.ProgramOp))
        values = np.random.default_rng(seed)
        arrays: dict[str, Array] = {
            op.path.data: values.standard_normal((1, *op.all_dims))
            for op in program.walk()
            if isinstance(op, tile.GlobalOp) and op.kind.data in HOST_KINDS
        }
        (tiles,) = run_tiles(program, arrays).outputs.values()
        commands = compiled(text, passes + ",emit-g5", chip)
        (stream,) = (op for op in commands.walk() if isinstance(op, g5.StreamOp))
        (bytes_moved,) = run_stream(stream, arrays, chip.commands.lmem.bytes_per_core).outputs.values()
        found += [tiles, bytes_moved]
        kernels = [
            kernel_work(op) for op in module.walk() if isinstance(op, tile.KernelOp) and op.op_name.data != "copy"
        ]
        columns = ([getattr(w, name).constant for w in kernels] for name in ("flops", "bytes_read", "bytes_written"))
        work.append(tuple(map(sum, columns)))  # type: ignore[arg-type]
    assert all(np.array_equal(found[0], other) for other in found[1:]), text
    assert work[0] == work[1]


def test_the_first_products_of_the_next_kernel_do_not_wait_for_weights() -> None:
    """What is saved is the load of a block: its start-up, and its bytes out of DRAM."""
    text = chain(*[plan()] * 3)
    before, after = (simulate(compiled(text, passes + ",emit-g5")) for passes in (PLAIN, AHEAD))
    first, second, third = (a.duration_ps - b.duration_ps for a, b in zip(after.parts, before.parts, strict=True))
    assert first <= 150_000, "the loads ahead run beside the last products"
    assert second < 0 and third < 0
    assert 0.96 <= after.total_us / before.total_us <= 0.98, (before.total_us, after.total_us)


def test_loops_with_loads_ahead_are_skipped_exactly() -> None:
    module = compiled(chain(*[plan(tile="[64, 16, 64]")] * 2), AHEAD + ",emit-g5")
    for program in (op for op in module.walk() if isinstance(op, g5.ProgramOp)):
        skipped, plain = (run(lower(program, CHIP, {}, loops=loops), CHIP) for loops in (True, False))
        assert skipped.last_ps == plain.last_ps


# -- what the verifiers refuse ----------------------------------------------------------------------------------

BUFFER = "!tile.buffer<[4, 4], f32>"
HELD = f'%h = tile.alloc() {{slots = 1, address = 512}} at "b" : {BUFFER}'
LOAD = 'tile.load(%w, %h) {offsets = [<0>, <0>], sizes = [<4>, <4>], row = <0>, column = <0>} at "b"'
READ = f"""%o = tile.alloc() {{slots = 1}} at "b" : {BUFFER}
    %n = tile.handed_over(%h, %o) {{later = <0>}} at "b" : {BUFFER}"""


def kernels(*bodies: str, held: str = HELD) -> str:
    text = "\n  ".join(
        f'tile.kernel() {{cores = 1, op_name = "layer.matmul"}} at "{name}" {{\n    {body}\n  }}'
        for name, body in zip("abcd", bodies, strict=False)
    )
    return f"""
tile.program() {{sym_name = "s", phase = "decode"}} at "" {{
  %w = tile.global() {{kind = "weight", layers = false}} at "w" : !tile.memref<[4, 4], f32>
  {held}
  {text}
}}"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (kernels(LOAD), "must be loaded by one kernel and read by a later one of the same body"),
        (kernels(READ, LOAD), "must be loaded by one kernel and read by a later one of the same body"),
        (kernels(LOAD, LOAD, READ), "must be loaded by one kernel and read by a later one of the same body"),
        (kernels(LOAD, READ, held=HELD.replace("slots = 1", "slots = 2")), "has 2 slots, must have 1"),
        (
            kernels(LOAD, READ.replace("slots = 1", "slots = 1, address = 528")),
            "the buffer that is handed over to 'b' at 512..575 overlaps one of 'b' at 528..591",
        ),
        (
            kernels(LOAD, f'%x = tile.alloc() {{slots = 2, address = 448}} at "c" : {BUFFER}', READ),
            "at 512..575 overlaps one of 'c' at 448..575",
        ),
        (
            kernels(LOAD, READ.replace("tile.handed_over(%h, %o)", "tile.handed_over(%o, %h)")),
            "held must be a buffer that is allocated outside of kernels",
        ),
        (
            kernels(LOAD, READ.replace(f'at "b" : {BUFFER}', 'at "b" : !tile.buffer<[4, 8], f32>', 1)),
            "is !tile.buffer<[4, 4], f32>, own is !tile.buffer<[4, 8], f32>",
        ),
    ],
)
def test_a_buffer_that_outlives_a_kernel_has_one_that_loads_and_one_that_reads(text: str, message: str) -> None:
    with pytest.raises(VerifyException, match=re.escape(message)):
        Parser(make_context(), text).parse_module().verify()


def test_in_a_repeat_a_kernel_reads_before_another_one_loads_for_the_next_run() -> None:
    def wrapped(*bodies: str) -> str:
        first, *rest = kernels(LOAD, *bodies).split("  tile.kernel()")[1:]
        head = kernels(LOAD).split("  tile.kernel()")[0]
        inside = "".join(f"  tile.kernel(){text}" for text in rest).rstrip().removesuffix("}")
        repeat = f'tile.repeat() {{symbol = "layer", count = 2, first = 0}} at "r" {{\n{inside} }} }}'
        return f"{head}  tile.kernel(){first}{repeat}"

    Parser(make_context(), wrapped(READ, LOAD)).parse_module().verify()
    message = "before the repeat at 'r', and in it be read by one kernel and then loaded by a later one"
    for bodies in ((LOAD, READ), (READ,), (LOAD,), (READ, LOAD, LOAD)):
        with pytest.raises(VerifyException, match=re.escape(message)):
            Parser(make_context(), wrapped(*bodies)).parse_module().verify()
    beside = f'%x = tile.alloc() {{slots = 1, address = 520}} at "c" : {BUFFER}'
    with pytest.raises(VerifyException, match=r"at 512..575 overlaps one of 'c' at 520..583"):
        Parser(make_context(), wrapped(READ, f"{LOAD}\n {beside}")).parse_module().verify()


def test_a_kernel_that_has_no_room_beside_what_is_handed_over_is_an_error() -> None:
    with pytest.raises(PassError, match=r"needs 1024 bytes of LMEM .*, a core has 512"):
        compiled(kernels(f'{LOAD}\n %x = tile.alloc() {{slots = 16}} at "a" : {BUFFER}', READ), "allocate-lmem")


COMMANDS = """
g5.stream() {{sym_name = "s", phase = "decode"}} at "" {{
  g5.array() {{kind = "weight", layers = false, address = 0, type = !tile.memref<[4, 4], f32>}} at "w"
  g5.array() {{kind = "output", layers = false, address = 64, type = !tile.memref<[4, 4], f32>}} at "y"
  {programs}
}}"""
MOVE = (
    'g5.gdma {{direction = "{direction}", dram = <{dram}>, lmem = <{lmem}>, shape = [<{rows}>, <4>], '
    'dram_strides = [<4>, <1>], lmem_strides = [<4>, <1>], element_type = f32}} at "{path}"'
)


def loads(lmem: int, rows: int = 4) -> str:
    return MOVE.format(direction="load", dram=0, lmem=lmem, rows=rows, path="w")


STORES = MOVE.format(direction="store", dram=64, lmem=512, rows=4, path="y")


def programs(*found: tuple[str, str]) -> ModuleOp:
    """Programs of one command each, with what they say of LMEM."""
    text = "\n  ".join(
        f'g5.program() {{cores = 1, op_name = "layer.matmul"{said}}} at "{name}" {{ {command} g5.barrier() at "" }}'
        for name, (said, command) in zip("abc", found, strict=False)
    )
    return Parser(make_context(), COMMANDS.format(programs=text)).parse_module()


GIVES, TAKES = ", hands_over = [#g5.span<512, 64>]", ", takes = [#g5.span<512, 64>]"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([(GIVES, loads(512))], "no program takes what 'a' hands over"),
        ([("", loads(512)), (TAKES, STORES)], "'b' takes LMEM 512.. that no program before it hands over"),
        (
            [(GIVES, loads(512)), (GIVES.replace("512", "520"), loads(520)), (TAKES, STORES)],
            "'b' hands over LMEM that 'a' has handed over",
        ),
        ([(GIVES.replace("64", "0"), loads(512)), (TAKES, STORES)], "0 bytes of LMEM from 512"),
    ],
)
def test_what_programs_hand_over_fits_together(found: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(VerifyException, match=re.escape(message)):
        programs(*found).verify()


LAYERS = """
g5.stream() {{sym_name = "s", phase = "decode"}} at "" {{
  g5.array() {{kind = "weight", layers = true, address = 0, type = !tile.memref<[3, 4, 4], f32>}} at "w"
  g5.array() {{kind = "output", layers = true, address = 192, type = !tile.memref<[3, 4, 4], f32>}} at "y"
  {before}
  g5.repeat() {{symbol = "layer", count = 3, first = 0{carries}}} at "r" {{
  {body}
  }}
  g5.program() {{cores = 1, op_name = "layer.matmul"}} at "e" {{ {after} g5.barrier() at "" }}
}}"""
CARRIES = ", carries = [#g5.span<512, 64>]"


def layers(before: list[tuple[str, str]], body: list[tuple[str, str]], carries: str = CARRIES) -> ModuleOp:
    """Programs before a repeat of three layers and in it."""
    texts = [
        "\n  ".join(
            f'g5.program() {{cores = 1, op_name = "layer.matmul"{said}}} at "{name}" {{ {command} g5.barrier() at "" }}'
            for name, (said, command) in zip(names, found, strict=False)
        )
        for names, found in (("a", before), ("bcd", body))
    ]
    return Parser(
        make_context(), LAYERS.format(before=texts[0], body=texts[1], carries=carries, after=loads(512))
    ).parse_module()


FIRST, STORE_LAYER = loads(512), STORES.replace("<64>", "<layer*64 + 192>")
NEXT = FIRST.replace("dram = <0>", "dram = <min(layer + 1, 2)*64>")


def test_a_layer_has_what_the_one_before_it_has_loaded() -> None:
    module = layers([(GIVES, FIRST)], [(TAKES, STORE_LAYER), (GIVES, NEXT)])
    module.verify()
    (stream,) = (op for op in module.walk() if isinstance(op, g5.StreamOp))
    # What the last layer has loaded is for nobody: the program behind it has these bytes for itself.
    values = np.arange(48.0).reshape(1, 3, 4, 4)
    assert np.array_equal(run_stream(stream, {"w": values}, 4096).outputs["y"], values)


RUNS = "the runs of 'r' hand over LMEM 512.., which a program of it must take and a later one hand over"


@pytest.mark.parametrize(
    ("before", "body", "carries", "message"),
    [
        # The block of the next run is there before that of this one has been read.
        ([(GIVES, FIRST)], [(GIVES, NEXT), (TAKES, STORE_LAYER)], CARRIES, RUNS),
        ([(GIVES, FIRST)], [(TAKES, STORE_LAYER)], CARRIES, RUNS),
        ([(GIVES, FIRST)], [(GIVES, NEXT)], CARRIES, RUNS),
        ([("", FIRST)], [(TAKES, STORE_LAYER), (GIVES, NEXT)], CARRIES, "'r' takes LMEM 512.. that no program before"),
        ([(GIVES, FIRST)], [(TAKES, STORE_LAYER), (GIVES, NEXT)], "", "LMEM that 'a' hands over would have to outlive"),
        (
            [(GIVES, FIRST)],
            [(TAKES, STORE_LAYER), (GIVES, NEXT), (GIVES.replace("512", "520"), loads(520))],
            CARRIES,
            "'d' hands over LMEM that 'c' has handed over",
        ),
    ],
)
def test_what_layers_hand_over_fits_together(
    before: list[tuple[str, str]], body: list[tuple[str, str]], carries: str, message: str
) -> None:
    with pytest.raises(VerifyException, match=re.escape(message)):
        layers(before, body, carries).verify()


def stored(*found: tuple[str, str]) -> Any:
    module = programs(*found)
    (stream,) = (op for op in module.walk() if isinstance(op, g5.StreamOp))
    values = np.arange(16.0).reshape(1, 4, 4)
    return np.array_equal(run_stream(stream, {"w": values}, 4096).outputs["y"], values)


def test_only_what_was_loaded_and_left_alone_is_taken() -> None:
    assert stored((GIVES, loads(512)), ("", loads(1024)), (TAKES, STORES))
    for found, message in (
        ([("", loads(512)), ("", STORES)], "reads LMEM 512..575, of which no command wrote all"),
        ([(GIVES, loads(512, rows=3)), (TAKES, STORES)], "reads LMEM 512..575, of which no command wrote all"),
        (
            [(GIVES, loads(512)), ("", loads(496)), (TAKES, STORES)],
            "uses LMEM that the program at 'a' hands over to a later one",
        ),
        ([("", loads(512)), (TAKES, STORES)], "takes LMEM 512..575, which no program before it hands over"),
    ):
        with pytest.raises(NumericError, match=re.escape(message)):
            stored(*found)
