"""What a step takes that decodes some sequences and prefills some prompts, as tables of its parts.

A step does the ops of both programs.  What works on tokens one by one (projections, experts, their collectives) runs
once for the tokens of both; what works on sequences (attention, appends, recurrences) runs for each.  So a step of D
sequences, which attend to C tokens on average, with chunks of q new tokens behind p tokens that are in the cache, takes

    tokens(D + sum q) + rows(D + prompts that end) + decode(D, C) + sum of prefill(q, p) over the chunks

and each term is a table.  `rows` is the LM head, which runs for tokens that are sampled from.  An op that only one of
the programs has belongs to that one (absorbed and expanded MLA).  All sizes are those of one data-parallel rank; the
others are taken to do the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from xdsl.ir import Operation

from pmc.backends.cost.model import Granularity
from pmc.backends.evaluate.engine import sites, symbol_values
from pmc.backends.evaluate.overlap import Overlap, StepEvaluator
from pmc.dialects import layer
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.tensor import TensorType

EVERY_TOKEN = 256
"""Up to here every count of tokens is evaluated; beyond, sizes with a ratio of about 1.01."""

BEYOND = 513
"""How many sizes these are."""

CONTEXTS = {False: 65, True: 5}
"""Lengths of what is attended to, by whether one shape is looked at at a time."""


class Table:
    """A function of a whole number and a length, linear between lengths that are equally far apart."""

    def __init__(self, rows: FloatArray, first: float, spacing: float) -> None:
        """`rows[n, i]` is the value for n at the length first + i * spacing."""
        self.rows: list[list[float]] = rows.tolist()
        self.first, self.spacing = first, spacing
        areas = np.zeros_like(rows)
        areas[:, 1:] = np.cumsum((rows[:, 1:] + rows[:, :-1]) * (spacing / 2), axis=1)
        self.areas: list[list[float]] = areas.tolist()
        self.last = int(rows.shape[1]) - 1

    def at(self, number: int, length: float) -> float:
        """The value; beyond the ends it goes on as a line."""
        row = self.rows[number]
        if not self.last:
            return row[0]
        place: float = (length - self.first) / self.spacing
        index = min(max(int(place), 0), self.last - 1)
        low = row[index]
        return low + (row[index + 1] - low) * (place - index)

    def area(self, number: int, length: float) -> float:
        """The integral from `first` to `length`."""
        row = self.rows[number]
        if not self.last:
            return row[0] * (length - self.first)
        place = (length - self.first) / self.spacing
        index = min(max(int(place), 0), self.last - 1)
        part: float = place - index
        low = row[index]
        within = part * (low + (row[index + 1] - low) * part / 2)
        return self.areas[number][index] + within * self.spacing


@dataclass(frozen=True)
class StepTimes:
    """The terms of the time of a step, in us."""

    tokens_us: tuple[float, ...]
    """By the tokens of a step, from 0 on."""
    rows_us: tuple[float, ...]
    """By the tokens that are sampled from, from 0 on."""
    decode: Table
    """By the sequences that are decoded, and the tokens that each attends to."""
    prefill: Table
    """By the new tokens of a chunk, and the tokens in the cache before it."""

    def decode_us(self, sequences: int, context: float, steps: int = 1) -> float:
        """So many steps of so many sequences, of which each attends to `context` tokens at first, then to one more.

        The sum over the steps is the integral over the lengths from half a token before the first to half a token
        behind the last: exact where the time is linear in the length.
        """
        if not sequences:
            return 0.0
        each = self.tokens_us[sequences] + self.rows_us[sequences]
        attended = (
            self.decode.at(sequences, context)
            if steps == 1
            else self.decode.area(sequences, context + steps - 0.5) - self.decode.area(sequences, context - 0.5)
        )
        return steps * each + attended

    def step_us(self, sequences: int, context: float, chunks: Sequence[tuple[int, int]], ended: int) -> float:
        """A step with chunks of (new tokens, tokens before them), with which `ended` prompts end."""
        total = sequences
        chunk_us = 0.0
        for new, before in chunks:
            total += new
            chunk_us += self.prefill.at(new, before)
        found = self.tokens_us[total] + self.rows_us[sequences + ended] + chunk_us
        return found + self.decode.at(sequences, context) if sequences else found


class StepTimesOf:
    """The parts of the programs of a service, and the tables that follow from them."""

    def __init__(self, prefill: StepEvaluator, decode: StepEvaluator) -> None:
        """Raises PmcError for what steps of a service cannot be made of: overlap, commands, stages, drafts."""
        for evaluator in (prefill, decode):
            _refuse(evaluator)
        self.prefill, self.decode = prefill, decode
        self.replicas = decode.replicas
        prompts = {name: (op, count) for name, op, count in _named(prefill)}
        kinds = {name: self._kind(op) for name, (op, _) in prompts.items()}
        self.shared: list[tuple[Operation, int]] = []
        self.head: list[tuple[Operation, int]] = []
        self.own: dict[str, list[tuple[Operation, int]]] = {"prefill": [], "decode": []}
        together: set[tuple[str, str, int]] = set()
        for name, op, count in _named(decode):
            kind = kinds.get(name)
            if self._kind(op) != TOKENS or kind not in (TOKENS, ROWS) or prompts[name][1] != count:
                self.own["decode"].append((op, count))
            elif kind == ROWS:
                self.head.append((op, count))
                together.add(name)
            elif _same(op, prompts[name][0]):
                self.shared.append((op, count))
                together.add(name)
            else:
                self.own["decode"].append((op, count))
        self.own["prefill"] = [found for name, found in prompts.items() if name not in together]

    def tables(self, batch: int, budget: int, longest_prompt: int, longest_context: int) -> StepTimes:
        """For steps of at most `batch` sequences and `budget` tokens on a rank."""
        single = self.decode.granularity.one_by_one
        r = self.replicas
        tokens, rows = (_sizes(most, single) for most in (max(batch, budget), batch))
        at_tokens, at_rows = (
            self._us(self.decode, ops, {"batch": r * sizes, "q_len": 1})
            for ops, sizes in ((self.shared, tokens), (self.head, rows))
        )
        sequences = rows if single else rows[: EVERY_TOKEN // 4].tolist() + _sizes(batch, False, 64).tolist()
        sequences = np.unique(np.asarray(sequences))
        contexts = np.unique(np.linspace(1, max(longest_context, 1), CONTEXTS[single]).round()).astype(np.int64)
        decode_us = self._us(
            self.decode, self.own["decode"], {"batch": r * sequences[:, None], "q_len": 1, "kv_len": contexts[None, :]}
        )
        chunk = min(budget, longest_prompt)
        new = _sizes(chunk, single, 64)
        before = np.unique(np.linspace(0, max(longest_prompt - 1, 0), 1 + CONTEXTS[single] // 2).round())
        queries, priors = new[:, None], before.astype(np.int64)[None, :]
        prefill_us = self._us(
            self.prefill, self.own["prefill"], {"batch": r, "q_len": queries, "kv_len": queries + priors}
        )
        return StepTimes(
            tokens_us=tuple(_every(tokens, at_tokens[:, None], max(batch, budget))[:, 0].tolist()),
            rows_us=tuple(_every(rows, at_rows[:, None], batch)[:, 0].tolist()),
            decode=_table(_every(sequences, decode_us, batch), contexts),
            prefill=_table(_every(new, prefill_us, chunk), before),
        )

    def _us(
        self, evaluator: StepEvaluator, ops: Sequence[tuple[Operation, int]], bindings: Mapping[str, int | IntArray]
    ) -> FloatArray:
        """The time of some ops at every point."""
        shape = np.broadcast_shapes(*(np.shape(value) for value in bindings.values()))
        total = np.zeros(shape)
        if not evaluator.granularity.one_by_one:
            values = symbol_values(evaluator.module, bindings)
            for op, count in ops:
                cost = evaluator.model.cost(op, values)
                if cost is not None:
                    total += count * 1e6 * np.asarray(cost.time_s)
            return total
        points = {name: np.broadcast_to(np.asarray(value), shape) for name, value in bindings.items()}
        for place in np.ndindex(*shape):
            values = symbol_values(evaluator.module, {name: int(value[place]) for name, value in points.items()})
            costs = ((evaluator.model.cost(op, values), count) for op, count in ops)
            total[place] = sum(count * 1e6 * float(cost.time_s) for cost, count in costs if cost is not None)
        return total

    def _kind(self, op: Operation) -> str:
        """What an op works on, from the dims of its operands and results."""
        types = [value.type for value in (*op.operands, *op.results) if isinstance(value.type, TensorType)]
        dims = [dim for type_ in types for dim in type_.dims if dim.symbols]
        symbols = {name for dim in dims for name in dim.symbols}
        if "kv_len" in symbols or any(isinstance(value.owner, layer.StateOp) for value in op.operands):
            return SEQUENCES
        if all(
            dim.evaluate({"batch": self.replicas * n, "q_len": 1}) == dim.evaluate({"batch": self.replicas, "q_len": n})
            for dim in dims
            for n in (6, 35)
        ):
            return TOKENS
        return ROWS if symbols <= {"batch"} else SEQUENCES

    @cached_property
    def unvalidated(self) -> tuple[str, ...]:
        """What the times rest on and was never validated against silicon."""
        return tuple(dict.fromkeys((*self.prefill.model.unvalidated(), *self.decode.model.unvalidated())))


TOKENS, ROWS, SEQUENCES = "tokens", "rows", "sequences"


def _refuse(evaluator: StepEvaluator) -> None:
    deployment = evaluator.module.attributes.get("arch.deployment")
    drafts = deployment.data.draft_tokens if isinstance(deployment, DeploymentAttr) else 0
    wrong = {
        "overlap none: what overlaps in a step depends on all of its ops": evaluator.overlap is not Overlap.NONE,
        "a granularity other than commands, which has no times of single ops at other sizes": (
            evaluator.granularity is Granularity.COMMANDS
        ),
        "pp = 1: how steps follow each other through pipeline stages is not modelled": evaluator.stages > 1,
        "draft_tokens = 0: steps that verify drafts are not modelled": drafts > 0,
    }
    for text, holds in wrong.items():
        if holds:
            raise PmcError(f"serving needs {text}")
    if not isinstance(evaluator.program, layer.ProgramOp):
        raise PmcError("serving looks at programs at the dist level, found one whose kernels are lowered")


def _named(evaluator: StepEvaluator) -> list[tuple[tuple[str, str, int], Operation, int]]:
    """All ops with their counts, by path, name, and number among those of that path and name."""
    seen: Counter[tuple[str, str]] = Counter()
    found: list[tuple[tuple[str, str, int], Operation, int]] = []
    for site in sites(evaluator.program):
        name = (site.op.path.data if isinstance(site.op, PmcOp) else "", site.op.name)
        found.append(((*name, seen[name]), site.op, site.count))
        seen[name] += 1
    return found


def _same(first: Operation, second: Operation) -> bool:
    """Whether two ops ask the same of a chip: types and properties."""
    return (
        [value.type for value in (*first.operands, *first.results)]
        == [value.type for value in (*second.operands, *second.results)]
        and first.properties == second.properties
    )  # fmt: skip


def _sizes(most: int, single: bool, every: int = EVERY_TOKEN) -> IntArray:
    """Sizes from 1 to `most`, close together at first, so that a line between two of them is close to what it is."""
    if single:
        powers = 2 ** np.arange(int(most).bit_length(), dtype=np.int64)
        found = np.unique(np.concatenate([powers, 3 * powers // 2, [most]]))
        return found[found <= most]
    if most <= every:
        return np.arange(1, most + 1, dtype=np.int64)
    beyond = np.geomspace(every, most, BEYOND if every == EVERY_TOKEN else every).round()
    return np.unique(np.concatenate([np.arange(1, every + 1), beyond])).astype(np.int64)


def _every(sizes: IntArray, values: FloatArray, most: int) -> FloatArray:
    """Values at some sizes as values at all from 0 to `most`; those of size 0 are 0."""
    wanted = np.arange(1, most + 1)
    found = np.zeros((most + 1, values.shape[1]))
    for column in range(values.shape[1]):
        found[1:, column] = np.interp(wanted, sizes, values[:, column])
    return found


def _table(rows: FloatArray, lengths: FloatArray | IntArray) -> Table:
    """Values at lengths that are about equally far apart, at such that are exactly so."""
    first, last = float(lengths[0]), float(lengths[-1])
    even = np.linspace(first, last, len(lengths))
    moved = np.zeros_like(rows)
    for number in range(len(rows)):
        moved[number] = np.interp(even, lengths, rows[number])
    spacing = (last - first) / (len(lengths) - 1) if len(lengths) > 1 else 1.0
    return Table(moved, first, spacing)
