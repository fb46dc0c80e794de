"""The plugin of docs/plugins.md: built outside of the tree, found by its entry point, resumed and costed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the guide, and the metadata that installing them would write."""
    folder = tmp_path_factory.mktemp("plugin")
    text = GUIDE.read_text()
    files = re.findall(r"^`(pmc_clip/[a-z]\w+\.py|pyproject\.toml)`.*?```\w+\n(.*?)```$", text, re.S | re.M)
    (folder / "pmc_clip").mkdir()
    (folder / "pmc_clip" / "__init__.py").touch()
    for name, content in files:
        (folder / name).write_text(content)
    metadata = folder / "pmc_clip-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pmc-clip\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[xdsl.universe]\npmc_clip = pmc_clip.universe:UNIVERSE\n")
    return folder


def pmc(package: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pmc", *arguments], cwd=package, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hands_on_16_an_own_pass_and_an_own_op_are_listed_resumed_and_evaluated(package: Path) -> None:
    """The clip reads and writes batch x 14336 BF16 elements per layer: 32 x 32 x 14336 x 2 x 2 bytes."""
    assert "clip-gates " in pmc(package, "list", "passes")
    assert "limit=10.0 (float)  The largest value that is left as it is." in pmc(package, "show", "clip-gates")
    commands = re.findall(r"^pmc (?:compile|opt|evaluate) .*$", GUIDE.read_text(), re.M)
    assert len(commands) == 4
    outputs = [pmc(package, *command.replace('"', "").split()[1:]) for command in commands[:-1]]
    assert outputs == ["", "", ""]
    clipped = (package / "clipped.mlir").read_text()
    assert "= clip.clip(" in clipped and "clip-gates{limit=8.0}" in clipped
    assert "clip.clip(" in (package / "dist.mlir").read_text()
    result = json.loads(pmc(package, *commands[-1].split()[1:], "--format", "json"))
    (row,) = (row for row in result["steps"] if row["op"] == "clip.clip")
    assert row["count"] == 32 and row["path"] == "blocks.dense.ffn.silu_mul.clip"
    assert row["bytes_read"] == row["bytes_written"] == 32 * 32 * 14336 * 2
    assert row["flops"] == 2 * 32 * 32 * 14336


def test_hands_on_16_without_the_package_its_op_is_an_error_of_one_line(package: Path, tmp_path: Path) -> None:
    (tmp_path / "m.mlir").write_text('builtin.module {\n  %0 = clip.clip() {} at "x"\n}\n')
    done = subprocess.run(
        [sys.executable, "-m", "pmc", "opt", str(tmp_path / "m.mlir")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "clip.clip" in done.stderr and done.stderr.count("\n") == 1
