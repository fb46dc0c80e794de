"""What a program stores: every array once, with the layers that it runs."""

from __future__ import annotations

import pytest

from pmc.compiler.driver import parse_module
from pmc.dialects.analyses.stored_arrays import StoredArray, stored_arrays
from pmc.dialects.errors import PmcError

PROGRAM = """
builtin.module attributes {{dist.mesh = #dist.mesh<2 ranks, tp = 2 stride 1>}} {{
  layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
  ^bb0(%x: !layer.tensor<[8], i32>):
    {body}
    layer.return([]) at "p"
  }}
}}
"""


def weight(name: str, path: str, dims: str = "[4, 6]", more: str = "", split: str = "") -> str:
    attributes = f" attributes {{dist.sharding = #dist.sharding<{split}>}}" if split else ""
    return f'%{name} = layer.weight() {{axes = ["a", "b"]{more}}} at "{path}"{attributes} : !layer.tensor<{dims}, bf16>'


def repeat(first: int, count: int, body: str) -> str:
    return f'layer.repeat {count} from {first} of 9 () at "blocks" {{\n{body}\nlayer.yield([]) at "blocks"\n}}'


def stored(*lines: str) -> list[StoredArray]:
    module = parse_module(PROGRAM.format(body="\n".join(lines)), "test")
    (program,) = module.ops
    return list(stored_arrays(program).values())


def test_one_array_per_path_and_sharding() -> None:
    found = stored(weight("a", "w"), weight("b", "w"), weight("c", "w", "[2, 6]", split="[[tp], []]"), weight("d", "v"))
    assert [(a.path, str(a.type.bytes), a.copies) for a in found] == [("w", "48", 1), ("w", "24", 1), ("v", "48", 1)]


def test_a_transposed_weight_is_the_array_that_it_is_the_transpose_of() -> None:
    transposed = weight("b", "head", "[6, 2]", ', transpose_of = "table"', "[[], [tp]]")
    ((alone,), (first, *others)) = (
        stored(transposed), stored(weight("a", "table", "[2, 6]", split="[[tp], []]"), transposed),
    )  # fmt: skip
    assert not others
    assert (alone.key, alone.type) == (first.key, first.type)
    assert (alone.path, [str(d) for d in alone.type.dims], alone.axes) == ("table", ["2", "6"], ("b", "a"))


def test_layers_run_by_several_repeats_are_one_array() -> None:
    (array,) = stored(repeat(2, 3, weight("a", "w")), repeat(5, 1, weight("b", "w")))
    assert (array.layer_counts, array.layers, array.is_part) == ((9,), range(2, 6), True)
    assert array.bytes.constant == 4 * 48
    (whole,) = stored(repeat(0, 9, weight("a", "w")))
    assert not whole.is_part and whole.copies == 9


def test_steps_of_a_ring_are_no_layers() -> None:
    ring = repeat(1, 2, weight("a", "w")).replace("of 9 ()", 'of 3 as "cp.step" ()')
    (array,) = stored(repeat(4, 2, ring))
    assert (array.layer_counts, array.layers) == ((9,), range(4, 6))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [weight("a", "w"), weight("b", "w", "[6, 4]")],
            "layer.weight at 'w' needs weight 'w' as [6, 4], another op needs weight 'w' as [4, 6]; "
            "one array has one shape",
        ),
        (
            [weight("a", "w"), repeat(0, 9, weight("b", "w"))],
            "layer.weight at 'w' needs weight 'w' as 9 x [4, 6], another op needs weight 'w' as [4, 6]; "
            "one array has one shape",
        ),
        (
            [weight("a", "w"), weight("b", "head", "[4, 6]", ', transpose_of = "w"')],
            "layer.weight at 'head' needs weight 'w' as [6, 4], another op needs weight 'w' as [4, 6]; "
            "one array has one shape",
        ),
    ],
)  # fmt: skip
def test_one_array_has_one_shape(lines: list[str], message: str) -> None:
    with pytest.raises(PmcError) as caught:
        stored(*lines)
    assert str(caught.value) == message
