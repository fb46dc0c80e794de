"""The model-level reference: its equations, its agreement with the layer level, and the KV cache of both."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any, cast

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import BoolAttr, ModuleOp

from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.backends.numeric.model import (
    Rotary,
    attend,
    choose_experts,
    gated,
    model_sources,
    rms_norm,
    run_model,
    seeded_model_environment,
)
from pmc.backends.numeric.model_recurrent import convolved, gated_delta_net, kimi_delta, mamba2
from pmc.compiler.frontend import import_hf
from pmc.dialects import model
from pmc.passes.expand_blocks import ExpandBlocksPass
from tests.reference.recurrent_configs import RECURRENT

COMMON: dict[str, object] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "vocab_size": 37,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
}
PRESETS: dict[str, dict[str, object]] = {
    "llama-3.1-8b": {**COMMON, "head_dim": 6},
    "deepseek-v3": {
        **COMMON,
        "num_key_value_heads": 4,
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "q_lora_rank": 10,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 14,
        "n_group": 4,
        "topk_group": 2,
    },
}
"""Presets with small dims in place of their own."""

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "gqa": ("llama-3.1-8b", {}),
    "mqa-tied": ("llama-3.1-8b", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qk-norm": ("llama-3.1-8b", {"architectures": ["Qwen3ForCausalLM"], "rope_scaling": None}),
    "moe": (
        "llama-3.1-8b",
        {
            "architectures": ["MixtralForCausalLM"],
            "rope_scaling": None,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
        },
    ),
    "biases": ("llama-3.1-8b", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}),
    "norms-behind": ("llama-3.1-8b", {"architectures": ["Olmo2ForCausalLM"], "rope_scaling": None}),
    "window": (
        "llama-3.1-8b",
        {"architectures": ["MistralForCausalLM"], "rope_scaling": None, "sliding_window": 4},
    ),
    "partial-rope": (
        "llama-3.1-8b",
        {"architectures": ["Phi3ForCausalLM"], "rope_scaling": None, "partial_rotary_factor": 0.5, "head_dim": 8},
    ),
    "chunks": (
        "llama-3.1-8b",
        {
            "architectures": ["Llama4ForCausalLM"],
            "no_rope_layer_interval": 3,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 3,
            "intermediate_size_mlp": 20,
            "num_local_experts": 5,
            "floor_scale": 2,
        },
    ),
    "keys-as-values": (
        "llama-3.1-8b",
        {
            "architectures": ["Gemma4ForCausalLM"],
            "rope_theta": None,
            "rope_scaling": None,
            "hidden_act": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "global_head_dim": 8,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "sliding_window": 3,
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gated-heads": (
        "llama-3.1-8b",
        {
            "architectures": ["Step3p7FlashForCausalLM"],
            "rope_scaling": None,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "num_sliding_attention_heads": 6,
            "sliding_window": 3,
            "first_k_dense_replace": 1,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 10,
            "share_expert_dim": 12,
        },
    ),
    "values-of-their-own-width": (
        "llama-3.1-8b",
        {
            "architectures": ["MiMoV2FlashForCausalLM"],
            "rope_scaling": None,
            "head_dim": 8,
            "v_head_dim": 5,
            "partial_rotary_factor": 0.6,
            "sliding_window": 3,
            "n_routed_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 10,
        },
    ),
    "mla-moe": ("deepseek-v3", {}),
    "mla-moe-no-shared": ("deepseek-v3", {"n_shared_experts": 0, "rope_interleave": False}),
    "mla-direct-q": ("deepseek-v3", {"q_lora_rank": None, "rope_scaling": None, "n_group": 1, "topk_group": 1}),
}


ALL = (*VARIANTS, *RECURRENT)


def small_model(name: str) -> ModuleOp:
    if name in RECURRENT:
        return import_hf(RECURRENT[name], name, "small")
    preset, changes = VARIANTS[name]
    text = resources.files("pmc.configs").joinpath(f"models/{preset}.json").read_text()
    config = cast("dict[str, object]", json.loads(text))
    return import_hf({**config, **PRESETS[preset], **changes}, preset, "small")


def layers_of(module: ModuleOp, phase: str, absorb_mla: bool = True) -> ModuleOp:
    copy = module.clone()
    ExpandBlocksPass(phase, absorb_mla, capacity="worst").apply(Context(), copy)
    copy.verify()
    return copy


def close(actual: Array, expected: Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11)


# -- equations --------------------------------------------------------------------------------------------------


def test_equations_on_numbers_worked_by_hand() -> None:
    close(rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 2.0]), 0.0), np.array([[3, 8]]) / np.sqrt(12.5))
    gate, up = np.array([2.0, 9.0, -9.0]), np.array([6.0, 8.0, -8.0])
    close(gated("silu", gate, up, np.nan, np.nan)[0], 2 / (1 + np.exp(-2)) * 6)
    close(gated("clamped_silu", gate, up, 7.0, np.nan)[1:], np.array([49 / (1 + np.exp(-7)), 63 / (1 + np.exp(9))]))
    close(
        gated("clamped_swiglu", gate, up, 7.0, 2.0),
        np.array([14 / (1 + np.exp(-4)), 56 / (1 + np.exp(-14)), 54 / (1 + np.exp(18))]),
    )
    # Two queries over three keys: the first sees two, of which the second scores ln 3 more.
    q, k = np.array([[1.0], [0.0]]), np.array([[0.0], [np.log(3)], [7.0]])
    v = np.array([[4.0], [8.0], [0.0]])
    close(attend(q, k, v, 1.0), np.array([[(4 + 3 * 8) / 4], [4.0]]))
    # Of two keys it sees the first query still sees both, the second no longer the first key, which has 4.
    close(attend(q, k, v, 1.0, window=2), np.array([[(4 + 3 * 8) / 4], [4.0]]))
    close(attend(q, k, v, 1.0, window=1), np.array([[8.0], [0.0]]))


def test_rotation_by_a_quarter_turn() -> None:
    # theta chosen so that pair 1 of 2 turns pi/2 per position: theta**(-1/2) = pi/2.
    rotary = Rotary((2 / np.pi) ** 2, {}, interleaved=True, tokens=1)
    x = np.array([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 2.0]])
    close(rotary.rotate(x, 0), np.array([[0, 0, 1, 2], [0, 0, -2, 1]]))
    halves = Rotary((2 / np.pi) ** 2, {}, interleaved=False, tokens=1)
    close(halves.rotate(np.array([[0.0, 1.0, 0.0, 2.0]]), 1), np.array([[0, -2, 0, 1]]))


def test_expert_choice_opens_the_groups_with_the_best_pair() -> None:
    scores = np.array([0.9, 0.1, 0.05, 0.6, 0.6, 0.3])
    assert choose_experts(scores, np.zeros(6), 2, 1, 1) == [0, 3]
    assert choose_experts(scores, np.zeros(6), 2, 2, 1) == [3, 4]
    assert choose_experts(scores, np.array([0, 0, 9.0, 0, 0, 0]), 2, 2, 1) == [2, 0]


def only(module: ModuleOp, kind: type[Any]) -> Any:
    """The first block of a kind."""
    return next(op for op in module.walk() if isinstance(op, kind))


def silu(x: float) -> float:
    return x / (1 + np.exp(-x))


def test_a_convolution_sees_the_inputs_before_the_first_token() -> None:
    weights = {"x_proj.weight": np.array([[2.0]]), "x_conv.weight": np.array([[100.0, 10.0, 1.0]])}
    past = np.array([[0.1], [0.2]])
    found = convolved("x", np.array([[0.15], [0.2]]), weights.__getitem__, lambda _: past, bias=False)
    close(found, np.array([[silu(10 + 2 + 0.3)], [silu(20 + 3 + 0.4)]]))
    close(past, np.array([[0.3], [0.4]]))


def unmixed(inputs: dict[str, int]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Convolutions of two taps, by their widths, that see the newest token only, and their states."""
    taps = {f"{name}_conv.weight": np.tile([0.0, 1.0], (width, 1)) for name, width in inputs.items()}
    return taps, {f"{name}_conv_state": np.ones((1, width)) for name, width in inputs.items()}


def test_a_token_of_the_gated_delta_rule_worked_by_hand() -> None:
    changes = {f"linear_num_{kind}_heads": 1 for kind in ("key", "value")}
    changes |= {f"linear_{kind}_head_dim": 1 for kind in ("key", "value")}
    block = only(import_hf({**RECURRENT["qwen3.5"], **changes}, "x", "small"), model.GatedDeltaNetOp)
    one = np.array([[1.0]])
    # Of length 1, q and k are 1; of the state 8, half is kept, and half of what is missing to v is added.
    weights, states = unmixed({"q": 1, "k": 1, "v": 1})
    weights |= {f"{name}_proj.weight": one for name in "qkvz"} | {f"{name}_proj.weight": 0 * one for name in "ab"}
    weights |= {"A_log": np.zeros(1), "dt_bias": np.zeros(1)}
    weights |= {"gated_norm.weight": np.array([3.0]), "out_proj.weight": 5 * one}
    states["recurrent_state"] = np.array([[8.0]])
    y = gated_delta_net(block, np.array([[2.0]]), weights.__getitem__, states.__getitem__)
    np.testing.assert_allclose(states["recurrent_state"], [[4 + (silu(2.0) - 4) / 2]], rtol=1e-5)
    np.testing.assert_allclose(y, [[5 * 3 * silu(2.0)]], rtol=1e-4)  # the norm of one number is its sign


def test_a_token_of_kimi_delta_attention_worked_by_hand() -> None:
    given = cast("dict[str, Any]", RECURRENT["kimi-linear"]["linear_attn_config"])
    recurrence = {**given, "num_heads": 1, "head_dim": 2}
    block = only(
        import_hf({**RECURRENT["kimi-linear"], "linear_attn_config": recurrence}, "x", "small"), model.KimiDeltaOp
    )
    one = np.array([[1.0, 0.0]])
    # k is (1, 0) and q is (0, 1) of length 1; the rows of the state decay to a half and to a quarter.
    weights, states = unmixed({"q": 2, "k": 2, "v": 2})
    weights |= {"q_proj.weight": one[:, ::-1], "k_proj.weight": one, "v_proj.weight": np.array([[1.0, 2.0]])}
    weights |= {"b_proj.weight": np.zeros((1, 1)), "f_a_proj.weight": np.ones((1, 2))}
    weights |= {"f_b_proj.weight": np.array([[0.0, 0.0], [0.0, np.log(3) / 2]]), "dt_bias": np.zeros(2)}
    # softplus(0) is the logarithm of 2, softplus(ln 3) that of 4.
    weights |= {
        "A_log": np.zeros(1),
        "g_a_proj.weight": one,
        "g_b_proj.weight": np.array([[0.0, np.log(3) / 2], [0, 0]]),
    }
    weights |= {"gated_norm.weight": np.array([1.0, 5.0]), "o_proj.weight": np.eye(2)}
    held = states["recurrent_state"] = np.array([[8.0, 4.0], [16.0, 12.0]])
    y = kimi_delta(block, np.array([[2.0]]), weights.__getitem__, states.__getitem__)
    v = np.array([silu(2.0), silu(4.0)])
    kept = np.array([4.0, 2.0])
    np.testing.assert_allclose(held, np.array([kept + (v - kept) / 2, [4.0, 3.0]]), rtol=1e-5)
    read = np.array([4, 3]) / np.sqrt(2)
    np.testing.assert_allclose(y[0], read / np.sqrt((read**2).mean()) * [0.5, 5 * 0.75], rtol=1e-4)


def test_a_token_of_mamba2_worked_by_hand() -> None:
    sizes = {"mamba_num_heads": 1, "mamba_head_dim": 2, "n_groups": 1, "ssm_state_size": 1, "use_conv_bias": False}
    limit = {"time_step_limit": [0.0, 0.5]}
    block = only(import_hf({**RECURRENT["nemotron-h"], **sizes, **limit}, "x", "small"), model.Mamba2Op)
    ones = np.ones((1, 1))
    weights, states = unmixed({"x": 2, "B": 1, "C": 1})
    weights |= {"x_proj.weight": np.array([[1.0, -1.0]]), "B_proj.weight": ones, "C_proj.weight": ones}
    weights |= {"z_proj.weight": np.ones((1, 2)), "dt_proj.weight": ones, "dt_bias": np.zeros(1)}
    weights |= {"A_log": np.log([2 * np.log(2)]), "D": np.array([3.0])}
    weights |= {"gated_norm.weight": np.array([1.0, 7.0]), "out_proj.weight": np.eye(2)}
    held = states["recurrent_state"] = np.array([[8.0], [4.0]])
    y = mamba2(block, np.array([[2.0]]), weights.__getitem__, states.__getitem__)
    x = np.array([silu(2.0), silu(-2.0)])
    # dt is the limit 0.5, so exp(dt A) is 1/2.
    close(held[:, 0], np.array([4.0, 2.0]) + 0.5 * x * silu(2.0))
    read = (held[:, 0] * silu(2.0) + 3 * x) * silu(2.0)
    close(y[0], read / np.sqrt((read**2).mean() + 1e-5) * [1, 7])


# -- agreement of the levels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q_len", "kv_len"), [(5, 5), (1, 7), (3, 8)])
@pytest.mark.parametrize("name", ALL)
def test_layer_level_computes_the_same_logits_and_caches(name: str, q_len: int, kv_len: int) -> None:
    module = small_model(name)
    bindings = {"batch": 2, "q_len": q_len, "kv_len": kv_len}
    environment = seeded_model_environment(module, bindings, 11)
    expected = run_model(module, environment)
    assert np.ptp(expected.logits) > 1
    for phase, absorb in (("prefill", True), ("decode", True), ("decode", False)):
        lowered = layers_of(module, phase, absorb)
        inputs = seeded_layer_environment(lowered, bindings, 11)
        for held, other in ((inputs.weights, environment.weights), (inputs.states, environment.states)):
            assert held.keys() == other.keys()
            assert all(np.array_equal(held[path], other[path]) for path in held)
        run = run_layer(lowered, inputs)
        rows = expected.logits[q_len - 1 :: q_len] if phase == "prefill" else expected.logits
        close(run.outputs[0], rows)
        for path, cache in expected.states.items():
            close(run.states[path], cache)


@pytest.mark.parametrize("name", ALL)
def test_prefill_then_decode_is_one_longer_prefill(name: str) -> None:
    module, batch, prompt, steps = small_model(name), 2, 4, 3
    whole = seeded_model_environment(module, {"batch": batch, "q_len": prompt + steps, "kv_len": prompt + steps}, 2)
    expected = run_model(module, whole)
    logits = expected.logits.reshape(batch, prompt + steps, -1)
    tokens = whole.tokens.reshape(batch, -1)

    bindings = {"batch": batch, "q_len": prompt, "kv_len": prompt}
    start = replace(seeded_model_environment(module, bindings, 2), tokens=tokens[:, :prompt].reshape(-1))
    prefill, decode = layers_of(module, "prefill"), layers_of(module, "decode")
    reference, lowered = run_model(module, start), run_layer(prefill, start)
    close(reference.logits.reshape(batch, prompt, -1)[:, -1], logits[:, prompt - 1])
    close(lowered.outputs[0], logits[:, prompt - 1])
    model_inputs = layer_inputs = start
    for step in range(prompt, prompt + steps):
        new = tokens[:, step]
        sources = model_sources(module, {"batch": batch, "q_len": 1, "kv_len": step + 1})
        model_inputs = model_inputs.next_step(new, reference.states).newest(sources)
        layer_inputs = layer_inputs.next_step(new, lowered.states).newest(sources)
        reference, lowered = run_model(module, model_inputs), run_layer(decode, layer_inputs)
        close(reference.logits, logits[:, step])
        close(lowered.outputs[0], logits[:, step])
    for path, cache in expected.states.items():
        kept = cache[..., cache.shape[-2] - reference.states[path].shape[-2] :, :]
        close(reference.states[path], kept)
        close(lowered.states[path], kept)


def test_seeded_arrays_of_equal_shape_differ() -> None:
    """Else a program that swaps K and V, or gate and up, would go unseen."""
    environment = seeded_model_environment(small_model("gqa"), {"batch": 1, "q_len": 1, "kv_len": 4}, 0)
    arrays = [*environment.weights.values(), *environment.states.values()]
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            assert a.shape != b.shape or not np.array_equal(a, b)


@pytest.mark.parametrize("name", ["mla-moe", "qwen3.5", "nemotron-h"])
def test_what_is_cached_changes_the_logits(name: str) -> None:
    """The agreement of caches and states would mean nothing if they were not read."""
    module = small_model(name)
    environment = seeded_model_environment(module, {"batch": 1, "q_len": 1, "kv_len": 4}, 0)
    base = run_model(module, environment).logits
    for path, cache in environment.states.items():
        states = {**environment.states, path: cache * 1.5}
        changed = Environment(environment.bindings, environment.tokens, environment.weights, states)
        assert np.abs(run_model(module, changed).logits - base).max() > 1e-3, path


def test_values_hold_the_rows_after_every_block_and_layer() -> None:
    module = small_model("gqa")
    environment = seeded_model_environment(module, {"batch": 1, "q_len": 2, "kv_len": 2}, 0)
    run = run_model(module, environment)
    assert {path: len(rows) for path, rows in run.values.items()} == {
        "embed": 1,
        **{f"blocks.dense.{block}{part}": 3 for block in ("gqa", "ffn") for part in (".norm", "", ".residual")},
        "lm_head.norm": 1,
        "lm_head": 1,
    }
    lowered = run_layer(layers_of(module, "decode"), environment, record=True)
    recorded = {key.path: values for key, values in lowered.values.items()}
    for layer in range(3):
        close(recorded["blocks.dense.gqa.residual"][layer], run.values["blocks.dense.gqa.residual"][layer])


# -- bad input --------------------------------------------------------------------------------------------------


def test_missing_and_bad_inputs_are_named() -> None:
    module = small_model("gqa")
    good = seeded_model_environment(module, {"batch": 1, "q_len": 2, "kv_len": 3}, 0)

    def run(**changes: Any) -> None:
        fields: dict[str, Any] = {
            "bindings": good.bindings,
            "tokens": good.tokens,
            "weights": good.weights,
            "states": good.states,
        }
        run_model(module, Environment(**{**fields, **changes}))

    with pytest.raises(NumericError, match=r"no array for state 'blocks.dense.gqa.k_cache', must be \[3, 1, 3, 12\]"):
        run(states={})
    nan = {**good.weights, "lm_head.norm.weight": np.full(24, np.nan)}
    with pytest.raises(NumericError, match=r"weight 'lm_head.norm.weight': element \[0\] is nan, must be finite"):
        run(weights=nan)
    with pytest.raises(NumericError, match=r"tokens are int64\[3\], must be integers \[2\] \(batch 1 \* q_len 2\)"):
        run(tokens=np.array([1, 2, 3]))
    with pytest.raises(NumericError, match=r"'embed': token ids are 1 to 37, the vocabulary has 0 to 36"):
        run(tokens=np.array([1, 37]))
    with pytest.raises(NumericError, match=r"3 new tokens for a batch of 2, must be a positive multiple"):
        Environment({"batch": 2, "q_len": 1, "kv_len": 1}, np.array([0, 0]), {}).next_step(np.zeros(3, int), {})


def test_gated_delta_nets_obey_the_bias_of_their_convolutions() -> None:
    """Qwen3-Next has none; with one the model and its tensor ops still agree, and say something else than without."""
    module = import_hf(RECURRENT["qwen3-next"], "tiny", "tiny")
    logits: list[Array] = []
    for bias in (False, True):
        for op in module.walk():
            if isinstance(op, model.GatedDeltaNetOp) and bias:
                op.conv_bias = BoolAttr.from_bool(True)
        environment = seeded_model_environment(module, {"batch": 1, "q_len": 4, "kv_len": 4}, seed=2)
        lowered = module.clone()
        ExpandBlocksPass("prefill", capacity="worst").apply(Context(), lowered)
        logits.append(run_model(module, environment).logits.reshape(4, -1)[-1])
        np.testing.assert_allclose(run_layer(lowered, environment).outputs[0][0], logits[-1], atol=1e-9)
    without, biased = logits
    assert not np.allclose(without, biased)
