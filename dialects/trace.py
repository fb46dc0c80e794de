"""Traces of a mixture of experts on cores and stacked DRAM: what the model asks for, where it lies, what moves.

    trace.logical() {micro_batch = 32, compute = #trace.table<compute, ..>, memory = ..} at "mixtral-8x7b"
    trace.placement() {strategy = "taps", experts = #trace.table<experts, ..>, tensors = ..} at "mixtral-8x7b"
    trace.overlay() {window = 0, committed = "0000000000000000", reroute = .., migrate = ..} at "mixtral-8x7b"
    trace.physical() {first = 0, count = 1, window_ns = 3000000, waiting = 20, committed = "9f86d081884c7d65", ..} at ..

A module holds one logical trace, one placement of it, and then what happened: physical events of windows in their
order, before those of a window the overlay that changed it.  The chip is the module's `arch.stacked`, the length of a
window that of its `trace.tas`.  Tables of which only the ends are there are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Dialect
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.assembly import PmcOp
from pmc.dialects.errors import PmcError
from pmc.dialects.grouped_sums import grouped_sums
from pmc.dialects.interfaces import FloatArray, IntArray
from pmc.dialects.moe_workload import MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArch, StackedArchAttr
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.table_columns import Texts
from pmc.dialects.tas_params import TAS, TasParamsAttr
from pmc.dialects.trace_tables import (
    CACHE,
    COMPUTE_EVENTS,
    CORE,
    EXPERTS,
    LOGICAL_COMPUTE,
    LOGICAL_MEMORY,
    MEMORY_EVENTS,
    MIGRATE,
    NO_WINDOW_YET,
    POLICIES,
    QOS,
    REROUTE,
    TENSORS,
    WEIGHT,
    WEIGHTS,
    TraceTableAttr,
)

MIB = 2**20


class TraceOp(PmcOp):
    """An op of a module with a trace."""

    def fail_unless(self, holds: bool | np.bool_, message: str) -> None:
        """Raise VerifyException with `message`."""
        if not holds:
            raise VerifyException(message)

    def require_kinds(self, *kinds: tuple[TraceTableAttr, TableSchema]) -> None:
        """Tables stand where their kind belongs."""
        for table, schema in kinds:
            found = table.data.schema.kind
            self.fail_unless(found == schema.kind, f"a table '{found}' stands in place of '{schema.kind}'")

    def require_core(self, *cores: int) -> None:
        """The chip of the module has these cores."""
        chip = self.chip()
        for core in cores if chip is not None else ():
            assert chip is not None
            self.fail_unless(0 <= core < chip.mesh.count, f"there is no core {core}: {chip.name} has {chip.mesh.count}")

    def require_bank(self, *banks: str) -> None:
        """The chip of the module has these banks."""
        chip = self.chip()
        for bank in banks if chip is not None else ():
            assert chip is not None
            try:
                chip.bank_number(bank)
            except PmcError as error:
                raise VerifyException(str(error)) from None

    def module(self) -> ModuleOp | None:
        """The module that it stands in."""
        parent = self.parent_op()
        return parent if isinstance(parent, ModuleOp) else None

    def chip(self) -> StackedArch | None:
        """The chip of the module."""
        module = self.module()
        found = None if module is None else module.attributes.get(STACKED)
        return found.data if isinstance(found, StackedArchAttr) else None

    def before(self) -> Iterator[TraceOp]:
        """The trace ops that stand before it, the last one first."""
        op = self.prev_op
        while op is not None:
            if isinstance(op, TraceOp):
                yield op
            op = op.prev_op

    def committed_before(self) -> PhysicalOp | None:
        """The last committed windows before it."""
        return next((op for op in self.before() if isinstance(op, PhysicalOp)), None)


@irdl_op_definition
class LogicalOp(TraceOp):
    """What the model asks for, in the order of its generation; it names experts and tensors, no places."""

    name = "trace.logical"
    micro_batch = prop_def(IntegerAttr)
    """Tokens of a micro-batch, of which each belongs to a sequence of its own."""
    compute = prop_def(TraceTableAttr)
    memory = prop_def(TraceTableAttr)
    weights = opt_prop_def(TraceTableAttr)
    """All experts that the chip holds; without it those that the events name are all."""

    def shards(self) -> list[str]:
        """The names of all shards of weights that it says the chip holds."""
        if self.weights is None:
            return []
        names, counts = self.weights.data.texts("expert").tolist(), self.weights.data.ints("shards").tolist()
        return [f"W_{name}_{shard}" for name, count in zip(names, counts, strict=True) for shard in range(count)]

    def verify_(self) -> None:
        """Events rise in number and time, their lists match; memory rows belong to events."""
        self.require_kinds((self.compute, LOGICAL_COMPUTE), (self.memory, LOGICAL_MEMORY))
        self.fail_unless(self.micro_batch.value.data > 0, "a micro-batch has at least one token")
        self.fail_unless(not any(isinstance(op, LogicalOp) for op in self.before()), "a module has one logical trace")
        compute, memory = self.compute.data, self.memory.data
        if self.weights is not None:
            self.require_kinds((self.weights, WEIGHTS))
            self._check_weights(self.weights.data)
        if compute.is_whole:
            self._check_events(compute)
        if compute.is_whole and memory.is_whole:
            self._check_memory(compute, memory)

    def _check_events(self, compute: Table) -> None:
        events, times = compute.ints("event_id"), compute.ints("t_gen_ns")
        self.fail_unless((events > 0).all(), "event ids are positive: 0 is that of migrations")
        _require_rising(self, "event ids", events, strictly=True)
        self.fail_unless((times >= 0).all(), f"event {_first(events, times < 0)} is generated before time 0")
        _require_rising(self, "times of generation", times, strictly=False)
        for name in ("mb_id", "token_id"):
            values = compute.ints(name)
            self.fail_unless((values >= 0).all(), f"{name} of event {_first(events, values < 0)} is negative")
        experts, flops = compute.lists("experts_json"), compute.lists("flops_json")
        wrong = flops.lengths != np.maximum(1, experts.lengths)
        self.fail_unless(
            not wrong.any(), f"event {_first(events, wrong)} must have a FLOP count per expert, and one without experts"
        )
        self.fail_unless((flops.values_as_numbers() > 0).all(), "FLOP counts of events are positive")
        assert isinstance(experts.values, Texts)
        keys = np.repeat(np.arange(compute.count), experts.lengths) * (len(experts.values.words) + 1)
        ordered = np.sort(keys + experts.values.codes)
        again = ordered[1:][ordered[1:] == ordered[:-1]] // (len(experts.values.words) + 1)
        self.fail_unless(not len(again), f"event {events[again[0]] if len(again) else 0} names an expert twice")

    def _check_weights(self, weights: Table) -> None:
        names = weights.texts("expert")
        self.fail_unless(len(names.words) == len(names), "an expert has its weights twice")
        for name in ("shards", "shard_bytes"):
            self.fail_unless((weights.ints(name) > 0).all(), f"{name} of weights are positive")
        used = self.compute.data.lists("experts_json").values
        assert isinstance(used, Texts)
        missing = _missing(used.words, names.words) if weights.is_whole else None
        self.fail_unless(missing is None, f"expert {missing} of the trace has no weights")

    def _check_memory(self, compute: Table, memory: Table) -> None:
        rows = memory.ints("event_id")
        unknown = ~np.isin(rows, compute.ints("event_id"))
        self.fail_unless(
            not unknown.any(), f"a memory row belongs to event {_first(rows, unknown)}, which there is not"
        )
        sizes = memory.ints("bytes")
        self.fail_unless((sizes > 0).all(), f"a memory row of event {_first(rows, sizes <= 0)} has no bytes")


@irdl_op_definition
class PlacementOp(TraceOp):
    """Which cores compute an expert, which bank keeps a tensor; KV caches may be left to the rule of their names."""

    name = "trace.placement"
    strategy = prop_def(StringAttr)
    """How it was found."""
    experts = prop_def(TraceTableAttr)
    tensors = prop_def(TraceTableAttr)

    def verify_(self) -> None:
        """Every expert and tensor of the trace has its place, on cores and in banks of the chip that have the room."""
        self.require_kinds((self.experts, EXPERTS), (self.tensors, TENSORS))
        others = [op for op in self.before() if isinstance(op, PlacementOp)]
        self.fail_unless(not others, "a module has one placement; overlays change it")
        experts, tensors = self.experts.data, self.tensors.data
        if experts.is_whole:
            self._check_experts(experts)
        if tensors.is_whole:
            self._check_tensors(tensors)
        logical = logical_of(self)
        if logical is not None and logical.compute.data.is_whole and logical.memory.data.is_whole:
            self._check_names(logical)

    def _check_experts(self, experts: Table) -> None:
        names = experts.texts("expert")
        self.fail_unless(len(names.words) == len(names), "an expert is placed twice")
        replicates = (experts.ints("policy") == POLICIES.index("replicate")).tolist()
        for name, many, own in zip(names.tolist(), replicates, experts.lists("cores").int_lists(), strict=True):
            self.require_core(*own)
            self.fail_unless(len(own) > 0, f"expert {name} has no core")
            self.fail_unless(len(set(own)) == len(own), f"expert {name} is twice on a core")
            self.fail_unless(many or len(own) == 1, f"expert {name} is single and has {len(own)} cores")

    def _check_tensors(self, tensors: Table) -> None:
        names, banks = tensors.texts("tensor_id"), tensors.texts("dram_bank")
        self.fail_unless(len(names.words) == len(names), "a tensor is placed twice")
        self.require_bank(*banks.words)
        chip, logical = self.chip(), logical_of(self)
        if chip is None or logical is None or logical.weights is None or not len(banks):
            return
        weights = logical.weights.data
        size = dict(zip(weights.texts("expert").tolist(), weights.ints("shard_bytes").tolist(), strict=True))
        matches = (WEIGHT.fullmatch(name) for name in names.words)
        sizes = np.array([0 if match is None else size.get(match["expert"], 0) for match in matches], np.int64)
        held = grouped_sums(banks.codes, sizes[names.codes], len(banks.words)) / MIB
        fullest, room = int(np.argmax(held)), chip.dram.bank_capacity_mb
        need = float(held[fullest])
        self.fail_unless(
            need <= room,
            f"bank {banks.words[fullest]} must hold weights of {need:g} MiB, has {room:g} MiB: "
            f"{need - room:g} MiB too many",
        )

    def _check_names(self, logical: LogicalOp) -> None:
        used = logical.compute.data.lists("experts_json").values
        assert isinstance(used, Texts)
        words = used.words if logical.weights is None else logical.weights.data.texts("expert").words
        if self.experts.data.is_whole:
            missing = _missing(words, self.experts.data.texts("expert").words)
            self.fail_unless(missing is None, f"expert {missing} of the trace has no core")
        if self.tensors.data.is_whole:
            tensors = [word for word in logical.memory.data.texts("tensor_id").words if not CACHE.fullmatch(word)]
            missing = _missing([*tensors, *logical.shards()], self.tensors.data.texts("tensor_id").words)
            self.fail_unless(missing is None, f"tensor {missing} of the trace has no bank")


@irdl_op_definition
class OverlayOp(TraceOp):
    """What changes in one window that is not committed: parts go to other cores, tensors and experts move."""

    name = "trace.overlay"
    window = prop_def(IntegerAttr)
    committed = prop_def(StringAttr)
    """Hash of the events committed before the window."""
    reroute = prop_def(TraceTableAttr)
    migrate = prop_def(TraceTableAttr)

    def verify_(self) -> None:
        """It follows the committed windows, applies in its window, and names cores and banks of the chip."""
        self.require_kinds((self.reroute, REROUTE), (self.migrate, MIGRATE))
        window, committed = self.window.value.data, self.committed.data
        last = self.committed_before()
        next_window, found = (0, NO_WINDOW_YET) if last is None else (last.end, last.committed.data)
        self.fail_unless(window >= next_window, f"window {window} is committed: the next is {next_window}")
        same = committed == found or window > next_window
        self.fail_unless(same, f"the overlay follows events {committed}, committed are {found}")
        for table in (self.reroute.data, self.migrate.data):
            self._check_times(table)
        self.require_core(
            *(core for name in ("from_core", "to_core") for core in self.reroute.data.ints(name).tolist())
        )
        self._check_moves(self.migrate.data)

    def _check_times(self, table: Table) -> None:
        module = self.module()
        params = None if module is None else module.attributes.get(TAS)
        if isinstance(params, TasParamsAttr):
            window_ns = params.data.tacs.window_ns
            first, times = self.window.value.data * window_ns, table.ints("t_apply_ns")
            outside = (times < first) | (times >= first + window_ns)
            self.fail_unless(
                not outside.any(),
                f"a row of '{table.schema.kind}' applies at {_first(times, outside)} ns, the window is "
                f"{first}..{first + window_ns - 1} ns",
            )

    def _check_moves(self, table: Table) -> None:
        columns = (table.texts(name).tolist() for name in ("obj_type", "obj_id", "src", "dst"))
        for kind, name, *ends in zip(*columns, strict=True):
            if kind == "expert":
                matches = [CORE.fullmatch(end) for end in ends if end]
                self.fail_unless(bool(matches), f"expert {name} goes from no core to none")
                self.fail_unless(None not in matches, f"expert {name} goes between cores, written as C33")
                self.require_core(*(int(match["core"]) for match in matches if match is not None))
            else:
                self.fail_unless(kind in ("weight", "kv"), f"'{kind}' does not migrate: weight, kv and expert do")
                self.require_bank(*ends)
        sizes = table.ints("size_bytes")
        self.fail_unless((sizes >= 0).all(), "sizes are not negative")


@irdl_op_definition
class PhysicalOp(TraceOp):
    """What the cores and banks of the chip do in some windows one after the other.

    Every part of an event stands in the window in which it starts.
    """

    name = "trace.physical"
    first = prop_def(IntegerAttr)
    """Its first window, and how many they are."""
    count = prop_def(IntegerAttr)
    window_ns = prop_def(IntegerAttr)
    waiting = prop_def(IntegerAttr)
    """Parts that were generated and have not started when the last of its windows ends."""
    committed = prop_def(StringAttr)
    """Hash of all physical events up to its last window."""
    compute_events = prop_def(TraceTableAttr)
    memory_events = prop_def(TraceTableAttr)

    @property
    def end(self) -> int:
        """The window after its last."""
        return self.first.value.data + self.count.value.data

    def verify_(self) -> None:
        """It goes on where the windows before it ended; with these it keeps the FLOP and bytes of the trace."""
        self.require_kinds((self.compute_events, COMPUTE_EVENTS), (self.memory_events, MEMORY_EVENTS))
        first, last = self.first.value.data, self.committed_before()
        self.fail_unless(self.count.value.data > 0 and self.window_ns.value.data > 0, "windows have a length")
        self.fail_unless(self.waiting.value.data >= 0, "the number of waiting parts is not negative")
        expected = 0 if last is None else last.end
        self.fail_unless(first == expected, f"its first window is {first}, the next is {expected}")
        same = last is None or last.window_ns == self.window_ns
        self.fail_unless(same, "its windows are not as long as those before")
        for table, place in ((self.compute_events.data, "core_id"), (self.memory_events.data, "src_core")):
            self._check_times(table)
            self.require_core(*np.unique(table.ints(place)).tolist())
        self.require_bank(*self.memory_events.data.texts("dst_bank").words)
        logical = logical_of(self)
        done = [op for op in (self, *self.before()) if isinstance(op, PhysicalOp)]
        tables = [table.data for op in done for table in (op.compute_events, op.memory_events)]
        if logical is None or not all(table.is_whole for table in tables):
            return
        if logical.compute.data.is_whole and logical.memory.data.is_whole:
            self._check_conserved(logical, tables[::2], tables[1::2])

    def _check_times(self, table: Table) -> None:
        window_ns, times = self.window_ns.value.data, table.ints("t_start_ns")
        begin, end = self.first.value.data * window_ns, self.end * window_ns
        outside = (times < begin) | (times >= end)
        self.fail_unless(
            not outside.any(),
            f"an event of '{table.schema.kind}' starts at {_first(times, outside)} ns, the windows are "
            f"{begin}..{end - 1} ns",
        )

    def _check_conserved(self, logical: LogicalOp, compute: Sequence[Table], memory: Sequence[Table]) -> None:
        """Of events of which all parts have started all FLOP and bytes are there, of no event more."""
        asked = logical.compute.data
        ids, counts = asked.ints("event_id"), asked.lists("flops_json").lengths
        started = np.concatenate([table.ints("evt_id") for table in compute])
        unknown = ~np.isin(started, ids)
        self.fail_unless(not unknown.any(), f"event {_first(started, unknown)} is not of the trace")
        place = np.searchsorted(ids, started)
        starts = np.concatenate([table.ints("t_start_ns") for table in compute])
        early = starts < asked.ints("t_gen_ns")[place]
        self.fail_unless(not early.any(), f"event {_first(started, early)} starts before it is generated")
        parts = np.bincount(place, minlength=len(ids))
        self.fail_unless(
            (parts <= counts).all(), f"event {_first(ids, parts > counts)} has more parts than the trace says"
        )
        flops = np.concatenate([table.numbers("flops") for table in compute])
        complete = parts == counts
        self._check_sums("FLOP", ids, place, flops, _per_event(asked), complete)
        generated = int(counts[asked.ints("t_gen_ns") < self.end * self.window_ns.value.data].sum())
        waiting = self.waiting.value.data
        self.fail_unless(
            generated == len(started) + waiting,
            f"{generated} parts were generated, {len(started)} have started and {waiting} wait",
        )
        rows = np.concatenate([_workload_rows(table) for table in memory])
        known = np.isin(rows[:, 0], ids)
        self.fail_unless(bool(known.all()), f"a memory event of {_first(rows[:, 0], ~known)} is not of the trace")
        wanted = grouped_sums(
            np.searchsorted(ids, logical.memory.data.ints("event_id")), logical.memory.data.ints("bytes"), len(ids)
        )
        self._check_sums(
            "bytes", ids, np.searchsorted(ids, rows[:, 0]), rows[:, 1].astype(np.float64), wanted, complete
        )

    def _check_sums(
        self, what: str, ids: IntArray, place: IntArray, amount: FloatArray, wanted: FloatArray, complete: np.ndarray
    ) -> None:
        found = grouped_sums(place, amount, len(ids))
        near = np.abs(found - wanted) <= 1e-9 * wanted
        wrong = np.where(complete, ~near, (found > wanted) & ~near)
        self.fail_unless(
            not wrong.any(),
            f"event {_first(ids, wrong)} has {_first(found, wrong):g} {what}, the trace says {_first(wanted, wrong):g}",
        )


def logical_of(op: TraceOp) -> LogicalOp | None:
    """The logical trace of the module of an op."""
    module = op.module()
    return None if module is None else next((found for found in module.ops if isinstance(found, LogicalOp)), None)


def _per_event(asked: Table) -> FloatArray:
    flops = asked.lists("flops_json")
    return grouped_sums(np.repeat(np.arange(asked.count), flops.lengths), flops.values_as_numbers(), asked.count)


def _workload_rows(table: Table) -> IntArray:
    """Event and bytes [row, 2] of what the model asks for; migrations are left out."""
    own = table.ints("noc_qos") == QOS.index("workload")
    return np.stack([table.ints("evt_id")[own], table.ints("bytes")[own]], axis=1)


def _missing(names: Sequence[str], known: Sequence[str]) -> str | None:
    have = set(known)
    return next((name for name in names if name not in have), None)


def _first(values: IntArray | FloatArray, where: np.ndarray) -> int | float:
    """The first of the values at which something holds; 0 where nothing does."""
    found = np.flatnonzero(where)
    return values[found[0]].item() if len(found) else 0


def _require_rising(op: TraceOp, what: str, values: IntArray, strictly: bool) -> None:
    steps = np.diff(values)
    wrong = steps <= 0 if strictly else steps < 0
    op.fail_unless(
        not wrong.any(), f"{what} must rise: {_first(values[1:], wrong)} comes after {_first(values[:-1], wrong)}"
    )


Trace = Dialect(
    "trace",
    [LogicalOp, PlacementOp, OverlayOp, PhysicalOp],
    [TraceTableAttr, MoeWorkloadAttr, TasParamsAttr],
)
