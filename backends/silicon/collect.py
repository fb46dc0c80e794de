"""Measuring a device of one's own: what `pmc collect` does, apart from running kernels (`torch_device`).

    <out>/<name>.yaml                                          rates and bandwidth, measured once
    <out>/data/<name>/<framework>/<version>/<kind>_perf.csv    one row per measurement, in the order of measuring

That is the layout of `library`, so `pmc calibrate --perf-dir` and every query read it.  Rows that stand are kept: what
was broken off goes on where it was.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import yaml

from pmc.backends.silicon.attention import ContextAttention, GenerationAttention
from pmc.backends.silicon.columns import read_columns
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.moe import Moe
from pmc.backends.silicon.rows import PASSES, Elementwise, Norm
from pmc.backends.silicon.system import System, SystemFile, read_system
from pmc.backends.silicon.work import Workload
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean

SEED = 20
DTYPE = "bfloat16"


class Device(Protocol):
    """What runs kernels."""

    framework: str
    version: str
    lane: str
    """The `kernel_source` of its rows."""

    def specification(self) -> SystemFile:
        """Rates and bandwidth, as far as they can be read or measured; no folder of data."""
        ...

    def milliseconds(self, workload: Workload) -> float:
        """The time of one run of a kernel, without its launch where the device can tell."""
        ...


_TOKENS = tuple(2**i for i in range(14))
_HEADS = ((8, 1), (8, 8), (32, 8), (32, 32), (64, 8))


def _gemm() -> Iterator[Workload]:
    for m, n, k in product(_TOKENS, (512, 1024, 2048, 4096, 7168, 14336, 28672), (512, 1024, 2048, 4096, 8192, 14336)):
        yield Gemm(m, n, k, DTYPE)


def _context_attention() -> Iterator[Workload]:
    lengths = (16, 64, 256, 1024, 2048, 4096, 8192, 16384)
    for b, s, (heads, groups), dim in product((1, 2, 4, 8, 16, 32), lengths, _HEADS, (64, 128)):
        yield ContextAttention(b, s, heads, groups, dim, 1, 0, 0, DTYPE, DTYPE)


def _generation_attention() -> Iterator[Workload]:
    lengths = (15, 63, 255, 1023, 4095, 16383, 65535)
    for b, step, (heads, groups), dim in product((1, 2, 4, 8, 16, 32, 64, 128, 256), lengths, _HEADS, (64, 128)):
        yield GenerationAttention(b, 1, heads, groups, dim, 1, step, 0, DTYPE, DTYPE)


def _moe() -> Iterator[Workload]:
    layers = ((512, 256, 2, 8), (1024, 512, 4, 16), (2048, 768, 8, 128), (4096, 1536, 8, 64), (4096, 14336, 2, 8))
    for tokens, (hidden, inner, topk, experts) in product(_TOKENS, layers):
        yield Moe(tokens, hidden, inner, topk, experts, 1, 1, DTYPE, "balanced")


def _rows(workload: type[Norm] | type[Elementwise]) -> Iterator[Workload]:
    for tokens, hidden, name in product(_TOKENS, (512, 1024, 2048, 4096, 8192, 16384), PASSES[workload.KIND]):
        yield workload(tokens, hidden, name, DTYPE)


GRIDS: Mapping[str, Callable[[], Iterator[Workload]]] = MappingProxyType(
    {
        "gemm": _gemm,
        "context_attention": _context_attention,
        "generation_attention": _generation_attention,
        "moe": _moe,
        "norm": lambda: _rows(Norm),
        "elementwise": lambda: _rows(Elementwise),
    }
)
"""What is measured of every kind that can be."""


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise PmcError, with the nearest name, for a kind that cannot be measured."""
    for kind in kinds:
        if kind not in GRIDS:
            near = did_you_mean(kind, GRIDS)
            raise PmcError(f"kind '{kind}' cannot be collected{near}; known: {', '.join(GRIDS)}")


@dataclass(frozen=True)
class Task:
    """What is to be measured of one kind."""

    kind: str
    missing: tuple[Workload, ...]
    standing: int
    """Points that have a row."""
    too_long: int
    """Points that would take longer than asked for, or not fit the memory."""


@dataclass(frozen=True)
class Collection:
    """A folder that measurements of one device go to."""

    out: Path
    system: System
    device: Device

    @classmethod
    def open(cls, out: Path, name: str, device: Device) -> Collection:
        """The folder, with the specification that stands there, or a new one that is measured now."""
        path = out / f"{name}.yaml"
        if not path.exists():
            fields = device.specification().model_dump(mode="json", exclude_none=True)
            fields["data_dir"] = f"data/{name}"
            text = f"# Measured by pmc collect with {device.framework} {device.version}.\n{yaml.safe_dump(fields)}"
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return cls(out, read_system(path), device)

    def plan(self, kinds: Sequence[str], points: int | None, most_ms: float) -> tuple[Task, ...]:
        """What is missing of these kinds, without any of all.

        With `points` only so many of each kind, drawn with a fixed seed.  Points whose least time is more than
        `most_ms`, or whose operands take more than half of the memory, are left out.  Raises PmcError for a kind that
        cannot be measured, and for a table that is damaged.
        """
        check_kinds(kinds)
        return tuple(self._task(kind, points, most_ms) for kind in dict.fromkeys(kinds or GRIDS))

    def run(self, tasks: Sequence[Task]) -> Iterator[Workload]:
        """Measure what is missing and write it, row by row."""
        for task in tasks:
            if not task.missing:
                continue
            path = self.path(task.kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.exists()
            with path.open("a", encoding="utf-8", newline="") as file:
                if not whole:
                    file.write(_line(_header(task.missing[0])))
                for workload in task.missing:
                    milliseconds = self.device.milliseconds(workload)
                    file.write(_line(self._row(workload, milliseconds)))
                    file.flush()
                    yield workload

    def path(self, kind: str) -> Path:
        """The table of a kind."""
        folder = self.out / "data" / self.system.name / self.device.framework / self.device.version
        return folder / f"{kind}_perf.csv"

    def _task(self, kind: str, points: int | None, most_ms: float) -> Task:
        grid = list(GRIDS[kind]())
        fitting = [w for w in grid if self._fits(w, most_ms)]
        if points is not None and points < len(fitting):
            order: list[int] = np.random.default_rng(SEED).permutation(len(fitting))[:points].tolist()
            fitting = [fitting[i] for i in sorted(order)]
        standing = self._standing(kind)
        missing = tuple(w for w in fitting if _key(w) not in standing)
        return Task(kind, missing, len(fitting) - len(missing), sum(not self._fits(w, most_ms) for w in grid))

    def _fits(self, workload: Workload, most_ms: float) -> bool:
        work = type(workload).work(workload.points, self.system)
        # What is moved is at least what is held, but for the cache of experts, which is held whole.
        held = work.memory_s[0] * self.system.bytes_per_second
        if isinstance(workload, Moe):
            held += 2 * 3 * workload.num_experts * workload.hidden_size * workload.inter_size
        return bool(work.sol_ms[0] <= most_ms and held <= self.system.spec.gpu.mem_capacity / 2)

    def _standing(self, kind: str) -> set[tuple[object, ...]]:
        """Keys of the rows that stand.  A line that was broken off is taken away."""
        path = self.path(kind)
        if not path.exists():
            return set()
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            path.write_text(text, encoding="utf-8")
        if text.count("\n") < 2:
            path.unlink()
            return set()
        table_kind = next(GRIDS[kind]()).table_kind()
        columns = read_columns(path, table_kind)
        words = [[columns.words[n].words[int(c)] for c in columns.words[n].codes] for n in table_kind.categories]
        numbers: list[list[float]] = [columns.numbers[axis].tolist() for axis in table_kind.axes]
        return set(zip(*numbers, *words, strict=True))

    def _row(self, workload: Workload, milliseconds: float) -> list[object]:
        device, kind = self.device, workload.table_kind()
        own = (device.framework, device.version, self.system.name, device.lane)
        words = [workload.categories[name] for name in kind.categories]
        return [*own, *words, *(getattr(workload, axis) for axis in kind.axes), f"{milliseconds:.6g}"]


def _key(workload: Workload) -> tuple[object, ...]:
    kind = workload.table_kind()
    return (*(float(getattr(workload, a)) for a in kind.axes), *(workload.categories[n] for n in kind.categories))


def _header(workload: Workload) -> list[object]:
    kind = workload.table_kind()
    return ["framework", "version", "device", "kernel_source", *kind.categories, *kind.axes, kind.latency]


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
