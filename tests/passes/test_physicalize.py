"""The pass `physicalize`: all windows of a module, in one go or in pieces, with overlays between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.trace_timeline import trace_timeline
from pmc.compiler.context import make_context
from pmc.compiler.driver import module_text, parse_module
from pmc.dialects.analyses.identity_placement import identity_of
from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArch, StackedArchAttr
from pmc.dialects.table import Table
from pmc.dialects.table_columns import Texts
from pmc.dialects.tas_params import TAS, TasParamsAttr
from pmc.dialects.trace import LogicalOp, OverlayOp, PhysicalOp, PlacementOp
from pmc.dialects.trace_tables import TraceTableAttr
from pmc.passes.base import PassError
from pmc.passes.physicalize import PhysicalizePass
from pmc.passes.trace_experts import TraceExpertsPass
from tests.dialects.tas_cases import overlay, stack, tas, workload
from tests.passes.test_trace_experts import compiled


def placed(module: ModuleOp | None = None, arch: StackedArch | None = None) -> ModuleOp:
    """A module with a trace and its identity placement."""
    found = ModuleOp([]) if module is None else module.clone()
    arch = arch or stack()
    found.attributes |= {
        STACKED: StackedArchAttr(arch), WORKLOAD: MoeWorkloadAttr(workload()), TAS: TasParamsAttr(tas())
    }  # fmt: skip
    TraceExpertsPass(steps=1).apply(make_context(), found)
    logical = next(op for op in found.ops if isinstance(op, LogicalOp))
    assert logical.weights is not None
    experts, tensors = map(TraceTableAttr, identity_of(arch, logical.weights.data))
    properties = {"strategy": "identity", "experts": experts, "tensors": tensors}
    found.body.block.add_op(PlacementOp.make([], [], logical.path.data, properties))
    return found


def run(module: ModuleOp, **options: Any) -> list[PhysicalOp]:
    PhysicalizePass(**options).apply(make_context(), module)
    module.verify()
    return [op for op in module.ops if isinstance(op, PhysicalOp)]


def test_all_windows_are_there_and_nothing_waits() -> None:
    module = placed()
    (op,) = run(module)
    assert (op.first.value.data, op.waiting.value.data, op.window_ns.value.data) == (0, 0, 3_000_000)
    assert op.compute_events.data.count == 6 * 4 * 3
    assert set(op.compute_events.data.ints("duration_cycles").tolist()) <= {500_000, *range(670_000, 720_000)}
    again = parse_module(module_text(module), "printed.mlir")
    again.verify()
    assert again.is_structurally_equivalent(module)


def test_windows_in_pieces_are_those_in_one_go() -> None:
    whole, pieces = placed(), placed()
    (op,) = run(whole)
    assert [piece.count.value.data for piece in run(pieces, windows=2)] == [2]
    found = run(pieces)
    assert found[-1].end == op.end and found[-1].committed == op.committed
    joined = [Table.of(t[0].schema, [_join(c) for c in zip(*(x.columns for x in t), strict=True)]) for t in (
        [piece.compute_events.data for piece in found], [piece.memory_events.data for piece in found],
    )]  # fmt: skip
    assert [table.rows() for table in joined] == [op.compute_events.data.rows(), op.memory_events.data.rows()]
    run(pieces)
    assert len(run(pieces)) == 2, "where all is done nothing is added"


def _join(values: Any) -> Any:
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    return Texts.of([text for part in values for text in part.tolist()])


def with_overlay(committed: str | None = None) -> ModuleOp:
    module = placed()
    (first,) = run(module, windows=1)
    found = overlay(1, committed or first.committed.data, [("mb", 1, 2, [1])])
    properties = {
        "window": 1, "committed": found.committed, "reroute": TraceTableAttr(found.reroute),
        "migrate": TraceTableAttr(found.migrate),
    }  # fmt: skip
    module.body.block.add_op(OverlayOp.make([], [], "mixtral-8x7b", properties))
    return module


def test_an_overlay_changes_its_window() -> None:
    plain, changed = placed(), with_overlay()
    run(plain, windows=1)
    _, before = run(plain, windows=1)
    _, after = run(changed, windows=1)
    cores = [op.compute_events.data.ints("core_id") for op in (before, after)]
    assert (cores[0] == 1).any() and not (cores[1] == 1).any()
    third = run(changed)
    assert third[-1].first.value.data == 2, "and is replayed when more windows follow"


def test_an_overlay_of_other_events_is_refused() -> None:
    with pytest.raises(PmcError, match="was made after other events"):
        PhysicalizePass().apply(make_context(), with_overlay("f" * 16))


def test_windows_that_were_made_otherwise_are_refused() -> None:
    module = placed()
    (op,) = run(module, windows=1)
    op.properties["committed"] = type(op.committed)("f" * 16)
    with pytest.raises(PassError, match=r"windows 0\.\.0 were not made at the fastest clocks from this trace"):
        run(module)


@pytest.mark.parametrize("name", [STACKED, TAS])
def test_the_chip_and_the_window_must_be_there(name: str) -> None:
    module = placed()
    del module.attributes[name]
    with pytest.raises(PassError, match=r"the module needs the attributes arch\.stacked and trace\.tas"):
        run(module)


def test_trace_and_placement_must_be_there_and_whole() -> None:
    with pytest.raises(PassError, match=r"the module needs a trace\.logical and a trace\.placement"):
        run(ModuleOp([]))
    with pytest.raises(PassError, match="windows is -1"):
        run(placed(), windows=-1)
    for name, kind, message in (
        ("compute", LogicalOp, "the trace has only the first and last rows"),
        ("tensors", PlacementOp, "the placement has only the first and last rows"),
    ):
        module = placed()
        op = next(op for op in module.ops if isinstance(op, kind))
        table = op.properties[name]
        assert isinstance(table, TraceTableAttr)
        op.properties[name] = TraceTableAttr(table.data.reduced())
        with pytest.raises(PmcError, match=message):
            run(module)


def test_a_compiled_model_runs_on_a_stack() -> None:
    module = placed(compiled(), stack(**{"mesh.cores": [8, 8], "dram.banks": [16, 16, 8]}))
    (op,) = run(module)
    logical = next(op for op in module.ops if isinstance(op, LogicalOp))
    assert op.compute_events.data.numbers("flops").sum() == pytest.approx(
        logical.compute.data.lists("flops_json").values_as_numbers().sum()
    )
    assert module.attributes["pmc.passes"].data[-1].data == "physicalize"  # type: ignore[attr-defined]


def test_events_are_a_timeline() -> None:
    (op,) = run(placed())
    compute, memory = op.compute_events.data, op.memory_events.data
    timeline = trace_timeline(compute, memory, 2.0, "mixtral-8x7b")
    assert len(timeline.events) == compute.count
    assert timeline.events[0].name in ("fc", "attn") and timeline.events[0].site.startswith("core ")
    assert sum(event.duration_us for event in timeline.events) == pytest.approx(
        float(compute.ints("duration_cycles").sum()) / 2e3
    )
    assert max(timeline.counters[0].values) <= 4
    written = timeline.trace()["traceEvents"]
    assert sum(event["ph"] == "X" for event in written) == compute.count
