"""How the parameters of PyTorch modules of `transformers` are named and laid out, against those of pmc."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block

from pmc.backends.numeric.errors import Array
from pmc.dialects import model
from tests.reference import recurrent_checkpoints

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

GEMMA: Mapping[str, str] = {**NORMS_BEHIND, "pre_feedforward_layernorm": "{mlp}.norm"}

GPT2: Mapping[str, str] = {
    "ln_1": "{attention}.norm",
    "ln_2": "{mlp}.norm",
    "attn.c_attn": "{attention}.qkv_proj",
    "attn.c_proj": "{attention}.o_proj",
    "mlp.c_fc": "{mlp}.up_proj",
    "mlp.c_proj": "{mlp}.down_proj",
}
"""Its linear layers are [in, out], as in pmc."""

OPT: Mapping[str, str] = {
    "self_attn_layer_norm": "{attention}.norm",
    "self_attn.out_proj": "{attention}.o_proj",
    "self_attn": "{attention}",
    "final_layer_norm": "{mlp}.norm",
    "fc1": "{mlp}.up_proj",
    "fc2": "{mlp}.down_proj",
}

BLOOM: Mapping[str, str] = {
    "self_attention.query_key_value": "{attention}.qkv_proj",
    "self_attention.dense": "{attention}.o_proj",
    "mlp.dense_h_to_4h": "{mlp}.up_proj",
    "mlp.dense_4h_to_h": "{mlp}.down_proj",
}

GPT_OSS: Mapping[str, str] = {"mlp.router.bias": "{mlp}.router.linear_bias", "mlp.router": "{mlp}.router"}

LLAMA4: Mapping[str, str] = {
    "feed_forward.shared_expert": "{mlp}.shared",
    "feed_forward": "{mlp}",
}

STEP: Mapping[str, str] = {"self_attn.g_proj": "{attention}.head_gate"}

DEEPSEEK_V4: Mapping[str, str] = {
    "attn_hc": "{attention}.streams.weights",
    "ffn_hc": "{mlp}.streams.weights",
    "self_attn.compressor.indexer.scorer": "{attention}.indexer",
    "self_attn.compressor.indexer": "{attention}.indexer",
    "mlp.gate.tid2eid": "{mlp}.router.table",
}

GEMMA4: Mapping[str, str] = {**GEMMA, "layer_scalar": "{layer}.layer_scale"}

GEMMA4_MOE: Mapping[str, str] = {
    "post_feedforward_layernorm": "{layer}.ffn_and_moe.post_norm",
    "post_feedforward_layernorm_1": "{mlp}.post_norm",
    "pre_feedforward_layernorm_2": "{layer}.moe.norm",
    "post_feedforward_layernorm_2": "{layer}.moe.post_norm",
    "router.scale": "{layer}.moe.router.norm",
    "router.per_expert_scale": "{layer}.moe.router.expert_scale",
    "router.proj": "{layer}.moe.router",
    "experts": "{layer}.moe.experts",
}
"""Where experts stand beside the dense network."""

OUTSIDE: Mapping[str, str] = {
    "embed_tokens.weight": "embed.weight",
    "wte.weight": "embed.weight",
    "wpe.weight": "embed.positions.weight",
    "embed_positions.weight": "embed.positions.weight",
    "word_embeddings.weight": "embed.weight",
    "word_embeddings_layernorm.weight": "embed.norm.weight",
    "word_embeddings_layernorm.bias": "embed.norm.bias",
    "norm.weight": "lm_head.norm.weight",
    "ln_f.weight": "lm_head.norm.weight",
    "ln_f.bias": "lm_head.norm.bias",
    "final_layer_norm.weight": "lm_head.norm.weight",
    "final_layer_norm.bias": "lm_head.norm.bias",
    "hc_head.hc_fn": "lm_head.streams.weights.fn.weight",
    "hc_head.hc_base": "lm_head.streams.weights.base",
    "hc_head.hc_scale": "lm_head.streams.weights.scale",
    **recurrent_checkpoints.OUTSIDE,
}
"""Parameters outside of layers."""

AS_STORED = (".bias", "position_bias", ".table")
"""Ends of the paths of parameters that are no linear layers."""

ATTENTION = ("gqa", "block_sparse", "mla", "dsa", "gated_delta_net", "kda", "mamba2", "window", "csa", "hca")


def layer_paths(module: ModuleOp) -> list[tuple[dict[str, str], tuple[int, ...]]]:
    """Of every layer, in order: the paths of its blocks, and its place in the stored arrays.

    A layer of one block has it under both names.
    """
    (llm,) = (op for op in module.ops if isinstance(op, model.LlmOp))
    assert isinstance(llm, model.LlmOp)
    return list(_layers_in(llm.body.block, 0))


def _layers_in(block: Block, outer: int) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    names = [op.path.data for op in block.ops if isinstance(op, model.BlockOp)]
    # Layers that share keys are one body: its blocks are numbered.  A layer of Nemotron-H is one block.
    attention, mlp = (
        [name for name in names if re.fullmatch(rf"({'|'.join(kinds)})\d*", name.rpartition(".")[2])]
        for kinds in (ATTENTION, ("ffn", "moe", "hash_moe"))
    )
    if attention and len(mlp) == 2 * len(attention):  # experts beside the dense network
        mlp = [name for name in mlp if not name.endswith("moe")]
    for pair in zip(attention or mlp, mlp or attention, strict=True):
        yield {"attention": pair[0], "mlp": pair[1], "layer": pair[0].rpartition(".")[0]}, (outer,)
    for op in block.ops:
        if isinstance(op, model.RepeatOp):
            for index in op.iterations(outer):
                number = index if op.shares is not None else outer * op.trip_count + index
                yield from _layers_in(op.body.block, number)


TABLES: Mapping[str, Mapping[str, str]] = {
    "Olmo2ForCausalLM": NORMS_BEHIND,
    "Gemma2ForCausalLM": GEMMA,
    "Gemma3ForCausalLM": GEMMA,
    "GPT2LMHeadModel": GPT2,
    "OPTForCausalLM": OPT,
    "BloomForCausalLM": BLOOM,
    "GptOssForCausalLM": GPT_OSS,
    "Llama4ForCausalLM": LLAMA4,
    "Gemma4ForCausalLM": GEMMA4,
    "Step3p7FlashForCausalLM": STEP,
    "DeepseekV4ForCausalLM": DEEPSEEK_V4,
    **recurrent_checkpoints.TABLES,
}
"""The names of a family that differ from those of most."""

FUSED: Mapping[str, tuple[str, ...]] = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
}


def parameter(name: str, module: ModuleOp, weights: Mapping[str, Array], config: Mapping[str, Any]) -> Array:
    """The value of the PyTorch parameter `name`.

    Linear layers are [out, in] there, [in, out] in pmc, but for GPT-2 and the experts of gpt-oss and Llama 4.
    """
    inside = name.removeprefix("model.").removeprefix("transformer.").removeprefix("decoder.")
    if inside in OUTSIDE:
        found = weights[OUTSIDE[inside]]
        return found.T if inside == "hc_head.hc_fn" else found
    if inside == "lm_head.weight":
        return weights["lm_head.proj.weight"].T if "lm_head.proj.weight" in weights else weights["embed.weight"]
    _, number, inner = inside.split(".", 2)
    blocks, place = layer_paths(module)[int(number)]
    (architecture,) = config["architectures"]
    table = {**NAMES, **TABLES.get(architecture, {}), **(GEMMA4_MOE if config.get("enable_moe_block") else {})}
    prefix = next(p for p in sorted(table, key=len, reverse=True) if inner == p or inner.startswith(p + "."))
    path = table[prefix].format(**blocks) + inner[len(prefix) :]
    # Of fused experts the bias is called gate_up_proj_bias.
    path = path.replace("_proj_bias", "_proj.bias")
    whole = recurrent_checkpoints.fused(path, lambda part: weights[part][place], config)
    if whole is not None:
        return whole
    as_stored = architecture == "GPT2LMHeadModel" or (
        architecture in ("GptOssForCausalLM", "Llama4ForCausalLM") and ".experts." in path
    )
    for fused, parts in FUSED.items():
        head, found, kind = path.partition(fused)
        if found:
            arrays = [weights[f"{head}{part}{kind or '.weight'}"][place] for part in parts]
            if architecture == "BloomForCausalLM":  # query, key and value of a head in turn
                heads = config["num_attention_heads"]
                arrays = [part for head in zip(*(np.split(a, heads, -1) for a in arrays), strict=True) for part in head]
            if architecture == "GptOssForCausalLM" and fused == "gate_up_proj":  # columns of gate and up in turn
                return np.stack(arrays, axis=-1).reshape(*arrays[0].shape[:-1], -1)
            return (
                np.concatenate(arrays, axis=-1)
                if as_stored or kind == ".bias"
                else _transposed(np.concatenate(arrays, axis=-1))
            )
    array = weights[path if path in weights else f"{path}.weight"][place]
    return array if as_stored or path.endswith(AS_STORED) else _transposed(array)


def _transposed(array: Array) -> Array:
    found: Array = array.swapaxes(-1, -2) if array.ndim > 1 else array
    return found
