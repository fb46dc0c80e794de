"""`pmc check` passes on the presets for all kinds of meshes, and finds every fault that is put into the compiler."""

from __future__ import annotations

import re
from typing import Any

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.check import FP32, CheckResult, Proof, check_model, check_small
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.passes.base import HISTORY, PmcPass

from .mutants import MUTANTS, Mutant

CHIP = load_chip("sg2262")
TOPOLOGY = load_topology("p1-r1-b4-c32")
MODELS = {"deepseek": "deepseek-v3", "dsa": "deepseek-v3.2", "llama": "llama-3.1-8b"}


def deployment(**changes: Any) -> Deployment:
    """A deployment with these fields, the rest without parallelism."""
    cp = changes.get("cp", 1)
    base = {**load_deployment("llama-8b-decode").model_dump(), "q_len": cp, "kv_len": 4 * cp, **changes}
    return Deployment.model_validate(base)


def test_each_phase_is_run_in_its_types_and_in_fp32_under_plans_of_both_kinds() -> None:
    config, source = load_model_config("llama-3.1-8b")
    results = check_small(config, source, CHIP, TOPOLOGY, deployment())
    assert [r.guilty for r in results] == [None] * 7
    assert [(r.phase, r.types, r.plans) for r in results] == [
        ("prefill", "bf16", "random"),
        ("prefill", "f32", "chosen"),
        ("prefill", "f32", "random"),
        ("decode", "bf16", "random"),
        ("decode", "f32", "chosen"),
        ("decode", "f32", "random"),
        ("sequence", "f32", "chosen"),
    ]
    assert [c.name for c in results[0].checks][-2:] == ["emit-g5", "unroll-commands"]


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        ("llama-3.1-8b", {"tp": 2, "dp": 2, "pp": 2, "sp": True}),
        ("llama-3.1-8b", {"dp": 2, "pp": 3}),
        ("llama-3.1-70b", {"tp": 8}),
        ("llama-3.1-70b", {"tp": 16}),  # twice as many ranks as key heads
        ("deepseek-v3", {"tp": 2, "dp": 4, "ep": 8}),
        ("deepseek-v3", {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2, "pp": 2}),
        ("deepseek-v3", {"tp": 2, "dp": 2, "ep": 1, "moe_tp": 4, "sp": True}),
        ("llama-3.1-8b", {"cp": 4, "tp": 2, "dp": 2, "sp": True}),
        ("llama-3.1-8b", {"cp": 3, "tp": 2}),
        ("deepseek-v3", {"cp": 2, "tp": 2, "dp": 2, "ep": 4, "moe_tp": 2, "pp": 2}),
        ("deepseek-v3", {"cp": 2, "tp": 2, "ep": 4, "ring_exchange": "expanded"}),
        ("deepseek-v3.2", {"tp": 2, "dp": 2, "ep": 4}),
        ("deepseek-v3.2", {"cp": 2, "dp": 2, "ep": 4}),
        ("deepseek-v3.2", {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2, "pp": 2, "sp": True}),
    ],
    ids=str,
)
def test_every_pass_keeps_the_meaning(model: str, mesh: dict[str, Any]) -> None:
    config, source = load_model_config(model)
    results = check_small(config, source, CHIP, TOPOLOGY, deployment(**mesh), layers=2, plans="random")
    assert [(r.phase, r.guilty) for r in results] == [
        ("prefill", None),
        ("prefill", None),
        ("decode", None),
        ("decode", None),
        ("sequence", None),
    ]


@pytest.mark.parametrize(
    ("model", "mesh", "message"),
    [
        ("deepseek-v3", {"cp": 3, "tp": 2, "ep": 6}, "256 elements, not divisible by ep = 6"),
        ("llama-3.1-8b", {"tp": 3}, "not divisible by tp = 3"),
        ("deepseek-v3", {"tp": 2, "dp": 2, "ep": 2}, "must equal moe_tp*ep*moe_dp = 1*2*1"),
        ("llama-3.1-8b", {"pp": 40}, "needs tp*cp*dp*pp = 1*1*1*40 = 40 chips"),
    ],
    ids=str,
)
def test_a_deployment_that_the_model_cannot_have_is_no_fault_of_a_pass(
    model: str, mesh: dict[str, Any], message: str
) -> None:
    config, source = load_model_config(model)
    with pytest.raises(PmcError, match=re.escape(message)):
        check_small(config, source, CHIP, TOPOLOGY, deployment(**mesh))


def test_a_chip_without_commands_is_checked_down_to_the_ranks() -> None:
    config, source = load_model_config("llama-3.1-8b")
    results = check_small(config, source, load_chip("h100-sxm"), load_topology("nvlink-8"), deployment(tp=2), layers=2)
    assert [(r.phase, r.guilty, r.checks[-1].name) for r in results] == [
        ("prefill", None, "partition-stages"),
        ("decode", None, "partition-stages"),
    ]


def test_a_module_is_verified_after_the_passes_that_changed_it_and_after_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = shrink_deployment(deployment(phase="decode"), quantization=FP32)
    config, source = load_model_config("llama-3.1-8b")
    model = shrink_model(import_hf(config, source, "small"), target, 2)
    changed: dict[str, bool] = {}
    verified: list[str] = []
    apply, verify = PmcPass.apply, ModuleOp.verify

    def text() -> str:
        copy = model.clone()
        copy.attributes.pop(HISTORY, None)
        return str(copy)

    def noted_apply(self: PmcPass, context: Context, module: ModuleOp) -> None:
        before = text()
        apply(self, context, module)
        changed[self.name] = text() != before

    def noted_verify(module: ModuleOp, verify_nested_ops: bool = True) -> None:
        if module is model:
            verified.append(list(changed)[-1])
        verify(module, verify_nested_ops)

    monkeypatch.setattr(PmcPass, "apply", noted_apply)
    monkeypatch.setattr(ModuleOp, "verify", noted_verify)
    assert check_model(model, shrink_chip(CHIP), TOPOLOGY, target, proof=Proof(unroll=False)).passed
    assert verified == [name for name, is_other in changed.items() if is_other]
    assert {"fuse-rows", "pipeline-loops"} <= set(changed) - set(verified)


def check_mutant(mutant: Mutant) -> CheckResult:
    """The check of a small model with the fault in place."""
    mesh = {"tp": 2, "dp": 2, "ep": 4 * mutant.cp} if mutant.model != "llama" else {"tp": 2}
    mesh["cp"] = mutant.cp
    if mutant.guilty == "partition-stages":
        mesh["pp"] = 2
    target = shrink_deployment(deployment(phase=mutant.phase, **mesh), quantization=FP32)
    config, source = load_model_config(MODELS[mutant.model])
    model = shrink_model(import_hf(config, source, "small"), target, 4)

    def mutate(name: str, module: ModuleOp) -> None:
        if name == mutant.guilty:
            mutant.change(module)

    return check_model(model, shrink_chip(CHIP), TOPOLOGY, target, mutate=mutate)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_fault_is_found_and_its_pass_named(mutant: Mutant) -> None:
    guilty = check_mutant(mutant).guilty
    assert guilty is not None, "the fault went unnoticed"
    assert guilty.name == mutant.guilty, guilty
    where = guilty.difference.path if guilty.difference is not None else guilty.failure
    assert where is not None and mutant.path in where
