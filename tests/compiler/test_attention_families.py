"""Families whose layers differ in their attention: which kind every layer has, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from xdsl.ir import Block

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


STEP: dict[str, object] = {
    **SIZES,
    "architectures": ["Step3p7FlashForCausalLM"],
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"],
    "num_sliding_attention_heads": 6,
    "sliding_window": 512,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "share_expert_dim": 24,
}
GEMMA4: dict[str, object] = {
    **SIZES,
    "architectures": ["Gemma4ForCausalLM"],
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 512,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}


def blocks(config: dict[str, object], **changes: object) -> list[model.BlockOp]:
    """The attention and feed-forward blocks of all layers, in order."""
    kinds = (model.GqaOp, model.FfnOp, model.MoeOp)

    def inside(body: Block, around: int) -> Iterator[model.BlockOp]:
        for op in body.ops:
            if isinstance(op, model.RepeatOp):
                for index in op.iterations(around):
                    yield from inside(op.body.block, index)
            elif isinstance(op, kinds):
                yield op

    (llm,) = import_hf({**config, **changes}, "config.json", "tiny").ops
    return list(inside(llm.regions[0].block, 0))


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


def test_layers_of_step_have_heads_and_rotary_embeddings_of_their_kind() -> None:
    assert [op.heads for op in attentions(STEP)] == [4, 6, 6, 6]
    kinds = {"full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}  # fmt: skip
    found = attentions(STEP, rope_parameters=kinds)
    assert [op.rope_theta and op.rope_theta.value.data for op in found] == [5e6, 1e4, 1e4, 1e4]
    assert [op.rotary_dim and op.rotary_dim.value.data for op in found] == [8, None, None, None]
    assert [isinstance(op, model.MoeOp) for op in blocks(STEP)][1::2] == [False, False, False, True]


def test_full_layers_of_gemma4_have_wider_heads_and_fewer_keys_that_are_values() -> None:
    found = attentions(GEMMA4, attention_k_eq_v=True, num_global_key_value_heads=1)
    assert [(op.v_dim, op.kv_heads, bool(op.keys_as_values)) for op in found] == [(16, 2, False)] * 3 + [(512, 1, True)]
    # Without keys as values their number stays.
    assert attentions(GEMMA4, num_global_key_value_heads=1)[-1].kv_heads == 2


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (STEP, {"swiglu_limits": [0, 0, 0, 7]}, "swiglu_limits: [0, 0, 0, 7] is not supported, only None is"),
        (
            STEP,
            {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
            "rope_parameters.sliding_attention: missing, expected the rotary embedding of these layers",
        ),
        (GEMMA4, {"enable_moe_block": True}, "num_experts: missing"),
        (GEMMA4, {"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input: inputs of every layer of its own"),
        (GEMMA4, {"num_kv_shared_layers": 2}, "num_kv_shared_layers: 2 is not supported, only 0 is"),
        (GEMMA4, {"use_bidirectional_attention": "all"}, "use_bidirectional_attention: 'all' is not supported"),
        (
            GEMMA4,
            {"layer_types": ["sliding_attention"] * 4},
            "layer_types: the last layer must be of type 'full_attention'",
        ),
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
