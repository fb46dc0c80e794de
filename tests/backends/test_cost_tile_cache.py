"""The key of a search for a plan holds every input; plans survive on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile_cache import PlanCache
from pmc.compiler.config import load_accounting, load_chip
from pmc.dialects.accounting import Accounting
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape, WeightStorage
from pmc.dialects.arch import Chip
from pmc.dialects.tile_plan import PlanAttr

CHIP = load_chip("sg2262")
RATES = CoreRates(CHIP, load_accounting("physical"))
SHAPE = MatmulShape(1, 64, 1536, 7168, 8, 8, 16, "f8E4M3FN", converts=True)
ATTENTION = AttentionShape(2, 1, 128, 1, 65536, (512, 64), 512, 0, False, 8, (8, 8), 8, 8, 16, 0, "f8E4M3FN")
"""Two long sequences, so that the plan has a merge."""


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
    return {**data, head: another(value)}


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case None:
            return 1
        case WeightStorage():
            return replace(value, group=value.group + 1)
        case _:
            return (*value, "clocks")


class Dumped:
    """Fields without validation: most single changes give no consistent chip, the key must differ all the same."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self.fields


def key(chip: Chip = CHIP, accounting: Accounting | None = None, shape: MatmulShape | AttentionShape = SHAPE) -> str:
    return PlanCache(CoreRates(chip, accounting or load_accounting("physical"))).key(shape)


def searched(rates: CoreRates, shape: MatmulShape | AttentionShape, folder: Path | None = None) -> PlanAttr:
    search = PlanSearch(rates, folder)
    return search.matmul(shape) if isinstance(shape, MatmulShape) else search.attention(shape)


def never() -> PlanAttr:
    raise AssertionError("searched although the plan is known")


@pytest.mark.parametrize("path", list(leaves(CHIP.model_dump())), ids=".".join)
def test_every_chip_field_is_in_the_key(path: tuple[str, ...]) -> None:
    assert key(cast(Chip, Dumped(changed(CHIP.model_dump(), path)))) != key()


def test_every_option_is_in_the_key() -> None:
    accounting = load_accounting("physical")
    for path in leaves(accounting.model_dump()):
        other = cast(Accounting, Dumped(changed(accounting.model_dump(), path)))
        assert key(accounting=other) != key(), path
    assert key() == key(load_chip("sg2262")), "equal inputs have equal keys"


@pytest.mark.parametrize("shape", [SHAPE, ATTENTION], ids=["matmul", "attention"])
def test_every_size_is_in_the_key(shape: MatmulShape | AttentionShape) -> None:
    keys = {field.name: key(shape=replace(shape, **{field.name: another(getattr(shape, field.name))}))
            for field in fields(shape)}  # fmt: skip
    assert key(shape=shape) not in keys.values() and len(set(keys.values())) == len(keys)


def test_a_plan_is_searched_once_and_kept_on_disk(tmp_path: Path) -> None:
    searches = 0

    def find() -> PlanAttr:
        nonlocal searches
        searches += 1
        return searched(RATES, SHAPE)

    cache = PlanCache(RATES, tmp_path)
    first = cache.get(SHAPE, find)
    assert cache.get(SHAPE, find) is first and searches == 1
    assert PlanCache(RATES, tmp_path).get(SHAPE, never) == first
    other = PlanCache(CoreRates(CHIP, load_accounting("ds-tpu")), tmp_path)
    assert other.get(SHAPE, find) == first and searches == 2, "another accounting searches for itself"


def test_no_field_of_a_plan_is_left_to_its_default(tmp_path: Path) -> None:
    plan = PlanAttr.of([1, 1, 4, 2], [16, 8, 32], "gnkm", slots=1, multicast=("a", "b"), merge="dram")
    assert PlanCache(RATES, tmp_path).get(SHAPE, lambda: plan) == plan
    assert PlanCache(RATES, tmp_path).get(SHAPE, never) == plan


@pytest.mark.parametrize("shape", [SHAPE, ATTENTION], ids=["matmul", "attention"])
def test_the_search_keeps_every_field_of_its_plans(shape: MatmulShape | AttentionShape, tmp_path: Path) -> None:
    found = searched(RATES, shape, tmp_path)
    assert found.multicast.data and (shape is SHAPE or found.merge.data != "none"), "all fields are in use"
    assert PlanCache(RATES, tmp_path).get(shape, never) == found


@pytest.mark.parametrize(
    "text", ["", "{", '{"tile": 3}', "[]", "null", '{"cores": [1], "tile": [1], "order": "gmnk", "depth": 2}']
)
def test_a_broken_file_is_searched_anew(text: str, tmp_path: Path) -> None:
    best = searched(RATES, SHAPE, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert PlanCache(RATES, tmp_path).get(SHAPE, lambda: best) == best
    assert PlanCache(RATES, tmp_path).get(SHAPE, never) == best, "and written anew"
