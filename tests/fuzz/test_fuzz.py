"""Dumps of all levels with random changes: every command gives a result or one line of error, within a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.corpus import corpus
from tests.fuzz.run import COMMANDS, Report, fuzz

SEED = 20


def assert_clean(report: Report) -> None:
    shown = [f"case {f.case} of {f.dump}, {f.command}:\n{f.what}" for f in report.findings[:10]]
    assert not report.findings, "\n\n".join([f"{len(report.findings)} findings", *shown])


def test_some_mutated_dumps(tmp_path: Path) -> None:
    report = fuzz(SEED, 0, 120, tmp_path)
    assert_clean(report)
    # Mutations that no command survives, or that none notices, would show nothing.
    assert report.outcomes["result"] > 5 and report.outcomes["error"] > 50


@pytest.mark.long
def test_many_mutated_dumps(tmp_path: Path) -> None:
    assert_clean(fuzz(SEED, 120, 100_000, tmp_path))


def test_the_dumps_are_of_all_levels() -> None:
    names = " ".join(dump.name for case in corpus() for dump in case)
    for step in ("import", "expand-blocks", "localize", "partition-stages", "lower-to-tiles", "emit-g5", "unroll"):
        assert step in names
    assert {command[0] for command in COMMANDS} == {"opt", "evaluate", "analyze", "compare", "run", "simulate"}
