"""The ops of a trace: what a module with one must keep to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.driver import module_text, parse_module
from pmc.dialects.analyses.event_state import EventState
from pmc.dialects.analyses.identity_placement import identity_placement
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import physicalize_window
from pmc.dialects.analyses.workload_trace import weights_table
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArchAttr
from pmc.dialects.table import Table, TableSchema
from pmc.dialects.tas_params import TAS, TasParamsAttr
from pmc.dialects.trace import LogicalOp, OverlayOp, PhysicalOp, PlacementOp
from pmc.dialects.trace_tables import (
    COMPUTE_EVENTS,
    EXPERTS,
    LOGICAL_COMPUTE,
    LOGICAL_MEMORY,
    MEMORY_EVENTS,
    MIGRATE,
    REROUTE,
    TENSORS,
    WEIGHTS,
    TraceTableAttr,
)
from tests.dialects.tas_cases import overlay, setting, stack, table_of, tables, tas, workload

AT = "mixtral-8x7b"
Row = tuple[Any, ...]


def module(*ops: Any, target: bool = True) -> ModuleOp:
    found = ModuleOp(list(ops))
    if target:
        found.attributes[STACKED] = StackedArchAttr(stack())
        found.attributes[WORKLOAD] = MoeWorkloadAttr(workload())
        found.attributes[TAS] = TasParamsAttr(tas())
    return found


def logical(
    compute: Table | None = None, memory: Table | None = None, micro_batch: int = 4, weights: Table | None = None
) -> LogicalOp:
    own = tables(workload())
    properties = {
        "micro_batch": micro_batch, "compute": TraceTableAttr(compute or own[0]),
        "memory": TraceTableAttr(memory or own[1]), "weights": weights and TraceTableAttr(weights),
    }  # fmt: skip
    return LogicalOp.make([], [], AT, properties)


def placement(experts: Table | None = None, tensors: Table | None = None) -> PlacementOp:
    own = identity_placement(stack(), workload())
    properties = {
        "strategy": "identity", "experts": TraceTableAttr(experts or own[0]),
        "tensors": TraceTableAttr(tensors or own[1]),
    }  # fmt: skip
    return PlacementOp.make([], [], AT, properties)


def overlay_op(found: Overlay) -> OverlayOp:
    properties = {
        "window": found.window, "committed": found.committed, "reroute": TraceTableAttr(found.reroute),
        "migrate": TraceTableAttr(found.migrate),
    }  # fmt: skip
    return OverlayOp.make([], [], AT, properties)


def physical(
    first: int = 0, compute: Table | None = None, memory: Table | None = None, **changes: Any
) -> tuple[PhysicalOp, EventState]:
    """The events of window `first`, or others in their place."""
    found = setting()
    state = found.initial
    for _ in range(first):
        state = physicalize_window(found, state, np.full(4, 2.0), np.ones(32)).state
    window = physicalize_window(found, state, np.full(4, 2.0), np.ones(32))
    state = window.state
    properties = {
        "first": first, "count": 1, "window_ns": 3_000_000, "waiting": len(state.queue.part),
        "committed": state.committed,
        "compute_events": TraceTableAttr(compute or window.compute.table(found.chip)),
        "memory_events": TraceTableAttr(memory or window.memory.table(found.chip)),
    }  # fmt: skip
    return PhysicalOp.make([], [], AT, {**properties, **changes}), state


def refused(*ops: Any) -> str:
    with pytest.raises(VerifyException) as error:
        module(*ops).verify()
    return str(error.value)


def edited(table: Table, **columns: Any) -> Table:
    """The table with some columns replaced."""
    values = [columns.get(name, own) for name, own in zip(table.schema.names, table.columns, strict=True)]
    return Table.of(table.schema, values)


def with_first(table: Table, name: str, value: int) -> Table:
    values = table.ints(name).copy()
    values[0] = value
    return edited(table, **{name: values})


# -- what holds -------------------------------------------------------------------------------------------------


def whole() -> ModuleOp:
    one, state = physical(0)
    two, _ = physical(1)
    return module(logical(), placement(), overlay_op(Overlay.empty(setting().initial)), one,
                  overlay_op(overlay(1, state.committed, [("mb", 0, 3, [99])])), two)  # fmt: skip


def test_a_module_with_a_whole_trace_verifies_and_reads_back() -> None:
    found = whole()
    found.verify()
    for generic in (False, True):
        text = module_text(found, generic)
        again = parse_module(text, "printed.mlir")
        again.verify()
        assert again.is_structurally_equivalent(found)
        assert module_text(again, generic) == text
    assert '"1 0 0 0 [' in module_text(found)


def test_reduced_tables_are_not_held_against_each_other() -> None:
    compute, memory = tables(workload())
    module(logical(compute.reduced(), memory.reduced()), physical()[0]).verify()


def test_a_trace_without_a_chip_is_not_held_against_one() -> None:
    own = table_of(EXPERTS, *((f"E{e}", [999], "single") for e in range(8)))
    module(logical(), placement(own), target=False).verify()


# -- what does not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("event_id", "event ids are positive"),
        ("t_gen_ns", "event 1 is generated before time 0"),
        ("mb_id", "mb_id of event 1 is negative"),
        ("token_id", "token_id of event 1 is negative"),
    ],
)
def test_logical_numbers_are_not_negative(name: str, message: str) -> None:
    assert message in refused(logical(with_first(tables(workload())[0], name, -1)))


def event(number: int = 1, time: int = 0, experts: list[str] | None = None, flops: list[float] | None = None) -> Row:
    return (number, time, 0, 0, experts or [], flops or [1.0], "fc" if experts else "attn")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([event(2), event(2)], "event ids must rise: 2 comes after 2"),
        ([event(1, 7), event(2, 5)], "times of generation must rise: 5 comes after 7"),
        ([event(1, 0, ["E1", "E2"])], "event 1 must have a FLOP count per expert"),
        ([event(1, 0, [], [1.0, 2.0])], "event 1 must have a FLOP count per expert, and one without experts"),
        ([event(1, 0, ["E1"], [0.0])], "FLOP counts of events are positive"),
        ([event(1), event(2, 0, ["E1", "E1"], [1.0, 1.0])], "event 2 names an expert twice"),
    ],
)
def test_logical_events_must_be_sound(rows: list[Row], message: str) -> None:
    memory = Table.empty(LOGICAL_MEMORY)
    assert message in refused(logical(table_of(LOGICAL_COMPUTE, *rows), memory))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, "KV_S0", "read", 1, "kv"), "a memory row belongs to event 2, which there is not"),
        ((1, "KV_S0", "read", 0, "kv"), "a memory row of event 1 has no bytes"),
    ],
)
def test_memory_rows_belong_to_events(row: Row, message: str) -> None:
    assert message in refused(logical(table_of(LOGICAL_COMPUTE, event()), table_of(LOGICAL_MEMORY, row)))


def test_one_logical_trace_and_one_placement() -> None:
    assert "a module has one logical trace" in refused(logical(), logical())
    assert "a module has one placement" in refused(placement(), placement())
    assert "a micro-batch has at least one token" in refused(logical(micro_batch=0))


def experts(**changed: tuple[list[int], str]) -> Table:
    rows = {f"E{e}": ([e % 4], "single") for e in range(8)} | changed
    return table_of(EXPERTS, *((name, *rest) for name, rest in rows.items()))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (experts(E3=([4], "single")), "there is no core 4: arch_8x8_32x32x8 has 4"),
        (experts(E3=([], "single")), "expert E3 has no core"),
        (experts(E3=([1, 1], "replicate")), "expert E3 is twice on a core"),
        (experts(E3=([1, 2], "single")), "expert E3 is single and has 2 cores"),
        (table_of(EXPERTS, ("E0", [0], "single"), ("E0", [1], "single")), "an expert is placed twice"),
        (table_of(EXPERTS, ("E0", [0], "single")), "of the trace has no core"),
    ],
)
def test_experts_have_cores_of_the_chip(table: Table, message: str) -> None:
    assert message in refused(logical(), placement(table))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("W_E0_0", "B(0,0,9)")], "there is no bank B(0,0,9)"),
        ([("W_E0_0", "bank 7")], "'bank 7' is no bank"),
        ([("W_E0_0", "B(0,0,0)"), ("W_E0_0", "B(0,0,1)")], "a tensor is placed twice"),
        (
            [("W_E0_0", "B(0,0,0)"), ("W_E0_1", "B(0,0,0)")],
            "bank B(0,0,0) must hold weights of 128 MiB, has 64 MiB: 64 MiB too many",
        ),
        ([("W_E0_0", "B(0,0,0)")], "of the trace has no bank"),
    ],
)
def test_tensors_have_banks_with_the_room(rows: list[Row], message: str) -> None:
    found = logical(weights=weights_table(workload()))
    assert message in refused(found, placement(tensors=table_of(TENSORS, *rows)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("E0", 1, 1), ("E0", 1, 1)], "an expert has its weights twice"),
        ([("E0", 0, 1)], "shards of weights are positive"),
        ([("E0", 1, 0)], "shard_bytes of weights are positive"),
        ([("E0", 1, 1)], "of the trace has no weights"),
    ],
)
def test_weights_are_those_of_the_experts(rows: list[Row], message: str) -> None:
    assert message in refused(logical(weights=table_of(WEIGHTS, *rows)))


def test_experts_without_tokens_are_placed_too() -> None:
    more = weights_table(workload(**{"routing.experts": 9}))
    assert "expert E8 of the trace has no core" in refused(logical(weights=more), placement())
    shards = weights_table(workload(**{"tensors.shards_per_expert": 3}))
    assert "tensor W_E0_2 of the trace has no bank" in refused(logical(weights=shards), placement())


@pytest.mark.parametrize(
    ("reroute", "migrate", "message"),
    [
        ([("mb", 0, 4, [0])], [], "there is no core 4"),
        ([("mb", -1, 2, [0])], [], "there is no core -1"),
        ([], [("weight", "W_E0_0", "B(0,0,0)", "B(0,0,2)", 1)], "there is no bank B(0,0,2)"),
        ([], [("expert", "E0", "C0", "C4", 1)], "there is no core 4"),
        ([], [("expert", "E0", "0", "C1", 1)], "expert E0 goes between cores, written as C33"),
        ([], [("expert", "E0", "", "", 1)], "expert E0 goes from no core to none"),
        ([], [("disk", "E0", "", "", 1)], "'disk' does not migrate"),
        ([], [("weight", "W_E0_0", "B(0,0,0)", "B(0,0,1)", -1)], "sizes are not negative"),
    ],
)
def test_an_overlay_names_what_there_is(reroute: list[Row], migrate: list[Row], message: str) -> None:
    assert message in refused(overlay_op(overlay(0, "0" * 16, reroute, migrate)))


def test_an_overlay_is_for_what_is_not_committed() -> None:
    one, state = physical()
    assert "window 0 is committed: the next is 1" in refused(one, overlay_op(overlay(0, state.committed)))
    one, _ = physical()
    assert "the overlay follows events" in refused(one, overlay_op(overlay(1, "f" * 16)))
    early = overlay(0, "0" * 16, [("mb", 0, 1, [0])])
    wrong = Overlay(1, early.committed, early.reroute, early.migrate)
    assert "a row of 'reroute' applies at 0 ns, the window is 3000000..5999999 ns" in refused(overlay_op(wrong))


def wrong_physical(compute: Table | None = None, memory: Table | None = None, first: int = 0, **changes: Any) -> str:
    return refused(logical(), physical(first, compute, memory, **changes)[0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("core_id", 4, "there is no core 4"),
        ("t_start_ns", 3_000_000, "an event of 'compute_events' starts at 3000000 ns, the windows are 0..2999999 ns"),
        ("evt_id", 999, "event 999 is not of the trace"),
        ("evt_id", 9, "event 9 starts before it is generated"),
        ("evt_id", 3, "event 3 has more parts than the trace says"),
    ],
)
def test_physical_compute_events_must_be_those_of_the_trace(name: str, value: int, message: str) -> None:
    table = physical()[0].compute_events.data
    assert message in wrong_physical(compute=with_first(table, name, value))


def test_physical_events_keep_flop_and_bytes() -> None:
    op = physical()[0]
    compute, memory = op.compute_events.data, op.memory_events.data
    event_id = int(compute.ints("evt_id")[0])
    more = compute.numbers("flops").copy()
    more[0] *= 1.001
    assert f"event {event_id} has 1.001e+09 FLOP, the trace says 1e+09" in wrong_physical(edited(compute, flops=more))
    assert "bytes, the trace says" in wrong_physical(memory=with_first(memory, "bytes", 5))
    assert "a memory event of 998 is not of the trace" in wrong_physical(memory=with_first(memory, "evt_id", 998))
    lost = Table.of(compute.schema, [values[np.arange(1, compute.count)] for values in compute.columns])
    assert "have started and" in wrong_physical(lost)


def test_physical_windows_follow_each_other() -> None:
    assert "its first window is 1, the next is 0" in wrong_physical(first=1)
    assert "windows have a length" in wrong_physical(count=0)
    assert "the number of waiting parts is not negative" in wrong_physical(waiting=-1)
    two, _ = physical(1, window_ns=3_000_001)
    assert "its windows are not as long as those before" in refused(physical()[0], two)
    assert "parts were generated" in wrong_physical(waiting=77)


def test_physical_memory_events_are_on_banks_of_the_chip() -> None:
    memory = table_of(MEMORY_EVENTS, (1, 0, 0, "B(4,0,0)", 1, "read", 0, "workload"))
    assert "there is no bank B(4,0,0)" in wrong_physical(memory=memory)


@pytest.mark.parametrize(
    ("build", "name", "schema"),
    [
        (logical, "compute", LOGICAL_MEMORY),
        (logical, "memory", LOGICAL_COMPUTE),
        (placement, "experts", TENSORS),
        (placement, "tensors", EXPERTS),
        (lambda: overlay_op(overlay(0, "0" * 16)), "reroute", MIGRATE),
        (lambda: overlay_op(overlay(0, "0" * 16)), "migrate", REROUTE),
        (lambda: physical()[0], "compute_events", MEMORY_EVENTS),
        (lambda: physical()[0], "memory_events", COMPUTE_EVENTS),
    ],
)
def test_tables_stand_where_their_kind_belongs(build: Any, name: str, schema: TableSchema) -> None:
    op = build()
    op.properties[name] = TraceTableAttr(Table.empty(schema))
    assert f"a table '{schema.kind}' stands in place of" in refused(op)
