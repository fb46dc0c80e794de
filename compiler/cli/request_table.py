"""Schedules, utilisation and whole requests as lines to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmc.backends.evaluate.assumptions import honesty_notes

if TYPE_CHECKING:
    from pmc.backends.evaluate.overlap import StepResult
    from pmc.backends.evaluate.request import PhaseAggregates, RequestResult
    from pmc.backends.evaluate.speculation import Speculation


def step_lines(step: StepResult, figures: PhaseAggregates, speculation: Speculation | None) -> list[str]:
    """What a step takes under its schedule, and how well it uses the chip."""
    lines = [
        f"MFU {figures.mfu:.3f}, MBU {figures.mbu:.3f}, {figures.tps_per_chip:.1f} tokens/s per chip, "
        f"transfers {step.comm_us:.3f} us, of which exposed {step.exposed_us:.3f} us"
    ]
    if step.overlap.value != "none":
        saved_us = round(step.ops.total_us - step.total_us, 3) + 0.0  # never -0.000
        lines.insert(
            0,
            f"scheduled with overlap {step.overlap.value}: {step.total_us:.3f} us, "
            f"{saved_us:.3f} us less than one op after the other; "
            f"the cores wait {step.wait_us:.3f} us for transfers",
        )
    return lines if speculation is None else [str(speculation), *lines]


def request_table(result: RequestResult) -> list[str]:
    """The figures of a request, then of its phases, then the conditions that they hold under."""
    r = result
    network = f" ({r.topology})" if r.topology else ""
    lines = [
        f"{r.model}: requests of {r.isl} tokens in and {r.osl} out, batch {r.batch} on {r.ranks} ranks; "
        f"{r.chip}{network}, granularity {r.granularity}, accounting {r.accounting}, overlap {r.overlap}",
        f"TTFT  {r.ttft_us / 1e3:.3f} ms",
    ]
    if r.tpot_us is not None and r.itl_first_us is not None and r.itl_last_us is not None:
        lines.append(
            f"TPOT  {r.tpot_us / 1e3:.3f} ms (ITL {r.itl_first_us / 1e3:.3f} ms at the first token, "
            f"{r.itl_last_us / 1e3:.3f} ms at the last); {r.tps_per_user:.3f} tokens/s per user"
        )
    lines.append(f"E2E   {r.e2e_us / 1e3:.3f} ms; {r.tps_per_chip:.3f} tokens/s per chip over the whole request")
    verdict = "" if r.memory.fits else ": it does not fit"
    lines.append(f"DRAM  {r.memory_peak_bytes / 2**30:.3f} of {r.memory_capacity_bytes / 2**30:.3f} GiB{verdict}")
    lines += _phase("prefill", r.prefill)
    if r.decode is not None:
        lines += _phase("decode", r.decode)
    lines += honesty_notes(r.lower_bound, r.assumptions, r.unvalidated)
    return lines


def _phase(name: str, p: PhaseAggregates) -> list[str]:
    parts = ", ".join(f"{tag} {us / 1e3:.3f} ms" for tag, us in p.bottlenecks_us.items())
    lines = [
        f"{name}: {p.steps} steps of {p.micro_batches} micro-batches, {p.time_us / 1e3:.3f} ms; MFU {p.mfu:.3f}, "
        f"MBU {p.mbu:.3f}, {p.tps_per_chip:.1f} tokens/s per chip",
        f"  transfers {p.comm_us / 1e3:.3f} ms, exposed {p.exposed_us / 1e3:.3f} ms; the cores wait "
        f"{p.wait_us / 1e3:.3f} ms for them; pipeline bubbles {p.bubble:.1%}",
        f"  by bottleneck: {parts}",
    ]
    if p.interpolation_error_us:
        lines.append(f"  interpolated between lengths, off by at most {p.interpolation_error_us / 1e3:.3f} ms")
    return lines
