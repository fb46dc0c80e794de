"""Scenarios side by side: each in a process of its own, as many as there are cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.queues import Queue
from threading import Thread

from pmc.compiler.tas.experiment import Job, run_scenario

Advance = Callable[[str, int], None]
"""Is told the scenario and how many of its windows are done more."""

_progress: Queue[tuple[str, int] | None] | None = None


def run_all(jobs: Sequence[Job], advance: Advance) -> list[dict[str, float | str]]:
    """The rows of all jobs in their order.  Raises PmcError, that of the first job that fails, when all have ended."""
    if len(jobs) == 1:
        return [run_scenario(jobs[0], lambda windows: advance(jobs[0].scenario, windows))]
    context = get_context("spawn")
    progress: Queue[tuple[str, int] | None] = context.Queue()
    listener = Thread(target=_listen, args=(progress, advance))
    listener.start()
    workers = min(len(jobs), os.cpu_count() or 1)
    try:
        with ProcessPoolExecutor(workers, context, _begin, (progress,)) as pool:
            found = [pool.submit(_run, job) for job in jobs]
        return [result.result() for result in found]
    finally:
        progress.put(None)
        listener.join()


def _listen(progress: Queue[tuple[str, int] | None], advance: Advance) -> None:
    while (message := progress.get()) is not None:
        advance(*message)


def _begin(progress: Queue[tuple[str, int] | None]) -> None:
    global _progress
    _progress = progress


def _run(job: Job) -> dict[str, float | str]:
    assert _progress is not None
    queue = _progress
    return run_scenario(job, lambda windows: queue.put((job.scenario, windows)))
