"""Runs the `// RUN:` lines of the .mlir files beside it in this process: `pmc ... | filecheck %s`."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options
from filecheck.parser import Parser

from pmc.compiler.main import main
from pmc.compiler.pipelines import pass_names

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.mlir"))


def run_lines(file: Path) -> list[str]:
    lines = file.read_text().splitlines()
    return [line.removeprefix("// RUN:").strip() for line in lines if line.startswith("// RUN:")]


CASES = [
    pytest.param(file, line, id=f"{file.stem}-{number}")
    for file in FILES
    for number, line in enumerate(run_lines(file))
]


def filecheck(arguments: list[str], text: str) -> int:
    options = parse_argv_options(["filecheck", *arguments])
    return Matcher(options, FInput("<output>", text), Parser.from_opts(options)).run()


@pytest.mark.parametrize(("file", "line"), CASES)
def test_run_line(file: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, check = (shlex.split(part.replace("%s", str(file))) for part in line.split(" | "))
    assert command[0] == "pmc" and check[0] == "filecheck", f"not a RUN line: {line}"
    code = main(command[1:])
    output = capsys.readouterr()
    assert code == 0, output.err
    assert filecheck(check[1:], output.out) == 0, f"{capsys.readouterr()}\n{output.out}"


def test_every_pass_has_a_file() -> None:
    assert {file.stem for file in (FOLDER / "passes").glob("*.mlir")} == {
        name.replace("-", "_") for name in pass_names()
    }


def test_every_file_runs_something() -> None:
    assert all(run_lines(file) for file in FILES)


def test_a_wrong_expectation_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expectation = tmp_path / "wrong.mlir"
    expectation.write_text("// CHECK: layer.program\n// CHECK-NEXT: dist.all_reduce\n")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert filecheck([str(expectation)], "layer.program\nlayer.matmul\ndist.all_reduce\n") == 1
    assert filecheck([str(expectation)], "layer.program\ndist.all_reduce\n") == 0
