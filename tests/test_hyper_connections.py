"""Hyper-connections and experts by token id (DeepSeek-V4), in a model with a plain attention.

The family is one of these tests: it has what the residual and the router of DeepSeek-V4 are, and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import evaluate_module
from pmc.backends.g5.stream import simulate
from pmc.backends.numeric import hyper_connections
from pmc.backends.numeric.environment import seeded_array
from pmc.backends.numeric.model import model_sources
from pmc.backends.numeric.model_hyper_connections import sinkhorn_knopp
from pmc.compiler.check import FP32, Proof, check_model
from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, resume
from pmc.compiler.frontend import import_hf
from pmc.compiler.frontend.blocks import DEEPSEEK_MOE, LLAMA_GQA
from pmc.compiler.frontend.families import FAMILIES
from pmc.compiler.frontend.family import Family
from pmc.compiler.frontend.fields import Fields
from pmc.compiler.frontend.readings import constant, integer, number
from pmc.compiler.shrink import with_fp32
from pmc.compiler.small import small_target
from pmc.dialects import layer, model, tile
from pmc.dialects.tensor import tensor
from tests.reference.configs import COMMON

MOE = DEEPSEEK_MOE.with_rows(
    scoring=constant("sqrtsoftplus"),
    n_group=constant(1),
    topk_group=constant(1),
    activation=constant("clamped_silu"),
    activation_limit=number("swiglu_limit"),
)
HASHED = replace(MOE.with_rows(correction_bias=constant(False), vocab_size=integer("vocab_size")), reads_tokens=True)
STREAMS = {
    "hc_mult": integer("hc_mult"),
    "hc_sinkhorn_iters": integer("hc_sinkhorn_iters"),
    "hc_eps": number("hc_eps"),
    "rms_norm_eps": number("rms_norm_eps"),
}


def _order(fields: Fields) -> list[str]:
    return ["hash"] * 2 + ["moe"] * (fields.integer("num_hidden_layers") - 2)


FAMILY = Family({"hash": (LLAMA_GQA, HASHED), "moe": (LLAMA_GQA, MOE)}, _order, streams=STREAMS)
CONFIG: Mapping[str, object] = {
    **{name: value for name, value in COMMON.items() if name != "intermediate_size"},
    "architectures": ["StreamsForCausalLM"],
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 16,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 0.8,
    "hc_mult": 3,
    "hc_sinkhorn_iters": 4,
    "hc_eps": 1e-6,
}
TOPOLOGY = load_topology("p1-r1-b4-c32")


@pytest.fixture(autouse=True)
def _family(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setitem(FAMILIES, "StreamsForCausalLM", FAMILY)  # type: ignore[arg-type]


def tiny() -> ModuleOp:
    return import_hf(CONFIG, "streams", "tiny")


@pytest.mark.parametrize(
    "mesh",
    [
        {"tp": 1, "dp": 2, "ep": 2, "fuse_rows": True},  # of three sequences: a row of ranks has one that is padding
        pytest.param({"tp": 2, "pp": 2, "ep": 2, "sp": True}, marks=pytest.mark.long),
        pytest.param({"tp": 2, "dp": 2, "ep": 4, "fuse_gates": True}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_every_level_keeps_the_meaning_of_streams_and_of_experts_by_token_id(mesh: dict[str, object]) -> None:
    types = {f"quantization.{kind}": found for kind, found in FP32.items()}
    deployment = load_deployment("decode", {**types, **mesh, "kv_len": 41})
    small = small_target(dict(CONFIG), "streams", with_fp32(load_chip("sg2262")), TOPOLOGY, deployment, {})
    result = check_model(small.model, small.chip, small.topology, small.deployment, proof=Proof(unroll=False))
    assert result.guilty is None
    assert result.checks[-1].name == "emit-g5"


def test_parameters_by_hand() -> None:
    """32 columns, 3 streams; a table of 61 ids and 3 experts is a parameter, of which a token reads one row."""
    hidden, n, experts = 32, 3, 8
    weights = (2 + n) * n
    connection = n * hidden * weights + 3 + weights
    head = n * hidden * n + 1 + n
    attention = hidden * (32 + 16 + 16) + 32 * hidden
    expert = 3 * hidden * 16
    router = hidden * experts
    common = 2 * (connection + hidden) + attention + router + expert
    embedding = 61 * hidden
    whole = 2 * embedding + head + hidden + 3 * (common + experts * expert) + 2 * 61 * 3 + 1 * experts
    active = hidden + embedding + head + hidden + 3 * (common + 3 * expert) + 2 * 3 + 1 * experts
    assert model.parameter_count(tiny()) == whole
    assert model.active_parameter_count(tiny()) == active


def test_the_weights_of_streams_are_doubly_stochastic() -> None:
    """Rows and columns of comb add up to one, and reading rows for columns would be seen: comb is not symmetric."""
    rng = np.random.default_rng(3)
    n, eps = 4, 1e-6
    logits, scale, base = rng.normal(size=(5, 24)), np.array([0.5, 2.0, 0.7]), 0.5 * rng.normal(size=24)
    found = hyper_connections.stream_weights(logits, scale, base, n, 20, eps)
    comb = found[:, 2 * n :].reshape(-1, n, n)
    for axis in (1, 2):
        np.testing.assert_allclose(comb.sum(axis=axis), 1, atol=1e-4)
    assert np.abs(comb - comb.swapaxes(1, 2)).max() > 0.1
    np.testing.assert_allclose(found[:, :n], 1 / (1 + np.exp(-(0.5 * logits[:, :n] + base[:n]))) + eps)
    np.testing.assert_allclose(found[:, n : 2 * n], 2 / (1 + np.exp(-(2 * logits[:, n : 2 * n] + base[n : 2 * n]))))
    z = (0.7 * logits[0, 2 * n :] + base[2 * n :]).reshape(n, n)
    start = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) + eps
    np.testing.assert_allclose(comb[0], sinkhorn_knopp(start, 20, eps))


def test_streams_are_read_and_mixed_by_their_weights() -> None:
    """Two streams of two columns: read 2 * first + 3 * second; stream 0 takes 10 of what is added and all of stream 1.

    comb[1, 0] = 1 moves stream 1 to stream 0.
    """
    x, added = np.array([[1.0, 2.0, 30.0, 40.0]]), np.array([[0.5, 0.25]])
    weights = np.array([[2.0, 3.0, 10.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(hyper_connections.collapse_streams(x, weights, 2), [[92.0, 124.0]])
    np.testing.assert_array_equal(hyper_connections.mix_streams(x, added, weights, 2), [[35.0, 42.5, 0.0, 0.0]])


def test_a_seeded_table_gives_every_token_different_experts() -> None:
    sources = {s.path: s for s in model_sources(tiny(), {"batch": 1, "q_len": 1, "kv_len": 1})}
    source = sources["blocks.hash.moe.router.table"]
    table = seeded_array(source, 7)
    assert table.shape == (2, 61, 3) and table.dtype.kind == "i"
    assert all(len(set(row)) == 3 for row in table.reshape(-1, 3).tolist())
    assert set(table.reshape(-1).tolist()) == set(range(8))


def test_a_layer_with_experts_by_token_id_has_a_router_and_no_top_k() -> None:
    """The logits are computed all the same; a gather reads a row of the table per token, from its layer in place."""
    deployment = load_deployment("decode", {"kv_len": 64, "batch": 4, "dp": 2, "ep": 2})
    target = (load_chip("sg2262"), TOPOLOGY, deployment)
    module = compile_model(tiny(), *target, "dist")
    ops = [op for op in module.walk() if isinstance(op, layer.LayerOp) and "hash.moe" in op.path.data]
    names = [op.path.data.removeprefix("blocks.hash.moe.") for op in ops]
    assert "router" in names and not any(isinstance(op, layer.RouterTopkOp) for op in ops)
    (lookup,) = (op for op in ops if isinstance(op, layer.EmbeddingOp))
    # Of 2 tokens of the rank: ids, rows of 3 experts.
    assert lookup.work().bytes_read.evaluate({"batch": 4, "q_len": 1}) == 2 * 4 + 2 * 3 * 4
    (weights,) = (op for op in ops if isinstance(op, layer.RouterWeightsOp))
    assert tensor(weights.weights).dims[1].constant == 3
    module = compile_model(tiny(), *target, "tile")
    gathers = [op for op in module.walk() if isinstance(op, tile.GatherOp) and "lookup" in op.path.data]
    assert [str(op.leading[0]) for op in gathers] == ["layer"]


def test_every_model_of_time_knows_streams_and_tables() -> None:
    deployment = load_deployment("decode", {"kv_len": 64, "batch": 4})
    module = compile_model(tiny(), load_chip("sg2262"), TOPOLOGY, deployment, "dist")
    names = ("copy_streams", "stream_weights", "collapse_streams", "mix_streams", "router_weights", "embedding")
    for granularity in ("chip", "core", "tile"):
        timed = {step.op for step in evaluate_module(module, granularity).steps if step.time_us > 0}
        assert {f"layer.{name}" for name in names} <= timed
    assert simulate(resume(module, "commands")).total_ps > 0


def test_streams_that_do_not_fit_are_an_error_of_the_file() -> None:
    with pytest.raises(Exception, match="hc_mult is 1, must be at least 2"):
        import_hf({**CONFIG, "hc_mult": 1}, "streams", "tiny")
