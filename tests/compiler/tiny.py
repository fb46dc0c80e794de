"""Small models and the command line that compiles them, for tests of the driver and the commands."""

from __future__ import annotations

import json
from pathlib import Path

LLAMA: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 256,
}

MIXTRAL: dict[str, object] = {
    **LLAMA,
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}

TARGET = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
SMALL = ["--batch", "8", "--kv-len", "64"]


def write_config(folder: Path, config: dict[str, object], name: str = "tiny.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(config))
    return path
