"""Layouts of a sweep, evaluated without building their pipeline stages, are to the last bit those of `pmc evaluate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmc.compiler.sweep import engine
from pmc.compiler.sweep.axes import parse_axis
from pmc.compiler.sweep.engine import Sweep
from pmc.compiler.sweep.result import DOES_NOT_FIT, INFEASIBLE, OK, SweepResult
from tests.compiler.tiny import LLAMA as LLAMA_CONFIG
from tests.compiler.tiny import write_config
from tests.findings.test_sweep import DEEPSEEK, LLAMA, alone, base, model, swept, values_at
from tests.reference.configs import CONFIGS

Start = tuple[str, str, str]

LAYOUTS = (
    "deployment.tp=1,2,8", "deployment.dp=4,16", "deployment.ep=4..32:x2", "deployment.moe_tp=1,2",
    "deployment.pp=1,2,4", "deployment.sp=true,false", "deployment.lm_head=tp,stage", "deployment.batch=64,20000",
)  # fmt: skip
DISPATCH = (
    "deployment.tp=1,2", "deployment.dp=8,16", "deployment.ep=8,16,32", "deployment.pp=1,2,3",
    "deployment.dispatch=direct,per_rank,per_node", "deployment.routing=uniform;zipf:1.2", "granularity=chip,core",
)  # fmt: skip
REPLICAS = (
    "deployment.tp=1,2", "deployment.dp=4,8", "deployment.ep=4,8", "deployment.moe_dp=1,2", "deployment.pp=2,5",
    "deployment.pp_layers=balanced;31,30;30,31;61", "deployment.expert_capacity=balanced,worst",
)  # fmt: skip
DENSE = (
    "deployment.tp=1,2,3,8", "deployment.dp=1,2", "deployment.pp=1,2,4,5", "deployment.sp=true,false",
    "deployment.embedding=tp,replicated", "deployment.lm_head=tp,stage,replicated", "granularity=chip,core",
    "calibration=ideal,assumed-losses", "chip=sg2262,h100-sxm",
)  # fmt: skip


def never(point: object, module: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("name", "start", "axes", "points"),
    [
        ("deepseek-v3", DEEPSEEK, LAYOUTS, 24),
        ("deepseek-v3", DEEPSEEK, DISPATCH, 24),
        ("deepseek-v3", DEEPSEEK, REPLICAS, 16),
        ("llama-3.1-8b", LLAMA, DENSE, 24),
    ],
)
def test_issue9_9_dealt_layouts_are_those_of_evaluate(
    name: str, start: Start, axes: tuple[str, ...], points: int
) -> None:
    result = swept(name, base(*start), *axes)
    rng = np.random.default_rng(7)
    status = result.columns["status"]
    legal = rng.choice(np.flatnonzero(status != INFEASIBLE), points, replace=False)
    illegal = rng.choice(np.flatnonzero(status == INFEASIBLE), points // 2, replace=False)
    for index in (*legal.tolist(), *illegal.tolist()):
        assert_as_alone(result, name, start, index)


def test_issue9_9_every_row_is_that_of_the_program_with_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """All columns, with stages built and evaluated op by op instead."""
    axes = (
        "deployment.tp=1,4",
        "deployment.dp=8",
        "deployment.ep=8,32",
        "deployment.pp=1,2,8",
        "granularity=chip,core",
    )
    quick = swept("deepseek-v3", base(*DEEPSEEK), *axes)
    assert {OK, INFEASIBLE} <= set(quick.columns["status"])

    monkeypatch.setattr(engine, "_can_be_dealt", never)
    assert quick.to_csv() == swept("deepseek-v3", base(*DEEPSEEK), *axes).to_csv()


def test_groups_of_layers_are_dealt_layer_by_layer_and_turns_counted_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five local layers and a global one recur; with two layers less the kinds take turns."""
    for layers in (12, 10):
        kinds = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)]
        config = {**CONFIGS["gemma3"], "torch_dtype": "bfloat16", "num_hidden_layers": layers, "layer_types": kinds}
        config["max_position_embeddings"] = 8192
        name = str(write_config(tmp_path, config))
        axes = ("deployment.pp=1,2,3", "deployment.batch=1,16")
        with monkeypatch.context() as patched:
            quick = swept(name, base(*LLAMA), *axes)
            patched.setattr(engine, "_can_be_dealt", never)
            assert quick.to_csv() == swept(name, base(*LLAMA), *axes).to_csv()
        assert set(quick.columns["status"]) == {OK}


def test_issue9_9_stages_of_one_layer_and_too_few_layers(tmp_path: Path) -> None:
    """A first stage without any but the embedding's layer, a last with the head, none for a stage more than layers."""
    config = {**LLAMA_CONFIG, "num_hidden_layers": 3, "tie_word_embeddings": True}
    name = str(write_config(tmp_path, config))
    result = swept(name, base(*LLAMA), "deployment.pp=1..4", "deployment.batch=1,16,4000000")
    assert set(result.columns["status"]) == {OK, DOES_NOT_FIT, INFEASIBLE}
    for index in range(len(result)):
        assert_as_alone(result, name, LLAMA, index)


def test_issue9_9_an_op_that_the_chip_cannot_run_is_the_reason_at_every_number_of_stages() -> None:
    axes = (
        "deployment.quantization.weights=f4E2M1FN", "deployment.quantization.activations=f4E2M1FN,bf16",
        "deployment.pp=1,2,4", "granularity=chip,core",
    )  # fmt: skip
    result = swept("llama-3.1-8b", base(*LLAMA), *axes)
    reasons = result.columns["reason"][result.columns["status"] == INFEASIBLE]
    assert len(reasons) == 6 and all("no rate for element type 'f4E2M1FN'" in str(reason) for reason in reasons)
    for index in range(len(result)):
        assert_as_alone(result, "llama-3.1-8b", LLAMA, index)


def test_issue9_9_layouts_are_told_as_they_are_found() -> None:
    told: list[int] = []
    sweep = Sweep(model("deepseek-v3"), "deepseek-v3", base(*DEEPSEEK), tuple(map(parse_axis, LAYOUTS[:5])))
    result = sweep.table()
    sweep.run(result, lambda points: told.extend(points))
    assert sorted(told) == list(range(len(result)))


def assert_as_alone(result: SweepResult, name: str, start: Start, index: int) -> None:
    values = dict(zip([axis.name for axis in result.axes], values_at(result, index), strict=True))
    expected = alone(name, base(*start), values)
    row = {key: result.value(index, key) or "" for key in expected}
    assert row == {key: value or "" for key, value in expected.items()}, values
