"""The four scenarios, and the module that a run of one begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.driver import run_pipeline
from pmc.dialects.analyses.event_state import EventChip, EventSetting
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.errors import PmcError
from pmc.dialects.moe_workload import WORKLOAD, MoeWorkload, MoeWorkloadAttr
from pmc.dialects.stacked_arch import STACKED, StackedArch, StackedArchAttr
from pmc.dialects.tas_params import TAS, TasParams, TasParamsAttr
from pmc.dialects.trace import LogicalOp, PlacementOp


@dataclass(frozen=True)
class Scenario:
    """What is decided before a run, and whether work moves in it."""

    strategy: str
    """Of `place-experts`."""
    online: bool
    """Whether TACS moves work."""


SCENARIOS: Mapping[str, Scenario] = {
    "baseline": Scenario("identity", False),
    "taps": Scenario("taps", False),
    "tacs": Scenario("identity", True),
    "tas": Scenario("taps", True),
}
"""By name, in the order of tables."""


@dataclass(frozen=True)
class Study:
    """What all scenarios of a study share."""

    arch: StackedArch
    workload: MoeWorkload
    tas: TasParams

    def module(self, scenario: str) -> ModuleOp:
        """The module with the logical trace and the placement of a scenario.  Raises PmcError."""
        module = ModuleOp([])
        module.attributes[STACKED] = StackedArchAttr(self.arch)
        module.attributes[WORKLOAD] = MoeWorkloadAttr(self.workload)
        module.attributes[TAS] = TasParamsAttr(self.tas)
        strategy = SCENARIOS[scenario].strategy
        run_pipeline(module, [ArgSpec("trace-experts", {}), ArgSpec("place-experts", {"strategy": (strategy,)})])
        return module


def setting_of(module: ModuleOp) -> EventSetting:
    """The setting of the run that a module's trace and placement begin.  Raises PmcError where it has none."""
    logical = next((op for op in module.ops if isinstance(op, LogicalOp)), None)
    placement = next((op for op in module.ops if isinstance(op, PlacementOp)), None)
    arch, tas = module.attributes.get(STACKED), module.attributes.get(TAS)
    if logical is None or placement is None:
        raise PmcError("the module has no trace with a placement: run trace-experts and place-experts first")
    if not isinstance(arch, StackedArchAttr) or not isinstance(tas, TasParamsAttr):
        raise PmcError(f"the module has no attributes {STACKED} and {TAS}: the chip and its rates")
    parts = LogicalParts.of(logical.compute.data, logical.memory.data, logical.micro_batch.value.data)
    chip = EventChip.of(arch.data, tas.data.taps.capacity)
    return EventSetting.of(parts, chip, tas.data.tacs.window_ns, placement.experts.data, placement.tensors.data)
