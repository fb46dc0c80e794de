"""A whole request: prefill of the prompt, then one decode step per token over a growing KV cache.

All sequences of the batch are in the same phase: the batch is prefilled, then decoded, as in a serving system that
separates the phases; prompts are prefilled in chunks.  Queueing and the host are not modelled.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pmc.backends.evaluate.aggregate import StepTotals, ranks_of, totals_of, totals_over
from pmc.backends.evaluate.assumptions import checkpoint_assumptions, held_rows
from pmc.backends.evaluate.feasibility import request_feasibility
from pmc.backends.evaluate.footprint import Feasibility
from pmc.backends.evaluate.notebook import Tabular
from pmc.backends.evaluate.overlap import StepEvaluator, StepResult
from pmc.backends.evaluate.pipeline import PrefillChunks, decode_us, micro_batches_of, parts_of, stream_us
from pmc.backends.evaluate.speculation import accepted_length, lengths_of_steps, queries_of, tokens_of_step
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray

ALL_AT_ONCE = 2**62
"""The chunk of programs without a deployment: all prompts."""

CSV_COLUMNS: tuple[str, ...] = ("phase", "metric", "value", "relative_only")
"""The columns of `RequestResult.to_csv`; new metrics are only ever appended to a phase."""


@dataclass(frozen=True)
class PhaseAggregates:
    """One phase of a request.  Times in us; work is that of one chip, the mean over pipeline stages."""

    steps: int
    micro_batches: int
    """What follows each other through the pipeline stages in every step: parts of the batch, or chunks of prefill."""
    time_us: float
    compute_us: float
    """The time of ops on the cores, of one chip."""
    comm_us: float
    """The time of transfers, of one chip."""
    exposed_us: float
    """Transfers that no computation hides."""
    wait_us: float
    """How long the cores wait for transfers that run beside them."""
    bubble: float
    """The part of the time in which a chip has no micro-batch to work on."""
    flops: float
    """Useful FLOPs of the mean rank: no padding of batches or shards, no slots of experts without a row."""
    dram_bytes: float
    link_bytes: float
    mfu: float
    """The sum over element types of matrix FLOPs / peak of that type, over the time; FLOPs are the useful ones."""
    mbu: float
    """dram_bytes / time / DRAM bandwidth (Tier6-Model)."""
    tps_per_chip: float
    """Tokens read (prefill) or written (decode) per second, over all chips, per chip."""
    bottlenecks_us: Mapping[str, float]
    interpolation_error_us: float
    """The most by which time_us can be off because lengths between samples were interpolated."""

    def to_dict(self) -> dict[str, object]:
        """The JSON form: plain values, keys in a fixed order; new keys are only ever appended."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class RequestResult(Tabular):
    """What the sequences of one batch see, and what the chips do meanwhile.

    `ttft_us` is the time of prefill, which gives the first token (Tier6-Model).  `tpot_us` is the mean time of the
    other tokens, decode time / (osl - 1); Tier6-Model divides by osl, which counts the first token twice.  `itl_*_us`
    are single gaps between tokens; with drafts that of a step over its accepted length.  They are None for a single
    token.  `tps_per_user` = 1 / TPOT; `tps_per_chip` is all tokens written over the whole time, per chip.
    """

    model: str
    chip: str
    topology: str
    granularity: str
    overlap: str
    accounting: str
    ranks: int
    batch: int
    isl: int
    osl: int
    ttft_us: float
    tpot_us: float | None
    itl_first_us: float | None
    itl_last_us: float | None
    e2e_us: float
    tps_per_user: float | None
    tps_per_chip: float
    memory_peak_bytes: int
    """The most that any chip holds, in prefill or with the full cache; without any reserve."""
    memory_capacity_bytes: int
    """The DRAM of a chip."""
    prefill: PhaseAggregates
    decode: PhaseAggregates | None
    unvalidated: tuple[str, ...]
    """What the numbers rest on and was never validated against silicon; if anything, results are relative only."""
    memory: Feasibility
    """Whether the chip that holds most has DRAM for it, in the phase in which it does."""
    assumptions: tuple[str, ...]
    """What the numbers take for granted about the programs, in words."""
    lower_bound: bool
    """Whether hardware of these rates cannot be faster, op by op."""

    def to_dict(self) -> dict[str, object]:
        """The JSON form: plain values, keys in a fixed order; new keys are only ever appended."""
        return {
            "relative_only": bool(self.unvalidated),
            **asdict(self),
            "unvalidated": list(self.unvalidated),
            "memory": self.memory.to_dict(),
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def __repr__(self) -> str:
        tpot = "" if self.tpot_us is None else f"TPOT {self.tpot_us / 1e3:.3f} ms, "
        verdict = "" if self.memory.fits else ", does not fit"
        return (
            f"<{self.model}: requests of {self.isl} + {self.osl} tokens, batch {self.batch} on "
            f"{self.ranks} x {self.chip}, TTFT {self.ttft_us / 1e3:.3f} ms, {tpot}"
            f"{self.tps_per_chip:.1f} tokens/s per chip{verdict}>"
        )

    def to_rows(self) -> list[dict[str, object]]:
        """One mapping per figure, keyed by `CSV_COLUMNS`; a figure that does not exist has no row."""
        phases = {"request": self.figures(), "prefill": _figures(self.prefill)}
        if self.decode is not None:
            phases["decode"] = _figures(self.decode)
        relative = bool(self.unvalidated)
        return [
            dict(zip(CSV_COLUMNS, (phase, metric, value, relative), strict=True))
            for phase, figures in phases.items()
            for metric, value in figures.items()
            if value is not None
        ]

    def figures(self) -> dict[str, float | None]:
        """The figures of the whole request."""
        names = (
            "batch", "isl", "osl", "ranks", "ttft_us", "tpot_us", "itl_first_us", "itl_last_us", "e2e_us",
            "tps_per_user", "tps_per_chip", "memory_peak_bytes", "memory_capacity_bytes",
        )  # fmt: skip
        own: dict[str, float | None] = {name: getattr(self, name) for name in names}
        memory = {name: getattr(self.memory, name) for name in ("fits", "excess_bytes", "largest_batch")}
        return {**own, **memory}

    def to_csv(self) -> str:
        """A header with `CSV_COLUMNS`, then one line per figure; floats in their shortest exact form."""
        text = io.StringIO()
        writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.to_rows())
        return text.getvalue()


def _figures(phase: PhaseAggregates) -> dict[str, float | None]:
    figures = asdict(phase)
    bottlenecks = figures.pop("bottlenecks_us")
    return {**figures, **{f"bottleneck_{name}_us": us for name, us in bottlenecks.items()}}


def evaluate_request(
    prefill: StepEvaluator,
    decode: StepEvaluator,
    batch: int,
    isl: int,
    osl: int,
    micro_batches: int | None = None,
) -> RequestResult:
    """Prefill of `isl` tokens and `osl` tokens of output of `batch` sequences (over all ranks).

    Both programs are of one deployment.  The first token comes out of prefill; token i > 1 takes a decode step in which
    isl + i - 1 tokens are attended to; with drafts see `lengths_of_steps`.  Prompts are prefilled in chunks, see
    `PrefillChunks`, of the size that the deployment of the program says (without one, all at once); every chunk is a
    micro-batch of the pipeline.  Decode splits the batch into `micro_batches`, by default one per stage; they differ by
    a sequence where they do not divide it.  Raises PmcError for lengths below 1, more micro-batches than
    sequences, or programs of other phases.
    """
    for name, value in (("batch", batch), ("isl", isl), ("osl", osl)):
        if value < 1:
            raise PmcError(f"{name} is {value}, must be at least 1")
    for evaluator, phase in ((prefill, "prefill"), (decode, "decode")):
        if evaluator.program.phase.data != phase:
            raise PmcError(f"expected a {phase} program, found one of phase {evaluator.program.phase.data}")
    chunks = prefill_chunks(prefill, isl)
    together = max(size for size, _ in chunks.micro_batches(batch))
    prompts = [(_prompts(prefill, size, chunks), times) for size, times in chunks.micro_batches(batch)]
    read = [Run(totals, times) for own, times in prompts for totals in own]
    ttft_us = stream_us([([totals.pipeline for totals in own], times) for own, times in prompts])
    parts = sum(times * sum(totals.points for totals in own) for own, times in prompts)
    first = aggregates_of(prefill, read, parts, np.asarray([ttft_us]), batch * isl)
    rest: PhaseAggregates | None = None
    gaps = np.zeros(0)
    unvalidated = prefill.model.unvalidated()
    if osl > 1:
        lengths = lengths_of_steps(decode.module, isl, osl)
        step = {"q_len": queries_of(decode.module), "kv_len": int(lengths[0])}
        written = [
            Run(totals_over(decode, {"batch": size, **step}, lengths), times)
            for size, times in parts_of(batch, micro_batches_of(batch, prefill.stages, prefill.replicas, micro_batches))
        ]
        gaps = decode_us([(run.totals.pipeline, run.times) for run in written])
        rest = aggregates_of(decode, written, sum(run.times for run in written), gaps, batch * (osl - 1))
        unvalidated = (*unvalidated, *(p for p in decode.model.unvalidated() if p not in unvalidated))
    e2e_us = ttft_us + float(gaps.sum())
    ranks, target = ranks_of(prefill.target), prefill.target
    tpot_us = float(gaps.sum()) / (osl - 1) if len(gaps) else None
    at_once = accepted_length(decode.module) or 1.0
    memory = request_feasibility(prefill.module, decode.module, batch, chunks, osl, micro_batches)
    return RequestResult(
        model=prefill.program.sym_name.data,
        chip=target.chip.name,
        topology=target.topology.name if target.topology is not None else "",
        granularity=prefill.granularity.value,
        overlap=prefill.overlap.value,
        accounting=prefill.accounting.name,
        ranks=ranks,
        batch=batch,
        isl=isl,
        osl=osl,
        ttft_us=ttft_us,
        tpot_us=tpot_us,
        itl_first_us=float(gaps[0]) / at_once if len(gaps) else None,
        itl_last_us=float(gaps[-1]) / at_once if len(gaps) else None,
        e2e_us=e2e_us,
        tps_per_user=1e6 / tpot_us if tpot_us else None,
        tps_per_chip=batch * osl / (e2e_us * 1e-6) / ranks,
        memory_peak_bytes=memory.total_bytes,
        memory_capacity_bytes=memory.capacity_bytes,
        prefill=first,
        decode=rest,
        unvalidated=unvalidated,
        memory=memory,
        assumptions=(
            *held_rows(prefill.program, {"batch": together, "kv_len": isl}, target.chip),
            *checkpoint_assumptions(decode.module, {"kv_len": isl + osl - 1}),
        ),
        lower_bound=prefill.model.is_lower_bound,
    )


@dataclass(frozen=True)
class Run:
    """Steps, and how many micro-batches there are of each."""

    totals: StepTotals
    times: int

    def sum(self, name: str) -> float:
        """One of the arrays of the totals, over all steps and micro-batches."""
        return float(getattr(self.totals, name).sum()) * self.times


def prefill_chunks(evaluator: StepEvaluator, isl: int) -> PrefillChunks:
    """How prompts of so many tokens are prefilled under the deployment of a program."""
    deployment = evaluator.module.attributes.get("arch.deployment")
    chunk = deployment.data.prefill_chunk if isinstance(deployment, DeploymentAttr) else ALL_AT_ONCE
    return PrefillChunks(isl, chunk, evaluator.replicas, evaluator.stages)


def _prompts(evaluator: StepEvaluator, sequences: int, chunks: PrefillChunks) -> list[StepTotals]:
    """The chunks of so many prompts that are prefilled together, in their order."""
    found: list[StepTotals] = []
    for q_len, count, first_kv in chunks.tokens:
        prompt = {"batch": sequences, "q_len": q_len, "kv_len": first_kv}
        if count == 1:
            found.append(totals_of(evaluator.step(prompt)))
        else:
            found.append(totals_over(evaluator, prompt, np.arange(1, count + 1, dtype=np.int64) * q_len))
    return found


def aggregate_step(evaluator: StepEvaluator, step: StepResult) -> PhaseAggregates:
    """The figures of one step of one micro-batch; its tokens are those that it reads (prefill) or writes (decode)."""
    totals = totals_of(step)
    tokens = tokens_of_step(evaluator.module, step.ops.bindings)
    return aggregates_of(evaluator, [Run(totals, 1)], 1, totals.pipeline.once_us, tokens)


def aggregates_of(
    evaluator: StepEvaluator, runs: Sequence[Run], micro_batches: int, step_us: FloatArray, tokens: float
) -> PhaseAggregates:
    """The figures of a phase whose steps take `step_us` each, with the micro-batches of all runs."""
    stages = len(runs[0].totals.stage_us)
    time_us = float(step_us.sum())

    def of_chip(name: str) -> float:
        return sum(run.sum(name) for run in runs) / stages

    bottlenecks = {
        tag.value: sum(
            float(run.totals.bottlenecks_us[tag].sum()) * run.times for run in runs if tag in run.totals.bottlenecks_us
        )
        for tag in dict.fromkeys(tag for run in runs for tag in run.totals.bottlenecks_us)
    }
    dram_bytes = of_chip("dram_bytes")
    return PhaseAggregates(
        steps=len(step_us),
        micro_batches=micro_batches,
        time_us=time_us,
        compute_us=of_chip("compute_us"),
        comm_us=of_chip("comm_us"),
        exposed_us=of_chip("exposed_us"),
        wait_us=of_chip("wait_us"),
        bubble=max(0.0, 1.0 - of_chip("stage_us") / time_us) if time_us else 0.0,
        flops=of_chip("flops"),
        dram_bytes=dram_bytes,
        link_bytes=of_chip("link_bytes"),
        mfu=of_chip("peak_us") / time_us if time_us else 0.0,
        mbu=dram_bytes * 1e6 / evaluator.target.chip.dram_bytes_per_s / time_us if time_us else 0.0,
        tps_per_chip=tokens / (time_us * 1e-6) / ranks_of(evaluator.target) if time_us else 0.0,
        bottlenecks_us={name: us / stages for name, us in bottlenecks.items()},
        interpolation_error_us=sum(run.totals.interpolation_error_us * run.times for run in runs),
    )
