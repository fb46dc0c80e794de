"""`pmc sweep`: every row is what `pmc evaluate` says of that point."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.feasibility import step_feasibility
from pmc.backends.evaluate.request import aggregate_step
from pmc.compiler.config import ConfigError, default_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.evaluation import EvaluationOptions, evaluate_request
from pmc.compiler.main import main
from pmc.compiler.sweep import engine
from pmc.compiler.sweep.axes import Axis, parse_axis
from pmc.compiler.sweep.engine import Sweep, request_figures
from pmc.compiler.sweep.picture import COLOURS
from pmc.compiler.sweep.points import Lengths, Point, Points
from pmc.compiler.sweep.programs import Target
from pmc.compiler.sweep.result import DOES_NOT_FIT, INFEASIBLE, OK, SweepResult
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray
from tests.compiler.tiny import LLAMA as LLAMA_CONFIG
from tests.compiler.tiny import write_config


@cache
def model(name: str) -> ModuleOp:
    return load_model(name)


def base(chip: str, topology: str, deployment: str, request: Lengths | None = None) -> Point:
    target = Target(load_chip(chip), load_topology(topology), load_deployment(deployment), default_accounting())
    return Point(target, EvaluationOptions(), request)


DEEPSEEK = ("sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32")
LLAMA = ("sg2262", "p1-r1-b1-c8", "llama-8b-decode")


def swept(name: str, start: Point, *axes: str) -> SweepResult:
    sweep = Sweep(model(name), name, start, tuple(map(parse_axis, axes)))
    result = sweep.table()
    sweep.run(result)
    return result


def alone(name: str, start: Point, values: Mapping[str, object]) -> dict[str, object]:
    """What the evaluation of one point says, compiled and verified by itself."""
    try:
        point = Points(start).at(values)
        target = point.target
        if point.request is not None:
            r = point.request
            found = evaluate_request(
                model(name), target.chip, target.topology, target.deployment, r.isl, r.osl, point.options,
                r.micro_batches, target.accounting,
            )  # fmt: skip
            return request_figures(found)
        module = compile_model(
            model(name).clone(), target.chip, target.topology, target.deployment, "dist", accounting=target.accounting
        )
        evaluator = point.options.evaluator(module)
        step = evaluator.step({})
        figures, memory = aggregate_step(evaluator, step), step_feasibility(module, search=False)
        assert memory is not None
    except PmcError as error:
        return {"status": INFEASIBLE, "reason": str(error)}
    return {
        "status": OK if memory.fits else DOES_NOT_FIT,
        "time_us": figures.time_us,
        "exposed_us": figures.exposed_us,
        "mfu": figures.mfu,
        "mbu": figures.mbu,
        "flops": figures.flops,
        "dram_bytes": figures.dram_bytes,
        "link_bytes": figures.link_bytes,
        "tps_per_chip": figures.tps_per_chip,
        "memory_bytes": memory.total_bytes,
        "reason": "" if memory.fits else memory.verdict,
    }


def assert_equal(result: SweepResult, name: str, start: Point, points: int, seed: int = 0) -> set[object]:
    """Random rows equal the evaluation of their point to the last bit; gives their statuses."""
    rows = result.to_rows()
    statuses: set[object] = set()
    for index in np.random.default_rng(seed).permutation(len(rows))[:points]:
        row = rows[int(index)]
        values = dict(zip([axis.name for axis in result.axes], values_at(result, int(index)), strict=True))
        expected = alone(name, start, values)
        assert {key: row[key] for key in expected} == expected, values
        statuses.add(row["status"])
    return statuses


def values_at(result: SweepResult, point: int) -> list[object]:
    places = np.unravel_index(point, [len(axis.values) for axis in result.axes])
    return [axis.values[int(place)] for axis, place in zip(result.axes, places, strict=True)]


def test_issue9_9_layouts_of_deepseek_are_those_of_evaluate() -> None:
    start = base(*DEEPSEEK)
    axes = (
        "deployment.tp=1,2,8", "deployment.dp=4,16", "deployment.ep=4..32:x2", "deployment.moe_tp=1,2",
        "deployment.pp=1,2", "deployment.sp=true,false", "deployment.batch=64,2048",
    )  # fmt: skip
    result = swept("deepseek-v3", start, *axes)
    feasible = np.flatnonzero(result.columns["status"] != INFEASIBLE)
    assert len(feasible) > 20
    rng = np.random.default_rng(1)
    rows = result.to_rows()
    for index in (*rng.choice(feasible, 8), *rng.integers(0, len(rows), 12)):
        values = dict(zip([axis.name for axis in result.axes], values_at(result, int(index)), strict=True))
        expected = alone("deepseek-v3", start, values)
        assert {key: rows[int(index)][key] for key in expected} == expected, values


def test_issue9_9_padding_is_that_of_the_layout(tmp_path: Path) -> None:
    """3 words of a vocabulary are 1 on each of 4 or 8 ranks, of which 1 or 5 have none: equal ops, unequal work."""
    config = {**LLAMA_CONFIG, "vocab_size": 3, "num_attention_heads": 8, "num_key_value_heads": 8}
    name = str(write_config(tmp_path, config))
    result = swept(name, base(*LLAMA), "deployment.tp=4,8")
    assert_equal(result, name, base(*LLAMA), 2)


def test_issue9_9_chips_topologies_and_options_are_those_of_evaluate() -> None:
    start = base(*LLAMA)
    axes = (
        "chip=sg2262,h100-sxm", "chip.cores=16,64", "topology.links.c2c.gb_per_s=100,400", "deployment.tp=1,3",
        "granularity=chip,core", "overlap=none,streams", "calibration=ideal,assumed-losses", "deployment.batch=1,500",
    )  # fmt: skip
    result = swept("llama-3.1-8b", start, *axes)
    assert assert_equal(result, "llama-3.1-8b", start, 24) == {OK, INFEASIBLE, DOES_NOT_FIT}


def test_issue9_9_requests_are_those_of_evaluate() -> None:
    start = base(*LLAMA, Lengths(64, 8))
    axes = ("deployment.tp=1,2,3", "deployment.pp=1,2", "deployment.batch=4,32", "isl=64,128", "osl=1,16")
    result = swept("llama-3.1-8b", start, *axes)
    assert assert_equal(result, "llama-3.1-8b", start, 16) == {OK, INFEASIBLE}


def test_issue9_9_a_sweep_leaves_the_model_as_it_was() -> None:
    before = str(model("llama-3.1-8b"))
    swept("llama-3.1-8b", base(*LLAMA), "deployment.tp=1,2")
    assert str(model("llama-3.1-8b")) == before


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("deployment.tp=1,2,4,8", (1, 2, 4, 8)),
        ("chip.cores=16..64:16", (16, 32, 48, 64)),
        ("chip.cores=16..63:16,64", (16, 32, 48, 64)),
        ("deployment.batch=1..20:x4", (1, 4, 16)),
        ("deployment.kv-len=5..7", (5, 6, 7)),
        ("chip.lmem_bytes=1MiB..4MiB:x2", (2**20, 2**21, 2**22)),
        ("chip.dram.bandwidth_gb_per_s=500..1000:250", (500, 750, 1000)),
        ("deployment.sp=true,false", (True, False)),
        ("deployment.quantization.weights=bf16,f8E4M3FN", ("bf16", "f8E4M3FN")),
        ("deployment.quantization.keep=[a],[lm_head,*.router]", (["a"], ["lm_head", "*.router"])),
        ("deployment.routing=uniform;zipf:1.2;histogram:1,2", ("uniform", {"zipf": 1.2}, {"histogram": [1.0, 2.0]})),
        ("chip=sg2262,../chips/own.yaml", ("sg2262", "../chips/own.yaml")),
        ("isl=1024..4096:1024", (1024, 2048, 3072, 4096)),
    ],
)
def test_issue9_9_lists_and_ranges(text: str, values: tuple[object, ...]) -> None:
    assert parse_axis(text).values == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployment.tp", "expected NAME=VALUES"),
        ("deployment.pt=1,2", "unknown field deployment.pt"),
        ("chips=a,b", "unknown name 'chips'; did you mean 'chip'?"),
        ("deployment.tp=", "expected at least one value"),
        ("deployment.tp=1,2,1", "deployment.tp: 1 is given twice"),
        ("deployment.tp=8..1", "8..1 is empty: the first end is above the last"),
        ("deployment.tp=1..8:0", "must be above 0"),
        ("deployment.tp=1..8:x1", "its factor is above 1"),
        ("deployment.tp=1..8:xx", "expected a factor as x2"),
        ("deployment.tp=a..8", "the end of a range is a number, found 'a'"),
        ("deployment.batch=1..99999999", "has more than 10000000 values"),
        ("isl=0,1", "isl: expected an integer from 1, found '0'"),
    ],
)
def test_issue9_9_a_wrong_axis_is_told_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_axis(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_issue9_9_axes_that_do_not_go_together() -> None:
    with pytest.raises(PmcError, match="nothing varies"):
        swept("llama-3.1-8b", base(*LLAMA))
    with pytest.raises(PmcError, match=r"deployment\.tp is swept twice"):
        swept("llama-3.1-8b", base(*LLAMA), "deployment.tp=1,2", "deployment.tp=4,8")
    with pytest.raises(PmcError, match="only requests have such lengths"):
        swept("llama-3.1-8b", base(*LLAMA), "isl=1,2")
    with pytest.raises(PmcError, match="say it for both phases"):
        swept("llama-3.1-8b", base(*LLAMA, Lengths(8, 8)), "deployment.kv_len=1,2")
    with pytest.raises(PmcError, match="are more than"):
        swept("llama-3.1-8b", base(*LLAMA), "deployment.batch=1..4000", "deployment.kv_len=1..4000")


def test_issue9_9_forms_and_order(capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
    command = ["sweep", "llama-3.1-8b", *target, "--set", "deployment.tp=1,2,3,4", "--set", "deployment.batch=4"]
    assert main([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["deployment.tp"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[2]["status"] == "infeasible" and "not divisible by tp = 3" in rows[2]["reason"]
    assert main([*command, "--format", "json", "--sort=-time_us", "--top", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["deployment.tp"] for row in found["rows"]] == [1, 2]
    assert [row["time_us"] for row in found["rows"]] == [float(row["time_us"]) for row in rows[:2]]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("llama-3.1-8b: 4 points: 3 ok, 1 infeasible\n")
    assert "[1] annotate-shardings: the 32 heads" in text
    assert main([*command, "--sort", "tim_us"]) == 2
    assert "did you mean 'time_us'?" in capsys.readouterr().err


def test_issue9_9_no_point_that_fits_is_the_answer_no(capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--chip", "h100-sxm", "--topology", "nvlink-8", "--deployment", "llama-70b-decode-tp8"]
    assert main(["sweep", "llama-3.1-70b", *target, "--set", "deployment.tp=1,2", "--batch", "100000"]) == 1
    assert "2 does not fit" in capsys.readouterr().out


def test_issue9_9_an_axis_takes_the_place_of_a_missing_option(capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
    assert main(["sweep", "llama-3.1-8b", *rest, "--set", "chip=sg2262,h100-sxm", "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert main(["sweep", "llama-3.1-8b", *rest, "--set", "chip=sg2262,h100-sxm", "--chip", "sg2262"]) == 2
    assert "--set chip: also given as --chip" in capsys.readouterr().err


def test_issue9_9_values_from_python() -> None:
    assert Axis("deployment.tp", (1, 2)).part == "deployment"
    with pytest.raises(ConfigError, match="1 is given twice"):
        Axis("deployment.tp", (1, 1))


COMMAND = ["sweep", "llama-3.1-8b", "--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]


def test_issue9_9_a_sweep_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, axis = tmp_path / "a.csv", "deployment.tp=1,2,3"
    options = [*COMMAND, "--out", str(file), "--resume"]
    assert main([*options, "--set", axis, "--set", "deployment.batch=4,900"]) == 0
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 7 and {line.split(",")[2] for line in lines[1:]} == {OK, INFEASIBLE, DOES_NOT_FIT}
    evaluated: list[int] = []
    put = SweepResult.put

    def counting(self: SweepResult, points: int | IntArray, values: Mapping[str, object]) -> None:
        if isinstance(points, int):
            evaluated.append(points)
        put(self, points, values)

    monkeypatch.setattr(SweepResult, "put", counting)
    file.write_text(lines[0] + lines[6] + lines[2] + lines[3] + lines[1][:40])  # in any order; killed in a write
    assert main([*options, "--set", axis, "--set", "deployment.batch=4,900"]) == 0
    assert file.read_text() == whole and sorted(evaluated) == [0, 3, 4]
    evaluated.clear()
    assert main([*options, "--set", axis, "--set", "deployment.batch=4,8,900", "--sort=-deployment.batch"]) == 0
    assert sorted(evaluated) == [1, 4, 7]
    assert set(lines) < set(file.read_text().splitlines(keepends=True))


def test_issue9_9_rows_are_written_as_they_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.csv"
    options = [*COMMAND, "--out", str(file), "--resume", "--set", "deployment.tp=1,2,4"]
    put = SweepResult.put

    def interrupted(self: SweepResult, points: int, values: Mapping[str, object]) -> None:
        if points == 2:
            raise KeyboardInterrupt
        put(self, points, values)

    monkeypatch.setattr(SweepResult, "put", interrupted)
    assert main(options) != 0
    assert file.read_text().count("\n") == 3 and file.read_text().endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "deployment.batch=1,2"], "it varies deployment.tp, not deployment.batch"),
        (["--set", "deployment.tp=1,2", "--batch", "7"], "another model, target or options"),
        (["--set", "deployment.tp=1,2", "--granularity", "core"], "another model, target or options"),
        (
            ["--set", "deployment.tp=1,2", "--set", "chip.dram.bandwidth_gb_per_s=77"],
            "another model, target or options",
        ),
        (["--set", "deployment.tp=1,4"], "deployment.tp = 2, which is no value of --set"),
        (["--set", "deployment.tp=1,2", "--top", "1"], "--top would drop rows"),
        (["--set", "deployment.tp=1,2", "--format", "json"], "give --out FILE.csv"),
    ],
)
def test_issue9_9_the_file_of_another_sweep_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.csv"
    options = [*COMMAND, "--out", str(file), "--resume"]
    assert main([*options, "--set", "deployment.tp=1,2"]) == 0
    before = file.read_bytes()
    capsys.readouterr()
    assert main([*options, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert file.read_bytes() == before


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "no table", "\0\n"])
def test_issue9_9_what_is_no_table_is_not_written_over(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text)
    assert main([*COMMAND, "--out", str(file), "--resume", "--set", "deployment.tp=1,2"]) == 2
    assert "cannot be resumed" in capsys.readouterr().err and file.read_text() == text


@pytest.mark.parametrize(
    ("name", "start", "axes"),
    [
        ("llama-3.1-8b", LLAMA, ("deployment.batch=1..1200:97", "deployment.kv_len=1..9000:811")),
        ("llama-3.1-8b", LLAMA, ("deployment.kv_len=1..300:31", "granularity=chip,core", "deployment.batch=1..64:7")),
        (
            "deepseek-v3",
            DEEPSEEK,
            (
                "deployment.batch=1..5000:809",
                "deployment.q_len=1,5",
                "deployment.kv_len=4..9000:999",
            ),
        ),
    ],
)
def test_issue9_9_points_of_one_program_are_those_of_evaluate(
    name: str, start: tuple[str, str, str], axes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    sweep = Sweep(model(name), name, base(*start), tuple(map(parse_axis, axes)))
    result = sweep.table()
    sweep.run(result, lambda points: told.append(len(points)))
    assert sum(told) == len(result) and told[0] > 60  # at once
    assert assert_equal(result, name, base(*start), 8) & {OK, DOES_NOT_FIT}
    monkeypatch.setattr(engine, "FEWEST", len(result) + 1)
    assert result.to_rows() == swept(name, base(*start), *axes).to_rows()


def test_issue9_9_the_csv_is_that_of_the_csv_module() -> None:
    result = swept(
        "llama-3.1-8b", base(*LLAMA), "deployment.routing=uniform;histogram:1,2", "deployment.tp=1,3",
        "deployment.batch=2,5000",
    )  # fmt: skip
    result.put(0, {"reason": 'a "b", c', "time_us": -0.0, "mfu": 1e22, "memory_bytes": 2.0**70})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.header)
    writer.writerows(result.rows())
    assert result.to_csv() == text.getvalue()
    assert result.csv_lines([5, 1]) == "".join(text.getvalue().splitlines(keepends=True)[i] for i in (6, 2))


def test_issue9_9_the_picture_has_a_line_per_value_of_the_next_axis(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    axes = ["--set", "deployment.batch=4,8,900", "--set", "deployment.tp=1,2,3"]
    assert main([*COMMAND, *axes, "--plot", str(file), "--sort=-tps_per_chip"]) == 0
    page = file.read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "") and "<script" not in page
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</body>")])
    tag = "{http://www.w3.org/2000/svg}"
    lines = svg.findall(f"{tag}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [3, 3]  # tp = 3 has no results
    titles = [title.text or "" for title in svg.iter(f"{tag}title")]
    assert len(titles) == 6 and "deployment.tp = 1; deployment.batch = 900: tps_per_chip" in titles[2]
    assert titles[2].endswith("does not fit")
    assert any((text.text or "").endswith("tps_per_chip over deployment.batch") for text in svg.iter(f"{tag}text"))


def test_issue9_9_a_picture_may_be_a_png(tmp_path: Path) -> None:
    """A line for each tp, in the colours of the page; points that do not fit are hollow."""
    image = pytest.importorskip("matplotlib.image", reason="the extra pmc[plot] is not installed")
    coloured = {}
    for batches in ("64,128", "900000,1800000"):
        path = tmp_path / f"{batches}.png"
        axes = ["--set", f"deployment.batch={batches}", "--set", "deployment.tp=1,2"]
        main([*COMMAND, *axes, "--plot", str(path)])
        pixels = image.imread(path)[..., :3]
        assert pixels.shape == (840, 1380, 3)
        for colour in COLOURS[:3]:
            rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            coloured[batches, colour] = int((abs(pixels - rgb) < 0.02).all(axis=2).sum())
    blue, red, green = COLOURS[:3]
    assert coloured["64,128", blue] > 100 and coloured["64,128", red] > 100 and coloured["64,128", green] == 0
    assert coloured["900000,1800000", blue] < coloured["64,128", blue] - 30


def test_issue9_9_a_png_without_matplotlib_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr("pmc.compiler.sweep.picture_png.find_spec", nothing)
    assert main([*COMMAND, "--set", "deployment.batch=1,2", "--plot", str(tmp_path / "a.png")]) == 2
    assert "PNG needs matplotlib: pip install 'pmc[plot]'" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "deployment.tp=1,2", "--plot", "a.pdf"],
            "--plot a.pdf: a picture is a page (.html, with SVG) or a .png",
        ),
        (["--set", "overlap=none,streams", "--plot", "a.html"], "--plot needs an axis of numbers"),
        (["--set", "deployment.tp=1,2", "--plot", "a.html", "--sort", "bottleneck"], "a column of numbers"),
        (["--set", "deployment.tp=1,2", "--set", "deployment.batch=1..40", "--plot", "a.html"], "40 lines"),
        (["--set", "deployment.batch=1..20001", "--plot", "a.html"], "20001 points; 20000 at most"),
    ],
)
def test_issue9_9_a_picture_that_cannot_be_is_told_in_a_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
