"""What the DRAM of one rank holds, per pipeline stage, and whether it fits: the typed results of `memory`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from pmc.backends.evaluate.analyses.table import Analysis, Row
from pmc.dialects.errors import PmcError

PARTS = ("weights", "states", "activations", "communication", "reserve", "padding")
"""What DRAM holds."""


@dataclass(frozen=True)
class MemoryOptions:
    """What the footprint of a program assumes beside the program.  Raises PmcError outside of the ranges."""

    reserve_fraction: float
    """Part of the DRAM capacity that stays free (runtime, fragmentation), 0 to 1."""
    reserve_bytes: int
    """Bytes that stay free in addition."""
    kv_block_tokens: int
    """Tokens of a block of a paged cache: every sequence occupies whole blocks.  1 is a cache without pages."""
    micro_batches: int
    """Parts into which the batch is cut: caches are those of all sequences, activations those of one part."""
    most_sequences: int | None = None
    """The most sequences of a part, where more parts are made of a large batch."""

    def __post_init__(self) -> None:
        if not 0 <= self.reserve_fraction < 1:
            raise PmcError(f"reserve_fraction is {self.reserve_fraction}, must be at least 0 and less than 1")
        for name, least in (("reserve_bytes", 0), ("kv_block_tokens", 1), ("micro_batches", 1)):
            if getattr(self, name) < least:
                raise PmcError(f"{name} is {getattr(self, name)}, must be at least {least}")

    def reserve_of(self, capacity_bytes: int) -> int:
        """Bytes that stay free in a DRAM of that capacity, rounded up."""
        return math.ceil(self.reserve_fraction * capacity_bytes) + self.reserve_bytes


@dataclass(frozen=True)
class StoredRow:
    """A weight or cache at a point."""

    path: str
    kind: str
    """`weight`, or what a cache holds: `key_value_heads` (GQA), `latent` (MLA: one row for all heads), `conv` and
    `recurrent` (states of a fixed size), `other`."""
    element_type: str
    shape: str
    """The dims of one layer on this rank; of a cache as written in the program, without pages."""
    layers: int
    bytes: int


@dataclass(frozen=True)
class StageFootprint:
    """The DRAM of a rank of one pipeline stage, in bytes."""

    stage: int
    weights: tuple[StoredRow, ...]
    states: tuple[StoredRow, ...]
    activation_bytes: int
    """The inputs, and the most that is alive of other values at once."""
    activation_path: str
    """The op during which it is."""
    communication_bytes: int
    """The send and receive buffers, see `communication_sizes`."""
    communication_path: str
    """The collective or transfer that needs them largest."""
    reserve_bytes: int
    padding_bytes: int
    """What the addresses of `allocate-dram` add: the alignment of arrays, and gaps that no array fits into."""

    @property
    def weight_bytes(self) -> int:
        """All weights."""
        return sum(row.bytes for row in self.weights)

    @property
    def state_bytes(self) -> int:
        """All caches."""
        return sum(row.bytes for row in self.states)

    @property
    def states_by_kind(self) -> dict[str, int]:
        """Bytes of caches by what they hold."""
        return {k: sum(r.bytes for r in self.states if r.kind == k) for k in dict.fromkeys(r.kind for r in self.states)}

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, in the order of `PARTS`."""
        values = (
            self.weight_bytes, self.state_bytes, self.activation_bytes, self.communication_bytes, self.reserve_bytes,
            self.padding_bytes,
        )  # fmt: skip
        return dict(zip(PARTS, values, strict=True))

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Feasibility:
    """The answer whether a program fits the DRAM of a chip, for the stage that needs most."""

    phase: str
    stage: int
    parts: Mapping[str, int]
    """Bytes by part, in the order of `PARTS`."""
    chip: str
    capacity_bytes: int
    largest_batch: int | None = None
    """The largest batch that fits, 0 where none does; None where it was not searched, or has no symbol to vary."""

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())

    @property
    def excess_bytes(self) -> int:
        """By how much the capacity is exceeded; 0 or less where it is not."""
        return self.total_bytes - self.capacity_bytes

    @property
    def fits(self) -> bool:
        """Whether the capacity is enough."""
        return self.excess_bytes <= 0

    @property
    def verdict(self) -> str:
        """The answer in one line: what exceeds, by how much, and the largest batch that fits."""
        listed = ", ".join(f"{name} {size}" for name, size in self.parts.items() if size)
        need = (
            f"stage {self.stage} needs {self.total_bytes} bytes in {self.phase} ({listed}), "
            f"{self.chip} has {self.capacity_bytes}"
        )
        if self.largest_batch is None:
            batch = ""
        elif self.largest_batch:
            batch = f"; the largest batch that fits is {self.largest_batch}"
        else:
            batch = "; no batch fits"
        if self.fits:
            return f"fits: {need}, {-self.excess_bytes} bytes are free{batch}"
        alone = [name for name, size in self.parts.items() if size > self.capacity_bytes]
        largest = max(self.parts, key=lambda name: self.parts[name])
        culprit = f"{' and '.join(alone)} alone exceed the capacity" if alone else f"most of it for {largest}"
        return f"does not fit: {need}: {self.excess_bytes} bytes too many, {culprit}{batch}"

    def to_dict(self) -> dict[str, object]:
        """The JSON form: the answer, then the bytes of every part; new keys are only ever appended."""
        return {
            "fits": self.fits,
            "excess_bytes": self.excess_bytes,
            "largest_batch": self.largest_batch,
            "verdict": self.verdict,
            "phase": self.phase,
            "stage": self.stage,
            "capacity_bytes": self.capacity_bytes,
            "total_bytes": self.total_bytes,
            **{f"{part}_bytes": size for part, size in self.parts.items()},
        }


@dataclass(frozen=True)
class MemoryFootprint(Analysis):
    """The DRAM of every stage, and the answer whether the program fits: the fullest stage decides."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "stage", "part", "path", "kind", "element_type", "shape", "layers", "bytes", "share",
    )  # fmt: skip

    program: str
    phase: str
    chip: str
    ranks: int
    bindings: Mapping[str, int]
    options: MemoryOptions
    capacity_bytes: int
    stages: tuple[StageFootprint, ...]
    largest_batch: int | None
    """The largest batch that fits, 0 where none does; None where the program has no symbol `batch` to vary."""

    @property
    def fullest(self) -> StageFootprint:
        """The stage that needs most (the first of equals)."""
        return max(self.stages, key=lambda s: (s.total_bytes, -s.stage))

    @property
    def feasibility(self) -> Feasibility:
        """The answer for the fullest stage."""
        stage = self.fullest
        return Feasibility(self.phase, stage.stage, stage.parts, self.chip, self.capacity_bytes, self.largest_batch)

    @property
    def excess_bytes(self) -> int:
        """By how much the fullest stage exceeds the capacity; 0 or less where it fits."""
        return self.feasibility.excess_bytes

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return self.feasibility.fits

    @property
    def verdict(self) -> str:
        """The answer in one line: what exceeds, by how much, and the largest batch that fits."""
        return self.feasibility.verdict

    @property
    def misfits(self) -> list[str]:
        """The answer, where a stage does not fit."""
        return [] if self.fits else [self.verdict]

    def to_rows(self) -> list[Row]:
        """Per stage one row per weight and cache and one for each other part; `share` is that of the capacity."""
        rows: list[Row] = []
        for stage in self.stages:
            for part, stored in (("weights", stage.weights), ("states", stage.states)):
                rows += [self._row(stage, part, s.bytes, s) for s in stored]
            rows += [
                self._row(stage, "activations", stage.activation_bytes, path=stage.activation_path),
                self._row(stage, "communication", stage.communication_bytes, path=stage.communication_path),
                self._row(stage, "reserve", stage.reserve_bytes),
                self._row(stage, "padding", stage.padding_bytes),
            ]
        return rows

    def _row(self, stage: StageFootprint, part: str, size: int, stored: StoredRow | None = None, path: str = "") -> Row:
        return {
            "stage": stage.stage,
            "part": part,
            "path": stored.path if stored else path,
            "kind": stored.kind if stored else None,
            "element_type": stored.element_type if stored else None,
            "shape": stored.shape if stored else None,
            "layers": stored.layers if stored else None,
            "bytes": size,
            "share": size / self.capacity_bytes,
        }

    def summary(self) -> dict[str, object]:
        """Conditions, the answer, and the parts of every stage."""
        return {
            "program": self.program,
            "phase": self.phase,
            "chip": self.chip,
            "ranks": self.ranks,
            "bindings": dict(self.bindings),
            "options": asdict(self.options),
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fits,
            "excess_bytes": self.excess_bytes,
            "largest_batch": self.largest_batch,
            "verdict": self.verdict,
            "stages": [
                {
                    "stage": stage.stage,
                    "total_bytes": stage.total_bytes,
                    **{f"{part}_bytes": size for part, size in stage.parts.items()},
                    "states_by_kind_bytes": stage.states_by_kind,
                }
                for stage in self.stages
            ],
        }

    def headline(self) -> str:
        """Program, point, chip and options."""
        symbols = ", ".join(f"{name} {value}" for name, value in self.bindings.items())
        o = self.options
        return (
            f"{self.program}: DRAM of one rank of {self.ranks}, {self.phase}, {symbols}; {self.chip}, reserve "
            f"{o.reserve_fraction:g} + {o.reserve_bytes} bytes, blocks of {o.kv_block_tokens} tokens, "
            f"{o.micro_batches} micro-batches"
        )

    def notes(self) -> list[str]:
        """The parts of each stage and the answer."""
        lines: list[str] = []
        for stage in self.stages:
            parts = ", ".join(f"{name} {size / 2**30:.3f}" for name, size in stage.parts.items())
            kinds = ", ".join(f"{name} {size / 2**30:.3f}" for name, size in stage.states_by_kind.items())
            lines.append(
                f"stage {stage.stage}: {stage.total_bytes / 2**30:.3f} GiB: {parts} (states: {kinds or 'none'})"
            )
        return [*lines, self.verdict]
