"""A serving estimate as lines to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmc.backends.evaluate.assumptions import honesty_notes
from pmc.compiler.cli.text_table import Column, prose, text_table

if TYPE_CHECKING:
    from pmc.backends.serve.result import ServingResult
    from pmc.dialects.traffic import Lengths


def serving_table(result: ServingResult, width: int | None) -> str:
    """Latencies, then throughput and memory, then the conditions that the numbers hold under.

    `width` is that of a line in characters, None for any.
    """
    r = result
    network = f" ({r.topology})" if r.topology else ""
    how = f"simulation of {r.simulated_requests} requests" if r.simulated_requests else "closed form"
    arrivals = f"{r.traffic.rate:g} requests/s" if r.traffic.rate is not None else f"{r.traffic.concurrency} users"
    s, t = r.scheduler, r.traffic
    cached = f", of which {t.prefix_share:.0%} in the cache" if t.prefix_share else ""
    schedulers = "1 scheduler" if r.replicas == 1 else f"{r.replicas} schedulers"
    lines = [
        f"{r.model}: {arrivals}, {_text(t.input_length)} tokens in{cached}, {_text(t.output_length)} out; "
        f"{r.ranks} x {r.chip}{network} with {schedulers} ({s.policy}, at most {s.largest_batch} requests and "
        f"{s.token_budget} tokens a step each); granularity {r.granularity}, accounting {r.accounting}; {how}"
    ]
    rows = [row for row in (("TTFT", r.ttft), ("TPOT", r.tpot), ("E2E", r.e2e)) if row[1] is not None]
    columns = [Column("latency", [name for name, _ in rows], left=True)]
    for title, field in (("mean ms", "mean_us"), ("p50 ms", "p50_us"), ("p90 ms", "p90_us"), ("p99 ms", "p99_us")):
        values = [getattr(latency, field) for _, latency in rows]
        columns.append(Column(title, ["" if us is None else f"{us / 1e3:.3f}" for us in values]))
    table = text_table(columns if r.simulated_requests else columns[:2], width)
    verdict = r.memory
    notes = [
        f"{r.requests_per_s:.3f} requests/s, {r.tokens_per_s:.1f} tokens/s, {r.tokens_per_s_per_chip:.1f} per chip"
        + ("" if r.utilisation is None else f"; steps run {r.utilisation:.1%} of the time"),
        f"on a data-parallel rank {r.running:.2f} requests run and {r.queue:.2f} wait, on average",
    ]
    if r.largest_requests_per_s is not None and r.load is not None:
        notes.append(
            f"the largest sustainable rate is about {r.largest_requests_per_s:.4g} requests/s: load {r.load:.1%}"
        )
    notes.append(
        f"DRAM  {verdict.total_bytes / 2**30:.3f} of {verdict.capacity_bytes / 2**30:.3f} GiB with "
        f"{s.largest_batch} of the longest requests, {s.headroom:.0%} kept free; {verdict.largest_batch} of them fit"
    )
    notes += honesty_notes(r.lower_bound, r.assumptions, r.unvalidated)
    return "".join(f"{line}\n" for line in (*prose(lines, width), *table, *prose(notes, width)))


def _text(lengths: Lengths) -> str:
    """`1000`, `100 to 2000`, `about 1130 (at most 8000)`."""
    found, _ = lengths.masses()
    if len(found) == 1:
        return str(found[0])
    return f"{lengths.mean:.1f} (at most {lengths.longest})"
