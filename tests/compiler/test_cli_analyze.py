"""`pmc analyze` and `pmc compare`: forms, exit codes, and one line for everything that is wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from pmc.compiler.main import main

from .tiny import LLAMA, MIXTRAL, SMALL, TARGET, write_config

MEMORY = ("--what", "memory", "--reserve-fraction", "0.05")
LLAMA_8B = ("--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode")


class Run:
    """Runs `pmc` in this process and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """The stdout of a run with this exit code, stderr being empty."""
        assert main([str(a) for a in arguments]) == code
        captured = self.capsys.readouterr()
        assert captured.err == ""
        return captured.out

    def error(self, *arguments: object) -> str:
        """The one line on stderr of a run that fails as bad input."""
        assert main([str(a) for a in arguments]) == 2
        captured = self.capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err.removeprefix("pmc: error: ").rstrip()


@pytest.fixture
def pmc(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_config(tmp_path, LLAMA)


@pytest.mark.parametrize(
    ("options", "headline"),
    [
        (MEMORY, "tiny: DRAM of one rank of 2, decode, batch 8, q_len 1, kv_len 64; sg2262, reserve 0.05"),
        (("--what", "ops"), "tiny: one decode step of one rank of 2, batch 8, q_len 1, kv_len 64; sg2262"),
        (("--what", "comm"), "tiny: communication of one step of 2 ranks"),
        (("--what", "links", "--board-wiring", "full-mesh"), "tiny: communication of one step of 2 ranks"),
        (
            ("--what", "cost", "--dollars-per-chip-hour", "2", "--granularity", "core"),
            "tiny decode, granularity core: 2 chips",
        ),
    ],
)
def test_every_analysis_in_every_form(pmc: Run, tiny: Path, options: tuple[str, ...], headline: str) -> None:
    command = ("analyze", tiny, *TARGET, *SMALL, "--tp", 2, *options)
    text = pmc(*command)
    assert text.startswith(headline)
    data = json.loads(pmc(*command, "--format", "json"))
    rows = list(csv.DictReader(io.StringIO(pmc(*command, "--format", "csv"))))
    assert rows and len(rows) == len(data["rows"]) and list(rows[0]) == list(data["rows"][0])
    # headline, names, rule, one line per row, notes
    assert len(text.splitlines()) > 3 + len(rows)


def test_a_dump_is_analysed_as_the_model_it_came_from(pmc: Run, tiny: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dist.mlir"
    pmc("compile", tiny, *TARGET, *SMALL, "--tp", 2, "--emit", "dist", "-o", dump)
    for options in (MEMORY, ("--what", "comm"), ("--what", "links", "--board-wiring", "ring"), ("--what", "ops")):
        assert pmc("analyze", dump, *options) == pmc("analyze", tiny, *TARGET, *SMALL, "--tp", 2, *options)
    moved = pmc("analyze", dump, *MEMORY, "--kv-len", 128)
    assert moved == pmc("analyze", tiny, *TARGET, "--batch", 8, "--kv-len", 128, "--tp", 2, *MEMORY)
    assert "--tp cannot be changed any more" in pmc.error("analyze", dump, *MEMORY, "--tp", 4)


def test_what_DoesNotFit_is_an_answer_and_no_error(pmc: Run) -> None:
    model = ("analyze", "llama-3.1-70b", *TARGET, *MEMORY)
    out = pmc(*model, code=1)
    answer = out.splitlines()[-1]
    assert answer.startswith("does not fit: stage 0 needs ") and "weights alone exceed the capacity; no batch" in answer
    assert json.loads(pmc(*model, "--format", "json", code=1))["fits"] is False
    split = (*model, "--tp", 8)
    data = json.loads(pmc(*split, "--format", "json"))
    largest = data["largest_batch"]
    assert data["fits"] and largest > data["bindings"]["batch"]
    pmc(*split, "--batch", largest)
    assert pmc(*split, "--batch", largest + 1, code=1).endswith(f"the largest batch that fits is {largest}\n")


def test_the_accounting_changes_what_is_charged(pmc: Run, tiny: Path) -> None:
    command = ("analyze", tiny, *TARGET, *SMALL, "--what", "ops", "--granularity", "core", "--format", "json")
    physical, other = (json.loads(pmc(*command, "--accounting", name)) for name in ("physical", "ds-tpu"))
    assert json.loads(pmc(*command)) == physical
    assert other["total_us"] < physical["total_us"] and other["total_flops"] == physical["total_flops"]
    sides = ("compare", "sg2262", "sg2262", "--model", tiny, *LLAMA_8B, *SMALL, *command[-4:])
    times = [json.loads(pmc(*sides, "--accounting", name))["a"]["total_us"] for name in ("physical", "ds-tpu")]
    assert times == [physical["total_us"], other["total_us"]]


def test_the_answer_goes_to_a_file_too(pmc: Run, tmp_path: Path) -> None:
    output = tmp_path / "memory.json"
    command = ("analyze", "llama-3.1-70b", *TARGET, *MEMORY, "--format", "json")
    assert main([str(a) for a in (*command, "-o", output)]) == 1
    captured = pmc.capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("pmc: does not fit: stage 0 needs")
    assert output.read_text() == pmc(*command, code=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--what", "cost"), "--what cost needs --dollars-per-chip-hour"),
        (("--what", "comm", "--depth", "2"), "--what comm does not use --depth; its options are --accounting"),
        (
            (*MEMORY, "--granularity", "core"),
            "--what memory does not use --granularity; its options are --reserve-fraction",
        ),
        (
            ("--what", "memory", "--reserve-fraction", "1"),
            "reserve_fraction is 1.0, must be at least 0 and less than 1",
        ),
        (("--what", "ops", "--granularity", "lane"), "unknown granularity 'lane'; must be one of chip, core, tile"),
        (("--what", "ops", "--depth", "0"), "depth is 0, must be at least 1"),
        (("--what", "cost", "--dollars-per-chip-hour", "-1"), "dollars_per_chip_hour is -1.0, must be a finite number"),
        (
            ("--what", "cost", "--dollars-per-chip-hour", "1", "--watts-per-chip", "9"),
            "dollars_per_kwh must be given too",
        ),
        (("--what", "colour"), "Invalid value for '--what': "),
    ],
)
def test_wrong_options_are_named(pmc: Run, tiny: Path, options: tuple[str, ...], message: str) -> None:
    assert pmc.error("analyze", tiny, *TARGET, *SMALL, *options).startswith(message)


# -- compare ----------------------------------------------------------------------------------------------------


def test_two_chips_side_by_side(pmc: Run, tiny: Path) -> None:
    command = ("compare", "sg2262", "h100-sxm", "--model", tiny, *LLAMA_8B, *SMALL)
    data = json.loads(pmc(*command, "--format", "json"))
    assert (data["a"]["chip"], data["b"]["chip"]) == ("sg2262", "h100-sxm")
    assert data["ratio"] == pytest.approx(data["b"]["total_us"] / data["a"]["total_us"])
    assert sum(row["delta_us"] for row in data["rows"]) == pytest.approx(data["delta_us"])
    assert {row["found_in"] for row in data["rows"]} == {"both"}
    assert pmc(*command).startswith("a: sg2262 = tiny: one decode step")


def test_a_side_that_DoesNotFit_is_named_and_the_answer_is_no(pmc: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """70B over 2 chips: 92.0 GB of weights and caches fit 137.4 GB of one chip, not 85.9 GB of the other."""
    target = ("--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode", "--tp", 2)
    command = ("compare", "sg2262", "h100-sxm", "--model", "llama-3.1-70b", *target)
    data = json.loads(pmc(*command, "--format", "json", code=1))
    alone = json.loads(pmc("evaluate", "llama-3.1-70b", "--chip", "sg2262", *target, "--format", "json"))
    assert data["memory"]["a"] == alone["memory"] and data["memory"]["a"]["fits"]
    assert not data["memory"]["b"]["fits"]
    assert pmc(*command, code=1).splitlines()[-1] == f"b (h100-sxm) {data['memory']['b']['verdict']}"
    assert main([str(a) for a in (*command, "--format", "csv")]) == 1
    assert capsys.readouterr().err == f"pmc: b (h100-sxm) {data['memory']['b']['verdict']}\n"


def test_two_deployments_and_their_dumps(pmc: Run, tmp_path: Path) -> None:
    mixtral = write_config(tmp_path, MIXTRAL, "mixtral.json")
    files: list[Path] = []
    dumps: list[Path] = []
    preset = Path("configs/deployments/llama-8b-decode.yaml")
    text = (Path(__file__).parents[2] / preset).read_text()
    for tp, dp in ((1, 2), (2, 1)):
        changed = text.replace("tp: 1", f"tp: {tp}", 1).replace("dp: 1", f"dp: {dp}").replace("ep: 1", "ep: 2")
        files.append(tmp_path / f"tp{tp}.yaml")
        files[-1].write_text(changed)
        dumps.append(tmp_path / f"tp{tp}.mlir")
        target = ("--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", files[-1])
        pmc("compile", mixtral, *target, *SMALL, "--emit", "dist", "-o", dumps[-1])
    named = pmc(
        "compare",
        *files,
        "--model",
        mixtral,
        "--chip",
        "sg2262",
        "--topology",
        "p1-r1-b1-c8",
        *SMALL,
        "--format",
        "csv",
    )
    assert named == pmc("compare", *dumps, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(named)))
    alone = {(row["path"], row["op"]) for row in rows if row["found_in"] == "b"}
    assert ("blocks.moe.gqa.o_proj", "dist.all_reduce") in alone
    assert all(row["a_time_us"] == "" for row in rows if row["found_in"] == "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("a.mlir", "sg2262"), "a.mlir and sg2262: one is a dump (.mlir), the other is not; compare two of a kind"),
        (("a.mlir", "b.mlir", "--model", "llama-3.1-8b"), "--model cannot be given with two dumps"),
        (("sg2262", "h100-sxm", *LLAMA_8B), "--model is missing: sg2262 and h100-sxm are no dumps"),
        (
            ("sg2262", "h100-sxm", "--model", "llama-3.1-8b", *TARGET),
            "give two of --chip, --topology and --deployment, A and B are the third; found --chip, --topology, --depl",
        ),
        (
            ("sg2262", "h100-sxm", "--model", "llama-3.1-8b", "--chip", "sg2262"),
            "give two of --chip, --topology and --deployment, A and B are the third; found --chip",
        ),
        (("sg2262", "h100", "--model", "llama-3.1-8b", *LLAMA_8B), "chip 'h100': neither a preset nor a file"),
    ],
)
def test_sides_that_cannot_be_compared(pmc: Run, options: tuple[str, ...], message: str) -> None:
    assert pmc.error("compare", *options).startswith(message)
