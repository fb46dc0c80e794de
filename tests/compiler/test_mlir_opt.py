"""MLIR's own `mlir-opt` reads our generic form, at every level."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text
from pmc.dialects.levels import LEVELS, Level

from .tiny import MIXTRAL, write_config

MLIR_OPT = shutil.which("mlir-opt-19") or shutil.which("mlir-opt")


@pytest.mark.skipif(MLIR_OPT is None, reason="mlir-opt is not installed (Debian: mlir-19-tools)")
@pytest.mark.parametrize("level", LEVELS)
def test_generic_form_parses(level: Level, tmp_path: Path) -> None:
    deployment = load_deployment(
        "llama-8b-decode", {"tp": 2, "pp": 2, "dp": 2, "ep": 4, "sp": True, "batch": 8, "kv_len": 64}
    )
    model = load_model(write_config(tmp_path, MIXTRAL))
    module = compile_model(model, load_chip("sg2262"), load_topology("p1-r1-b1-c8"), deployment, level)
    assert MLIR_OPT is not None
    result = subprocess.run(
        [MLIR_OPT, "--allow-unregistered-dialect", "-"],
        input=module_text(module, generic=True),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr[:2000]
    assert result.stdout.startswith("module")
