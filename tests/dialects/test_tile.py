"""The tile dialect: its text, its verifiers, and the work of a kernel counted by hand."""

from io import StringIO

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.context import make_context
from pmc.dialects.analyses.kernel_work import kernel_work
from pmc.dialects.tile import KernelOp, MemRefType, memref_type

# Rows 0..9 in tiles of 4 over 2 cores (8 + 2 rows); core 2 has none.  B [6, 5] is read whole by every core.
KERNEL = """
tile.program() {sym_name = "p", phase = "decode"} at "p" {
  %a = tile.global() {kind = "input", layers = false} at "a" : !tile.memref<[10, 6], bf16>
  %b = tile.global() {kind = "weight", layers = true} at "b" : !tile.memref<[3, 6, 5], bf16>
  %c = tile.global() {kind = "output", layers = false, address = 64} at "c" : !tile.memref<[10, 5], bf16>
  %v = tile.view(%a) at "a" : !tile.memref<[10, 3], bf16, strides [6, 1], offset 3>
  tile.repeat() {symbol = "layer", count = 2, first = 1} at "p" {
    tile.kernel() {cores = 3, op_name = "layer.matmul"} at "mm" {
      tile.for m < <max(ceildiv(min(8, -8*core + 10), 4), 0)> at "mm" {
        %rows = tile.alloc() {slots = 2} at "mm" : !tile.buffer<[4, 6], bf16>
        tile.load(%a, %rows) {offsets = [<core*8 + m*4>, <0>], sizes = [<min(4, -8*core - 4*m + 10)>, <6>],
          row = <0>, column = <0>} at "mm"
        %w = tile.alloc() {slots = 2, address = 32} at "mm" : !tile.buffer<[6, 5], bf16>
        tile.load(%b, %w) {offsets = [<layer>, <0>, <0>], sizes = [<1>, <6>, <5>], row = <0>, column = <0>} at "mm"
        %acc = tile.alloc() {slots = 2} at "mm" : !tile.buffer<[4, 5], f32>
        tile.mma(%acc, %rows, %w) {m = <min(4, -8*core - 4*m + 10)>, n = <5>, k = <6>, accumulate = <0>,
          transpose_b = false} at "mm"
        %y = tile.alloc() {slots = 2} at "mm" : !tile.buffer<[4, 5], bf16>
        tile.vector([%acc], [%y], []) {kind = #tile.convert, rows = <min(4, -8*core - 4*m + 10)>, columns = <5>} at "mm"
        tile.store(%c, %y) {offsets = [<core*8 + m*4>, <0>], sizes = [<min(4, -8*core - 4*m + 10)>, <5>],
          row = <0>, column = <0>} at "mm"
      }
    }
  }
  tile.collective([%c], [%c]) {collective = #dist.all_reduce<tp>} at "mm"
}
"""


def parsed(text: str) -> ModuleOp:
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


def printed(module: ModuleOp, generic: bool = False) -> str:
    stream = StringIO()
    Printer(stream, print_generic_format=generic).print_op(module)
    return stream.getvalue()


def kernel(module: ModuleOp) -> KernelOp:
    return next(op for op in module.walk() if isinstance(op, KernelOp))


@pytest.mark.parametrize("generic", [False, True])
def test_round_trip(generic: bool) -> None:
    text = printed(parsed(KERNEL), generic)
    assert printed(parsed(text), generic) == text


def test_the_symbol_of_a_repeat_is_a_name() -> None:
    vector = KERNEL.replace("columns = <5>", "columns = <layer + 5>")
    for text in (KERNEL, vector):
        with pytest.raises(VerifyException):
            parsed(text.replace('symbol = "layer"', "symbol = #dist.all_reduce<tp>"))


def test_work_is_exact_at_edges_and_on_idle_cores() -> None:
    """10 x 6 x 5 multiplies; every core reads B once per tile it has."""
    module = parsed(KERNEL)
    work = kernel_work(kernel(module))
    assert (work.flops.constant, work.unit, work.dtype) == (2 * 10 * 6 * 5, "cube", "bf16")
    assert work.bytes_written.constant == 10 * 5 * 2
    assert work.bytes_read.constant == 10 * 6 * 2 + 3 * (6 * 5 * 2)


B_SIZES = "sizes = [<1>, <6>, <5>], row = <0>, column = <0>"


@pytest.mark.parametrize(
    ("cores", "reads_of_b"),
    [
        ("0, 3", 2),  # iteration 0 is shared by both busy cores, iteration 1 runs on core 0 only
        ("core, 1", 3),
        ("floordiv(core, 2)*2, 2", None),  # core 2 would share with core 3, which there is not
    ],
)
def test_a_load_that_serves_several_cores_is_one_read(cores: str, reads_of_b: int | None) -> None:
    text = KERNEL.replace(B_SIZES, f"{B_SIZES}, serves = #tile.cores<{cores}>")
    if reads_of_b is None:
        with pytest.raises(VerifyException, match=r"core 2 names the cores \[2, 3\], the kernel has 0\.\.2"):
            parsed(text)
        return
    assert kernel_work(kernel(parsed(text))).bytes_read.constant == 10 * 6 * 2 + reads_of_b * (6 * 5 * 2)


# -- what cores do together -------------------------------------------------------------------------------------

TOGETHER = """
tile.program() {sym_name = "p", phase = "decode"} at "p" {
  %x = tile.global() {kind = "input", layers = false} at "x" : !tile.memref<[8, 8], bf16>
  tile.kernel() {cores = 6, op_name = "layer.add"} at "k" {
    tile.for i < <3> at "k" {
      tile.for j < <i + 1> at "k" {
        %a = tile.alloc() {slots = 2} at "k" : !tile.buffer<[8, 8], bf16>
        tile.load(%x, %a) {offsets = [<0>, <0>], sizes = [<8>, <8>], serves = #tile.cores<floordiv(core, 3)*3, 3>}
          at "load"
        tile.store(%x, %a) {offsets = [<0>, <0>], sizes = [<8>, <8>], late = unit} at "store"
        tile.barrier() at "meet"
      }
    }
  }
}
"""


def test_cores_may_share_reads_wait_for_each_other_and_store_late() -> None:
    text = printed(parsed(TOGETHER))
    for part in ("serves = #tile.cores<floordiv(core, 3)*3, 3>", "late = unit", 'tile.barrier() at "meet"'):
        assert part in text
    assert printed(parsed(text)) == text


SERVES = "#tile.cores<floordiv(core, 3)*3, 3>"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "j < <i + 1>", "j < <min(core, 2)>",
            "tile.barrier at 'meet': some cores miss the barrier: loop 'j' around it runs min(core, 2) times, which "
            "differs from core to core",
        ),
        (
            "i < <3>", "i < <core + 1>",
            "tile.barrier at 'meet': some cores miss the barrier: loop 'i' around it runs core + 1 times, which "
            "differs from core to core",
        ),
        # Found by fuzzing: the cores that a load serves were listed for all 2^31 of them.
        ("cores = 6", "cores = 2147483648", "tile.kernel at 'k': cores is 2147483648, must be 1 to 65536"),
        (SERVES, "#tile.cores<core, 2>", "tile.load at 'load': core 5 names the cores [5, 6], the kernel has 0..5"),
        (SERVES, "#tile.cores<core - 1, 2>", "core 0 names the cores [-1, 0], the kernel has 0..5"),
        (SERVES, "#tile.cores<0, 4 stride 2>", "names 4 cores 2 apart, the kernel has 6"),
        (SERVES, "#tile.cores<0, 0>", "tile.load at 'load': count and stride must be at least 1"),
        (SERVES, "#tile.cores<i, 2>", "the first core may depend on 'core' only, not on 'i'"),
        (SERVES, "#tile.cores<0, 3>", "tile.load at 'load': core 3 is not among the cores [0, 1, 2] that it names"),
        (
            # Core 1 names 0 and 1, core 0 names 0 and 1; core 2 names 1 and 2, which core 1 does not.
            SERVES, "#tile.cores<max(core - 1, 0), 2>",
            "tile.load at 'load': the cores [1, 2] that core 2 names do not all name the same",
        ),
    ],
)  # fmt: skip
def test_what_cores_cannot_do_together_is_one_line(old: str, new: str, message: str) -> None:
    assert old in TOGETHER
    with pytest.raises(VerifyException) as caught:
        parsed(TOGETHER.replace(old, new))
    assert message in str(caught.value) and "\n" not in str(caught.value).split(message)[1]


def test_a_late_store_needs_a_loop() -> None:
    text = TOGETHER.replace('tile.for i < <3> at "k" {', "").replace('tile.for j < <i + 1> at "k" {', "")
    with pytest.raises(VerifyException) as caught:
        parsed(text.replace("      }\n    }\n", ""))
    assert "tile.store at 'store': only a command in a loop can be late" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("slots = 2", "slots = 1", "a late store needs a buffer that its loop allocates with at least 2 slots"),
        (
            "tile.barrier()", "tile.vector([%a], [%a], []) {kind = #tile.convert, rows = <8>, columns = <8>}",
            "what it stores is overwritten after it in the same iteration",
        ),
    ],
)  # fmt: skip
def test_what_a_late_store_stores_stays_until_then(old: str, new: str, message: str) -> None:
    with pytest.raises(VerifyException) as caught:
        parsed(TOGETHER.replace(old, new))
    assert str(caught.value) == f"tile.store at 'store': {message}"


def test_work_of_dependent_loops() -> None:
    """A triangle: the inner loop runs i + 1 times, 1 + 2 + 3 commands; a vector kernel counts vector arithmetic."""
    body = """
tile.kernel() {cores = 2, op_name = "layer.add"} at "t" {
  tile.for i < <3> at "t" {
    tile.for j < <i + 1> at "t" {
      %a = tile.alloc() {slots = 1} at "t" : !tile.buffer<[4, 8], f32>
      tile.vector([%a, %a], [%a], []) {kind = #tile.add, rows = <core + 1>, columns = <8>} at "t"
    }
  }
}
"""
    work = kernel_work(kernel(parsed(body)))
    assert work.flops.constant == 6 * (1 + 2) * 8
    assert work.unit == "vector"


def test_memref_text_and_size() -> None:
    module = parsed(KERNEL)
    view = next(op for op in module.walk() if op.name == "tile.view").results[0]
    assert memref_type(view).steps == (6, 1)
    assert not memref_type(view).is_dense
    dense = MemRefType.of([10, 6], memref_type(view).element_type)
    assert dense.is_dense
    assert dense.bytes == 120


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "output"', 'kind = "result"', "unknown kind 'result', must be weight, state, input, communication, "),
        ("offsets = [<layer>, <0>, <0>]", "offsets = [<0>, <0>]", "needs 3 offsets and sizes"),
        ("#tile.convert", "#tile.add", "takes (2, 1, 0) inputs, outputs and updates (a, b, out), found (1, 1, 0)"),
    ],
)
def test_verifiers(old: str, new: str, message: str) -> None:
    assert old in KERNEL
    with pytest.raises(VerifyException) as caught:
        parsed(KERNEL.replace(old, new))
    assert message in str(caught.value)
