"""The passes allocate-lmem and allocate-dram: nothing overlaps that is needed at the same time, and budgets hold."""

from itertools import combinations

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.tile import AllocOp, GlobalOp, MmaOp, buffer_type, memref_type
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.allocate_lmem import AllocateLmemPass, lmem_bank
from pmc.passes.base import PassError

KERNEL = """
tile.program() {{sym_name = "p", phase = "decode"}} at "p" {{
  tile.kernel() {{cores = 64, op_name = "layer.matmul"}} at "p.mm" {{
    tile.for k < <4> at "p.mm" {{
      %odd = tile.alloc() {{slots = 1}} at "p.mm" : !tile.buffer<[1, 5], bf16>
      %a = tile.alloc() {{slots = 2}} at "p.mm" : !tile.buffer<[16, {k}], bf16>
      %b = tile.alloc() {{slots = 2}} at "p.mm" : !tile.buffer<[{k}, 8], bf16>
      %c = tile.alloc() {{slots = 1}} at "p.mm" : !tile.buffer<[16, 8], f32>
      tile.mma(%c, %a, %b) {{m = <16>, n = <8>, k = <{k}>, accumulate = <k>, transpose_b = false}} at "p.mm"
    }}
  }}
}}
"""


def chip(**dram: float) -> Chip:
    fields = load_chip("sg2262").model_dump()
    fields["dram"].update(dram)
    return Chip.model_validate(fields)


def module(text: str, target: Chip) -> ModuleOp:
    parsed = Parser(make_context(), text).parse_module()
    parsed.verify()
    parsed.attributes["arch.chip"] = ChipAttr(target)
    return parsed


def ranges(parsed: ModuleOp) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for op in parsed.walk():
        if isinstance(op, AllocOp):
            assert op.address is not None
            start = op.address.value.data
            found[op.result.name_hint or ""] = (start, start + op.slots.value.data * buffer_type(op.result).bytes)
    return found


def test_buffers_are_aligned_disjoint_and_in_banks_of_their_own() -> None:
    target = chip()
    parsed = module(KERNEL.format(k=256), target)
    AllocateLmemPass().apply(make_context(), parsed)
    parsed.verify()
    placed = ranges(parsed)
    assert set(placed) == {"odd", "a", "b", "c"}
    assert all(start % target.alignment_bytes == 0 for start, _ in placed.values())
    for (_, end), (start, _) in combinations(sorted(placed.values()), 2):
        assert end <= start
    mma = next(op for op in parsed.walk() if isinstance(op, MmaOp))
    banks = {name: lmem_bank(placed[name][0], target) for name in ("a", "b", "c")}
    assert mma.acc.name_hint == "c"
    assert banks["c"] not in (banks["a"], banks["b"])


def test_a_full_lmem_gives_up_the_banks_not_the_fit() -> None:
    """A and B take 2 x (16 + 8) x k x 2 = 96 k bytes: with k = 9800 no room is left to move C to another bank."""
    parsed = module(KERNEL.format(k=9800), chip())
    AllocateLmemPass().apply(make_context(), parsed)
    assert max(end for _, end in ranges(parsed).values()) <= chip().lmem_tile_budget_bytes


def test_over_budget_names_the_kernel_and_both_numbers() -> None:
    # 32 (padded from 10) + 2 * 16 * 10000 * 2 + 2 * 10000 * 8 * 2 + 16 * 8 * 4
    need = 32 + 640000 + 320000 + 512
    with pytest.raises(PassError) as caught:
        AllocateLmemPass().apply(make_context(), module(KERNEL.format(k=10000), chip()))
    assert str(caught.value) == (
        f"allocate-lmem: the kernel of layer.matmul at 'p.mm' needs {need} bytes of LMEM, "
        "the budget of a core is 943718"
    )


BLOCK = "{offsets = [<0>], sizes = [<1000>], row = <0>, column = <0>}"


def copy(source: str, target: str) -> str:
    return f"""
  tile.kernel() {{cores = 1, op_name = "copy"}} at "p.copy" {{
    %buffer_{source}_{target} = tile.alloc() {{slots = 1}} at "p" : !tile.buffer<[1, 1000], bf16>
    tile.load(%{source}, %buffer_{source}_{target}) {BLOCK} at "p"
    tile.store(%{target}, %buffer_{source}_{target}) {BLOCK} at "p"
  }}"""


def program(body: str, *activations: str) -> str:
    kinds = {"x": "input", "w": "weight", "y": "output", **dict.fromkeys(activations, "activation")}
    arrays = "\n".join(
        f'  %{name} = tile.global() {{kind = "{kind}", layers = false}} at "p.{name}" : !tile.memref<[1000], bf16>'
        for name, kind in kinds.items()
    )
    return f'tile.program() {{sym_name = "p", phase = "decode"}} at "p" {{\n{arrays}\n{body}\n}}'


def addresses(text: str, target: Chip | None = None) -> dict[str, int]:
    parsed = module(text, target or chip())
    AllocateDramPass().apply(make_context(), parsed)
    parsed.verify()
    found: dict[str, int] = {}
    for op in parsed.walk():
        if isinstance(op, GlobalOp):
            assert op.address is not None
            assert memref_type(op.result).bytes == 2000
            found[op.path.data.removeprefix("p.")] = op.address.value.data
    return found


def test_a_chain_of_activations_needs_two_arrays() -> None:
    found = addresses(program(copy("x", "a") + copy("a", "b") + copy("b", "c") + copy("c", "y"), "a", "b", "c"))
    assert found["a"] == found["c"] != found["b"] == found["y"]  # the output is one of the chain
    fixed = [found[n] for n in ("x", "w", "a", "b")]
    assert sorted(fixed) == [0, 2016, 4032, 6048]  # 2000 bytes, aligned to 32


def test_a_value_that_is_needed_later_keeps_its_memory() -> None:
    found = addresses(program(copy("x", "a") + copy("a", "b") + copy("b", "c") + copy("a", "y"), "a", "b", "c"))
    assert len({found["a"], found["b"], found["c"]}) == 3


def test_a_value_carried_by_a_repeat_lives_through_all_of_it() -> None:
    """`a` is read first and written last in the body: between, `b` and `c` must not overwrite it."""
    repeat = 'tile.repeat() {symbol = "layer", count = 3, first = 0} at "p" {'
    inside = repeat + copy("a", "b") + copy("b", "c") + copy("c", "d") + copy("d", "a") + "}"
    found = addresses(program(copy("x", "a") + inside + copy("a", "y"), "a", "b", "c", "d"))
    assert found["a"] not in (found["b"], found["c"], found["d"])
    assert found["b"] == found["d"] != found["c"]


def test_a_value_that_every_iteration_reads_keeps_its_memory_until_the_last() -> None:
    """`a` is last used before `c` is made, but the next iteration reads it again."""
    repeat = 'tile.repeat() {symbol = "layer", count = 3, first = 0} at "p" {'
    inside = repeat + copy("a", "b") + copy("b", "c") + copy("c", "y") + "}"
    found = addresses(program(copy("x", "a") + inside, "a", "b", "c"))
    assert len({found["a"], found["b"], found["c"]}) == 3


def test_too_little_dram_says_by_how_much() -> None:
    small = chip(capacity_gib=4096 / 2**30)
    with pytest.raises(PassError) as caught:
        addresses(program(copy("x", "y")), small)
    # x and w take 2016 bytes each with their padding, y ends after 2000 more.
    assert str(caught.value) == (
        "allocate-dram: program 'p' needs 6032 bytes of DRAM, sg2262 has 4096: 1936 bytes too many"
    )
