"""How far predictions are from measurements that were taken away: kinds of kernels on five systems.

    python benchmarks/silicon_accuracy.py [--kinds gemm,..] [--systems h100_sxm,..] [--backends vllm,..] [--scored 150]
        [--left-out]

Needs `pip install 'pmc[silicon]'`.  Rows are divided by a hash of their key, so the same ones are scored on every
machine: an eighth of the shapes are taken away whole ("unseen"), and a tenth of all other rows ("in grid").  Fits,
residuals and bands see the rest only.  Of every set of categories `--scored` rows of each part are scored.

With `--left-out` nothing of the system is known but its specification: the shipped fits of all others predict it, and
`--scored` of all its rows are scored.

Every line is the median over the sets of categories of a kind on a system, of "median / p90" of the absolute error in
%.  "beat it": the part of scored points that are faster than the speed of light; "band": of those within the band of
80%; "answered": of those that were not refused.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from pmc.backends.silicon.columns import Floats, Ints
from pmc.backends.silicon.database import PerfDatabase
from pmc.backends.silicon.fit import fit_rows, points_of
from pmc.backends.silicon.library import OF_LIBRARIES, Library
from pmc.backends.silicon.predictor import Predictor
from pmc.backends.silicon.shipped import shipped, shipped_systems
from pmc.backends.silicon.table import Rows
from pmc.backends.silicon.transfer import donors_for, donors_of, transfer
from pmc.backends.silicon.work import Workload
from pmc.backends.silicon.workloads import WORKLOADS
from pmc.dialects.errors import PmcError

SYSTEMS = ("h100_sxm", "h200_sxm", "a100_sxm", "b200_sxm", "l40s")
BACKENDS = ("trtllm", "sglang", "vllm")
SEED = 13
LEAST_ROWS = 60
"""Sets of categories with fewer rows are not scored."""

BAR = {
    "gemm": ("65", "2.0", "4.4"),
    "context_attention": ("85", "1.8", "1.9"),
    "generation_attention": ("93", "2.7", "3.7 / 29-48"),
    "context_mla": ("81", "3.2", "1.4"),
    "mla_bmm": ("83", "2.1", "refuses"),
    "moe": ("68", "2.7", "refuses"),
    "nccl": ("93", "4.2", "16"),
    "mamba2": ("-", "2.9", "189"),
    "gdn": ("-", "2.3", "84"),
    "kda": ("-", "1.5", "13"),
}
"""aiconfigurator 0.12, SILICON (SOL first): median error over the five systems, in grid and of unseen shapes."""

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Errors:
    """Of one part of the rows of one set of categories: logs of predicted over measured."""

    sol: Floats
    analytic: Floats
    predicted: Floats
    in_band: float
    answered: float


def hashed(values: Floats, salt: int) -> Floats:
    """[rows] numbers from 0 to 1 that depend on the values [rows, columns] and the salt alone: splitmix64."""
    state: Words = np.full(len(values), salt, dtype=np.uint64)
    for column in values.T:
        state = state + column.astype(np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state.astype(np.float64) / 2.0**64


def parts(workload: type[Workload], rows: Rows) -> tuple[Ints, Ints, Ints]:
    """Rows that may be learned from, rows in the grid that are scored, rows of shapes that are scored whole."""
    shape = rows.coordinates[:, [rows.kind.axes.index(a) for a in workload.shape_axes()]]
    unseen = hashed(shape, SEED) < 1 / 8
    grid = ~unseen & (hashed(rows.coordinates, SEED + 1) < 1 / 10)
    return np.flatnonzero(~unseen & ~grid), np.flatnonzero(grid), np.flatnonzero(unseen)


def score(predictor: Predictor, rows: Rows, scored: Ints) -> Errors:
    """The errors of a predictor at rows that it has not seen."""
    points = points_of(rows, scored)
    measured = rows.latency_ms[scored]
    work = predictor.workload.work(points, predictor.system)
    found = predictor.predict(points)
    ok = found.within_reach
    inside = (found.low_ms <= measured) & (measured <= found.high_ms)
    return Errors(
        np.log(work.sol_ms / measured),
        np.log(predictor.fit.predict_ms(predictor.workload, points, predictor.system) / measured),
        np.log(found.latency_ms / measured)[ok],
        float(np.mean(inside[ok])) if ok.any() else float("nan"),
        float(np.mean(ok)),
    )


def sets_of(
    library: Library, workload: type[Workload], system: str, backends: tuple[str, ...], count: int
) -> list[tuple[Errors | None, Errors | None]]:
    """Errors in the grid and of unseen shapes, of every set of categories that has enough rows."""
    found: list[tuple[Errors | None, Errors | None]] = []
    for backend in backends:
        try:
            database = PerfDatabase.open(system, backend, library=library)
            table = database.table(workload.table_kind())
        except PmcError as error:
            print(f"  {system} {backend} {workload.KIND}: {error}")
            continue
        for categories in table.category_sets:
            rows = table.rows(categories)
            if len(rows) < LEAST_ROWS:
                continue
            learned, grid, unseen = parts(workload, rows)
            if len(learned) < LEAST_ROWS // 2:
                continue
            seen = rows.take(learned)
            try:
                fit = fit_rows(workload, seen, database.system, backend, database.version)
            except PmcError as error:
                print(f"  {system} {backend} {workload.KIND} {dict(categories)}: {error}")
                continue
            predictor = Predictor(workload, seen, database.system, fit)
            draw = np.random.default_rng(SEED)
            scored = [draw.permutation(part)[:count] for part in (grid, unseen)]
            found.append(
                (
                    score(predictor, rows, scored[0]) if scored[0].size else None,
                    score(predictor, rows, scored[1]) if scored[1].size else None,
                )
            )
    return found


def cell(logs: list[Floats]) -> str:
    """The median over sets of `median / p90` of the absolute error in %."""
    errors = [100 * np.abs(np.expm1(e)) for e in logs if e.size]
    if not errors:
        return "-"
    return f"{np.median([np.median(e) for e in errors]):.1f} / {np.median([np.quantile(e, 0.9) for e in errors]):.1f}"


def left_out(
    library: Library, workload: type[Workload], system: str, backends: tuple[str, ...], count: int
) -> tuple[list[tuple[Floats, float]], int]:
    """Of a system that is predicted from others: logs of predicted over measured and the part in the band, by set.

    Also how many sets no other system has a fit of.
    """
    found: list[tuple[Floats, float]] = []
    refused = 0
    artefacts = [shipped(name) for name in shipped_systems()]
    others = donors_of(artefacts, without=system)
    for backend in backends:
        try:
            database = PerfDatabase.open(system, backend, library=library, fits=())
            table = database.table(workload.table_kind())
        except PmcError as error:
            print(f"  {system} {backend} {workload.KIND}: {error}")
            continue
        for categories in table.category_sets:
            rows = table.rows(categories)
            if len(rows) < LEAST_ROWS:
                continue
            donors = donors_for(others, workload.KIND, backend, categories)
            if not donors:
                refused += 1
                continue
            scored = np.random.default_rng(SEED).permutation(len(rows))[:count]
            measured = rows.latency_ms[scored]
            guess = transfer(workload, points_of(rows, scored), database.system, donors)
            inside = (guess.low_ms <= measured) & (measured <= guess.high_ms)
            found.append((np.log(guess.latency_ms / measured), float(np.mean(inside))))
    return found, refused


def print_left_out(library: Library, options: argparse.Namespace) -> None:
    """A line per kind and system that is left out."""
    print("| kind, system left out | sets | predicted | band | sets without a donor |\n|---|---|---|---|---|")
    for kind in options.kinds.split(","):
        for system in options.systems.split(","):
            backends = (OF_LIBRARIES[kind],) if kind in OF_LIBRARIES else tuple(options.backends.split(","))
            sets, refused = left_out(library, WORKLOADS[kind], system, backends, options.scored)
            band = f"{np.mean([inside for _, inside in sets]):.0%}" if sets else ""
            print(f"| {kind}, {system} | {len(sets)} | {cell([e for e, _ in sets])} | {band} | {refused} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(WORKLOADS))
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--scored", type=int, default=150)
    parser.add_argument("--left-out", action="store_true")
    options = parser.parse_args()
    library = Library.installed()
    if options.left_out:
        print_left_out(library, options)
        return
    print("median / p90 of the absolute error in %; model: the fitted formula alone; then with the nearest rows\n")
    columns = "kind | system | sets | SOL | beat it | model, unseen | in grid | band | unseen | band | answered | s"
    print(f"| {columns} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for kind in options.kinds.split(","):
        workload = WORKLOADS[kind]
        medians: list[tuple[float, float]] = []
        for system in options.systems.split(","):
            start = perf_counter()
            backends = (OF_LIBRARIES[kind],) if kind in OF_LIBRARIES else tuple(options.backends.split(","))
            sets = sets_of(library, workload, system, backends, options.scored)
            grid, unseen = [g for g, _ in sets if g], [u for _, u in sets if u]
            both = [*grid, *unseen]
            if not both:
                print(f"| {kind} | {system} | 0 | | | | | | | | | |")
                continue
            print(
                f"| {kind} | {system} | {len(sets)} | {cell([e.sol for e in both])} "
                f"| {np.mean([np.mean(e.sol > 0) for e in both]):.0%} "
                f"| {cell([e.analytic for e in unseen])} | {cell([e.predicted for e in grid])} "
                f"| {np.nanmean([e.in_band for e in grid]) if grid else float('nan'):.0%} "
                f"| {cell([e.predicted for e in unseen])} "
                f"| {np.nanmean([e.in_band for e in unseen]) if unseen else float('nan'):.0%} "
                f"| {np.mean([e.answered for e in both]):.0%} | {perf_counter() - start:.0f} |",
                flush=True,
            )
            medians.append((middle(grid), middle(unseen)))
        if medians:
            over = [float(np.nanmedian([m[i] for m in medians])) for i in (0, 1)]
            sol, bar_grid, bar_unseen = BAR.get(kind, ("-", "-", "-"))
            print(f"| **{kind}** | median of systems | | | | | **{over[0]:.1f}** | | **{over[1]:.1f}** | | | |")
            print(f"| {kind} | aiconfigurator 0.12 | | {sol} | | | {bar_grid} | | {bar_unseen} | | | |", flush=True)


def middle(sets: list[Errors]) -> float:
    """The median over sets of the median error in %."""
    errors = [float(np.median(100 * np.abs(np.expm1(e.predicted)))) for e in sets if e.predicted.size]
    return float(np.median(errors)) if errors else float("nan")


if __name__ == "__main__":
    main()
