"""The formula of the physical model, term by term, by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.physical import Parameters, Terms, log_us

from .silicon_library import toy_system

ALONE = Parameters(
    fixed_us=5.0, compute_efficiency=0.5, memory_efficiency=0.25, overlap_power=1.0, step_us=2.0, tile_us=3.0,
    wave_loss=0.5, idle_loss=1.0,
)  # fmt: skip


def microseconds(root: Path, workload: Gemm, parameters: Parameters) -> float:
    return float(np.exp(log_us(Gemm, workload.points, toy_system(root), (128, 128), parameters))[0])


def test_few_tiles(tmp_path: Path) -> None:
    """300 x 300 in tiles of 128 x 128: 9 of 100 processors compute 384 x 384 numbers; k = 640 has 10 steps."""
    compute = 2 * 300 * 300 * 640 / 1e14 * 1e6 * (384 / 300) ** 2 * (100 / 9) ** 0.5 / 0.5
    memory = 2 * (300 * 640 + 640 * 300 + 300 * 300) / 1e12 * 1e6 * (100 / 9) / 0.25
    steps, starts = 10 * 2.0, 9 / 100 * 3.0
    workload = Gemm(300, 300, 640, "bfloat16")
    assert microseconds(tmp_path, workload, ALONE) == pytest.approx(5 + compute + memory + steps + starts)
    squared = replace(ALONE, overlap_power=2.0)
    together = (compute**2 + memory**2 + steps**2 + starts**2) ** 0.5
    assert microseconds(tmp_path, workload, squared) == pytest.approx(5 + together)


def test_the_last_wave_is_not_full(tmp_path: Path) -> None:
    """16 x 16 tiles = 256 on 100 processors: 3 waves take what 300 tiles would; the memory is asked for in full."""
    workload = Gemm(2048, 2048, 64, "bfloat16")
    compute = 2 * 2048 * 2048 * 64 / 1e14 * 1e6 * (300 / 256) ** 0.5 / 0.5
    memory = 2 * (2 * 2048 * 64 + 2048 * 2048) / 1e12 * 1e6 / 0.25
    assert microseconds(tmp_path, workload, ALONE) == pytest.approx(5 + compute + memory + 2.0 + 256 / 100 * 3.0)


def test_no_power_overflows(tmp_path: Path) -> None:
    """At a high power the largest term is all."""
    steep = replace(ALONE, overlap_power=1e4, memory_efficiency=1e-6)
    memory = 2 * (2 * 2048 * 64 + 2048 * 2048) / 1e12 * 1e6 / 1e-6
    assert microseconds(tmp_path, Gemm(2048, 2048, 64, "bfloat16"), steep) == pytest.approx(5 + memory)


def test_slopes_are_those_of_the_formula(tmp_path: Path) -> None:
    """By differences, in the coordinates of the fit: logs, the log of the power over 1, and the losses."""
    system = toy_system(tmp_path)
    points = replace(
        Gemm(300, 300, 640, "bfloat16").points, coordinates=np.array([[300, 300, 640], [4096, 2048, 64.0]])
    )
    terms = Terms.of(Gemm, points, system, (128, 128))
    there = replace(ALONE, overlap_power=2.5)
    slopes = terms.with_slopes(there)[1]
    for place, field in enumerate(fields(there)):
        value, step = getattr(there, field.name), 1e-6
        if field.name == "overlap_power":
            moved = 1 + (value - 1) * np.exp(step)
        else:
            moved = value + step if field.name.endswith("loss") else value * np.exp(step)
        change = terms.log_us(replace(there, **{field.name: float(moved)})) - terms.log_us(there)
        assert change / step == pytest.approx(slopes[:, place], abs=1e-5)
