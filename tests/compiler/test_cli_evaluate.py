"""What `pmc evaluate` takes from the command line besides the target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmc.compiler.main import main

from .tiny import LLAMA, TARGET, write_config


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 0
    return capsys.readouterr().out


def test_a_tile_cache_changes_nothing_but_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, cache = str(write_config(tmp_path, LLAMA)), tmp_path / "cache"
    options = [model, *TARGET, "--level", "tile", "--format", "csv"]
    searched = evaluate(capsys, *options)
    assert evaluate(capsys, *options, "--tile-cache", str(cache)) == searched
    files = sorted(cache.iterdir())
    assert files
    assert evaluate(capsys, *options, "--tile-cache", str(cache)) == searched
    assert sorted(cache.iterdir()) == files
    for file in files:  # slower tilings in the files show that they are read, not searched again
        stored = json.loads(file.read_text())
        file.write_text(json.dumps({**stored, "seconds": 2 * stored["seconds"]}))
    assert evaluate(capsys, *options, "--tile-cache", str(cache)) != searched


@pytest.mark.parametrize("level", ["core", "tile"])
def test_a_tiled_dump_has_only_the_level_chip(level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, dump = str(write_config(tmp_path, LLAMA)), str(tmp_path / "tile.mlir")
    assert main(["compile", model, *TARGET, "--emit", "tile", "-o", dump]) == 0
    assert "blocks.dense.gqa.q_proj" in evaluate(capsys, dump)
    assert main(["evaluate", dump, "--level", level]) == 2
    assert "is tiled already" in capsys.readouterr().err


def test_an_unrolled_dump_says_what_to_take_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, dump = str(write_config(tmp_path, LLAMA)), str(tmp_path / "unrolled.mlir")
    assert main(["compile", model, *TARGET, "--emit", "commands", "--unroll", "-o", dump]) == 0
    assert main(["evaluate", dump]) == 2
    error = capsys.readouterr().err
    assert "take the module before unroll-commands" in error and error.count("\n") == 1
