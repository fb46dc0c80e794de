"""Evaluation from the Python API and the command line: one step, or a whole request.

result = evaluate_request(
    load_model("deepseek-v3"), load_chip("sg2262"), load_topology("p1-r1-b4-c32"),
    load_deployment("dsv3-decode-ep32"), isl=4096, osl=1024, options=EvaluationOptions("tile"),
)
print(result.ttft_us, result.tpot_us)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.memo import CostMemo
from pmc.backends.cost.model import Granularity, Target
from pmc.backends.evaluate.overlap import Overlap, StepEvaluator
from pmc.backends.evaluate.request import RequestResult
from pmc.backends.evaluate.request import evaluate_request as evaluate_programs
from pmc.compiler.driver import CHIP, TOPOLOGY, compile_model
from pmc.compiler.pipelines import DEPLOYMENT
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, ChipAttr, DeploymentAttr, Topology, TopologyAttr
from pmc.dialects.calibration import Calibration, CalibrationAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.passes.partition_stages import BALANCED, lengths_of

if TYPE_CHECKING:
    from pmc.backends.g5.cost import Simulated
    from pmc.compiler.silicon import Measurements

CALIBRATION = "arch.calibration"
"""The module attribute that holds the calibration."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How to look at a program: cost model, what overlaps, how far the target is from the model."""

    granularity: str = "chip"
    overlap: Overlap = Overlap.NONE
    calibration: Calibration | None = None
    tile_cache: Path | None = None
    measurements: Measurements | None = None
    """Whose tables granularity silicon asks; a module that says so itself needs none."""

    def evaluator(self, module: ModuleOp, memo: CostMemo | None = None) -> StepEvaluator:
        """What evaluates the program of `module`, into which the calibration is written.  Raises PmcError.

        Costs of ops are kept in `memo`, if one is given, for other programs of the same model.
        """
        if self.granularity == Granularity.SILICON.value:
            from pmc.compiler.silicon import with_queries

            if self.calibration is not None:
                raise PmcError("granularity silicon takes times as they were measured: leave out the calibration")
            matched, database = with_queries(module, self.measurements)
            return StepEvaluator(matched, self.granularity, self.overlap, database=database)
        if self.measurements is not None:
            raise PmcError(f"measured tables are asked at granularity silicon, this is granularity {self.granularity}")
        if self.calibration is not None:
            module.attributes[CALIBRATION] = CalibrationAttr(self.calibration)
        simulated = simulated_by(module) if self.granularity == Granularity.COMMANDS.value else None
        return StepEvaluator(module, self.granularity, self.overlap, self.tile_cache, memo, simulated)


def simulated_by(module: ModuleOp) -> Simulated:
    """What lowers copies of `module` to commands, for targets and values of its symbols, and runs them.

    Of ranks whose experts have unequal rows it is the slowest.
    """
    from pmc.backends.g5.stream import Part
    from pmc.compiler.rank_programs import slowest_parts

    def run(target: Target, bindings: Mapping[str, int]) -> tuple[Part, ...]:
        lowered = module.clone()
        lowered.attributes[CHIP] = ChipAttr(target.chip)
        if target.topology is not None:
            lowered.attributes[TOPOLOGY] = TopologyAttr(target.topology)
        deployment = lowered.attributes.get(DEPLOYMENT)
        if isinstance(deployment, DeploymentAttr):
            lowered.attributes[DEPLOYMENT] = DeploymentAttr(deployment.data.at(bindings))
        return slowest_parts(lowered)

    return run


def overlap_of(name: str) -> Overlap:
    """The overlap of that name.  Raises PmcError for another."""
    known = [overlap.value for overlap in Overlap]
    if name not in known:
        raise PmcError(f"unknown overlap '{name}'; must be one of {', '.join(known)}")
    return Overlap(name)


def evaluate_request(
    model: ModuleOp,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    isl: int,
    osl: int,
    options: EvaluationOptions,
    micro_batches: int | None = None,
    accounting: Accounting | None = None,
) -> RequestResult:
    """A request of `isl` tokens in and `osl` out under `deployment`, whose phase and lengths it replaces.

    Without an accounting, `physical` says what is charged.  Compiles a prefill and a decode program from copies of
    `model`, a module of the model level.  Raises PmcError.
    """
    staged = with_stages_of_request(model, chip, topology, deployment, isl, osl, accounting)
    prefill, decode = (
        compile_model(model.clone(), chip, topology, phase, "dist", accounting=accounting)
        for phase in request_deployments(staged, isl, osl)
    )
    return evaluate_programs(
        options.evaluator(prefill), options.evaluator(decode), deployment.batch, isl, osl, micro_batches
    )


def with_stages_of_request(
    model: ModuleOp,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    isl: int,
    osl: int,
    accounting: Accounting | None = None,
) -> Deployment:
    """The deployment with the layers of every stage, where those are to be balanced.

    Prefill and decode of a request run on the same chips, so a pipeline has the same stages in both: those that are
    balanced for decode, or for prefill where nothing is decoded.  Raises PmcError.
    """
    if deployment.pp == 1 or deployment.pp_layers != BALANCED:
        return deployment
    prefill, decode = request_deployments(deployment, isl, osl)
    phase = decode if osl > 1 else prefill
    lengths = lengths_of(compile_model(model.clone(), chip, topology, phase, "dist", accounting=accounting))
    return deployment.model_copy(update={"pp_layers": ",".join(map(str, lengths))})


def request_deployments(deployment: Deployment, isl: int, osl: int) -> tuple[Deployment, Deployment]:
    """What prefill and decode of a request are compiled for: decode attends to all tokens in the end.

    Raises PmcError for lengths below 1 and for context parallelism, which has no decode.
    """
    for name, value in (("isl", isl), ("osl", osl)):
        if value < 1:
            raise PmcError(f"{name} is {value}, must be at least 1")
    if deployment.cp > 1:
        raise PmcError(
            f"a request decodes one token of a sequence at a time, which cp = {deployment.cp} cannot deal out: "
            "evaluate its prefill alone (phase prefill), or requests with cp = 1"
        )
    return (
        deployment.model_copy(update={"phase": "prefill", "q_len": isl, "kv_len": isl}),
        deployment.model_copy(
            update={"phase": "decode", "q_len": 1, "kv_len": isl + osl - 1 + deployment.draft_tokens}
        ),
    )
