"""Attention with masks other than plain causal, from the layer level to commands, in a small Llama."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.rewriter import Rewriter

from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import layer_sources, run_layer, seeded_layer_environment, the_program
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.compiler.check import with_plans
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_config, shrink_deployment
from pmc.dialects import layer
from pmc.dialects.deployment import Deployment
from pmc.dialects.expr import expr, min_of
from pmc.dialects.tensor import tensor
from pmc.passes.base import PassError

F32 = {f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")}


def small_llama(**changes: object) -> tuple[ModuleOp, Deployment]:
    """At the layer level, with the target on which it is lowered."""
    given = load_deployment("llama-8b-decode", {**F32, **changes})
    lengths = {name: changes[name] for name in ("batch", "q_len", "kv_len") if name in changes}
    deployment = shrink_deployment(given, **lengths)
    config, source = load_model_config("llama-3.1-8b")
    module = import_hf(shrink_config(config, deployment, 2), source, "llama")
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), deployment)
    run_pipeline(module, default_pipeline(deployment, "layer"))
    return module, deployment


def windowed(module: ModuleOp, window: int, cut: bool = True) -> ModuleOp:
    """The program with a sliding window in all layers; `cut` makes caches that hold no more than the window needs."""
    for op in module.walk():
        if isinstance(op, layer.AttentionOp):
            op.window = IntegerAttr(window, i64)
        elif isinstance(op, layer.StateOp | layer.KvAppendOp) and cut:
            (result,) = op.results
            batch, kv_len, width = tensor(result).dims
            rows = min_of(kv_len, expr("q_len") + (window - 1))
            Rewriter.replace_value_with_new_type(result, tensor(result).with_dims((batch, rows, width)))
    module.verify()
    return module


def inputs(module: ModuleOp, deployment: Deployment) -> Environment:
    bindings = {"batch": deployment.batch, "q_len": deployment.q_len, "kv_len": deployment.kv_len}
    return seeded_layer_environment(module, bindings, 3)


def check_levels(module: ModuleOp, deployment: Deployment, environment: Environment, plans: Any = "chosen") -> None:
    """The program computes the same on ranks, on tiles and as commands, caches included."""
    expected = run_layer(module, environment)
    steps = with_plans(default_pipeline(deployment, "commands")[2:], plans, deployment.q_len)
    tile = next(i for i, step in enumerate(steps) if step.name == "bind-symbols")
    emit = next(i for i, step in enumerate(steps) if step.name == "emit-g5")
    for some, run, tolerance in (
        (steps[:tile], run_dist, 1e-10),
        (steps[tile:emit], run_tiles, 1e-4),
        (steps[emit:], run_commands, 1e-4),
    ):
        run_pipeline(module, some)
        found = run(module, environment)
        np.testing.assert_allclose(found.outputs[0], expected.outputs[0], atol=tolerance)
        for path, values in expected.states.items():
            np.testing.assert_allclose(found.states[path], values, atol=tolerance)


LENGTHS = [(1, 41), (3, 41), (23, 23), (17, 31)]
"""Queries and keys of decode, of drafts that are verified, of prefill without and with a cache before it."""


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("window", [1, 6, 40])
def test_a_window_is_the_same_at_every_level(q_len: int, kv_len: int, window: int) -> None:
    module, deployment = small_llama(tp=2, q_len=q_len, kv_len=kv_len)
    plain = run_layer(module, inputs(module, deployment)).outputs[0]
    windowed(module, window)
    environment = inputs(module, deployment)
    rows = min(kv_len, window + q_len - 1)
    assert {values.shape[-2] for values in environment.states.values()} == {rows}
    if window < kv_len:
        assert np.abs(run_layer(module, environment).outputs[0] - plain).max() > 0.01, "the window hides nothing"
    check_levels(module, deployment, environment)


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("seed", range(3))
def test_random_plans_of_a_window(q_len: int, kv_len: int, seed: int) -> None:
    module, deployment = small_llama(q_len=q_len, kv_len=kv_len, batch=1 + seed % 2)
    windowed(module, 5 + 4 * seed, cut=seed != 1)
    check_levels(module, deployment, inputs(module, deployment), "random")


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
def test_a_cache_needs_no_more_than_the_window(q_len: int, kv_len: int) -> None:
    """The newest rows of a whole cache give what all rows give."""
    window = 7
    (whole, deployment), (short, _) = (small_llama(q_len=q_len, kv_len=kv_len) for _ in range(2))
    windowed(whole, window, cut=False)
    windowed(short, window)
    environment = inputs(whole, deployment)
    rows = min(kv_len, window + q_len - 1)
    states = {path: values[..., kv_len - rows :, :] for path, values in environment.states.items()}
    of_rows = Environment(environment.bindings, environment.tokens, environment.weights, states)
    expected, found = run_layer(whole, environment), run_layer(short, of_rows)
    np.testing.assert_allclose(found.outputs[0], expected.outputs[0], atol=1e-12)
    for path, values in found.states.items():
        np.testing.assert_allclose(values, expected.states[path][..., kv_len - rows :, :], atol=1e-12)


def test_a_prefill_and_steps_of_decode_are_one_prefill() -> None:
    """The cache of a window goes from step to step; the steps see what the queries of one long prefill see."""
    window, past, steps = 6, 13, 9
    module, deployment = small_llama()  # of the decode phase: it gives the logits of every token
    windowed(module, window)
    batch = deployment.batch
    long = {"batch": batch, "q_len": past + steps, "kv_len": past + steps}
    environment = seeded_layer_environment(module, long, 3)
    expected = run_layer(module, environment).outputs[0].reshape(batch, past + steps, -1)
    tokens = environment.tokens.reshape(batch, -1)
    states = {path: values[..., :past, :] for path, values in environment.states.items()}
    first = {"batch": batch, "q_len": past, "kv_len": past}
    step = Environment(first, tokens[:, :past].reshape(-1), environment.weights, states)
    run = run_layer(module, step)
    found: list[Array] = [run.outputs[0].reshape(batch, past, -1)]
    for position in range(past, past + steps):
        bindings = {"batch": batch, "q_len": 1, "kv_len": position + 1}
        step = step.next_step(tokens[:, position], run.states, layer_sources(the_program(module), bindings))
        assert {values.shape[-2] for values in step.states.values()} == {min(position + 1, window)}
        run = run_layer(module, step)
        found.append(run.outputs[0].reshape(batch, 1, -1))
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-10)


def test_context_parallelism_refuses_a_window() -> None:
    module, deployment = small_llama(cp=2, phase="prefill", q_len=8, kv_len=8)
    windowed(module, 6)
    with pytest.raises(PassError) as error:
        run_pipeline(module, default_pipeline(deployment, "dist")[2:])
    assert str(error.value) == (
        "annotate-shardings: layer.attention at 'blocks.dense.gqa.attention' has a window, which context parallelism "
        "does not split: its keys would be every 2-th of a sequence; choose cp = 1"
    )
