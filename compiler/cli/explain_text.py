"""An explanation as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pmc.backends.cost.breakdown import Load, Part, Shape
from pmc.backends.evaluate.analyses.table import conditions_of
from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.backends.evaluate.explain.explanation import ExplainedOp, Explanation, field_value
from pmc.backends.evaluate.explain.levers import NOTHING
from pmc.compiler.cli.text_table import prose

if TYPE_CHECKING:
    from pmc.backends.cost.model import Granularity, Target
    from pmc.backends.evaluate.explain.bound import Bound
    from pmc.backends.evaluate.explain.commands import OpCommands
    from pmc.backends.evaluate.explain.levers import HardwareResult, Levers, Trial
    from pmc.backends.evaluate.metrics import StepMetrics

MEANINGS: Mapping[Part, str] = {
    Part.MATRIX: "products that the ops ask for, at the peak of all cores",
    Part.PADDING: "rows, columns and depth of the cube without data",
    Part.IMBALANCE: "more on the busiest core than on the mean core",
    Part.EFFICIENCY: "core_efficiency of the accounting",
    Part.START_UP: "start of matrix commands",
    Part.VECTOR: "vector unit of the busiest core",
    Part.DATA: "only data moves: it takes longer than the computation",
    Part.FILL: "the first data come in, nothing is computed yet",
    Part.DRAIN: "the last results go out, all is computed",
    Part.NO_OVERLAP: "computation and data take turns",
    Part.MERGE: "partial results of several cores are put together",
    Part.BARRIER: "barriers, and the giving of commands",
    Part.LATENCY: "transfers between chips, whatever their size",
    Part.TRANSFER: "bytes of transfers between chips",
}

MOST_OPS = 12
"""Ops that the text lists of a step; all of them are in JSON, or with --all."""

SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def explanation_text(found: Explanation, every_op: bool, width: int | None) -> str:
    """The chain from the total down, then what would be faster, in lines of `width` characters (None for any)."""
    lines = [conditions_of(found.step.ops), *_total(found)]
    if found.path is None:
        lines += ["", *_ops(found, every_op)]
    else:
        for op in found.ops:
            lines += ["", *_op(op, found)]
    if found.levers is not None:
        lines += ["", *_levers(found.levers, found.step.ops.granularity)]
    result = found.step.ops
    lines += ["", *roofline_lines(found), *honesty_notes(result.lower_bound, result.assumptions, result.unvalidated)]
    lines += found.misfits
    return "".join(f"{line.rstrip()}\n" for line in prose(lines, width))


def _total(found: Explanation) -> Iterator[str]:
    step_us = found.step.total_us
    if found.path is None:
        yield f"the step takes {step_us:.3f} us:"
    else:
        share = _percent(found.time_us, found.step.ops.total_us)
        yield f"{found.path} takes {found.time_us:.3f} us, {share} of all ops ({found.step.ops.total_us:.3f} us):"
    if found.path is None or len(found.ops) > 1:
        yield from _parts(found.parts_us, found.time_us)
    hidden = found.hidden_us
    if found.overlapped and hidden is not None:
        yield f"  {'hidden by overlap':12s} {-hidden:12.3f} us"


def _parts(parts: Mapping[Part, float], whole: float) -> Iterator[str]:
    for part, us in parts.items():
        yield f"  {part.value:12s} {us:12.3f} us  {_percent(us, whole):>6s}  {MEANINGS[part]}"


def _ops(found: Explanation, every_op: bool) -> Iterator[str]:
    ranked = sorted(found.ops, key=lambda op: -op.step.time_us)
    shown = ranked if every_op else ranked[:MOST_OPS]
    names = _names(found.ops)
    width = max(len(names[op.step]) for op in shown)
    yield f"{'time us':>12s}  {'share':>6s}  {'op path':{width}s}  bound by, and what most of the time is"
    for op in shown:
        by = "" if op.bound is None else op.bound.by
        share = _percent(op.step.time_us, found.time_us)
        yield f"{op.step.time_us:12.3f}  {share:>6s}  {names[op.step]:{width}s}  {by}: {_largest(op)}"
    rest = ranked[len(shown) :]
    if rest:
        us = sum(op.step.time_us for op in rest)
        yield f"{us:12.3f}  {_percent(us, found.time_us):>6s}  {len(rest)} more ops (--all lists them)"


def _names(ops: Sequence[ExplainedOp]) -> dict[StepMetrics, str]:
    """The path of every op; with what kind of op it is, or its pipeline stage, where the path alone is not enough."""
    steps = [op.step for op in ops]
    paths = Counter(step.path for step in steps)
    kinds = Counter((step.path, step.op) for step in steps)
    found: dict[StepMetrics, str] = {}
    for step in steps:
        kind = f" {step.op}" if paths[step.path] > kinds[step.path, step.op] else ""
        stage = f" (stage {step.stage})" if kinds[step.path, step.op] > 1 else ""
        found[step] = f"{step.path}{kind}{stage}"
    return found


def _largest(op: ExplainedOp) -> str:
    """The parts of an op that are more than a twentieth, the largest first."""
    ranked = sorted(op.parts_us.items(), key=lambda item: -item[1])
    return ", ".join(f"{part.value} {us / op.step.time_us:.0%}" for part, us in ranked if us > op.step.time_us / 20)


def _op(op: ExplainedOp, found: Explanation) -> Iterator[str]:
    s, one_us = op.step, op.one.time_s * 1e6
    yield f"{s.path} {s.op}: {s.count} x {s.time_us / s.count:.3f} us = {s.time_us:.3f} us"
    yield from _parts({part: seconds * 1e6 for part, seconds in op.one.parts.items()}, one_us)
    for shape in op.one.shapes:
        yield from _shape(shape)
    if op.searched is not None:
        yield f"  a search finds {op.searched.us:.3f} us: {op.searched.plan}"
    if op.one.note:
        yield f"  {op.one.note}"
    if op.one.loads:
        yield "  asked for, once:"
        yield from columns(_load_rows(op.one.loads, found.target), "    ")
    if op.bound is not None:
        yield f"  {_bound(op.bound)}"
    if op.commands is not None:
        yield from _commands(op.commands, op.one.loads)


def _shape(shape: Shape) -> Iterator[str]:
    weight = "" if shape.weight == 1.0 else f" (weight {shape.weight:.3f})"
    yield f"  shape{weight}: {shape.text}"
    if shape.plan is not None:
        yield f"  plan: {shape.plan}, work on {shape.cores} cores"
    for cube in shape.cubes:
        m, n, k = cube.cube
        dims = ", ".join(f"{name} {data} of {room}" for name, data, room in cube.dims)
        yield f"  cube {m} x {n} x {k}: {dims}; {cube.utilisation:.1%} of it is data"


def _load_rows(loads: Iterable[Load], target: Target) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for load in loads:
        fields = ", ".join(f"{path} {field_value(path, target)}" for path in load.fields)
        name = load.engine if load.phase == "main" else f"{load.engine} (merge)"
        rows.append((name, amount_text(load.amount, load.unit), f"{load.time_s * 1e6:.3f} us", fields))
    return rows


def _bound(bound: Bound) -> str:
    if bound.factor is None:
        return f"{bound.by} binds alone"
    return (
        f"{bound.by} binds ({bound.us:.3f} us), then {bound.next} ({bound.next_us:.3f} us): "
        f"{bound.factor:.2f} times as fast, it binds no more"
    )


def _commands(commands: OpCommands, loads: Sequence[Load]) -> Iterator[str]:
    yield f"  commands of {commands.cores} cores, on the busiest core of each engine:"
    rows = [
        (r.engine, r.command, f"{r.runs} x", f"{r.us:.3f} us", amount_text(r.bytes, "bytes") if r.bytes else "")
        for r in commands.rows
    ]
    yield from columns(rows, "    ")
    stated: dict[str, float] = {}
    for load in loads:
        stated[load.engine] = stated.get(load.engine, 0.0) + load.time_s * 1e6
    sums = ", ".join(
        f"{engine} {us:.3f} us (plan {stated.get(engine, 0.0):.3f})" for engine, us in commands.engines_us.items() if us
    )
    yield f"  together: {sums}"


# -- levers -----------------------------------------------------------------------------------------------------


def _levers(levers: Levers, granularity: Granularity) -> Iterator[str]:
    faster = levers.base_us / levers.target_us
    change = f"{levers.base_us:.3f} -> {levers.target_us:.3f} us"
    looked_at = f", at granularity {levers.granularity.value}" if levers.granularity is not granularity else ""
    yield f"what would make it {faster:g} times as fast ({change}){looked_at}, each alone:"
    rows: list[tuple[str, ...]] = [("lever", f"for {faster:g} x", "without limit", "most of the rest", "field")]
    rows += [_hardware_row(result) for result in levers.hardware]
    yield from columns(rows, "  ")
    if levers.without_effect:
        yield f"  without effect (less than {NOTHING:.1%}): {', '.join(levers.without_effect)}"
    if levers.plans != "none":
        least = levers.base_us / levers.floor_us if levers.floor_us else float("inf")
        able = "may" if least >= faster else "cannot"
        yield (
            f"  the plan {able}: with perfect plans, which reach the roofline of every op, {levers.floor_us:.3f} us "
            f"({least:.2f} x); plans were {levers.plans}"
        )
    if levers.trials:
        yield "tried, with plans searched again:"
        yield from columns([_trial_row(trial) for trial in levers.trials], "  ")


def _hardware_row(result: HardwareResult) -> tuple[str, ...]:
    limit = f"{result.limit_speedup:.2f} x" if result.limit_speedup < 1000 else "any"
    where = ", ".join(result.paths)
    if len(result.fields) == 1:
        ((path, value),) = result.fields.items()
        where = f"{path} {value:g}" + "".join(f" -> {after:.4g}" for after in result.after.values())
    able = "cannot" if result.factor is None else f"{result.factor:g} x"
    return result.name, able, limit, result.then, where


def _trial_row(trial: Trial) -> tuple[str, ...]:
    of = "as fast" if trial.measure == "time" else "as many sequences per second"
    fits = "" if trial.fits else "does not fit the DRAM"
    change = f"{trial.field} {trial.before:g} -> {trial.after:g}"
    return trial.name, change, f"{trial.us:.3f} us", f"{trial.speedup:.2f} x {of}", fits


# -- roofline ---------------------------------------------------------------------------------------------------


def roofline_lines(found: Explanation) -> list[str]:
    """A small picture in characters: ops by their FLOPs per byte, and the FLOP/s that they reach."""
    from pmc.backends.evaluate.explain.roofline_picture import roofline_text

    return roofline_text(found.roofline)


def _percent(us: float, whole: float) -> str:
    return f"{us / whole:.1%}" if whole else ""


def amount_text(value: float, unit: str) -> str:
    """An amount with its unit; bytes and FLOPs with a decimal prefix."""
    for scale, letter in SCALES if unit in ("bytes", "FLOP") else ():
        if value >= scale:
            return f"{value / scale:.3f} {letter}{unit.replace('bytes', 'B')}"
    return f"{value:.6g} {unit.replace('bytes', 'B')}"


def columns(rows: Sequence[tuple[str, ...]], indent: str) -> Iterator[str]:
    """Aligned columns, the last one as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield indent + "  ".join([*cells, row[-1]])
