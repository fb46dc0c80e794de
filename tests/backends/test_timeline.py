"""Timelines of the simulator and of schedules: events that add up, traces that keep to the format."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pmc.backends.evaluate.overlap import Overlap
from pmc.backends.evaluate.timeline import Event, Timeline, level_counter
from pmc.backends.g5.timeline import KERNELS, kernel_timeline, timeline
from pmc.compiler.evaluation import EvaluationOptions
from pmc.compiler.main import main

from .test_granularity_commands import POINT, TARGET, compiled, simulate

STEP = simulate(compiled("commands"))


def assert_is_a_trace(document: Any) -> None:
    """The JSON object form of the Trace Event Format: what every phase of event must have, and nothing more."""
    assert set(document) == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    named: set[tuple[int, int]] = set()
    for event in document["traceEvents"]:
        assert isinstance(event["name"], str) and isinstance(event["pid"], int) and isinstance(event["tid"], int)
        match event["ph"]:
            case "M":
                assert set(event) == {"name", "ph", "pid", "tid", "args"}
                assert event["name"] in ("process_name", "thread_name") and isinstance(event["args"]["name"], str)
                named.add((event["pid"], event["tid"]))
            case "X":
                assert set(event) == {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"}
                assert event["ts"] >= 0 and event["dur"] >= 0
                assert (event["pid"], event["tid"]) in named
                assert all(isinstance(value, str | int | float) for value in event["args"].values())
            case "C":
                assert set(event) == {"name", "ph", "pid", "tid", "ts", "args"}
                assert event["ts"] >= 0 and event["args"]["value"] >= 0
            case other:
                raise AssertionError(f"unknown phase {other}")


def assert_one_at_a_time(events: list[Event]) -> None:
    """Slices of a track follow each other, or viewers nest them wrongly."""
    tracks: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        tracks[event.site, event.engine].append(event)
    for own in tracks.values():
        own.sort(key=lambda event: event.start_us)
        for one, other in pairwise(own):
            assert other.start_us >= one.start_us + one.duration_us - 1e-6


def test_a_simulated_step_is_a_trace() -> None:
    found = timeline(STEP, (0, 63))
    assert_is_a_trace(json.loads(json.dumps(found.trace())))
    assert_one_at_a_time(list(found.events))
    assert set(found.tracks()) == {KERNELS, "CDMA", "core 0", "core 63"}
    kernels = [event for event in found.events if event.site == KERNELS]
    assert sum(e.repeat * e.duration_us for e in kernels) == pytest.approx(STEP.total_us)
    for event in found.events:
        if event.site.startswith("core"):
            (kernel,) = (k for k in kernels if k.path == event.path and k.start_us <= event.start_us + 1e-9 and
                         event.start_us + event.duration_us <= k.start_us + k.duration_us + 1e-9)  # fmt: skip
            assert kernel.repeat == event.repeat


def test_bandwidth_over_time_adds_up_to_the_bytes() -> None:
    """Of each kernel, run once: the sum of its reads and writes of DRAM."""
    counters = {(counter.site, counter.name): counter for counter in timeline(STEP, (0,)).counters}
    assert set(counters) == {(KERNELS, "DRAM GB/s"), ("core 0", "LMEM port in use")}
    assert max(counters[KERNELS, "DRAM GB/s"].values) <= 8601.6 * 1.5
    assert max(counters["core 0", "LMEM port in use"].values) <= 1 + 1e-9
    sums = 0.0
    for part in STEP.parts:
        if part.times is not None:
            commands = part.times.commands
            own = commands.group_owners[commands.group] == commands.core if len(commands.group_owners) else False
            counted = (commands.share >= 0) & ((commands.group < 0) | own)
            sums += float(commands.shares.sum(axis=1)[commands.share[counted]].sum())
    counter = counters[KERNELS, "DRAM GB/s"]
    area = sum(v * (b - a) for v, a, b in zip(counter.values, counter.times_us, counter.times_us[1:], strict=False))
    assert area * 1e3 == pytest.approx(sums, rel=0.2)  # one point in so many is shown


def test_levels_rise_and_fall() -> None:
    counter = level_counter("core 0", "x", [(1.0, 2.0), (3.0, -2.0), (2.0, 1.0), (3.0, -1.0)])
    assert (counter.times_us, counter.values) == ((1.0, 2.0, 3.0), (2.0, 3.0, 0.0))


@pytest.mark.parametrize("overlap", [Overlap.NONE, Overlap.STREAMS, Overlap.TWO_BATCH])
@pytest.mark.parametrize("fields", [{}, {"pp": 2}])
def test_a_schedule_is_a_timeline_too(overlap: Overlap, fields: dict[str, Any]) -> None:
    """All runs of its ops; streams do one op at a time; no stage ends before its last op."""
    evaluator = EvaluationOptions("core", overlap).evaluator(compiled(**fields))
    step = evaluator.step()
    found = evaluator.timeline()
    assert_is_a_trace(json.loads(json.dumps(found.trace())))
    assert_one_at_a_time(list(found.events))
    assert sum(e.repeat * e.duration_us for e in found.events) == pytest.approx(sum(s.time_us for s in step.ops.steps))
    assert {e.path for e in found.events} == {s.path for s in step.ops.steps if s.time_us}
    assert found.end_us <= step.total_us * (1 + 1e-9)


def test_an_event_that_is_shown_has_a_track() -> None:
    made = Timeline((Event("rank", "compute", "a.b", "layer.matmul", 0.0, 2.0, 3),))
    (process, thread, event) = made.trace()["traceEvents"]
    assert (process["args"]["name"], thread["args"]["name"]) == ("rank", "compute")
    assert event["args"] == {"path": "a.b", "runs": 3}


def test_traces_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["simulate"], ["evaluate", "--granularity", "tile", "--overlap", "streams"]):
        path = tmp_path / f"{command[0]}.json"
        assert main([command[0], "llama-3.1-8b", *TARGET, *POINT, *command[1:], "--trace", str(path)]) == 0
        assert_is_a_trace(json.loads(path.read_text()))
    capsys.readouterr()


@pytest.mark.parametrize("command", ["simulate", "evaluate"])
def test_a_trace_that_cannot_be_written_is_refused_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "llama-3.1-8b", *TARGET, *POINT, "--trace", "/no/such/folder/trace.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pmc: error: /no/such/folder/trace.json: ") and error.count("\n") == 1


def test_a_kernel_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar per command of the core, or fewer where they are too small to be told apart; rows named by engine."""
    path = tmp_path / "kernel.svg"
    run = ["simulate", "llama-3.1-8b", *TARGET, *POINT, "--commands", "core=3,op=*.down_proj", "--plot", str(path)]
    assert main(run) == 0
    capsys.readouterr()
    picture = ElementTree.fromstring(path.read_text())
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "blocks.dense.ffn.down_proj, core 3 of sg2262: one run"
    assert {"tiu", "gdma", "vec", "DRAM GB/s", "LMEM port in use"} <= set(texts)
    bars = [e for e in picture.iter("{http://www.w3.org/2000/svg}rect") if len(e)]
    commands = kernel_timeline(STEP, 3, "*.down_proj").events
    assert 0 < len(bars) <= len(commands)
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert max(float(bar.attrib["x"]) + width for bar, width in zip(bars, widths, strict=True)) <= 1100 - 20 + 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "kernel.png"], "--plot kernel.png: a picture is an SVG file, give --plot kernel.svg"),
        (["--plot", "x.svg", "--commands", "op=nothing"], "no kernel of the step has a path like 'nothing'"),
    ],
)
def test_what_cannot_be_drawn(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "llama-3.1-8b", *TARGET, *POINT, *options]) == 2
    assert capsys.readouterr().err == f"pmc: error: {message}\n"
