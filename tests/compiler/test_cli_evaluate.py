"""What `pmc evaluate` takes from the command line besides the target."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pmc.compiler.main import main

from .tiny import LLAMA, TARGET, write_config


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 0
    return capsys.readouterr().out


def test_a_tile_cache_changes_nothing_but_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, cache = str(write_config(tmp_path, LLAMA)), tmp_path / "cache"
    options = [model, *TARGET, "--granularity", "tile", "--format", "csv"]
    searched = evaluate(capsys, *options)
    assert evaluate(capsys, *options, "--tile-cache", str(cache)) == searched
    files = sorted(cache.iterdir())
    assert files
    assert evaluate(capsys, *options, "--tile-cache", str(cache)) == searched
    assert sorted(cache.iterdir()) == files
    for file in files:  # plans in which nothing overlaps show that the files are read, not searched again
        file.write_text(json.dumps({**json.loads(file.read_text()), "slots": 1}))
    assert evaluate(capsys, *options, "--tile-cache", str(cache)) != searched


@pytest.mark.parametrize("granularity", ["core", "tile"])
def test_a_tiled_dump_has_only_the_granularity_chip(
    granularity: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, dump = str(write_config(tmp_path, LLAMA)), str(tmp_path / "tile.mlir")
    assert main(["compile", model, *TARGET, "--emit", "tile", "-o", dump]) == 0
    assert "blocks.dense.gqa.q_proj" in evaluate(capsys, dump)
    assert main(["evaluate", dump, "--granularity", granularity]) == 2
    assert "evaluate a dump before lower-to-tiles, or this one at granularity chip" in capsys.readouterr().err


def test_an_unrolled_dump_says_what_to_take_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, dump = str(write_config(tmp_path, LLAMA)), str(tmp_path / "unrolled.mlir")
    assert main(["compile", model, *TARGET, "--emit", "commands", "--unroll", "-o", dump]) == 0
    assert main(["evaluate", dump]) == 2
    error = capsys.readouterr().err
    assert "take the module before unroll-commands" in error and error.count("\n") == 1


# -- what does not fit ------------------------------------------------------------------------------------------

TP8 = ["llama-3.1-70b", *TARGET, "--tp", "8", "--kv-len", "4096"]
PARTS = ("weights", "states", "activations", "communication", "reserve")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def footprint(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The memory analysis without any reserve."""
    command = ["analyze", *arguments, "--what", "memory", "--reserve-fraction", "0", "--format", "json"]
    document: dict[str, Any] = json.loads(run(capsys, *command)[1])
    return document


def test_a_step_that_DoesNotFit_is_evaluated_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    largest = footprint(capsys, *TP8)["largest_batch"]
    beyond = [*TP8, "--batch", str(largest + 1)]
    analysed = footprint(capsys, *beyond)
    code, out, err = run(capsys, "evaluate", *beyond, "--format", "json")
    document = json.loads(out)
    assert (code, err) == (1, "")
    assert (
        list(document)[-3:] == ["parameters", "deployment", "hints"]
        and document["steps"]
        and document["aggregates"]["time_us"] > 0
    )
    memory = document["memory"]
    for key in ("fits", "excess_bytes", "largest_batch", "verdict", "phase", "capacity_bytes"):
        assert memory[key] == analysed[key]
    for key in ("stage", "total_bytes", *(f"{part}_bytes" for part in PARTS)):
        assert memory[key] == analysed["stages"][0][key]
    assert memory["fits"] is False and memory["excess_bytes"] > 0 and memory["largest_batch"] == largest

    code, out, err = run(capsys, "evaluate", *beyond)
    assert (code, err) == (1, "")
    *table, last = out.splitlines()
    assert last == memory["verdict"] and last.endswith(f"; the largest batch that fits is {largest}")
    assert f": {memory['excess_bytes']} bytes too many, most of it for states;" in last

    code, out, err = run(capsys, "evaluate", *beyond, "--format", "csv")
    assert (code, err) == (1, f"pmc: {last}\n")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == [step["path"] for step in document["steps"]]

    fitting = [*TP8, "--batch", str(largest)]
    document = json.loads(evaluate(capsys, *fitting, "--format", "json"))
    assert document["memory"]["fits"] is True and document["memory"]["largest_batch"] is None
    assert document["memory"]["excess_bytes"] == footprint(capsys, *fitting)["excess_bytes"] <= 0
    code, out, err = run(capsys, "evaluate", *fitting)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == len(table) and "fit" not in out


def test_a_request_that_DoesNotFit_is_evaluated_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--isl", "64", "--osl", "4033"]  # the full cache has the 64 + 4033 - 1 tokens of a step at 4096
    largest = footprint(capsys, *TP8)["largest_batch"]
    command = ["evaluate", *TP8[:-2], *lengths]
    analysed = footprint(capsys, *TP8, "--batch", str(largest + 1))
    code, out, err = run(capsys, *command, "--batch", str(largest + 1), "--format", "json")
    document = json.loads(out)
    assert (code, err) == (1, "")
    assert list(document)[-3:] == ["parameters", "deployment", "hints"] and document["decode"]["steps"] == 4032
    memory = document["memory"]
    assert memory["verdict"] == analysed["verdict"] and memory["phase"] == "decode"
    for key in ("total_bytes", *(f"{part}_bytes" for part in PARTS)):
        assert memory[key] == analysed["stages"][0][key]
    assert memory["total_bytes"] == document["memory_peak_bytes"]

    code, out, err = run(capsys, *command, "--batch", str(largest + 1))
    assert (code, err) == (1, "")
    assert "GiB: it does not fit\n" in out and out.splitlines()[-1] == memory["verdict"]

    code, table, err = run(capsys, *command, "--batch", str(largest + 1), "--format", "csv")
    assert (code, err) == (1, f"pmc: {memory['verdict']}\n")
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["phase"] == "request"]
    assert [(row["metric"], row["value"]) for row in rows[-3:]] == [
        ("fits", "False"), ("excess_bytes", str(memory["excess_bytes"])), ("largest_batch", str(largest))
    ]  # fmt: skip

    file = tmp_path / "request.txt"
    assert run(capsys, *command, "--batch", str(largest + 1), "-o", str(file)) == (1, "", err)
    assert file.read_text() == out

    code, out, err = run(capsys, *command, "--batch", str(largest))
    assert (code, err) == (0, "") and "fit" not in out
    code, table, err = run(capsys, *command, "--batch", str(largest), "--format", "csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(table)))
    figures = {row["metric"]: row["value"] for row in rows if row["phase"] == "request"}
    assert figures["fits"] == "True" and "largest_batch" not in figures


def test_a_dump_fits_or_not_at_its_new_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = str(tmp_path / "dist.mlir")
    assert main(["compile", *TP8, "--emit", "dist", "-o", dump]) == 0
    largest = footprint(capsys, dump)["largest_batch"]
    for batch, code in ((largest, 0), (largest + 1, 1)):
        assert main(["evaluate", dump, "--batch", str(batch)]) == code
        capsys.readouterr()


def test_below_the_dist_level_nothing_is_said_about_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, dump = str(write_config(tmp_path, LLAMA)), str(tmp_path / "tile.mlir")
    assert main(["compile", model, *TARGET, "--emit", "tile", "-o", dump]) == 0
    assert json.loads(evaluate(capsys, dump, "--format", "json"))["memory"] is None
