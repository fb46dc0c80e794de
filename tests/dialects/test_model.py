"""The model dialect: parameter counts, verifiers, round trips."""

from io import StringIO
from typing import Any

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, DictionaryAttr, FloatAttr, ModuleOp, StringAttr, f64
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.config import load_model_config
from pmc.compiler.frontend import import_hf
from pmc.dialects import model
from pmc.dialects.checkpoint import checkpoint_of
from pmc.dialects.layer import Layer


def preset(name: str, **changes: object) -> ModuleOp:
    config, source = load_model_config(name)
    return import_hf({**config, **changes}, source, name)


def context() -> Context:
    ctx = Context()
    for dialect in (Builtin, model.Model, Layer):
        ctx.load_dialect(dialect)
    return ctx


def text(module: ModuleOp, generic: bool = False) -> str:
    stream = StringIO()
    Printer(stream, print_generic_format=generic).print_op(module)
    return stream.getvalue()


def block(module: ModuleOp, path: str) -> model.BlockOp:
    return next(b for b, _ in model.model_blocks(module) if b.path.data == path)


# Published: DeepSeek-V3 report 671B (37B active), model cards of Llama 3.1.  Exact values by hand below.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        # 2 * 128256 * 4096 + 4096 + 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336 + 2 * 4096)
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("deepseek-v3", 671_026_419_200),
    ],
)
def test_parameter_count_is_the_published_one(name: str, total: int) -> None:
    assert model.parameter_count(preset(name)) == total


def test_deepseek_v3_parameters_by_hand() -> None:
    h, n = 7168, 128
    mla = (
        h * 1536 + 1536 + 1536 * n * 192 + h * 576 + 512 + 512 * n * 256 + n * 128 * h + h  # the pre-norm
    )
    dense = 3 * h * 18432 + h
    expert = 3 * h * 2048
    moe_without_experts = h * 256 + 256 + expert + h  # router, bias, shared expert, pre-norm
    table = 129280 * h
    total = 2 * table + h + 3 * (mla + dense) + 58 * (mla + moe_without_experts + 256 * expert)
    active = h + table + h + 3 * (mla + dense) + 58 * (mla + moe_without_experts + 8 * expert)
    module = preset("deepseek-v3")
    assert model.parameter_count(module) == total
    assert model.active_parameter_count(module) == active
    assert round(active / 1e9) == 37


def test_tied_embeddings_count_once_but_are_active() -> None:
    untied = preset("llama-3.1-8b")
    tied = preset("llama-3.1-8b", tie_word_embeddings=True)
    assert model.parameter_count(untied) - model.parameter_count(tied) == 128256 * 4096
    assert model.active_parameter_count(untied) == model.active_parameter_count(tied)


def test_mtp_layers_are_recorded_but_not_counted() -> None:
    with_mtp, without = preset("deepseek-v3"), preset("deepseek-v3", num_nextn_predict_layers=0)
    assert [found.mtp_layers for m in (with_mtp, without) if (found := checkpoint_of(m))] == [1, 0]
    assert model.parameter_count(with_mtp) == model.parameter_count(without)


def test_weight_axes_say_what_may_be_sharded() -> None:
    module = preset("deepseek-v3")
    axes = {w.name: w.axes for w in block(module, "blocks.moe.mla").weights()}
    assert axes["q_a_proj.weight"] == axes["kv_a_proj.weight"] == ("", "")
    assert axes["q_b_proj.weight"] == axes["kv_b_proj.weight"] == ("", "heads")
    assert axes["o_proj.weight"] == ("heads", "")
    axes = {w.name: w.axes for w in block(module, "blocks.moe.moe").weights()}
    assert axes["router.weight"] == ("", "")
    assert axes["experts.up_proj.weight"] == ("expert", "", "expert_ffn")
    assert axes["experts.down_proj.weight"] == ("expert", "expert_ffn", "")
    assert axes["shared.down_proj.weight"] == ("ffn", "")


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.1-70b", "deepseek-v3"])
@pytest.mark.parametrize("generic", [False, True])
def test_round_trip(name: str, generic: bool) -> None:
    module = preset(name)
    module.verify()
    printed = text(module, generic)
    parsed = Parser(context(), printed).parse_module()
    parsed.verify()
    assert text(parsed, generic) == printed
    assert text(parsed) == text(module)


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        (
            "blocks.dense.mla",
            {"qk_rope_head_dim": 63},
            "model.mla at 'blocks.dense.mla': qk_rope_head_dim 63 is odd",
        ),
        ("blocks.dense.mla", {"kv_lora_rank": 0}, "kv_lora_rank is 0, must be at least 1"),
        ("blocks.dense.mla", {"rope_theta": 1.0}, "rope_theta is 1.0, must be a number greater than 1"),
        (
            "blocks.dense.mla",
            {"rope_scaling": DictionaryAttr({"rope_type": StringAttr("yarn"), "beta_slow": FloatAttr(-0.5, f64)})},
            "'beta_slow' of rope_scaling is -0.5, must be a number greater than 0",
        ),
        ("blocks.moe.moe", {"n_group": 7}, "n_routed_experts 256 is not a multiple of n_group 7"),
        ("blocks.moe.moe", {"topk_group": 9}, "topk_group 9 is more than n_group 8"),
        (
            "blocks.moe.moe",
            {"num_experts_per_tok": 129},
            "num_experts_per_tok 129 is more than the 128 experts of the chosen groups",
        ),
        ("blocks.moe.moe", {"shared_intermediate_size": -1}, "shared_intermediate_size is -1, must be at least 0"),
        ("blocks.moe.moe", {"scoring": "relu"}, "scoring is 'relu', must be softmax or sigmoid or sqrtsoftplus"),
        ("blocks.dense.ffn", {"intermediate_size": 0}, "intermediate_size is 0, must be at least 1"),
    ],
)
def test_verifiers_name_op_path_and_limit(path: str, changes: dict[str, Any], message: str) -> None:
    source = block(preset("deepseek-v3"), path)
    broken = type(source).make([source.x], [source.y.type], path, {**source.properties, **changes}, like=source)
    with pytest.raises(VerifyException) as error:
        broken.verify_()
    assert message in str(error.value)
    assert f"{source.name} at '{path}'" in str(error.value)


def test_gqa_heads_must_be_grouped_evenly() -> None:
    source = block(preset("llama-3.1-8b"), "blocks.dense.gqa")
    for changes, message in (
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
        ({"head_dim": 127}, "head_dim 127 is odd"),
        ({"window": 4, "chunk": 4}, "a window and a chunk exclude each other"),
        ({"temperature_floor": 4}, "temperature_floor and temperature_scale need each other"),
        ({"keys_as_values": True, "v_head_dim": 64}, "keys of 128 columns are no values of 64"),
        ({"rope_theta": None, "rope_scaling": None, "rope_interleave": True}, "rope_interleave without rope_theta"),
    ):
        broken = type(source).make([source.x], [source.y.type], "p", {**source.properties, **changes})
        with pytest.raises(VerifyException, match=message):
            broken.verify_()


def test_a_residual_keeps_the_type() -> None:
    module = preset("llama-3.1-8b")
    ffn, head = block(module, "blocks.dense.ffn"), block(module, "lm_head")
    broken = type(ffn).make([ffn.x], [head.y.type], "p", ffn.properties)
    with pytest.raises(VerifyException, match="must be as the input"):
        broken.verify_()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{count = 32}", "{count = 0}", "count is 0, must be at least 1"),
        ("model.yield([%9])", "model.yield([])", "yielded values have types"),
        ("model.yield([%9])", "model.yield([%1])", "model.yield uses a value from outside of the body, which must be"),
        ("^bb0(%0: !layer.tensor<[batch*q_len], i32>):", None, "must take the tokens"),
    ],
)
def test_structure_is_verified(old: str, new: str | None, message: str) -> None:
    printed = text(preset("llama-3.1-8b"))
    assert old in printed
    if new is None:  # a second argument that no model has
        new = old.replace("i32>)", "i32>, %extra: !layer.tensor<[batch], i32>)")
    module = Parser(context(), printed.replace(old, new, 1)).parse_module()
    with pytest.raises(VerifyException, match=message):
        module.verify()
