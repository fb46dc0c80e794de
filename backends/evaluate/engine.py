"""Walks a program, asks a cost model for every op, and adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.model import CostModel, Granularity, OpCost, Target
from pmc.backends.evaluate.assumptions import MEAN_LOAD, OWN_LOAD, PADDING, checkpoint_assumptions, held_rows
from pmc.backends.evaluate.calibration import CalibratedCostModel
from pmc.backends.evaluate.expert_load import BusiestRankCostModel
from pmc.backends.evaluate.metrics import EngineResult, OpSource, StageMetrics, StepMetrics
from pmc.backends.evaluate.streams import Stream, stream_of_collective
from pmc.dialects import dist, layer
from pmc.dialects.accounting import Accounting, accounting_of
from pmc.dialects.analyses.expert_slots import unequal_ranks
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.assembly import PmcOp
from pmc.dialects.checkpoint import too_long
from pmc.dialects.collective import CollectiveAttr, DispatchAttr, ExchangeInterface
from pmc.dialects.dist import MeshAttr, uneven_lengths
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray
from pmc.dialects.levels import MESH, level_of
from pmc.dialects.structure import AnyProgramOp, AnyRepeatOp, AnyStageOp
from pmc.dialects.tensor import ScaledType, element_name, tensor
from pmc.dialects.tile_plan import PLAN

if TYPE_CHECKING:
    from pmc.backends.cost.tile import TileCostModel
    from pmc.backends.g5.cost import Simulated

PRODUCTS = (layer.MatmulOp, layer.GroupedMatmulOp, layer.GatedMatmulOp, layer.HeadMatmulOp)
"""Ops with a weight as second operand, of whose type others may be."""

V = TypeVar("V", int, int | IntArray)

_ON_VECTOR_UNIT = (Granularity.TILE, Granularity.COMMANDS)
"""Where the conversion of weights is charged."""

SYMBOLS = ("batch", "q_len", "kv_len")
"""The symbols of the dims of a program."""


def evaluate_module(
    module: ModuleOp,
    granularity: str = "chip",
    bindings: Mapping[str, int] | None = None,
) -> EngineResult:
    """The time of one step of the program in `module`, op by op.

    `module` holds one `layer.program` after localize (or one on a single chip that was never sharded), or what it was
    lowered to, with the target in its attributes `arch.chip` and, when it has a mesh, `arch.topology`, and what is
    charged in `arch.accounting`.  `granularity` says how closely the chip is looked at: `chip`, and above the tile
    level `core` or `tile`.  Symbols take the values of `bindings` (batch, q_len, kv_len), else of the attribute
    `arch.deployment`.

    Raises PmcError for a granularity or a symbol that is not known, a missing target or accounting, a symbol without a
    value, or an op that the target cannot run.
    """
    looked_at = granularity_of(granularity)
    program = program_at(module, looked_at)
    model = cost_model(looked_at, Target.of(module), accounting_of(module, "evaluate"))
    return cost_program(program, model, symbol_values(module, bindings or {})).result(looked_at)


@dataclass(frozen=True)
class CostedProgram:
    """A program and what each of its ops costs, in program order; ops that do nothing are left out."""

    program: AnyProgramOp
    model: CostModel
    bindings: Mapping[str, int]
    costs: list[tuple[Site, OpCost]]

    def result(self, granularity: Granularity) -> EngineResult:
        """The costs as a table, one op after the other."""
        target = self.model.target
        steps = _steps(self.costs)
        return EngineResult(
            program=self.program.sym_name.data,
            phase=self.program.phase.data,
            granularity=granularity,
            chip=target.chip.name,
            topology=target.topology.name if target.topology is not None else "",
            ranks=target.mesh.ranks if target.mesh is not None else 1,
            bindings=self.bindings,
            steps=steps,
            stages=_stages(steps),
            unvalidated=self.model.unvalidated(),
            assumptions=(*self._assumptions(granularity), *self._dequantized(granularity)),
            lower_bound=self.model.is_lower_bound,
            sources=self._sources() if granularity is Granularity.SILICON else None,
        )

    def _sources(self) -> tuple[OpSource, ...]:
        """How the time of every op came about."""
        from pmc.backends.silicon.cost import SiliconCostModel

        assert isinstance(self.model, SiliconCostModel)
        found: list[OpSource] = []
        for site, _ in self.costs:
            price = self.model.price(site.op, self.bindings)
            assert price is not None, "an op with a cost has a price"
            band = None if price.band_us is None else (price.band_us[0] * site.count, price.band_us[1] * site.count)
            energy = None if price.energy_mj is None else price.energy_mj * site.count
            found.append(OpSource(price.source.value, price.table, band, energy, price.origin))
        return tuple(found)

    def _assumptions(self, granularity: Granularity) -> tuple[str, ...]:
        """What the numbers take for granted: slots of the mean load, padding, and what is left of the checkpoint."""
        commands = granularity is Granularity.COMMANDS
        lowered = (
            not isinstance(self.program, layer.ProgramOp)
            or commands
            or any(PLAN in site.op.attributes for site, _ in self.costs)
        )
        experts = any(isinstance(site.collective, DispatchAttr) for site, _ in self.costs)
        mesh = self.model.target.mesh
        replicas = 1 if mesh is None else next((axis.size for axis in mesh.axes if axis.name == dist.DATA), 1)
        padded = "batch" in self.bindings and self.bindings["batch"] % replicas != 0
        module = self.program.parent_op()
        own = commands and isinstance(module, ModuleOp) and unequal_ranks(module) is not None
        said = {MEAN_LOAD: lowered and experts and not own, OWN_LOAD: experts and own, PADDING: lowered and padded}
        left_out = checkpoint_assumptions(module, self.bindings) if isinstance(module, ModuleOp) else ()
        held = held_rows(self.program, self.bindings, self.model.target.chip)
        return (*(text for text, holds in said.items() if holds), *held, *left_out)

    def _dequantized(self, granularity: Granularity) -> tuple[str, ...]:
        """Weights that are multiplied in another type than the one they are stored in."""
        pairs = dict.fromkeys(
            (element_name(tensor(op.operands[1]).element_type), op.compute_dtype())
            for site, _ in self.costs
            if isinstance(op := site.op, PRODUCTS)
        )
        return tuple(
            f"weights stored as {stored} are read so and multiplied in {dtype}"
            + (" by way of the vector unit" if granularity in _ON_VECTOR_UNIT else ", at no cost of the conversion")
            for stored, dtype in pairs
            if _is_dequantized(stored, dtype)
        )


def _is_dequantized(stored: str, dtype: str) -> bool:
    """Whether a stored type is one of 4 bits, or one with scales, beside other arithmetic."""
    return stored != dtype and (stored in ("i4", "f4E2M1FN") or stored.startswith(f"!{ScaledType.name}"))


def cost_program(program: AnyProgramOp, model: CostModel, bindings: Mapping[str, int]) -> CostedProgram:
    """Ask `model` for every op of `program`, with every symbol bound to one value.  Raises PmcError as it does."""
    costs = [(site, cost) for site in sites(program) if (cost := model.cost(site.op, bindings)) is not None]
    return CostedProgram(program, model, bindings, costs)


@dataclass(frozen=True)
class Site:
    """An op of the program, its pipeline stage, and how often one step runs it."""

    op: Operation
    stage: int
    count: int

    @cached_property
    def collective(self) -> CollectiveAttr | None:
        """The collective that the op does, if it does one."""
        return self.op.exchange().collective if isinstance(self.op, ExchangeInterface) else None

    @property
    def stream(self) -> Stream:
        """What the op occupies."""
        return stream_of_collective(self.collective)

    @property
    def op_name(self) -> str:
        """The name of the op; a collective has that of its op at the dist level wherever it stands."""
        return self.op.name if self.collective is None else self.collective.op_name

    @property
    def path(self) -> str:
        """The path of the model block that the op came from."""
        return self.op.path.data if isinstance(self.op, PmcOp) else ""

    def is_below(self, path: str) -> bool:
        """Whether the op has `path`, or stands inside of that block."""
        return self.path == path or self.path.startswith(f"{path}.")


def sites(program: Operation) -> Iterator[Site]:
    """All ops of a program that are not containers, in program order."""
    for op in program.regions[0].block.ops:
        yield from sites_of(op)


def sites_of(op: Operation, stage: int = 0, count: int = 1) -> Iterator[Site]:
    """An op in a stage, or all in it that are no containers; what is around it runs `count` times."""
    match op:
        case AnyRepeatOp():
            inside = (stage, op.runs(count), op.body.block)
        case AnyStageOp():
            inside = (op.index.value.data, count, op.body.block)
        case _:
            yield Site(op, stage, count)
            return
    stage, count, block = inside
    for inner in block.ops:
        yield from sites_of(inner, stage, count)


def symbol_values(module: ModuleOp, bindings: Mapping[str, V]) -> dict[str, int | V]:
    """The values of the symbols: those of the deployment, replaced by `bindings`; arrays as floats, never too small.

    Raises PmcError for a symbol that no program has, a value below 1, a length that cp does not divide, or one that the
    model is not made for where the deployment does not ask for that.
    """
    for name, value in bindings.items():
        if name not in SYMBOLS:
            raise PmcError(f"unknown symbol '{name}'; the symbols of a program are {', '.join(SYMBOLS)}")
        least = int(np.min(value)) if np.size(value) else 0
        if least < 1:
            raise PmcError(f"symbol '{name}' is {least}, must be at least 1")
    deployment = module.attributes.get("arch.deployment")
    known: dict[str, int] = {}
    if isinstance(deployment, DeploymentAttr):
        known = deployment.data.symbols
        if deployment.data.draft_tokens and deployment.data.phase == "decode":
            given_rows, rows = bindings.get("q_len", known["q_len"]), known["q_len"]
            if np.any(np.asarray(given_rows) != rows):
                raise PmcError(
                    f"symbol 'q_len' is {np.min(given_rows)}, must be {rows} in a step that verifies "
                    f"{deployment.data.draft_tokens} drafted tokens"
                )
    # Products of lengths may exceed 64 bits, which integer arrays do not say.
    given = {name: _as_floats(value) for name, value in bindings.items()}
    values = {**known, **given}
    mesh = module.attributes.get(MESH)
    uneven = uneven_lengths(mesh.data, values) if isinstance(mesh, MeshAttr) else None
    if uneven is not None:
        raise PmcError(uneven)
    if isinstance(deployment, DeploymentAttr) and "kv_len" in bindings:
        problem = too_long(module, int(np.max(bindings["kv_len"])), deployment.data.longer_context)
        if problem is not None:
            raise PmcError(problem)
    return values


def _as_floats(value: V) -> V:
    return cast(V, value.astype(np.float64)) if isinstance(value, np.ndarray) else value


def granularity_of(name: str) -> Granularity:
    """The granularity of that name.  Raises PmcError for another."""
    known = [g.value for g in Granularity]
    if name not in known:
        raise PmcError(f"unknown granularity '{name}'; must be one of {', '.join(known)}")
    return Granularity(name)


def cost_model(
    granularity: Granularity, target: Target, accounting: Accounting, tile_cache: Path | None = None
) -> CostModel:
    """The cost model of a granularity, with experts as loaded as the accounting says, calibrated where there is how.

    Results of tile searches are kept in the folder `tile_cache`, if one is given.
    """
    model: CostModel
    match granularity:
        case Granularity.CHIP:
            model = ChipCostModel(target)
        case Granularity.CORE:
            from pmc.backends.cost.core import CoreCostModel

            model = CoreCostModel(target, accounting)
        case Granularity.TILE:
            from pmc.backends.cost.tile import TileCostModel

            model = TileCostModel(target, accounting, tile_cache)
        case Granularity.COMMANDS:
            raise PmcError("granularity commands runs the commands of a program: evaluate it with what lowers it")
        case Granularity.SILICON:
            raise PmcError("granularity silicon asks measured tables: evaluate it with a database")
    if accounting.expert_load == "busiest" and target.routing is not None:
        model = BusiestRankCostModel(model, target.routing)
    return model if target.calibration is None else CalibratedCostModel(model, target.calibration)


def command_model(
    program: AnyProgramOp, target: Target, accounting: Accounting, simulated: Simulated, tile_cache: Path | None = None
) -> CostModel:
    """The cost model of granularity commands, for a program at the dist level or below.

    Experts carry the load that their slots were lowered for.
    """
    from pmc.backends.cost.tile import TileCostModel
    from pmc.backends.g5.cost import CommandCostModel

    tensors = isinstance(program, layer.ProgramOp)
    counts = TileCostModel(target, accounting, tile_cache) if tensors else ChipCostModel(target)
    model = CommandCostModel(counts, simulated)
    return model if target.calibration is None else CalibratedCostModel(model, target.calibration)


def tile_model_of(model: CostModel) -> TileCostModel | None:
    """The tile model inside of its corrections; None at another granularity."""
    from pmc.backends.cost.tile import TileCostModel

    while isinstance(model, BusiestRankCostModel | CalibratedCostModel):
        model = model.model
    return model if isinstance(model, TileCostModel) else None


def program_of(module: ModuleOp) -> AnyProgramOp:
    """The program of a module.  Raises PmcError unless there is exactly one."""
    programs = [op for op in module.ops if isinstance(op, AnyProgramOp)]
    if len(programs) != 1:
        found = f"{len(programs)} programs" if programs else f"a module at the {level_of(module)} level"
        raise PmcError(f"expected one program at the layer level or below, found {found}")
    return programs[0]


def program_at(module: ModuleOp, granularity: Granularity) -> AnyProgramOp:
    """The program of a module.  Raises PmcError also when it is tiled already but `granularity` chooses tiles."""
    program = program_of(module)
    if granularity in (Granularity.CORE, Granularity.TILE, Granularity.SILICON) and not isinstance(
        program, layer.ProgramOp
    ):
        raise PmcError(
            f"granularity {granularity.value} looks at the tensor ops of the dist level, the kernels of this module "
            f"({level_of(module)} level) have taken their place: evaluate a dump before lower-to-tiles, or this one at "
            "granularity chip or commands"
        )
    return program


def _steps(costs: list[tuple[Site, OpCost]]) -> tuple[StepMetrics, ...]:
    times = [float(cost.time_s) * 1e6 * site.count for site, cost in costs]
    total = sum(times)
    return tuple(
        StepMetrics(
            stage=site.stage,
            path=site.path,
            op=site.op_name,
            count=site.count,
            flops=round(float(cost.flops) * site.count),
            bytes_read=int(cost.bytes_read) * site.count,
            bytes_written=int(cost.bytes_written) * site.count,
            link_bytes=int(cost.link_bytes) * site.count,
            time_us=time_us,
            compute_us=float(cost.compute_s) * 1e6 * site.count,
            memory_us=float(cost.memory_s) * 1e6 * site.count,
            comm_us=float(cost.comm_s) * 1e6 * site.count,
            bottleneck=cost.bottleneck(),
            share=time_us / total if total else 0.0,
            stream=site.stream,
            peak_us=float(cost.peak_s) * 1e6 * site.count,
        )
        for (site, cost), time_us in zip(costs, times, strict=True)
    )


def _stages(steps: tuple[StepMetrics, ...]) -> tuple[StageMetrics, ...]:
    total = sum(step.time_us for step in steps)
    stages: list[StageMetrics] = []
    for index in sorted({step.stage for step in steps}):
        own = [step for step in steps if step.stage == index]
        time_us = sum(step.time_us for step in own)
        stages.append(
            StageMetrics(
                stage=index,
                time_us=time_us,
                compute_us=sum(step.compute_us for step in own),
                memory_us=sum(step.memory_us for step in own),
                comm_us=sum(step.comm_us for step in own),
                share=time_us / total if total else 0.0,
            )
        )
    return tuple(stages)
