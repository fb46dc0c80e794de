"""How the parameters of PyTorch modules of `transformers` are named and laid out, against those of pmc."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.backends.numeric.errors import Array
from pmc.dialects import model

NAMES: Mapping[str, str] = {
    "input_layernorm": "{attention}.norm",
    "post_attention_layernorm": "{mlp}.norm",
    "self_attn.kv_a_proj_with_mqa": "{attention}.kv_a_proj",
    "self_attn": "{attention}",
    "mlp.shared_experts": "{mlp}.shared",
    "mlp.gate.e_score_correction_bias": "{mlp}.router.bias",
    "mlp.e_score_correction_bias": "{mlp}.router.bias",
    "mlp.gate": "{mlp}.router",
    "mlp": "{mlp}",
}
"""Prefixes of the parameter names inside of one layer, the longer ones first."""

NORMS_BEHIND: Mapping[str, str] = {
    "post_attention_layernorm": "{attention}.post_norm",
    "post_feedforward_layernorm": "{mlp}.post_norm",
}
"""Where a family has its norms behind the blocks, or around them."""

ATTENTION = ("gqa", "mla", "dsa")


def layer_paths(module: ModuleOp) -> list[tuple[dict[str, str], tuple[int, ...]]]:
    """Of every layer, in order: the paths of its blocks, and its place in the stored arrays."""
    (llm,) = module.ops
    assert isinstance(llm, model.LlmOp)
    return list(_layers_in(llm.body.block, 0))


def _layers_in(block: Block, outer: int) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    names = [op.path.data for op in block.ops if isinstance(op, model.BlockOp)]
    attention = next((name for name in names if name.rpartition(".")[2] in ATTENTION), None)
    mlp = next((name for name in names if name.rpartition(".")[2] in ("ffn", "moe")), None)
    if attention is not None and mlp is not None:
        yield {"attention": attention, "mlp": mlp}, (outer,)
    for op in block.ops:
        if isinstance(op, model.RepeatOp):
            for index in range(op.trip_count):
                yield from _layers_in(op.body.block, outer * op.trip_count + index)


def parameter(name: str, module: ModuleOp, weights: Mapping[str, Array], config: Mapping[str, Any]) -> Array:
    """The value of the PyTorch parameter `name`: linear layers are [out, in] there, [in, out] in pmc."""
    match name.removeprefix("model."):
        case "embed_tokens.weight":
            return weights["embed.weight"]
        case "norm.weight":
            return weights["lm_head.norm.weight"]
        case "lm_head.weight":
            return weights["embed.weight"] if config.get("tie_word_embeddings") else weights["lm_head.proj.weight"].T
        case inside:
            _, number, inner = inside.split(".", 2)
    blocks, place = layer_paths(module)[int(number)]
    table = {**NAMES, **(NORMS_BEHIND if f"{blocks['attention']}.post_norm.weight" in weights else {})}
    prefix = next(p for p in sorted(table, key=len, reverse=True) if inner == p or inner.startswith(p + "."))
    path = table[prefix].format(**blocks) + inner[len(prefix) :]
    for fused, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("qkv_proj", ("q_proj", "k_proj", "v_proj"))):
        head, found, kind = path.partition(fused)
        if found:
            kind = kind or ".weight"
            return np.concatenate([_stored(weights[f"{head}{part}{kind}"][place]) for part in parts], axis=-2)
    return _stored(weights[path if path.endswith(("weight", "bias")) else f"{path}.weight"][place])


def _stored(array: Array) -> Array:
    transposed: Array = array.swapaxes(-1, -2) if array.ndim > 1 else array
    return transposed
