"""Small models, chips and deployments of the same structure as large ones, for running them on numpy.

Everything that decides which ops, collectives and loops exist is kept: the architecture, the kinds of layers, the
parallel axes, grouped or shared heads, a latent that is narrower than the keys, the groups of experts.  Sizes become
small, but not round: they leave edge tiles, and the batch does not divide by dp.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, lcm
from typing import Any

from pmc.dialects.arch import DTYPE_BITS, Chip
from pmc.dialects.deployment import Deployment, Quantization
from pmc.dialects.element_formats import ElementFormat, Scales, element_format

HEAD_DIMS = {"head_dim": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
LATENT_RANKS = {"q_lora_rank": 20, "kv_lora_rank": 11}


def shrink_config(
    config: Mapping[str, Any], deployment: Deployment, layers: int, dtype: str | None = "float32"
) -> dict[str, Any]:
    """The Hugging Face config with `layers` layers and small dims that divide as `deployment` needs.

    Fields that a config does not have stay absent; without `dtype` it keeps its own.
    """
    d = deployment
    small: dict[str, Any] = {
        "hidden_size": 38,
        "num_hidden_layers": layers,
        "vocab_size": _vocabulary(config, d),
        "intermediate_size": 20 * d.tp,
        "moe_intermediate_size": 10 * d.moe_tp,
        "torch_dtype": dtype or config.get("torch_dtype"),
        "dtype": dtype or config.get("dtype"),
        **HEAD_DIMS,
        **LATENT_RANKS,
        **_heads(config, d.tp),
        **_experts(config, d),
        **_indexer(d),
    }
    if config.get("num_local_experts") is not None:
        small["intermediate_size"] = 10 * d.moe_tp  # Mixtral names the width of its experts so
    if "kv_lora_rank" in config:
        # What newer files say once more: both follow from the dims of the heads.
        config = {key: value for key, value in config.items() if key not in ("head_dim", "qk_head_dim")}
    else:
        config = {**config, "head_dim": 0}  # optional in the config: hidden size by heads where absent
    if config.get("layer_types") is not None:
        small["layer_types"] = ["full_attention"] * layers
    if "first_k_dense_replace" in config:
        small["first_k_dense_replace"] = min(config["first_k_dense_replace"], layers // 2)
    return {**config, **{key: value for key, value in small.items() if config.get(key) is not None}}


def _vocabulary(config: Mapping[str, Any], d: Deployment) -> int:
    """A vocabulary that its ranks divide where they divide that of the config; otherwise the last rank has padding."""
    ranks = d.tp * (d.cp * d.dp if "stage" in (d.embedding, d.lm_head) else 1)
    return 19 * ranks - (1 if int(config["vocab_size"]) % ranks else 0)


def _heads(config: Mapping[str, Any], tp: int) -> dict[str, int]:
    """Query heads that tp divides; key heads as many, two a rank shared by two, or fewer than tp, as in the config."""
    heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    if kv_heads == heads:
        return {"num_attention_heads": 2 * tp, "num_key_value_heads": 2 * tp}
    if kv_heads < tp:
        return {"num_attention_heads": 2 * lcm(kv_heads, tp), "num_key_value_heads": kv_heads}
    shared = 2 * tp if kv_heads % (2 * tp) == 0 else tp
    return {"num_attention_heads": 2 * shared, "num_key_value_heads": shared}


def _indexer(d: Deployment) -> dict[str, int]:
    """Index heads that tp divides, part of them rotated; fewer keys than there are, in prefill more than some see."""
    return {"index_n_heads": 3 * d.tp, "index_head_dim": 10, "index_topk": 13 if d.phase == "decode" else 37}


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
    """The same parallel axes, a batch that dp does not divide, few tokens, and room for every token at every expert.

    The new tokens continue a cache.  With cp a decode step has as many queries as cp has ranks, as when drafts are
    verified.  Many data-parallel ranks do what a few do: dp and ep (or moe_dp) are divided alike.
    """
    d = deployment
    fewer = _fewer_ranks(d)
    queries = (7 if d.cp == 1 else 2 * d.cp) if d.phase == "prefill" else d.cp
    small = {
        "dp": d.dp // fewer,
        "ep": d.ep // fewer if d.ep > 1 else 1,
        "moe_dp": d.moe_dp // fewer if d.ep == 1 and d.moe_dp > 1 else d.moe_dp,
        "batch": d.dp // fewer + 1 if d.dp > 1 else 3,
        "q_len": queries,
        "kv_len": -(-41 // d.cp) * d.cp,
        "expert_capacity": "worst",
        "quantization": _small_groups(d.quantization),
        **changes,
    }
    return Deployment.model_validate({**d.model_dump(), **small})


def _small_groups(quantization: Quantization) -> Quantization:
    """Weights of which two numbers share a scale where more do: the widths of small models are no multiples of more."""
    found = element_format(quantization.weights)
    if found.scales is None:
        return quantization
    weights = ElementFormat(found.element, Scales(2, 1, found.scales.element))
    return quantization.model_copy(update={"weights": str(weights)})


MANY_RANKS = 4
"""Meshes up to this size are kept."""


def _fewer_ranks(d: Deployment) -> int:
    """The factor by which dp shrinks, and what spreads the experts, if any does: at least two ranks of each stay."""
    spread = d.ep if d.ep > 1 else d.moe_dp
    most = max(1, d.dp // 2) if spread == 1 else max(1, min(d.dp // 2, spread // 2))
    factors = [f for f in range(1, most + 1) if d.dp % f == 0 and (spread == 1 or spread % f == 0)]
    return next((f for f in factors if d.ranks // f <= MANY_RANKS), factors[-1])


LEAST_BUDGET, MOST_BUDGET = 1024, 64 * 1024
"""Bytes of LMEM for tiles between which the least is searched that a model is compiled into."""


def with_fp32(chip: Chip) -> Chip:
    """The chip with a matrix unit that takes FP32 too, as its slowest type: accelerators rarely have one."""
    data = chip.model_dump()
    for counts in (data["macs_per_lane_per_cycle"], data["cube"]["k"]):
        counts["f32"] = counts["f32"] or min(count for count in counts.values() if count is not None)
    return Chip.model_validate(data)


def shrink_chip(chip: Chip, budget: int = 16 * 1024) -> Chip:
    """Nine cores with a small matrix unit and `budget` bytes of LMEM for tiles, so that loops have several iterations.

    Models are run on it in FP32, so it has a matrix unit for that (see `with_fp32`).

    Raises PmcError for a chip without a command level, for which nothing is compiled below the dist level.
    """
    data = with_fp32(chip).model_dump()
    command_level = data["command_level"]
    cores, columns, rows = 9, 3, 3
    data.update(name=f"{chip.name}-small", cores=cores, dies=1, die_to_die=None)
    data["cube"].update(m=4, n=3)
    depths = data["cube"]["k"]
    depths.update({name: 16 * 8 // DTYPE_BITS[name] for name, depth in depths.items() if depth is not None})
    if command_level is not None:
        fraction = command_level["lmem"]["tile_budget_fraction"]
        command_level["lmem"].update(bytes_per_core=ceil(budget / fraction))
        command_level["noc"].update(mesh_columns=columns, mesh_rows=rows, cluster_columns=columns, cluster_rows=1)
    return Chip.model_validate(data)
