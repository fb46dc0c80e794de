"""The key of a tile search holds every input; results survive on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from pmc.backends.cost.attention_tiles import AttentionTiles, AttentionTiling
from pmc.backends.cost.matmul_search import MatmulSearch, MatmulTiling
from pmc.backends.cost.matmul_tiles import MatmulTiles
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile_cache import TileCache
from pmc.compiler.config import load_accounting, load_chip
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip
from pmc.dialects.interfaces import AttentionShape, MatmulShape

CHIP = load_chip("sg2262")
RATES = CoreRates(CHIP, load_accounting("physical"))
SHAPE = MatmulShape(1, 64, 1536, 7168, 8, 8, 16, "f8E4M3FN")
ATTENTION = AttentionShape(64, 1, 128, 1, 4096, (512, 64), 512, True, False, 8, 8, 16, 16, 0, "f8E4M3FN")


def leaves(data: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from leaves(cast(dict[str, Any], value), (*path, name))
        else:
            yield (*path, name)


def changed(data: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    head, *rest = path
    value: Any = data[head]
    if rest:
        return {**data, head: changed(value, tuple(rest))}
    other: Any
    match value:
        case bool():
            other = not value
        case int() | float():
            other = value + 1
        case str():
            other = value + "x"
        case None:
            other = 1
        case _:
            other = (*value, "clocks")
    return {**data, head: other}


class Dumped:
    """Fields without validation: most single changes give no consistent chip, the key must differ all the same."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self.fields


def key(chip: Chip = CHIP, accounting: Accounting | None = None, shape: MatmulShape = SHAPE) -> str:
    return TileCache().key(CoreRates(chip, accounting or load_accounting("physical")), shape, MatmulTiling)


@pytest.mark.parametrize("path", list(leaves(CHIP.model_dump())), ids=".".join)
def test_every_chip_field_is_in_the_key(path: tuple[str, ...]) -> None:
    assert key(cast(Chip, Dumped(changed(CHIP.model_dump(), path)))) != key()


def test_every_option_and_every_size_is_in_the_key() -> None:
    accounting = load_accounting("physical")
    for path in leaves(accounting.model_dump()):
        other = cast(Accounting, Dumped(changed(accounting.model_dump(), path)))
        assert key(accounting=other) != key(), path
    for field in fields(SHAPE):
        value = getattr(SHAPE, field.name)
        assert key(shape=replace(SHAPE, **{field.name: value + ("x" if isinstance(value, str) else 1)})) != key()
    assert key() == key(load_chip("sg2262")), "equal inputs have equal keys"


def test_a_result_is_searched_once_and_kept_on_disk(tmp_path: Path) -> None:
    searches = 0

    def find() -> MatmulTiling:
        nonlocal searches
        searches += 1
        return MatmulSearch(MatmulTiles(RATES)).best(SHAPE)

    cache = TileCache(tmp_path)
    first = cache.get(RATES, SHAPE, MatmulTiling, find)
    assert cache.get(RATES, SHAPE, MatmulTiling, find) is first and searches == 1
    assert TileCache(tmp_path).get(RATES, SHAPE, MatmulTiling, find) == first and searches == 1
    attention = cache.get(RATES, ATTENTION, AttentionTiling, lambda: AttentionTiles(RATES).best(ATTENTION))

    def never() -> AttentionTiling:
        raise AssertionError("searched although the result is on disk")

    assert TileCache(tmp_path).get(RATES, ATTENTION, AttentionTiling, never) == attention


def test_a_broken_file_is_searched_anew(tmp_path: Path) -> None:
    best = MatmulSearch(MatmulTiles(RATES)).best(SHAPE)
    cache = TileCache(tmp_path)
    cache.get(RATES, SHAPE, MatmulTiling, lambda: best)
    (file,) = tmp_path.iterdir()
    for text in ("", "{", '{"tile": 3}', "[]"):
        file.write_text(text)
        assert TileCache(tmp_path).get(RATES, SHAPE, MatmulTiling, lambda: best) == best
