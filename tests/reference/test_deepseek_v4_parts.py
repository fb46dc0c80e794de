"""Hyper-connections and routers against those of `transformers`, module by module, with random parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmc.backends.numeric import hyper_connections, routing
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.semantics import rms_norm

torch: Any = pytest.importorskip("torch", reason="needs the `reference` extra: torch is not installed")
v4: Any = pytest.importorskip(
    "transformers.models.deepseek_v4.modeling_deepseek_v4",
    reason="needs the `reference` extra with DeepSeek-V4: transformers is not installed, or too old",
)

STREAMS, HIDDEN, ITERATIONS, TOKENS, TOP_K, EXPERTS, VOCABULARY = 4, 16, 7, 5, 3, 8, 50


@pytest.fixture(scope="module")
def config() -> Any:
    torch.manual_seed(0)
    return v4.DeepseekV4Config(
        hidden_size=HIDDEN, hc_mult=STREAMS, hc_sinkhorn_iters=ITERATIONS, num_hidden_layers=2,
        n_routed_experts=EXPERTS, num_experts_per_tok=TOP_K, vocab_size=VOCABULARY, routed_scaling_factor=1.5,
    )  # fmt: skip


def random(module: Any) -> Any:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def array(value: Any) -> Array:
    found: Array = value.detach().numpy()
    return found


def logits(streams: Array, fn: Any, eps: float) -> Array:
    width = int(streams.shape[1])
    found: Array = rms_norm(streams, np.ones(width), eps, width) @ array(fn).T
    return found


def test_a_hyper_connection(config: Any) -> None:
    module, x, added = random(v4.DeepseekV4HyperConnection(config)), *(torch.randn(1, TOKENS, n) for n in (64, HIDDEN))
    streams = x.view(1, TOKENS, STREAMS, HIDDEN)
    post, comb, collapsed = module(streams)
    # As DeepseekV4DecoderLayer joins them.
    expected = post[..., None] * added[..., None, :] + torch.matmul(comb.transpose(-1, -2), streams)
    rows = array(x[0])
    z = logits(rows, module.fn, config.rms_norm_eps)
    scale, base = array(module.scale), array(module.base)
    weights = hyper_connections.stream_weights(z, scale, base, STREAMS, ITERATIONS, config.hc_eps)
    found = hyper_connections.collapse_streams(rows, weights, STREAMS)
    np.testing.assert_allclose(found, array(collapsed[0]), atol=1e-5)
    found = hyper_connections.mix_streams(rows, array(added[0]), weights, STREAMS)
    np.testing.assert_allclose(found, array(expected.reshape(TOKENS, -1)), atol=1e-5)


def test_streams_before_the_head(config: Any) -> None:
    module, x = random(v4.DeepseekV4HyperHead(config)), torch.randn(1, TOKENS, 64)
    expected = module(x.view(1, TOKENS, STREAMS, HIDDEN))
    z = logits(array(x[0]), module.hc_fn, config.rms_norm_eps)
    scale, base = array(module.hc_scale), array(module.hc_base)
    weights = hyper_connections.stream_weights(z, scale, base, STREAMS, 0, config.hc_eps)
    found = hyper_connections.collapse_streams(array(x[0]), weights, STREAMS)
    np.testing.assert_allclose(found, array(expected[0]), atol=1e-5)


def test_a_router_of_root_softplus_scores(config: Any) -> None:
    module = random(v4.DeepseekV4TopKRouter(config))
    module.e_score_correction_bias.normal_()
    scores, expected, chosen = module(torch.randn(TOKENS, HIDDEN))
    bias = array(module.e_score_correction_bias)
    weights, indices = routing.router_topk(array(scores), bias, TOP_K, "sqrtsoftplus", 1, 1, True, 1.5)
    # Theirs are in no order.
    np.testing.assert_array_equal(np.sort(indices), np.sort(array(chosen)))
    np.testing.assert_allclose(np.sort(weights), np.sort(array(expected)), atol=1e-6)


def test_a_router_by_token_id(config: Any) -> None:
    module = random(v4.DeepseekV4HashRouter(config))
    module.tid2eid.copy_(torch.stack([torch.randperm(EXPERTS)[:TOP_K] for _ in range(VOCABULARY)]))
    tokens = torch.randint(0, VOCABULARY, (TOKENS,))
    scores, expected, chosen = module(torch.randn(TOKENS, HIDDEN), tokens)
    np.testing.assert_array_equal(array(module.tid2eid)[array(tokens)], array(chosen))
    found = routing.router_weights(array(scores), array(chosen), "sqrtsoftplus", True, 1.5)
    np.testing.assert_allclose(found, array(expected), atol=1e-6)
