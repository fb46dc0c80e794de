"""A service: the programs that answer requests, the traffic, and the scheduler between the two.

    serve.service() {traffic = #serve.traffic<{rate = 2.0, ..}>, scheduler = #serve.scheduler<{..}>} at "llama-3.1-8b" {
      builtin.module @prefill attributes {arch.chip = .., arch.deployment = .., ..} { layer.program .. }
      builtin.module @decode attributes {..} { layer.program .. }
    }

Each program stands in a module of its own, with all attributes of its target, so that whatever reads a program of one
phase can be given that module.  A step that decodes and prefills at the same time has no program: it does the ops of
both, those on tokens once for all of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, Dialect, Region
from xdsl.irdl import irdl_attr_definition, irdl_op_definition, prop_def, region_def, traits_def
from xdsl.traits import IsolatedFromAbove, NoTerminator
from xdsl.utils.exceptions import VerifyException

from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.assembly import PmcOp, PropertyValue
from pmc.dialects.errors import PmcError
from pmc.dialects.schema_text import SchemaAttr
from pmc.dialects.structure import AnyProgramOp
from pmc.dialects.traffic import Scheduler, Traffic

PHASES = ("prefill", "decode")
"""The programs of a service, and the names of their modules."""

SAME = ("arch.chip", "arch.topology", "arch.accounting", "arch.calibration", "dist.mesh")
"""Attributes in which the programs agree: they run on the same chips."""

OF_PHASE = ("phase", "batch", "q_len", "kv_len")
"""Fields of the deployment in which they need not."""


@irdl_attr_definition
class TrafficAttr(SchemaAttr[Traffic]):
    """``#serve.traffic<{...}>``: what arrives."""

    name = "serve.traffic"
    SCHEMA = Traffic


@irdl_attr_definition
class SchedulerAttr(SchemaAttr[Scheduler]):
    """``#serve.scheduler<{...}>``: what runs in a step, and who is let in."""

    name = "serve.scheduler"
    SCHEMA = Scheduler


@irdl_op_definition
class ServiceOp(PmcOp):
    """Programs of one model on the same chips, with the traffic that they serve."""

    name = "serve.service"
    traffic = prop_def(TrafficAttr)
    scheduler = prop_def(SchedulerAttr)
    body = region_def("single_block")
    traits = traits_def(IsolatedFromAbove(), NoTerminator())

    @classmethod
    def of(cls, model: str, traffic: Traffic, scheduler: Scheduler, programs: Mapping[str, ModuleOp]) -> Self:
        """The service of programs by phase, whose modules become part of it."""
        for phase, module in programs.items():
            module.sym_name = StringAttr(phase)
        properties: dict[str, PropertyValue] = {"traffic": TrafficAttr(traffic), "scheduler": SchedulerAttr(scheduler)}
        return cls.make([], [], model, properties, [Region(Block(list(programs.values())))])

    def program(self, phase: str) -> ModuleOp:
        """The module of the program of a phase."""
        return self._programs()[phase]

    def _programs(self) -> dict[str, ModuleOp]:
        found: dict[str, ModuleOp] = {}
        for op in self.body.block.ops:
            if not isinstance(op, ModuleOp):
                raise VerifyException(f"a service holds modules with a program each, found {op.name}")
            name = "" if op.sym_name is None else op.sym_name.data
            if name not in PHASES:
                raise VerifyException(f"the modules of a service are named {' and '.join(PHASES)}, found '{name}'")
            if name in found:
                raise VerifyException(f"module '{name}' stands there twice")
            found[name] = op
        missing = [phase for phase in PHASES if phase not in found]
        if missing:
            raise VerifyException(f"module '{missing[0]}' is missing")
        return found

    def verify_(self) -> None:
        """One program of each phase, for the same target; see the rules of traffic and scheduler for the rest."""
        programs = self._programs()
        for phase, module in programs.items():
            inside = [op for op in module.ops if isinstance(op, AnyProgramOp)]
            if len(inside) != 1:
                raise VerifyException(f"module '{phase}' holds {len(inside)} programs, must hold one")
            if inside[0].phase.data != phase:
                raise VerifyException(f"module '{phase}' holds a program of phase {inside[0].phase.data}")
        first, second = (programs[phase] for phase in PHASES)
        for name in SAME:
            if first.attributes.get(name) != second.attributes.get(name):
                raise VerifyException(f"{' and '.join(PHASES)} have another {name}: they run on the same chips")
        if _shared_fields(first) != _shared_fields(second):
            raise VerifyException(
                f"{' and '.join(PHASES)} differ in more of arch.deployment than {', '.join(OF_PHASE)}"
            )


def _shared_fields(module: ModuleOp) -> object:
    """The deployment of a module without what is different in every phase; None where it has none."""
    deployment = module.attributes.get("arch.deployment")
    if not isinstance(deployment, DeploymentAttr):
        return None
    return deployment.data.model_dump(exclude=set(OF_PHASE))


def service_of(module: ModuleOp) -> ServiceOp:
    """The service of a module.  Raises PmcError unless there is exactly one."""
    found = [op for op in module.ops if isinstance(op, ServiceOp)]
    if len(found) != 1:
        raise PmcError(f"expected a module with one serve.service, found {len(found)}")
    return found[0]


Serve = Dialect("serve", [ServiceOp], [TrafficAttr, SchedulerAttr])
