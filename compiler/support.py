"""What measured tables know: of every system, and of a model on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.silicon.library import OF_LIBRARIES
from pmc.backends.silicon.schema import KINDS as TABLE_KINDS
from pmc.backends.silicon.shipped import ShippedLibrary, library_at_hand
from pmc.compiler.catalog import Entry
from pmc.compiler.config import load_system
from pmc.compiler.driver import compile_model
from pmc.compiler.evaluation import EvaluationOptions
from pmc.compiler.presets import presets
from pmc.compiler.silicon import Measurements
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError

ENGINES = ("trtllm", "sglang", "vllm")
"""Serving engines, in the order in which they are printed."""


def system_entries() -> list[Entry]:
    """Every system with its chip, its topology, and the engines, versions and kinds of tables that were measured.

    Without the extra they are those of the fits that come with pmc.
    """
    library = library_at_hand()
    what = "fits, without tables" if isinstance(library, ShippedLibrary) else "tables"
    found: list[Entry] = []
    for name in sorted(presets("system")):
        system = load_system(name)
        told: list[str] = []
        kinds: dict[str, None] = {}
        backends = library.backends(system.tables) if system.tables in library.systems else ()
        for backend in backends:
            if backend not in OF_LIBRARIES.values():
                versions = library.versions(system.tables, backend)
                current = library.current(system.tables, backend)
                others = [version for version in versions if version != current]
                told.append(f"{backend} {current}" + (f" (and {', '.join(others)})" if others else ""))
            kinds.update(dict.fromkeys(library.kinds(system.tables, backend)))
        known = [kind for kind in TABLE_KINDS if kind in kinds]
        measured = f"{'; '.join(told)}; {what}: {', '.join(known)}" if told else "nothing measured, formulas only"
        found.append(Entry(name, f"{system.chip} on {system.topology}. {measured}."))
    return found


@dataclass(frozen=True)
class SupportRow:
    """One kind of op of a phase under one engine: the parts of its time by how they came about."""

    phase: str
    engine: str
    table: str
    """The kind of table, or the op where none covers it."""
    ops: int
    """Places in the program."""
    time_us: float
    shares: dict[str, float]
    """By source, largest first."""
    reason: str
    """Why something is analytic, else nothing."""


def support(
    model: ModuleOp,
    system: str,
    chip: Chip,
    topology: Topology,
    deployments: Sequence[Deployment],
    engines: Sequence[str],
) -> tuple[list[SupportRow], list[str]]:
    """How the time of every kind of op comes about, for the deployments of each phase; and what cannot be answered.

    Numbers are those of the mode hybrid.  Raises PmcError for what cannot be compiled.
    """
    rows: list[SupportRow] = []
    refused: list[str] = []
    for deployment in deployments:
        program = compile_model(model.clone(), chip, topology, deployment, "dist")
        for engine in engines:
            asked = Measurements(system, engine, mode="hybrid", host="none")
            try:
                ops = EvaluationOptions("silicon", measurements=asked).evaluator(program).step().ops
            except PmcError as error:
                refused.append(f"{deployment.phase} with {engine}: {error}")
                continue
            assert ops.sources is not None
            grouped: dict[str, dict[str, float]] = {}
            reasons: dict[str, str] = {}
            count: dict[str, int] = {}
            for step, source in zip(ops.steps, ops.sources, strict=True):
                name = source.table or ("rows" if step.op == "silicon.query" else step.op)
                times = grouped.setdefault(name, {})
                times[source.source] = times.get(source.source, 0.0) + step.time_us
                count[name] = count.get(name, 0) + 1
                if source.source == "analytic":
                    reasons[name] = source.origin.partition(": ")[2]
            for name, times in grouped.items():
                total = sum(times.values())
                shares = {k: us / total for k, us in sorted(times.items(), key=lambda item: -item[1])} if total else {}
                rows.append(
                    SupportRow(deployment.phase, engine, name, count[name], total, shares, reasons.get(name, ""))
                )
    return rows, refused
