"""`pmc check` of tiny models of every family: a decode step by default, and all phases, types and plans (`long`)."""

from __future__ import annotations

from typing import cast

import pytest

from pmc.compiler.check import FP32, Proof, check_model, check_small
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.frontend import import_hf
from pmc.compiler.frontend.families import FAMILIES
from pmc.compiler.shrink import with_fp32
from pmc.compiler.small import small_target
from pmc.dialects import model
from pmc.dialects.dist import MeshAttr
from pmc.dialects.levels import MESH
from tests.reference.configs import CONFIGS, WITHOUT_REFERENCE

TOPOLOGY = load_topology("p1-r1-b4-c32")
TINY = {**CONFIGS, **WITHOUT_REFERENCE}


def architecture_of(name: str) -> str:
    (architecture,) = cast("list[str]", TINY[name]["architectures"])
    return architecture


FIRST = {architecture_of(name): name for name in reversed(TINY)}
"""The config that stands for an architecture."""


def two_ranks(name: str) -> dict[str, object]:
    """Heads over two ranks; experts where there are some."""
    experts = any(isinstance(op, model.MoeOp) for op in import_hf(TINY[name], name, "tiny").walk())
    return {"tp": 2, "ep": 2 if experts else 1, "kv_len": 41}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_has_a_tiny_config(architecture: str) -> None:
    assert architecture in FIRST, f"tests/reference/configs.py has no tiny config of {architecture}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST.values() else pytest.mark.long) for name in TINY]
)
def test_a_decode_step_on_two_ranks_keeps_its_meaning_down_to_commands(name: str) -> None:
    types = {f"quantization.{kind}": found for kind, found in FP32.items()}
    deployment = load_deployment("decode", {**types, **two_ranks(name)})
    small = small_target(TINY[name], name, with_fp32(load_chip("sg2262")), TOPOLOGY, deployment, {})
    result = check_model(small.model, small.chip, small.topology, small.deployment, proof=Proof(unroll=False))
    assert result.guilty is None
    assert result.checks[-1].name == "emit-g5"


@pytest.mark.long
@pytest.mark.parametrize("name", FIRST.values())
def test_every_pass_keeps_the_meaning_in_all_phases_and_types_under_plans_of_both_kinds(name: str) -> None:
    config = {**TINY[name], "torch_dtype": "bfloat16"}
    deployment = load_deployment("decode", two_ranks(name))
    results = check_small(config, name, load_chip("sg2262"), TOPOLOGY, deployment)
    assert [(r.phase, r.guilty) for r in results] == [
        *[("prefill", None)] * 3,
        *[("decode", None)] * 3,
        ("sequence", None),
    ]


@pytest.mark.parametrize(("of_sliding", "of_full"), [(2, 1), (4, 2), (1, 4)])
def test_layers_with_different_key_heads_share_them_over_more_ranks(of_sliding: int, of_full: int) -> None:
    config = {**TINY["gemma4"], "num_key_value_heads": of_sliding, "num_global_key_value_heads": of_full}
    types = {f"quantization.{kind}": found for kind, found in FP32.items()}
    deployment = load_deployment("decode", {**types, "tp": 4, "kv_len": 41})
    small = small_target(config, "gemma4", with_fp32(load_chip("sg2262")), TOPOLOGY, deployment, {})
    result = check_model(small.model, small.chip, small.topology, small.deployment, proof=Proof(unroll=False))
    assert result.guilty is None
    mesh = small.model.attributes[MESH]
    assert isinstance(mesh, MeshAttr)
    shared = {axis.name: axis.size for axis in mesh.data.axes if axis.name.startswith("tp_kv")}
    # Four ranks: as many key heads need no axis of their own, fewer have one, named by how many where they differ.
    expected = {(2, 1): {"tp_kv1": 1, "tp_kv2": 2}, (4, 2): {"tp_kv": 2}, (1, 4): {"tp_kv": 1}}
    assert shared == expected[of_sliding, of_full]
