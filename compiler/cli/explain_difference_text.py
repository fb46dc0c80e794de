"""The difference of two explanations as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pmc.backends.cost.breakdown import Part
from pmc.backends.evaluate.analyses.table import conditions_of
from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.compiler.cli.explain_text import MEANINGS, MOST_OPS, amount_text, columns
from pmc.compiler.cli.text_table import prose

if TYPE_CHECKING:
    from pmc.backends.evaluate.explain.difference import ComparedLoad, Difference, OpDifference


def difference_text(found: Difference, every_op: bool, width: int | None) -> str:
    """Both conditions, the difference by part, the ops that differ most, and the fields that differ.

    `width` is that of a line in characters, None for any.
    """
    a, b = found.a, found.b
    lines = [f"a: {conditions_of(a.step.ops)}", f"b: {conditions_of(b.step.ops)}", *_total(found), ""]
    if a.path is None:
        lines += _ops(found, every_op)
    else:
        for op in found.ops:
            lines += _op(op)
    if found.fields:
        lines += ["", "fields that times rest on and that differ:"]
        lines += columns([(path, f"{before} -> {after}") for path, (before, after) in found.fields.items()], "  ")
    sides = a.step.ops, b.step.ops
    assumptions = tuple(dict.fromkeys(said for side in sides for said in side.assumptions))
    unvalidated = tuple(dict.fromkeys(said for side in sides for said in side.unvalidated))
    lines += honesty_notes(all(side.lower_bound for side in sides), assumptions, unvalidated)
    lines += found.misfits
    return "".join(f"{line.rstrip()}\n" for line in prose(lines, width))


def _total(found: Difference) -> Iterator[str]:
    a_us, b_us = found.a.time_us, found.b.time_us
    ratio = f", {b_us / a_us:.4f} times the time" if a_us else ""
    what = "the ops" if found.a.path is None else found.a.path
    yield f"{what}: a {a_us:.3f} us, b {b_us:.3f} us, b - a {found.delta_us:+.3f} us{ratio}:"
    yield from _parts(found.parts_us)
    if found.hidden_us:
        a_us, b_us = found.a.step.total_us, found.b.step.total_us
        yield f"  {'hidden by overlap':12s} {-found.hidden_us:+12.3f} us"
        yield f"the step: a {a_us:.3f} us, b {b_us:.3f} us, b - a {b_us - a_us:+.3f} us"


def _parts(parts: Mapping[Part, float]) -> Iterator[str]:
    for part, us in parts.items():
        yield f"  {part.value:12s} {us:+12.3f} us  {MEANINGS[part]}"


def _ops(found: Difference, every_op: bool) -> Iterator[str]:
    ranked = sorted(found.ops, key=lambda op: -abs(op.delta_us))
    shown = ranked if every_op else ranked[:MOST_OPS]
    width = max((len(op.path) for op in shown), default=0)
    yield f"{'b - a us':>12s}  {'a us':>11s}  {'b us':>11s}  {'op path':{width}s}  by part"
    for op in shown:
        a_us, b_us = (f"{us:.3f}" if side else "-" for us, side in ((op.a_us, op.a), (op.b_us, op.b)))
        parts = _largest(op) if op.a and op.b else f"{op.op}, only in {'a' if op.a else 'b'}: {_largest(op)}"
        yield f"{op.delta_us:+12.3f}  {a_us:>11s}  {b_us:>11s}  {op.path:{width}s}  {parts}"
    rest = ranked[len(shown) :]
    if rest:
        yield f"{sum(op.delta_us for op in rest):+12.3f}  {len(rest)} more ops (--all lists them)"


def _largest(op: OpDifference) -> str:
    """The parts that differ by more than a twentieth of the largest of them."""
    ranked = sorted(op.parts_us.items(), key=lambda item: -abs(item[1]))
    least = abs(ranked[0][1]) / 20 if ranked else 0.0
    return ", ".join(f"{part.value} {us:+.3f}" for part, us in ranked if abs(us) > least)


def _op(op: OpDifference) -> Iterator[str]:
    yield f"{op.path} {op.op}: a {op.a_us:.3f} us, b {op.b_us:.3f} us, b - a {op.delta_us:+.3f} us"
    yield from _parts(op.parts_us)
    for name, side in (("a", op.a), ("b", op.b)):
        for shape in (shape for one in side for shape in one.one.shapes):
            yield f"  {name}: {shape.text}" + ("" if shape.plan is None else f", {shape.plan}")
    rows = [_load_row(load) for load in op.loads]
    if rows:
        yield from columns([("  asks", "a", "b", "amount", "rate"), *rows], "  ")


def _load_row(load: ComparedLoad) -> tuple[str, ...]:
    sides = ((load.a_amount, load.a_us), (load.b_amount, load.b_us))
    a, b = (f"{amount_text(amount, load.unit)} in {us:.3f} us" if amount else "-" for amount, us in sides)
    ratios = (f"{ratio:.4g} x" if ratio is not None else "" for ratio in (load.amount_ratio, load.rate_ratio))
    return (f"  {load.engine}", a, b, *ratios)
