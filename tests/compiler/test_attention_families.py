"""Families whose layers differ in their attention: which kind every layer has, and what is refused."""

from __future__ import annotations

import pytest

from pmc.compiler.config import ConfigError
from pmc.compiler.frontend import import_hf
from pmc.dialects import model

SIZES: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 61,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
}
LLAMA4: dict[str, object] = {**SIZES, "architectures": ["Llama4ForCausalLM"]}
MIMO: dict[str, object] = {
    **SIZES,
    "architectures": ["MiMoV2FlashForCausalLM"],
    "head_dim": 12,
    "v_head_dim": 8,
    "sliding_window": 128,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
}


def blocks(config: dict[str, object], **changes: object) -> list[model.BlockOp]:
    """The attention and feed-forward blocks of all layers."""
    module = import_hf({**config, **changes}, "config.json", "tiny")
    kinds = (model.GqaOp, model.FfnOp, model.MoeOp)
    return [op for op, count in model.model_blocks(module) for _ in range(count) if isinstance(op, kinds)]


def attentions(config: dict[str, object], **changes: object) -> list[model.GqaOp]:
    return [op for op in blocks(config, **changes) if isinstance(op, model.GqaOp)]


def test_every_fourth_layer_of_llama4_sees_all_tokens_without_a_rotary_embedding() -> None:
    chunks = [None if op.chunk is None else op.chunk.value.data for op in attentions(LLAMA4)]
    assert chunks == [8192, 8192, 8192, None]
    assert [op.rope_theta is None for op in attentions(LLAMA4, no_rope_layers=[0, 1, 1, 1])] == [1, 0, 0, 0]
    (last,) = attentions(LLAMA4)[3:]
    assert last.temperature_floor is not None and last.temperature_floor.value.data == 8192
    assert all(op.qk_norm is None for op in attentions(LLAMA4, use_qk_norm=False))


def test_layers_of_llama4_with_experts_by_step_and_by_number() -> None:
    def experts(**changes: object) -> list[int]:
        feed_forward = [op for op in blocks(LLAMA4, **changes) if not isinstance(op, model.GqaOp)]
        return [i for i, op in enumerate(feed_forward) if isinstance(op, model.MoeOp)]

    assert experts() == [0, 1, 2, 3]
    assert experts(interleave_moe_layer_step=3) == [2]
    assert experts(moe_layers=[1, 2]) == [1, 2]


def test_windows_of_mimo_have_sinks_and_twice_the_key_heads() -> None:
    seen = [(op.kv_heads, bool(op.sinks), op.window and op.window.value.data) for op in attentions(MIMO)]
    assert seen == [(2, False, None), *[(4, True, 128)] * 3]
    sizes = [op.window.value.data for op in attentions(MIMO, sliding_window_size=128) if op.window is not None]
    assert sizes == [129] * 3
    assert [op.window is None for op in attentions(MIMO, hybrid_layer_pattern=[1, 1, 0, 1])] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            LLAMA4,
            {"layer_types": ["full_attention"] * 4, "no_rope_layers": [1, 1, 1, 0]},
            "no_rope_layers: says something else than layer_types",
        ),
        (LLAMA4, {"moe_layers": [4]}, "moe_layers: expected numbers of layers below 4, found [4]"),
        (LLAMA4, {"attention_chunk_size": None}, "attention_chunk_size: expected an integer of at least 1, found None"),
        (LLAMA4, {"num_experts_per_tok": 2}, "scored_input needs num_experts_per_tok 1"),
        (MIMO, {"swa_num_key_value_heads": 2}, "swa_num_key_value_heads: 2 is not supported, only 4 is"),
        (MIMO, {"add_full_attention_sink_bias": True}, "add_full_attention_sink_bias: True is not supported"),
        (
            MIMO,
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "rope_parameters.rope_type: expected a rotary embedding for each of full_attention, sliding_attention",
        ),
    ],
)
def test_what_a_family_cannot_mean_is_one_line(
    config: dict[str, object], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        import_hf({**config, **changes}, "config.json", "tiny")
    assert message in str(error.value) and "\n" not in str(error.value)
