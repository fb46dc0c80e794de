"""Hypothesis strategies: small models of every architecture, the meshes that fit them, and odd chips."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from pmc.compiler.check import FP32
from pmc.compiler.config import load_chip, load_deployment, load_model_config
from pmc.compiler.shrink import with_fp32
from pmc.dialects.arch import Chip
from pmc.dialects.deployment import Deployment

MOST_RANKS = 32
"""The chips of the topology that the cases run on."""

PRESETS = {"llama": "llama-3.1-8b", "deepseek": "deepseek-v3", "deepseek-sparse": "deepseek-v3.2"}


@dataclass(frozen=True)
class Case:
    """One thing to check."""

    config: dict[str, Any]
    deployment: Deployment
    chip: Chip
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A random architecture, deployment and chip."""
    kind = draw(st.sampled_from(["llama", "qwen3", "mixtral", "deepseek", "deepseek-direct-q", "deepseek-sparse"]))
    tp, dp, pp = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    cp = draw(st.sampled_from([1, 1, 2, 3, 4]))
    assume(tp * cp * dp * pp <= MOST_RANKS)
    moe = kind == "mixtral" or kind.startswith("deepseek")
    ways = tp * cp * dp
    moe_tp = draw(st.sampled_from([n for n in range(1, ways + 1) if ways % n == 0])) if moe else 1
    groups = ways // moe_tp
    ep = draw(st.sampled_from([n for n in range(1, groups + 1) if groups % n == 0])) if moe else 1
    moe_dp = groups // ep if moe else 1
    splits = ["tp", "replicated", "stage"] if moe or pp == 1 or dp == 1 else ["tp", "replicated"]
    vocabulary = {name: draw(st.sampled_from(splits)) for name in ("embedding", "lm_head")}
    config = (
        draw(deepseek(tp, pp, ep, moe_tp, kind))
        if kind.startswith("deepseek")
        else draw(llama(tp, pp, ep, moe_tp, kind))
    )
    deployment = draw(deployments(tp, dp, pp, ep, moe_tp, cp, moe_dp=moe_dp, **vocabulary))
    return Case(config, deployment, draw(chips()), draw(st.integers(0, 1000)))


@st.composite
def llama(draw: st.DrawFn, tp: int, pp: int, ep: int, moe_tp: int, kind: str) -> dict[str, Any]:
    """Llama, Qwen3 (norms on queries and keys) or Mixtral (experts), with grouped, single or full key heads."""
    config, _ = load_model_config(PRESETS["llama"])
    kv_heads = draw(st.sampled_from([n for n in (1, 2, 3, 4, 8) if n % tp == 0 or tp % n == 0]))
    heads = lcm(kv_heads, tp) * draw(st.sampled_from([1, 2]))
    config = {
        **config,
        "torch_dtype": "float32",
        "hidden_size": draw(st.sampled_from([12, 20, 34])),
        "head_dim": draw(st.sampled_from([2, 6, 8])),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": draw(st.integers(pp, pp + 1)),
        "vocab_size": draw(st.integers(5, 40)),
        "intermediate_size": tp * moe_tp * draw(st.integers(3, 20)),
        "tie_word_embeddings": False,
        "rope_scaling": config["rope_scaling"] if draw(st.booleans()) else None,
    }
    if kind == "qwen3":
        config.update(architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    if kind == "mixtral":
        config.update(
            architectures=["MixtralForCausalLM"],
            model_type="mixtral",
            num_local_experts=ep * draw(st.integers(2, 3)),
            num_experts_per_tok=2,
        )
    return config


@st.composite
def deepseek(draw: st.DrawFn, tp: int, pp: int, ep: int, moe_tp: int, kind: str) -> dict[str, Any]:
    """MLA or sparse attention, a dense first layer or none, grouped routing, with or without a shared expert."""
    config, _ = load_model_config(PRESETS["deepseek-sparse" if kind == "deepseek-sparse" else "deepseek"])
    rope = draw(st.sampled_from([2, 4]))
    indexer = {
        "index_n_heads": tp * draw(st.integers(1, 3)),
        "index_head_dim": rope + draw(st.integers(1, 7)),
        "index_topk": draw(st.integers(1, 45)),
    }
    heads, groups = tp * draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 4]))
    layers = draw(st.integers(max(2, pp), max(2, pp) + 1))
    return {
        **config,
        **(indexer if kind == "deepseek-sparse" else {}),
        "torch_dtype": "float32",
        "hidden_size": draw(st.sampled_from([12, 20, 34])),
        "num_hidden_layers": layers,
        "first_k_dense_replace": draw(st.integers(0, layers - 1)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": None if kind == "deepseek-direct-q" else draw(st.sampled_from([7, 16])),
        "kv_lora_rank": draw(st.sampled_from([9, 16])),
        "qk_nope_head_dim": draw(st.sampled_from([5, 8])),
        "qk_rope_head_dim": rope,
        "v_head_dim": draw(st.sampled_from([3, 8])),
        "vocab_size": draw(st.integers(5, 40)),
        "intermediate_size": tp * draw(st.integers(3, 20)),
        "moe_intermediate_size": tp * moe_tp * draw(st.integers(1, 9)),
        "n_routed_experts": lcm(ep, groups) * 2,
        "n_shared_experts": draw(st.sampled_from([1, 2])),
        "n_group": groups,
        "topk_group": draw(st.integers(1, groups)),
        "num_experts_per_tok": 2,
        "norm_topk_prob": draw(st.booleans()),
        "rope_scaling": config["rope_scaling"] if draw(st.booleans()) else None,
    }


@st.composite
def deployments(
    draw: st.DrawFn, tp: int, dp: int, pp: int, ep: int, moe_tp: int, cp: int, **more: object
) -> Deployment:
    """A phase with lengths that only cp divides; a prefill may continue a cache, a decode step has one token a rank."""
    phase = draw(st.sampled_from(["prefill", "decode"]))
    q_len = cp * (draw(st.integers(1, 7 if cp == 1 else 3)) if phase == "prefill" else 1)
    return Deployment.model_validate(
        {
            **load_deployment("llama-8b-decode").model_dump(),
            "phase": phase,
            "tp": tp,
            "dp": dp,
            "pp": pp,
            "ep": ep,
            "moe_tp": moe_tp,
            "cp": cp,
            **more,
            "sp": tp > 1 and draw(st.booleans()),
            "batch": draw(st.integers(1, 5)),
            "q_len": q_len,
            "kv_len": q_len + cp * draw(st.integers(0, 40 // cp)),
            "absorb_mla": draw(st.booleans()),
            "ring_exchange": draw(st.sampled_from(["expanded", "smallest"])),
            "expert_capacity": "worst",
            "quantization": FP32,
            **{
                name: draw(st.booleans())
                for name in ("late_stores", "fuse_rows", "fuse_gates", "pipeline_loops", "prefetch_weights")
            },
        }
    )


@st.composite
def chips(draw: st.DrawFn) -> Chip:
    """The SG2262 with another number of cores, another cube and little LMEM."""
    data = with_fp32(load_chip("sg2262")).model_dump()
    cores = draw(st.sampled_from([2, 4, 6, 16]))
    data.update(name="random", cores=cores)
    data["cube"].update(m=draw(st.sampled_from([8, 16])), n=draw(st.sampled_from([4, 8])))
    command_level = data["command_level"]
    command_level["lmem"].update(bytes_per_core=draw(st.sampled_from([48, 96, 512])) * 1024)
    command_level["noc"].update(mesh_columns=cores // 2, mesh_rows=2, cluster_columns=cores // 2, cluster_rows=1)
    return Chip.model_validate(data)
