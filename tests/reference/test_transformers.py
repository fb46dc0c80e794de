"""The model and layer levels against the modeling code of `transformers`, on tiny random models of each kind.

Both sides read one Hugging Face config; the seeded weights of pmc are copied into the PyTorch module.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import run_layer
from pmc.backends.numeric.model import ModelRun, run_model, seeded_model_environment
from pmc.backends.numeric.precision import EXACT32
from pmc.compiler.frontend import import_hf
from pmc.passes.expand_blocks import ExpandBlocksPass

torch: Any = pytest.importorskip("torch", reason="needs the `reference` extra: torch is not installed")
transformers: Any = pytest.importorskip(
    "transformers", reason="needs the `reference` extra: transformers is not installed"
)

TOLERANCE = 1e-4
BATCH, Q_LEN = 2, 11

COMMON: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "vocab_size": 61,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
}
LLAMA: dict[str, object] = {**COMMON, "architectures": ["LlamaForCausalLM"]}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_SCALING = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
DEEPSEEK: dict[str, object] = {
    **COMMON,
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 20,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
DEEPSEEK_YARN = {**YARN_SCALING, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 1.0}
QWEN3: dict[str, object] = {**COMMON, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16}
MIXTRAL: dict[str, object] = {
    **COMMON,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
}

CONFIGS: dict[str, dict[str, object]] = {
    "llama": LLAMA,
    "llama-mha": {**LLAMA, "num_key_value_heads": 4},
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "llama-llama3": {**LLAMA, "rope_scaling": LLAMA3_SCALING},
    "deepseek": DEEPSEEK,
    "deepseek-yarn": {**DEEPSEEK, "rope_scaling": DEEPSEEK_YARN},
    "deepseek-half-rope": {**DEEPSEEK, "rope_interleave": False},
    "deepseek-direct-q": {**DEEPSEEK, "q_lora_rank": None},
    "deepseek-unnormalised": {**DEEPSEEK, "norm_topk_prob": False, "routed_scaling_factor": 1.5},
    "qwen3": QWEN3,
    "qwen3-yarn": {**QWEN3, "rope_scaling": YARN_SCALING},
    "mixtral": MIXTRAL,
}

BLOCK_NAMES = {
    "input_layernorm": "{attention}.norm",
    "self_attn.kv_a_proj_with_mqa": "{attention}.kv_a_proj",
    "self_attn": "{attention}",
    "post_attention_layernorm": "{mlp}.norm",
    "mlp.shared_experts": "{mlp}.shared",
    "mlp.gate.e_score_correction_bias": "{mlp}.router.bias",
    "mlp.gate": "{mlp}.router",
    "mlp": "{mlp}",
}
"""Prefixes of the parameter names inside one layer, the longer ones first."""


def pmc_path(name: str, kind: str, attention: str) -> str:
    """The weight path for the name of a PyTorch parameter inside a layer."""
    prefix = next(p for p in BLOCK_NAMES if name == p or name.startswith(p + "."))
    blocks = {
        "attention": f"blocks.{kind}.{attention}",
        "mlp": f"blocks.{kind}.{'ffn' if kind == 'dense' else 'moe'}",
    }
    return BLOCK_NAMES[prefix].format(**blocks) + name[len(prefix) :]


def torch_model(config: dict[str, object], weights: dict[str, Array]) -> Any:
    """The PyTorch module of `config` with every parameter set from `weights`."""
    (architecture,) = cast("list[str]", config["architectures"])
    config_class = getattr(transformers, architecture.replace("ForCausalLM", "Config"))
    module = getattr(transformers, architecture)(config_class(**config)).float().eval()
    attention = "mla" if "kv_lora_rank" in config else "gqa"
    dense = cast(int, config.get("first_k_dense_replace", 0))
    has_experts = "num_experts_per_tok" in config

    def values(name: str) -> Array:
        if name == "model.embed_tokens.weight":
            return weights["embed.weight"]
        if name == "model.norm.weight":
            return weights["lm_head.norm.weight"]
        if name == "lm_head.weight":
            return weights["embed.weight"] if config["tie_word_embeddings"] else weights["lm_head.proj.weight"].T
        _, _, number, inner = name.split(".", 3)
        layer = int(number)
        kind = "moe" if has_experts and layer >= dense else "dense"
        layer -= dense if kind == "moe" else 0
        path = pmc_path(inner, kind, attention)
        if path.endswith(".gate_up_proj"):
            pair = (weights[f"{path[: -len('gate_up_proj')]}{n}_proj.weight"][layer] for n in ("gate", "up"))
            return np.concatenate(list(pair), axis=-1).swapaxes(-1, -2)
        array = weights[path if path.endswith(("weight", "bias")) else f"{path}.weight"][layer]
        transposed: Array = array.swapaxes(-1, -2) if array.ndim > 1 else array
        return transposed

    state = {n: torch.tensor(np.ascontiguousarray(values(n)), dtype=torch.float32) for n in module.state_dict()}
    module.load_state_dict(state, strict=True)
    return module


def expanded(module: ModuleOp, phase: str) -> ModuleOp:
    """The layer program of `module` in which no token is dropped."""
    copy = module.clone()
    ExpandBlocksPass(phase, capacity="worst").apply(Context(), copy)
    return copy


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree_with_transformers(name: str) -> None:
    config = CONFIGS[name]
    module = import_hf(config, name, "tiny")
    bindings = {"batch": BATCH, "q_len": Q_LEN, "kv_len": Q_LEN}
    environment = seeded_model_environment(module, bindings, seed=7)
    tokens = torch.tensor(environment.tokens.reshape(BATCH, Q_LEN))
    with torch.no_grad():
        logits = torch_model(config, dict(environment.weights))(tokens).logits.numpy()
    assert np.ptp(logits) > 1  # an agreement of zeros would mean nothing

    reference: ModelRun = run_model(module, environment, np.float32)
    np.testing.assert_allclose(reference.logits.reshape(logits.shape), logits, atol=TOLERANCE)
    prefill = run_layer(expanded(module, "prefill"), environment, EXACT32)
    np.testing.assert_allclose(prefill.outputs[0], logits[:, -1], atol=TOLERANCE)
    decode = run_layer(expanded(module, "decode"), environment, EXACT32)
    np.testing.assert_allclose(decode.outputs[0].reshape(logits.shape), logits, atol=TOLERANCE)
