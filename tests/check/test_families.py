"""`pmc check` of one tiny model of every family: a decode step by default, and all phases, types and plans (`long`)."""

from __future__ import annotations

import pytest

from pmc.compiler.check import FP32, Proof, check_model, check_small
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.frontend import FAMILIES, import_hf
from pmc.compiler.shrink import with_fp32
from pmc.compiler.small import small_target
from pmc.dialects import model
from tests.reference.configs import CONFIGS, WITHOUT_REFERENCE

TOPOLOGY = load_topology("p1-r1-b4-c32")
TINY = {**CONFIGS, **WITHOUT_REFERENCE}


def config_of(architecture: str) -> tuple[dict[str, object], str]:
    """The first tiny config of an architecture, and its name."""
    name = next((name for name, config in TINY.items() if config["architectures"] == [architecture]), None)
    assert name is not None, f"{architecture}: tests/reference/configs.py has no tiny config of it"
    return TINY[name], name


def two_ranks(config: dict[str, object], name: str) -> dict[str, object]:
    """Heads over two ranks, or sequences where a norm covers the row of all heads; experts where there are some."""
    blocks = list(import_hf(config, name, "tiny").walk())
    together = any(isinstance(op, model.GqaOp) and op.qk_norm and op.qk_norm.data == "row" for op in blocks)
    experts = any(isinstance(op, model.MoeOp) for op in blocks)
    return {"dp" if together else "tp": 2, "ep": 2 if experts else 1}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_decode_step_of_every_family_on_two_ranks_keeps_its_meaning_down_to_commands(architecture: str) -> None:
    config, name = config_of(architecture)
    types = {f"quantization.{kind}": found for kind, found in FP32.items()}
    deployment = load_deployment("decode", {**types, **two_ranks(config, name), "batch": 3, "kv_len": 41})
    small = small_target(config, name, with_fp32(load_chip("sg2262")), TOPOLOGY, deployment, {})
    result = check_model(small.model, small.chip, small.topology, small.deployment, proof=Proof(unroll=False))
    assert result.guilty is None
    assert result.checks[-1].name == "emit-g5"


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_every_pass_keeps_the_meaning_of_every_config_in_all_phases_and_types(name: str) -> None:
    config = {**TINY[name], "torch_dtype": "bfloat16"}
    changes = {**two_ranks(config, name), "kv_len": 41}
    deployment = load_deployment("decode", changes)
    results = check_small(config, name, load_chip("sg2262"), TOPOLOGY, deployment)
    assert [(r.phase, r.guilty) for r in results] == [
        (phase, None) for phase in [*["prefill"] * 3, *["decode"] * 3, "sequence"]
    ]
