"""Draft layers against a layer of `transformers`, which has no code for them, between published parts.

A model of one layer, given rows in place of embedded tokens, is the layer, norm and head of multi-token prediction
(DeepSeek-V3 report, section 2.2); what is in front of it is written here.  No cache is kept: the second application
runs over all rows of the first again, with its own behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from xdsl.context import Context

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import run_layer
from pmc.backends.numeric.model import run_model, seeded_model_environment
from pmc.backends.numeric.precision import EXACT32
from pmc.compiler.frontend import import_hf
from pmc.dialects.drafting import DRAFT
from pmc.passes.expand_blocks import ExpandBlocksPass
from tests.reference.configs import CONFIGS

torch: Any = pytest.importorskip("torch", reason="needs the `reference` extra: torch is not installed")
pytest.importorskip("transformers", reason="needs the `reference` extra: transformers is not installed")

from tests.reference.test_transformers import torch_model  # noqa: E402

TOLERANCE = 1e-4
BATCH, LENGTH = 2, 9


def of_layer(weights: Mapping[str, Array]) -> dict[str, Array]:
    """The parameters of a draft layer as those of a model of one layer."""
    layer = {
        f"blocks.moe.{path.removeprefix(f'{DRAFT}.')}": values[None]
        for path, values in weights.items()
        if path.startswith(f"{DRAFT}.")
    }
    table = {path: values for path, values in weights.items() if path.startswith(("embed", "lm_head.proj"))}
    return {**layer, **table, "lm_head.norm.weight": weights[f"{DRAFT}.head.norm.weight"]}


def normed(x: Any, gain: Array, eps: float) -> Any:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * torch.tensor(gain, dtype=torch.float32)


@pytest.mark.parametrize("name", ["deepseek-yarn", "deepseek-v3.2", "glm4-moe"])
def test_two_drafts_behind_a_prompt_agree_with_transformers(name: str) -> None:
    config: dict[str, object] = {**CONFIGS[name], "num_nextn_predict_layers": 1}
    module = import_hf(config, name, "tiny")
    inputs = seeded_model_environment(module, {"batch": BATCH, "q_len": LENGTH, "kv_len": LENGTH}, seed=3, drafts=2)
    weights = inputs.weights
    one_config = {**config, "num_hidden_layers": 1, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0}
    one_module = import_hf(one_config, name, "one")
    eps = float(str(config["rms_norm_eps"]))
    projection = np.vstack([weights[f"{DRAFT}.eh_proj.{half}.weight"] for half in ("embedding", "hidden")])

    with torch.no_grad():
        model = torch_model(config, module, weights)
        layer = torch_model(one_config, one_module, of_layer(weights))

        def entering(tokens: Array, hidden: Any) -> Any:
            rows = torch.tensor(weights["embed.weight"][tokens.reshape(BATCH, -1)], dtype=torch.float32)
            pair = ((rows, "enorm"), (hidden, "hnorm"))
            beside = torch.cat([normed(x, weights[f"{DRAFT}.{norm}.weight"], eps) for x, norm in pair], -1)
            return beside @ torch.tensor(projection, dtype=torch.float32)

        hidden = model.model(torch.tensor(inputs.tokens.reshape(BATCH, -1))).last_hidden_state
        rows = entering(inputs.drafted[0], hidden)
        first = layer.model(inputs_embeds=rows).last_hidden_state[:, -1:]
        rows = torch.cat([rows, entering(inputs.drafted[1], first)], 1)
        second = layer.model(inputs_embeds=rows).last_hidden_state[:, -1:]
        expected = [layer.lm_head(x)[:, 0].numpy() for x in (first, second)]

    assert np.ptp(expected[0]) > 1  # an agreement of zeros would mean nothing
    program = module.clone()
    ExpandBlocksPass("prefill", capacity="worst", draft_tokens=2).apply(Context(), program)
    found = run_layer(program, inputs, EXACT32).outputs[1:]
    reference = run_model(module, inputs, np.float32).drafted
    for number in range(2):
        np.testing.assert_allclose(reference[number], expected[number], atol=TOLERANCE)
        np.testing.assert_allclose(found[number], expected[number], atol=TOLERANCE)
