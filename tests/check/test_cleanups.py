"""`canonicalize`, `cse` and `dce` of xDSL after every pass of the pipeline keep the meaning of every shipped model."""

from __future__ import annotations

from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.transforms.canonicalize import CanonicalizePass
from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination
from xdsl.transforms.dead_code_elimination import DeadCodeElimination

from pmc.compiler.check import FP32, check_model
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects.deployment import Deployment


def clean_up(name: str, module: ModuleOp) -> None:
    """All three after the pass `name`."""
    for cleanup in (CanonicalizePass, CommonSubexpressionElimination, DeadCodeElimination):
        cleanup().apply(make_context(), module)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        ("llama-3.1-8b", {"tp": 2, "pp": 2}),
        ("llama-3.1-8b", {"cp": 2, "tp": 2}),
        ("llama-3.1-70b", {"tp": 2, "dp": 2, "sp": True}),
        ("deepseek-v3", {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2}),
        ("deepseek-v3", {"cp": 2, "dp": 2, "ep": 4, "ring_exchange": "smallest"}),
    ],
    ids=str,
)
def test_clean_ups_between_the_passes_change_no_value(model: str, mesh: dict[str, Any], phase: str) -> None:
    config, source = load_model_config(model)
    cp = mesh.get("cp", 1)
    base = {**load_deployment("llama-8b-decode").model_dump(), "q_len": cp, "kv_len": 4 * cp, "phase": phase, **mesh}
    target = shrink_deployment(Deployment.model_validate(base), quantization=FP32)
    small = shrink_model(import_hf(config, source, "small"), target, 2)
    chip, topology = shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32")
    result = check_model(small, chip, topology, target, mutate=clean_up)
    assert result.guilty is None
    assert result.checks[-1].name == "unroll-commands"
