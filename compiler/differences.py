"""The first value in which two runs of a model differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import LayerRun, ValueKey
from pmc.dialects.drafting import DRAFT, application


@dataclass(frozen=True)
class Difference:
    """Where a pass first changed a value."""

    path: str
    what: str
    max_error: float


@dataclass(frozen=True)
class Expected:
    """What must come out, and what the last good level recorded on the way."""

    outputs: Sequence[Array]
    """The logits of the model, then those of every application of a draft layer."""
    states: Mapping[str, Array]
    values: Mapping[ValueKey, Sequence[Array]]


def compare(expected: Expected, run: LayerRun, tolerance: float) -> tuple[Difference | None, float]:
    """The first value that differs, by execution order if it was recorded; and the largest error of the results."""
    names = ["logits", *(f"{application(DRAFT, number)}.head" for number in range(len(expected.outputs) - 1))]
    found = [*run.outputs, *[None] * (len(names) - len(run.outputs))]
    results: list[tuple[str, Array, Array | None]] = list(zip(names, expected.outputs, found, strict=True))
    results += [(path, values, run.states.get(path)) for path, values in expected.states.items()]
    worst = max(error_of(before, after) for _, before, after in results)
    if worst <= tolerance:
        return None, worst
    for key, execution in _in_execution_order(expected.values):
        before, again = expected.values[key][execution], run.values.get(key, ())
        after = again[execution] if execution < len(again) else None
        if after is not None and before.shape == after.shape and error_of(before, after) > tolerance:
            return Difference(key.path, f"{key.op} result {key.result}", error_of(before, after)), worst
    name, error = next((name, error_of(a, b)) for name, a, b in results if error_of(a, b) > tolerance)
    what = "logits" if name in names else "the cache after the step"
    return Difference("" if name == "logits" else name, what, error), worst


def _in_execution_order(values: Mapping[ValueKey, Sequence[Array]]) -> Iterator[tuple[ValueKey, int]]:
    """Every value and which of its executions: the ops of repeated layers run one layer after the other."""
    for _, group in groupby(values, key=lambda key: key.path.split(".")[:2]):
        keys = list(group)
        for execution in range(max(len(values[key]) for key in keys)):
            yield from ((key, execution) for key in keys if execution < len(values[key]))


def error_of(before: Array, after: Array | None) -> float:
    """The largest difference, relative to the largest value (at least 1); infinite where shapes differ.

    An array of no elements, as a cache of entries before the first one, may be missing.
    """
    if after is None and before.size == 0:
        return 0.0
    if after is None or before.shape != after.shape:
        return np.inf
    if before.size == 0 or before.dtype.kind in "iu":
        return 0.0 if np.array_equal(before, after) else np.inf
    scale = max(1.0, float(np.abs(before).max()))
    difference = float(np.abs(before - after).max()) / scale
    return difference if np.isfinite(difference) else np.inf
