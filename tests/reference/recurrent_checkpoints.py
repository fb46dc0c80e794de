"""How the projections and convolutions of recurrent mixers are fused in the PyTorch modules of `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pmc.backends.numeric.errors import Array

QWEN3_NEXT: Mapping[str, str] = {
    "linear_attn.norm": "{attention}.gated_norm",
    "linear_attn.in_proj_z": "{attention}.z_proj",
    "linear_attn.in_proj_a": "{attention}.a_proj",
    "linear_attn.in_proj_b": "{attention}.b_proj",
    "linear_attn": "{attention}",
    "mlp.shared_expert_gate": "{mlp}.shared_gate",
    "mlp.shared_expert": "{mlp}.shared",
}

NEMOTRON_H: Mapping[str, str] = {
    "norm": "{mlp}.norm",
    "mixer.norm": "{mlp}.gated_norm",
    "mixer.gate.e_score_correction_bias": "{mlp}.router.bias",
    "mixer.gate": "{mlp}.router",
    "mixer.shared_experts": "{mlp}.shared",
    "mixer.fc1_latent_proj": "{mlp}.latent_down_proj",
    "mixer.fc2_latent_proj": "{mlp}.latent_up_proj",
    "mixer": "{mlp}",
}
"""A layer is one block."""

KIMI_LINEAR: Mapping[str, str] = {
    "self_attn.forget_gate": "{attention}",
    "self_attn.o_norm": "{attention}.gated_norm",
}

TABLES: Mapping[str, Mapping[str, str]] = {
    "Qwen3NextForCausalLM": QWEN3_NEXT,
    "Qwen3_5ForCausalLM": QWEN3_NEXT,
    "Qwen3_5MoeForCausalLM": QWEN3_NEXT,
    "NemotronHForCausalLM": NEMOTRON_H,
    "KimiLinearForCausalLM": KIMI_LINEAR,
}

OUTSIDE: Mapping[str, str] = {"embeddings.weight": "embed.weight", "norm_f.weight": "lm_head.norm.weight"}
"""Parameters of Nemotron-H outside of layers."""


def fused(path: str, part: Callable[[str], Array], config: Mapping[str, Any]) -> Array | None:
    """The parameter at `path`, in the layout of PyTorch, where it is one of several in pmc; None where not.

    `part` has the parameters of pmc by path.
    """
    head, _, name = path.rpartition(".")
    head, _, last = head.rpartition(".")
    heads: dict[str, tuple[Any, ...]] = {
        "in_proj_qkv": (1, "q_proj", "k_proj", "v_proj"),
        "in_proj_qkvz": (config.get("linear_num_key_heads"), "q_proj", "k_proj", "v_proj", "z_proj"),
        "in_proj_ba": (config.get("linear_num_key_heads"), "b_proj", "a_proj"),
        "in_proj": (1, "z_proj", "x_proj", "B_proj", "C_proj", "dt_proj"),
    }
    if last in heads:
        groups, *parts = heads[last]
        return _interleaved([part(f"{head}.{p}.weight") for p in parts], groups).T
    if last == "conv1d":
        inputs = "xBC" if config["architectures"] == ["NemotronHForCausalLM"] else "qkv"
        whole = np.concatenate([part(f"{head}.{i}_conv.{name}") for i in inputs])
        return whole[:, None] if name == "weight" else whole
    if name == "A_log" and config["architectures"] == ["KimiLinearForCausalLM"]:
        return part(path)[None, None, :, None]
    if last == "q_proj" and config["architectures"][0].startswith(("Qwen3Next", "Qwen3_5")):
        return _interleaved(
            [part(f"{head}.{p}.weight") for p in ("q_proj", "gate_proj")], config["num_attention_heads"]
        ).T
    return None


def _interleaved(arrays: list[Array], groups: int) -> Array:
    """The columns of the first group of every array, then those of the second group, and so on."""
    return np.concatenate([a.reshape(len(a), groups, -1) for a in arrays], axis=2).reshape(len(arrays[0]), -1)
