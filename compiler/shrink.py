"""Small models, chips and deployments of the same structure as large ones, for running them on numpy.

Everything that decides which ops, collectives and loops exist is kept: the architecture, the kinds of layers, the
parallel axes, grouped or shared heads, a latent that is narrower than the keys, the groups of experts.  Sizes become
small, but not round: they leave edge tiles, and the batch does not divide by dp.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

from pmc.dialects.arch import Chip
from pmc.dialects.deployment import Deployment

HEAD_DIMS = {"head_dim": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
LATENT_RANKS = {"q_lora_rank": 20, "kv_lora_rank": 11}


def shrink_config(config: Mapping[str, Any], deployment: Deployment, layers: int) -> dict[str, Any]:
    """The Hugging Face config with `layers` layers and small dims that divide as `deployment` needs, in FP32.

    Fields that a config does not have stay absent.
    """
    d = deployment
    small: dict[str, Any] = {
        "hidden_size": 36,
        "num_hidden_layers": layers,
        "vocab_size": 8 * d.tp,
        "intermediate_size": 12 * d.tp,
        "moe_intermediate_size": 10 * d.moe_tp,
        "torch_dtype": "float32",
        **HEAD_DIMS,
        **LATENT_RANKS,
        **_heads(config, d.tp),
        **_experts(config, d),
    }
    if config.get("num_local_experts") is not None:
        small["intermediate_size"] = 10 * d.moe_tp  # Mixtral names the width of its experts so
    if "kv_lora_rank" not in config:
        config = {**config, "head_dim": 0}  # optional in the config: hidden size by heads where absent
    if "first_k_dense_replace" in config:
        small["first_k_dense_replace"] = min(config["first_k_dense_replace"], layers // 2)
    return {**config, **{key: value for key, value in small.items() if config.get(key) is not None}}


def _heads(config: Mapping[str, Any], tp: int) -> dict[str, int]:
    """Query heads that tp divides; key heads as many, shared by two, or fewer than tp, as in the config."""
    heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    if kv_heads == heads:
        return {"num_attention_heads": 2 * tp, "num_key_value_heads": 2 * tp}
    if kv_heads < tp:
        return {"num_attention_heads": 2 * lcm(kv_heads, tp), "num_key_value_heads": kv_heads}
    return {"num_attention_heads": 2 * tp, "num_key_value_heads": tp}


def _experts(config: Mapping[str, Any], deployment: Deployment) -> dict[str, int]:
    """Two experts or more per rank and per group, at most three choices."""
    groups = int(config.get("n_group") or 1)
    count = 2 * lcm(deployment.ep, groups)
    top_k = min(int(config.get("num_experts_per_tok") or 1), 3)
    return {
        "n_routed_experts": max(count, 4),
        "num_local_experts": max(count, 4),
        "num_experts_per_tok": top_k,
        "topk_group": max(1, min(int(config.get("topk_group") or 1), groups)),
    }


def shrink_deployment(deployment: Deployment, **changes: object) -> Deployment:
    """The same mesh with a batch that dp does not divide, few tokens, and room for every token at every expert.

    With cp a decode step has as many queries as cp has ranks, as when drafts are verified.
    """
    d = deployment
    queries = (5 if d.cp == 1 else 2 * d.cp) if d.phase == "prefill" else d.cp
    small = {
        "batch": d.dp + 1 if d.dp > 1 else 2,
        "q_len": queries,
        "kv_len": queries if d.phase == "prefill" else -(-11 // d.cp) * d.cp,
        "expert_capacity": "worst",
        **changes,
    }
    return Deployment.model_validate({**d.model_dump(), **small})


def shrink_chip(chip: Chip) -> Chip:
    """Six cores with so little LMEM that loops have several iterations."""
    data = chip.model_dump()
    data.update(name=f"{chip.name}-small", cores=6)
    command_level = data["command_level"]
    if command_level is not None:
        command_level["lmem"].update(bytes_per_core=40 * 1024)
        command_level["noc"].update(mesh_columns=3, mesh_rows=2, cluster_columns=3, cluster_rows=1)
    return Chip.model_validate(data)
