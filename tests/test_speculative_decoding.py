"""Steps that draft tokens: counts by hand, laws of times, execution of a small DeepSeek-V3, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate.metrics import StepMetrics
from pmc.backends.evaluate.overlap import StepResult, evaluate_step
from pmc.backends.evaluate.speculation import lengths_of_steps
from pmc.backends.numeric.run import bindings_of, run_module, seeded_inputs
from pmc.compiler.check import Proof, check_model
from pmc.compiler.config import ConfigError, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text, parse_module, resume
from pmc.compiler.evaluation import EvaluationOptions, evaluate_request
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_deployment, shrink_model, with_fp32
from pmc.compiler.small import chip_for
from pmc.compiler.step_evaluation import StepEvaluation, evaluate_dist
from pmc.dialects.analyses.stored_arrays import stored_arrays
from pmc.dialects.deployment import Deployment
from pmc.dialects.drafting import application, is_drafting, queries
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.model import DraftOp, draft_of, draft_parameter_count, parameter_count

CHIP, BOARD, RACK = load_chip("sg2262"), load_topology("p1-r1-b1-c8"), load_topology("p1-r1-b4-c32")
DEEPSEEK = load_model("deepseek-v3")
SIZES: Mapping[str, object] = {"dp": 4, "ep": 4, "batch": 32, "kv_len": 1000}


def deployment(drafts: int, accepted: float | None = None, **changes: object) -> Deployment:
    length = accepted or (float(drafts + 1) if drafts else "none")
    fields = {**SIZES, "draft_tokens": drafts, "accepted_length": length, **changes}
    return load_deployment("dsv3-decode-ep32", fields)


def compiled(asked: Deployment, emit: Level = "dist", model: ModuleOp = DEEPSEEK) -> ModuleOp:
    return compile_model(model.clone(), CHIP, BOARD, asked, emit)


def step(asked: Deployment, granularity: str = "chip") -> StepResult:
    return evaluate_step(compiled(asked), granularity)


def evaluated(asked: Deployment) -> StepEvaluation:
    return evaluate_dist(compiled(asked), EvaluationOptions(), {})


def rows(found: StepResult, drafting: bool) -> list[StepMetrics]:
    return [replace(row, share=0.0) for row in found.ops.steps if is_drafting(row.path) is drafting]


# -- the model --------------------------------------------------------------------------------------------------


def test_deepseek_v3_with_its_draft_layer_has_the_published_parameters() -> None:
    d, heads, experts, width = 7168, 128, 256, 2048
    latent = d * 1536 + 1536 + 1536 * heads * 192 + d * 576 + 512 + 512 * heads * 256 + heads * 128 * d
    moe = d * experts + experts + (experts + 1) * 3 * d * width
    own = 2 * d * d + latent + moe + 5 * d  # eh_proj; norms of embedding, hidden rows, attention, experts, head
    assert draft_parameter_count(DEEPSEEK) == own == 11_610_068_224
    shared = 2 * 129280 * d  # embedding and head, which the checkpoint has once more
    assert parameter_count(DEEPSEEK) == 671_026_419_200
    # README_WEIGHTS.md of DeepSeek-V3: 671 billion and 14 billion of MTP, of which 0.9 each are embedding and head.
    assert round(parameter_count(DEEPSEEK) / 1e9) == 671 and round((own + shared) / 1e9, 1) == 13.5
    assert round((parameter_count(DEEPSEEK) + own + shared) / 1e9, 1) == 684.5


def test_only_one_layer_of_a_known_form_is_drafted_with() -> None:
    config, source = load_model_config("deepseek-v3")
    assert draft_of(import_hf({**config, "num_nextn_predict_layers": 0}, source, "none")) is None
    assert draft_of(import_hf({**config, "num_nextn_predict_layers": 2}, source, "two")) is None


def test_without_drafts_the_programs_are_those_of_a_model_without_the_layer() -> None:
    bare = DEEPSEEK.clone()
    for op in list(bare.ops):
        if isinstance(op, DraftOp):
            op.detach()
            op.erase()
    asked = deployment(0)
    assert module_text(compiled(asked)) == module_text(compiled(asked, model=bare))


def test_embedding_and_head_are_stored_once() -> None:
    """The draft adds its own parameters and the cache of one layer, with room for all applications."""
    sizes: list[dict[str, int]] = []
    for drafts in (0, 3):
        (program,) = (op for op in compiled(deployment(drafts, dp=1, ep=1), "layer").ops)
        at = {"batch": 1, "q_len": 1, "kv_len": 1000}
        arrays = stored_arrays(program).values()
        found = {kind: [a for a in arrays if a.kind == kind] for kind in ("weight", "state")}
        sizes.append({kind: sum(int(a.bytes.evaluate(at)) for a in some) for kind, some in found.items()})
        elements = sum(int(a.copies * a.type.elements.evaluate(at)) for a in found["weight"])
        assert elements == parameter_count(DEEPSEEK) + (draft_parameter_count(DEEPSEEK) if drafts else 0)
    assert sizes[1]["state"] - sizes[0]["state"] == (1000 + 2) * 576


# -- times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["chip", "core", "tile"])
def test_verifying_costs_what_a_step_of_so_many_queries_does(granularity: str) -> None:
    plain = load_deployment("dsv3-decode-ep32", {**SIZES, "q_len": 3})
    assert rows(step(deployment(2), granularity), False) == rows(step(plain, granularity), False)


def test_the_first_draft_costs_what_a_layer_of_the_model_does() -> None:
    found = step(deployment(2))
    costs = {row.path: (row.time_us, row.flops, row.bytes_read, row.bytes_written) for row in found.ops.steps}
    layers = {path: cost for path, cost in costs.items() if path.startswith("blocks.moe.")}
    assert len(layers) > 40
    for path, (time_us, *counts) in layers.items():
        drafted = costs[path.replace("blocks.moe", "mtp")]
        assert drafted[0] == pytest.approx(time_us / 58, rel=1e-12) and [58 * n for n in drafted[1:]] == counts


def test_later_drafts_cost_what_a_layer_does_in_a_step_of_one_query_and_a_longer_cache() -> None:
    found, alone = step(deployment(3)), step(deployment(0, kv_len=1002))
    third = {row.path: row.time_us for row in found.ops.steps if row.path.startswith("mtp3.")}
    layers = {row.path: row.time_us / 58 for row in alone.ops.steps if row.path.startswith("blocks.moe.")}
    assert {path: third[path.replace("blocks.moe", "mtp3")] for path in layers} == pytest.approx(layers, rel=1e-12)


def test_more_drafts_take_longer_and_never_more_than_as_many_steps() -> None:
    """A roofline of n rows takes at most n times that of one: so do the ops that verify."""
    plain = evaluated(deployment(0)).total_us
    found = [evaluated(deployment(drafts)) for drafts in (1, 2, 3)]
    times = [plain, *(one.total_us for one in found)]
    assert times == sorted(set(times))
    for drafts, one in enumerate(found, 1):
        parts = one.speculation
        assert parts is not None and parts.verify_us + parts.draft_us == pytest.approx(one.total_us)
        assert plain < parts.verify_us < (drafts + 1) * plain
        assert parts.us_per_token * (drafts + 1) == pytest.approx(one.total_us)


def test_tokens_are_those_that_are_accepted() -> None:
    some, all_ = (evaluated(deployment(1, accepted)) for accepted in (1.25, 2.0))
    assert some.total_us == all_.total_us
    assert some.figures.tps_per_chip == pytest.approx(32 * 1.25 / (some.total_us * 1e-6) / 4)
    assert all_.figures.tps_per_chip / some.figures.tps_per_chip == pytest.approx(2.0 / 1.25)
    assert "speculation" not in evaluated(deployment(0)).to_dict()


def test_the_draft_runs_on_the_last_stage() -> None:
    asked = deployment(1, pp=2, dp=2, ep=2)
    assert {row.stage for row in rows(step(asked), True)} == {1}


def test_nothing_of_a_draft_is_combined_with_what_comes_before_its_tokens() -> None:
    asked = deployment(2, dp=1, ep=1, tp=4, moe_tp=4)
    for row in step(asked).ops.steps:
        assert row.path.partition(".")[0] in ("embed", "blocks", "lm_head", "mtp", "mtp2")


@pytest.mark.parametrize(
    ("drafts", "accepted", "lengths"),
    [
        (0, None, [11, 12, 13, 14, 15]),  # token i > 1 attends to isl + i - 1
        (1, 2.0, [12, 14, 16]),  # the drafted token too; 2 + 2 + 2 tokens are 5 or more
        (2, 1.0, [13, 14, 15, 16, 17]),  # no draft is accepted: as many steps as tokens
        (3, 2.5, [14, 16]),  # 2.5 + 2.5 tokens
    ],
)
def test_a_request_takes_so_many_steps(drafts: int, accepted: float | None, lengths: list[int]) -> None:
    module = compiled(deployment(drafts, accepted), "model")
    assert lengths_of_steps(module, 10, 6).tolist() == lengths


def test_a_request_with_drafts_is_its_prefill_and_its_steps() -> None:
    options, isl, osl = EvaluationOptions(), 100, 6
    found = evaluate_request(DEEPSEEK, CHIP, BOARD, deployment(1, 2.0), isl, osl, options)
    prefill = step(deployment(1, 2.0, phase="prefill", q_len=isl, kv_len=isl))
    times = [step(deployment(1, 2.0, kv_len=kv_len)).total_us for kv_len in (102, 104, 106)]
    assert found.ttft_us == pytest.approx(prefill.total_us) and found.decode is not None
    assert found.decode.steps == 3 and found.tpot_us == pytest.approx(sum(times) / 5)
    assert found.itl_first_us == pytest.approx(times[0] / 2)
    assert not any("not counted" in text for text in found.assumptions)


# -- execution --------------------------------------------------------------------------------------------------

FP32: Mapping[str, Any] = {
    f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")
}


def small(drafts: int, **changes: Any) -> tuple[ModuleOp, Deployment]:
    """A DeepSeek-V3 of two layers and the one that drafts, on few ranks."""
    lengths: dict[str, Any] = {"batch": changes.get("batch", 3)} if changes.get("dp", 1) == 1 else {}
    asked = shrink_deployment(deployment(drafts, **{**FP32, "dp": 1, "ep": 1, **changes}), **lengths)
    return shrink_model(DEEPSEEK, asked, 2), asked


@pytest.mark.parametrize(
    ("drafts", "emit", "changes"),
    [
        (2, "commands", {"batch": 2}),
        (1, "dist", {"dp": 2, "ep": 2, "pp": 2}),
        (2, "dist", {"tp": 2, "moe_tp": 2, "phase": "prefill"}),
    ],
    ids=["two drafts", "a draft on the last of two stages", "a prompt"],
)
def test_every_pass_keeps_what_is_drafted(drafts: int, emit: Level, changes: dict[str, Any]) -> None:
    model, asked = small(drafts, **changes)
    chip = chip_for(model.clone(), CHIP, BOARD, asked) if emit == "commands" else CHIP
    found = check_model(model, chip, BOARD, asked, proof=Proof(emit=emit, unroll=False))
    assert found.passed, found.guilty
    assert [check.level for check in found.checks][-1] == emit


def test_inputs_are_the_same_at_every_level_and_dumps_resume() -> None:
    model, asked = small(2, batch=1)
    outputs: list[list[float]] = []
    module = compile_model(model.clone(), with_fp32(CHIP), BOARD, asked, "layer")
    for level in ("layer", "dist", "tile"):
        module = parse_module(module_text(resume(module, level)), "dump")
        run = run_module(module, seeded_inputs(module, bindings_of(module, {}), 5))
        outputs.append([float(values.sum()) for values in run.outputs])
    assert len(outputs[0]) == 3
    assert outputs[1] == pytest.approx(outputs[0], abs=1e-9) and outputs[2] == pytest.approx(outputs[0], abs=1e-3)


# -- names ------------------------------------------------------------------------------------------------------


def test_paths_of_applications() -> None:
    assert [application("mtp.mla.o_proj", number) for number in (0, 1)] == ["mtp.mla.o_proj", "mtp2.mla.o_proj"]
    assert [is_drafting(path) for path in ("mtp", "mtp12.embed", "mtpx.embed", "blocks.mtp")] == [
        True,
        True,
        False,
        False,
    ]
    assert [queries(path, 4) for path in ("blocks.moe", "mtp.moe", "mtp2.moe")] == [4, 4, 1]


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"draft_tokens": 1}, "draft_tokens (1) needs accepted_length, the mean tokens of a step, from 1 to 2"),
        ({"draft_tokens": 1, "accepted_length": 2.5}, "accepted_length (2.5) must be from 1 to draft_tokens + 1 = 2"),
        ({"draft_tokens": 1, "accepted_length": 0.5}, "accepted_length: expected 'none' or number >= 1 in tokens"),
        ({"accepted_length": 1.5}, "accepted_length (1.5) needs draft_tokens > 0: nothing is drafted"),
        ({"draft_tokens": 1, "accepted_length": 1.5, "q_len": 2}, "q_len (2) must be 1 with draft_tokens > 0"),
        ({"draft_tokens": 1, "accepted_length": 1.5, "kv_len": 1}, "kv_len (1) must be at least 2"),
        ({"draft_tokens": 1, "accepted_length": 1.5, "cp": 2, "phase": "prefill", "q_len": 4}, "needs cp = 1"),
    ],
)
def test_deployments_that_do_not_fit_together_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_deployment("dsv3-decode-ep32", fields)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama-3.1-8b", {}, "but LlamaForCausalLM has no layer of multi-token prediction"),
        (
            "deepseek-v3",
            {"num_nextn_predict_layers": 2},
            "has 2 of multi-token prediction, of a form that is not known",
        ),
    ],
)
def test_models_that_cannot_draft_are_refused(name: str, changes: dict[str, object], message: str) -> None:
    config, source = load_model_config(name)
    model = import_hf({**config, **changes}, source, name)
    asked = load_deployment("decode", {"draft_tokens": 1, "accepted_length": 1.5})
    with pytest.raises(PmcError, match="expand-blocks: draft-tokens is 1") as error:
        compiled(asked, model=model)
    assert message in str(error.value)


def test_a_dump_keeps_the_queries_that_its_drafts_need() -> None:
    module = compiled(deployment(1))
    assert evaluate_step(module, bindings={"kv_len": 2000}).total_us > evaluate_step(module).total_us
    with pytest.raises(PmcError, match="symbol 'q_len' is 1, must be 2 in a step that verifies 1 drafted tokens"):
        evaluate_step(module, bindings={"q_len": 1})
