"""The IR of the presets at every level, as it reads; `pytest --update-golden` writes it anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text
from pmc.dialects.levels import LEVELS, Level

MAX_LINES = 200

TARGETS: dict[str, tuple[str, str, dict[str, object]]] = {
    "llama-3.1-8b": ("p1-r1-b1-c8", "llama-8b-decode", {}),
    "llama-3.1-70b": ("p1-r1-b1-c8", "llama-70b-prefill-tp8", {"tp": 4, "pp": 2, "sp": True}),
    "deepseek-v3": ("p1-r1-b4-c32", "dsv3-decode-ep32", {}),
    "deepseek-v3.2": ("p1-r1-b4-c32", "dsv32-decode-ep32", {}),
}
"""Topology, deployment and what is changed in it: together they show tp, sp, pp, dp and ep, prefill and decode."""

KERNELS = {
    "llama-3.1-8b": ("blocks.dense.gqa.q_proj", "blocks.dense.gqa.attention", "blocks.dense.ffn.silu_mul"),
    "llama-3.1-70b": ("blocks.dense.gqa.attention", "blocks.dense.ffn.down_proj"),
    "deepseek-v3": ("blocks.moe.mla.attention", "blocks.moe.moe.dispatch", "blocks.moe.moe.experts.gate_proj"),
    "deepseek-v3.2": (
        "blocks.moe.dsa.indexer.scores", "blocks.moe.dsa.indexer.topk", "blocks.moe.dsa.gather_c_kv",
    ),
}  # fmt: skip
"""The ops whose kernels the goldens of the two lowest levels show."""


def without_target(module: ModuleOp) -> str:
    """The text without the chip and the passes, and without the line that opens the module."""
    module.attributes.clear()
    return module_text(module).partition("\n")[2]


def kernels(text: str, paths: tuple[str, ...]) -> str:
    """The ops of these paths that hold a region or move data between chips, each cut out by its indentation."""
    shown: list[str] = []
    inside = ""
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        starts = any(f'at "{path}"' in line for path in paths)
        if not inside and starts and (line.endswith("{") or "collective(" in line or "cdma {" in line):
            inside = indent if line.endswith("{") else ""
            shown.append(line)
        elif inside:
            shown.append(line)
            if indent == inside and line.strip() == "}":
                inside = ""
    return "".join(f"{line}\n" for line in shown)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("model", TARGETS)
def test_golden(model: str, level: Level, golden: Callable[[str, str], None]) -> None:
    topology, deployment, changes = TARGETS[model]
    module = compile_model(
        load_model(model),
        load_chip("sg2262"),
        load_topology(topology),
        load_deployment(deployment, changes),
        level,
    )
    text = without_target(module)
    if level in ("tile", "commands"):
        text = kernels(text, KERNELS[model])
        for path in KERNELS[model]:
            assert f'at "{path}"' in text
    assert text.count("\n") <= MAX_LINES
    golden(f"{model}/{level}.mlir", text)
