"""The model and layer levels against the modeling code of `transformers`, on tiny random models of each kind.

Both sides read one Hugging Face config; the seeded weights of pmc are copied into the PyTorch module.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import run_layer
from pmc.backends.numeric.model import ModelRun, model_sources, run_model, seeded_model_environment
from pmc.backends.numeric.precision import EXACT32
from pmc.compiler.frontend import import_hf
from pmc.passes.expand_blocks import ExpandBlocksPass
from tests.reference.checkpoints import parameter
from tests.reference.configs import CONFIGS

torch: Any = pytest.importorskip("torch", reason="needs the `reference` extra: torch is not installed")
transformers: Any = pytest.importorskip(
    "transformers", reason="needs the `reference` extra: transformers is not installed"
)

TOLERANCE = 1e-4
BATCH, Q_LEN, STEPS = 2, 11, 8


CONFIG_CLASSES = {
    "Gemma3": "Gemma3TextConfig",
    "Gemma4": "Gemma4TextConfig",
    "Llama4": "Llama4TextConfig",
    "MiniMaxM3": "MiniMaxM3VLTextConfig",
    "Step3p7Flash": "Step3p7TextConfig",
    "Qwen3_5": "Qwen3_5TextConfig",
    "Qwen3_5Moe": "Qwen3_5MoeTextConfig",
}
"""Where the class of the configuration is not called as that of the model."""


MODEL_CLASSES = {"MiniMaxM3ForCausalLM": "MiniMaxM3VLForCausalLM"}
"""Where the class is not called as the files say."""

TEXT_MODELS = {"Step3p7FlashForCausalLM": "Step3p7TextModel"}
"""Language models that `transformers` has without their head, as part of a larger model."""


class WithHead(torch.nn.Module):  # type: ignore[misc]
    """A language model and its head."""

    def __init__(self, text_model: Any, config: dict[str, object]) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.model = text_model
        self.lm_head = torch.nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def forward(self, tokens: Any) -> Any:
        return SimpleNamespace(logits=self.lm_head(self.model(tokens).last_hidden_state))


def torch_model(config: dict[str, object], module: ModuleOp, weights: Mapping[str, Array]) -> Any:
    """The PyTorch module of `config` with every parameter set from `weights`."""
    (architecture,) = cast("list[str]", config["architectures"])
    stem = architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    config_class = getattr(transformers, CONFIG_CLASSES.get(stem, f"{stem}Config"))
    attention = {"attn_implementation": "eager"}
    name = MODEL_CLASSES.get(architecture, architecture)
    text_model = getattr(transformers, TEXT_MODELS.get(name, name))
    found = text_model._from_config(config_class(**deepcopy(config)), **attention)
    found = (WithHead(found, config) if architecture in TEXT_MODELS else found).float().eval()
    values = {name: parameter(name, module, weights, config) for name in found.state_dict()}
    state = {name: torch.tensor(np.ascontiguousarray(v), dtype=torch.float32) for name, v in values.items()}
    found.load_state_dict(state, strict=True)
    return found


def expanded(module: ModuleOp, phase: str) -> ModuleOp:
    """The layer program of `module` in which no token is dropped."""
    copy = module.clone()
    ExpandBlocksPass(phase, capacity="worst").apply(Context(), copy)
    return copy


def started(environment: Environment) -> Environment:
    """The same at the start of a text: recurrences have seen nothing."""
    states = {p: np.zeros_like(v) if p in environment.fixed else v for p, v in environment.states.items()}
    return replace(environment, states=states)


def torch_logits(config: dict[str, object], module: ModuleOp, environment: Environment) -> Array:
    """Of every token of every sequence."""
    tokens = torch.tensor(environment.tokens.reshape(BATCH, -1))
    with torch.no_grad():
        found: Array = torch_model(config, module, environment.weights)(tokens).logits.numpy()
    assert np.ptp(found) > 1  # an agreement of zeros would mean nothing
    return found


@pytest.mark.parametrize("length", [15, 16])
def test_a_sequence_of_its_original_length_is_short_and_one_more_token_makes_it_long(length: int) -> None:
    """Of LongRoPE: both sides take the factors by the tokens of the whole sequence."""
    config = {**CONFIGS["phi3-longrope"], "original_max_position_embeddings": 15}
    module = import_hf(config, "phi3", "tiny")
    whole = seeded_model_environment(module, {"batch": BATCH, "q_len": length, "kv_len": length}, seed=7)
    logits = torch_logits(config, module, whole)
    np.testing.assert_allclose(
        run_model(module, whole, np.float32).logits.reshape(logits.shape), logits, atol=TOLERANCE
    )
    run = run_layer(expanded(module, "prefill"), whole, EXACT32)
    np.testing.assert_allclose(run.outputs[0], logits[:, -1], atol=TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_prefill_and_of_eight_decode_steps_agree_with_transformers(name: str) -> None:
    config = CONFIGS[name]
    module = import_hf(config, name, "tiny")
    length = Q_LEN + STEPS
    whole = started(seeded_model_environment(module, {"batch": BATCH, "q_len": length, "kv_len": length}, seed=7))
    logits = torch_logits(config, module, whole)
    reference: ModelRun = run_model(module, whole, np.float32)
    np.testing.assert_allclose(reference.logits.reshape(logits.shape), logits, atol=TOLERANCE)

    tokens = whole.tokens.reshape(BATCH, -1)
    bindings = {"batch": BATCH, "q_len": Q_LEN, "kv_len": Q_LEN}
    first = started(seeded_model_environment(module, bindings, seed=7))
    inputs = replace(first, tokens=tokens[:, :Q_LEN].reshape(-1))
    run = run_layer(expanded(module, "prefill"), inputs, EXACT32)
    np.testing.assert_allclose(run.outputs[0], logits[:, Q_LEN - 1], atol=TOLERANCE)
    decode = expanded(module, "decode")
    for step in range(Q_LEN, length):
        sources = model_sources(module, {"batch": BATCH, "q_len": 1, "kv_len": step + 1})
        inputs = inputs.next_step(tokens[:, step], run.states).newest(sources)
        run = run_layer(decode, inputs, EXACT32)
        np.testing.assert_allclose(run.outputs[0], logits[:, step], atol=TOLERANCE)
