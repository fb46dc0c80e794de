"""Attention with masks other than plain causal, from the layer level to commands, in a small Llama."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ArrayAttr, BFloat16Type, FloatAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.ir import Attribute
from xdsl.rewriter import Rewriter

from pmc.backends.cost.chip import ChipCostModel
from pmc.backends.cost.core import CoreCostModel
from pmc.backends.cost.model import CostModel, OpCost, Target
from pmc.backends.cost.plan_search import PlanSearch
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate.footprint import MemoryOptions
from pmc.backends.evaluate.memory import memory_footprint
from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import ValueKey, layer_sources, run_layer, seeded_layer_environment, the_program
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.backends.numeric.semantics import alibi_slopes
from pmc.compiler.check import with_plans
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import layer
from pmc.dialects.analyses import attention_tiling as attentions
from pmc.dialects.analyses.workload import attention_shape
from pmc.dialects.deployment import Deployment
from pmc.dialects.expr import Expr, ExprAttr, expr, min_of
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.tile_plan import PlanAttr
from pmc.passes.base import PassError

F32 = {f"quantization.{name}": "f32" for name in ("weights", "activations", "kv_cache", "attention")}


def small_llama(windowed_before_quantize: int = 0, **changes: object) -> tuple[ModuleOp, Deployment]:
    """At the layer level, with the target on which it is lowered."""
    given = load_deployment("llama-8b-decode", {**F32, **changes})
    lengths = {name: changes[name] for name in ("batch", "q_len", "kv_len") if name in changes}
    deployment = shrink_deployment(given, **lengths)
    config, source = load_model_config("llama-3.1-8b")
    module = shrink_model(import_hf(config, source, "llama"), deployment, 2)
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), deployment)
    expand, quantize = default_pipeline(deployment, "layer")
    run_pipeline(module, [expand])
    if windowed_before_quantize:
        windowed(module, windowed_before_quantize)
    run_pipeline(module, [quantize])
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


def chunked(module: ModuleOp, chunk: int, cut: bool = True) -> ModuleOp:
    """The program with attention to the chunk of a query in all layers; `cut` as in `windowed`."""
    windowed(module, chunk, cut)
    for op in module.walk():
        if isinstance(op, layer.AttentionOp):
            op.window, op.chunk, op.kv_len = None, IntegerAttr(chunk, i64), ExprAttr.of("kv_len")
    module.verify()
    return module


def with_sinks(module: ModuleOp) -> ModuleOp:
    """The program with a sink per head in all layers."""
    for op in [op for op in module.walk() if isinstance(op, layer.AttentionOp)]:
        type_ = TensorType.of((op.heads,), tensor(op.q[0]).element_type)
        axes = ArrayAttr([StringAttr("heads")])
        sinks = layer.WeightOp.make([], [type_], "blocks.dense.gqa.sinks", {"axes": axes}, like=op)
        properties = {name: value for name, value in op.properties.items() if name in PROPERTIES}
        operands = [op.q, op.k, op.v, sinks.result]
        new = layer.AttentionOp.make(operands, [op.y.type], op.path.data, properties, like=op)
        Rewriter.replace_op(op, [sinks, new], [new.y])
    module.verify()
    return module


def with_soft_cap(module: ModuleOp, cap: float) -> ModuleOp:
    """The program with a soft cap of the scores in all layers."""
    for op in module.walk():
        if isinstance(op, layer.AttentionOp):
            op.soft_cap = FloatAttr(cap, 64)
    module.verify()
    return module


def with_alibi(module: ModuleOp) -> ModuleOp:
    """The program with a bias by distance in all layers."""
    for op in module.walk():
        if isinstance(op, layer.AttentionOp):
            op.alibi_heads = IntegerAttr(op.heads, i64)
    module.verify()
    return module


PROPERTIES = ("qk_dims", "v_dim", "q_len", "scale", "causal", "window", "chunk", "kv_len")


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
    for values in environment.states.values():
        assert values.shape[-2] == rows and not values[..., rows - q_len :, :].any()
        assert values[..., : rows - q_len, :].all(), "what is cached is not what will be appended"
    if window < kv_len:
        assert np.abs(run_layer(module, environment).outputs[0] - plain).max() > 0.01, "the window hides nothing"
    check_levels(module, deployment, environment)


def test_a_window_over_ranks_and_stages() -> None:
    module, deployment = small_llama(tp=2, dp=2, pp=2, sp=True, q_len=3, kv_len=41)
    with_sinks(windowed(module, 6))
    check_levels(module, deployment, inputs(module, deployment))


def test_the_cache_of_a_window_is_quantized() -> None:
    changes = {"quantization.kv_cache": "f8E5M2", "quantization.attention": "f16"}
    module, deployment = small_llama(windowed_before_quantize=6, q_len=3, kv_len=41, **changes)
    held = {tensor(op.result) for op in module.walk() if isinstance(op, layer.StateOp)}
    assert {str(type_.element_type) for type_ in held} == {"f8E5M2"}
    environment = inputs(module, deployment)
    exact = run_layer(module, environment).outputs[0]
    run_pipeline(module, default_pipeline(deployment, "commands")[2:])
    found = run_commands(module, environment).outputs[0]
    assert 0 < np.abs(found - exact).max() < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("chunk", [8, 20])
def test_chunks_are_the_same_at_every_level(q_len: int, kv_len: int, chunk: int) -> None:
    module, deployment = small_llama(tp=2, q_len=q_len, kv_len=kv_len)
    plain = run_layer(module, inputs(module, deployment)).outputs[0]
    environment = inputs(chunked(module, chunk), deployment)
    assert {values.shape[-2] for values in environment.states.values()} == {min(kv_len, chunk + q_len - 1)}
    assert np.abs(run_layer(module, environment).outputs[0] - plain).max() > 0.01, "the chunks hide nothing"
    check_levels(module, deployment, environment)


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("masked", [windowed, chunked])
def test_random_plans(masked: Callable[..., ModuleOp], q_len: int, kv_len: int, seed: int) -> None:
    module, deployment = small_llama(q_len=q_len, kv_len=kv_len, batch=1 + seed % 2)
    masked(module, 5 + 4 * seed, cut=seed != 1)
    check_levels(module, deployment, inputs(module, deployment), "random")


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("masked", [windowed, chunked])
def test_a_cache_needs_no_more_than_the_window(masked: Callable[..., ModuleOp], q_len: int, kv_len: int) -> None:
    """The newest rows of a whole cache give what all rows give."""
    window = 7
    (whole, deployment), (short, _) = (small_llama(q_len=q_len, kv_len=kv_len) for _ in range(2))
    masked(whole, window, cut=False)
    masked(short, window)
    environment = inputs(whole, deployment)
    rows = min(kv_len, window + q_len - 1)
    newest = environment.newest(layer_sources(the_program(short), dict(environment.bindings)))
    expected, found = run_layer(whole, environment), run_layer(short, newest)
    np.testing.assert_allclose(found.outputs[0], expected.outputs[0], atol=1e-12)
    for path, values in found.states.items():
        np.testing.assert_allclose(values, expected.states[path][..., kv_len - rows :, :], atol=1e-12)


@pytest.mark.parametrize("masked", [windowed, chunked])
def test_a_prefill_and_steps_of_decode_are_one_prefill(masked: Callable[..., ModuleOp]) -> None:
    """The cache of a window goes from step to step; the steps see what the queries of one long prefill see."""
    window, past, steps = 6, 13, 9
    module, deployment = small_llama()  # of the decode phase: it gives the logits of every token
    masked(module, window)
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
        step = step.next_step(tokens[:, position], run.states).newest(layer_sources(the_program(module), bindings))
        assert {values.shape[-2] for values in step.states.values()} == {min(position + 1, window)}
        run = run_layer(module, step)
        found.append(run.outputs[0].reshape(batch, 1, -1))
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-10)


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("window", [None, 6])
def test_sinks_are_the_same_at_every_level(q_len: int, kv_len: int, window: int | None) -> None:
    module, deployment = small_llama(tp=2, q_len=q_len, kv_len=kv_len)
    if window is not None:
        windowed(module, window)
    plain = run_layer(module, inputs(module, deployment)).outputs[0]
    environment = inputs(with_sinks(module), deployment)
    assert np.abs(run_layer(module, environment).outputs[0] - plain).max() > 0.01, "the sinks do nothing"
    check_levels(module, deployment, environment)


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("seed", range(2))
def test_random_plans_of_sinks(q_len: int, kv_len: int, seed: int) -> None:
    module, deployment = small_llama(q_len=q_len, kv_len=kv_len, batch=1)
    with_sinks(windowed(module, 9) if seed == 1 else module)
    check_levels(module, deployment, inputs(module, deployment), "random")


@pytest.mark.parametrize(("q_len", "kv_len"), [(4, 40), (12, 12)])
def test_a_ring_counts_sinks_once(q_len: int, kv_len: int) -> None:
    module, deployment = small_llama(cp=4, tp=2, q_len=q_len, kv_len=kv_len)
    environment = inputs(with_sinks(module), deployment)
    expected = run_layer(module, environment).outputs[0]
    sharded = module.clone()
    run_pipeline(sharded, default_pipeline(deployment, "dist")[2:3])
    np.testing.assert_allclose(run_dist(sharded, environment).outputs[0], expected, atol=1e-10)
    check_levels(module, deployment, environment)


@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
def test_a_soft_cap_is_the_same_at_every_level(q_len: int, kv_len: int) -> None:
    module, deployment = small_llama(tp=2, q_len=q_len, kv_len=kv_len)
    environment = inputs(module, deployment)
    plain = run_layer(module, environment).outputs[0]
    with_soft_cap(module, 1e4)
    np.testing.assert_allclose(run_layer(module, environment).outputs[0], plain, atol=1e-5)
    with_soft_cap(module, 0.5)
    assert np.abs(run_layer(module, environment).outputs[0] - plain).max() > 0.01, "the cap does nothing"
    check_levels(module, deployment, environment)


@pytest.mark.parametrize("seed", range(3))
def test_random_plans_of_all_masks_together(seed: int) -> None:
    module, deployment = small_llama(tp=1 + seed % 2, q_len=17, kv_len=31, batch=2)
    with_soft_cap(with_sinks(windowed(module, 9)), 0.5)
    check_levels(module, deployment, inputs(module, deployment), "random")


@pytest.mark.parametrize(("tp", "q_len", "kv_len", "plans"), [(2, 1, 41, "chosen"), (4, 3, 23, "random")])
def test_a_bias_by_distance_is_the_same_at_every_level(tp: int, q_len: int, kv_len: int, plans: str) -> None:
    """Every rank has the slopes of its own heads: those of the first ones would be seen, as slopes differ by head."""
    module, deployment = small_llama(tp=tp, q_len=q_len, kv_len=kv_len)
    environment = inputs(module, deployment)
    plain = run_layer(module, environment).outputs[0]
    with_alibi(module)
    assert np.abs(run_layer(module, environment).outputs[0] - plain).max() > 0.01, "the bias does nothing"
    check_levels(module, deployment, environment, plans)


def test_slopes_of_alibi() -> None:
    """Press, Smith and Lewis (2022), section 3: 1/2 to 1/2^8 for 8 heads; for 6 those of 4, then two of those of 8."""
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(6), [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3])
    np.testing.assert_allclose(alibi_slopes(112)[[0, 63, 64, 111]], [2**-0.125, 2**-8, 2**-0.0625, 2**-5.9375])


def test_a_ring_caps_its_scores() -> None:
    module, deployment = small_llama(cp=4, q_len=8, kv_len=40)
    with_soft_cap(module, 0.5)
    check_levels(module, deployment, inputs(module, deployment))


def test_a_head_that_only_sees_its_sink_gives_nothing() -> None:
    """A sink far above all scores takes the whole weight; one far below takes none."""
    module, deployment = small_llama(q_len=3, kv_len=41)
    plain = run_layer(module, inputs(module, deployment), record=True).values
    environment = inputs(with_sinks(module), deployment)
    key = ValueKey("blocks.dense.gqa.attention", "layer.attention", 0)
    for sink, expected in ((1e4, 0.0), (-1e4, plain[key][0])):
        environment.weights["blocks.dense.gqa.sinks"][...] = sink  # type: ignore[index]
        found = run_layer(module, environment, record=True).values[key][0]
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("masked", "kind"),
    [
        (partial(windowed, window=6), "window"),
        (partial(chunked, chunk=6), "chunk"),
        (with_alibi, "bias by distance (ALiBi)"),
    ],
)
def test_context_parallelism_refuses_what_depends_on_where_keys_stand(
    masked: Callable[..., ModuleOp], kind: str
) -> None:
    module, deployment = small_llama(cp=2, phase="prefill", q_len=8, kv_len=8)
    masked(module)
    with pytest.raises(PassError) as error:
        run_pipeline(module, default_pipeline(deployment, "dist")[2:])
    assert str(error.value) == (
        f"annotate-shardings: layer.attention at 'blocks.dense.gqa.attention' has a {kind}, which context parallelism "
        "does not split: every rank has keys from the whole sequence; choose cp = 1"
    )


# -- work and time ----------------------------------------------------------------------------------------------

BF16 = BFloat16Type()
SG2262 = load_chip("sg2262")


def attention(batch: int, q_len: int | Expr, kv_len: int | Expr, /, **masks: Attribute) -> layer.AttentionOp:
    """8 query heads of 128 over 2 key heads, from a cache that holds what the mask needs."""
    rows, keys = batch * expr(q_len), expr(kv_len)
    reach = masks.get("window", masks.get("chunk"))
    if isinstance(reach, IntegerAttr):
        keys = min_of(keys, expr(q_len) + (reach.value.data - 1))

    def value(*dims: int | Expr) -> Any:
        return test_dialect.TestOp(result_types=[TensorType.of(tuple(map(expr, dims)), BF16)]).results[0]

    properties: dict[str, Any] = {
        "qk_dims": ArrayAttr([IntegerAttr(128, i64)]), "v_dim": 128, "q_len": expr(q_len), "scale": 0.1, "causal": True,
    }  # fmt: skip
    operands: list[Any] = [[value(rows, 1024)], [value(batch, keys, 256)], value(batch, keys, 256)]
    return layer.AttentionOp.make(operands, [value(rows, 1024).type], "attention", {**properties, **masks})


def cost(model: CostModel, op: layer.AttentionOp, **bindings: Any) -> OpCost:
    found = model.cost(op, bindings)
    assert found is not None
    return found


TARGET, PHYSICAL = Target(SG2262, None, None), load_accounting("physical")
CHIP, CORE, TILE = ChipCostModel(TARGET), CoreCostModel(TARGET, PHYSICAL), TileCostModel(TARGET, PHYSICAL)


def of(window: int) -> dict[str, Attribute]:
    return {"window": IntegerAttr(window, i64)}


def in_chunks(chunk: int, kv_len: int | Expr) -> dict[str, Attribute]:
    return {"chunk": IntegerAttr(chunk, i64), "kv_len": ExprAttr(expr(kv_len))}


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([1, 4, 32]), st.sampled_from([1, 4, 63, 700]), st.integers(0, 2000),
    st.lists(st.integers(1, 2700), min_size=2, max_size=3),
)  # fmt: skip
def test_a_shorter_window_never_costs_more(batch: int, q_len: int, past: int, windows: list[int]) -> None:
    """On the chip and in tiles.  The core model has steps of its own: it splits 17 keys over two cores, and not 16."""
    ops = [attention(batch, q_len, q_len + past, **of(window)) for window in sorted(windows)]
    ops.append(attention(batch, q_len, q_len + past))
    # A plan may read more than once what takes no time.
    for model, names in ((CHIP, ("time_s", "flops", "bytes_read")), (TILE, ("time_s", "flops"))):
        costs = [cost(model, op) for op in ops]
        for less, more in pairwise(costs):
            for name in names:
                assert float(getattr(less, name)) <= float(getattr(more, name)) * (1 + 1e-9), name


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([1, 4, 32]), st.sampled_from([1, 4, 63, 700]), st.integers(0, 2000), st.integers(1, 2700),
)  # fmt: skip
def test_chunks_never_cost_more_than_whole_sequences(batch: int, q_len: int, past: int, chunk: int) -> None:
    """Nor more than a window of as many keys, which holds the chunk of a query up to it.

    As tiles the latter is no law: of a tile of queries a chunk is cut elsewhere than a window, and so are the loads.
    """
    mask = in_chunks(chunk, q_len + past)
    ops = [attention(batch, q_len, q_len + past, **masks) for masks in (mask, of(chunk), {})]
    for model, names in ((CHIP, ("time_s", "flops", "bytes_read")), (TILE, ("time_s", "flops"))):
        costs = [cost(model, op) for op in ops]
        for name in names:
            least, window, whole = (float(getattr(found, name)) for found in costs)
            assert least <= whole * (1 + 1e-9), name
            assert least <= window * (1 + 1e-9) or (model is TILE and name == "time_s"), name


@pytest.mark.parametrize("model", [CHIP, CORE, TILE])
@pytest.mark.parametrize("q_len", [1, 96])
def test_a_window_of_all_keys_costs_what_none_costs(model: CostModel, q_len: int) -> None:
    plain = cost(model, attention(3, q_len, 777))
    assert cost(model, attention(3, q_len, 777, **of(777))) == plain
    assert cost(model, attention(3, q_len, 777, **in_chunks(777, 777))) == plain


@pytest.mark.parametrize("kv_len", [100, 128, 129, 4096])
def test_decode_reads_the_rows_of_the_window(kv_len: int) -> None:
    """Besides the query: min(kv_len, window) rows of keys and of values, whatever the model; or those of the chunk."""
    window, chunk = attention(5, 1, kv_len, **of(128)), attention(5, 1, kv_len, **in_chunks(128, kv_len))
    for model in (CHIP, CORE, TILE):
        assert cost(model, window).bytes_read == 5 * (1024 + min(kv_len, 128) * 2 * 256) * 2
        assert cost(model, chunk).bytes_read == 5 * (1024 + ((kv_len - 1) % 128 + 1) * 2 * 256) * 2


def test_prefill_reads_each_key_once_and_computes_what_the_windows_hold() -> None:
    found = cost(CORE, attention(1, 4096, 4096, **of(128)))
    assert found.bytes_read == (4096 * 1024 + 4096 * 2 * 256) * 2
    pairs = sum(min(128, i + 1) for i in range(4096))
    assert found.flops == 2 * pairs * 8 * (128 + 128)
    # A unit of 96 queries that stands in the middle sees 96 + 127 keys, whole tiles of 64 of them.
    plan = attentions.tiling_of(PlanAttr.of([2, 1, 1], [96, 4, 64], "pus", 2, ()))
    shape = attention_shape(attention(1, 4096, 4096, **of(128)))
    counted = PlanSearch(CoreRates(SG2262, PHYSICAL)).attention_resources(shape, plan)
    whole = 0
    for first in range(0, 4096, 96):
        last = min(first + 96, 4096)
        whole += (last - first) * 4 * (last - max(0, first - 127) // 64 * 64)
    assert counted.macs[0] == 2 * whole * (128 + 128)


@pytest.mark.parametrize("kind", ["window", "chunk"])
def test_arrays_of_lengths_give_what_their_points_give(kind: str) -> None:
    def masks(kv_len: int | Expr) -> dict[str, Attribute]:
        return of(100) if kind == "window" else in_chunks(100, kv_len)

    q_lens, kv_lens = np.array([[1], [33], [2000]]), np.array([2000, 4096, 9999])
    swept_op = attention(2, expr("q_len"), expr("kv_len"), **masks(expr("kv_len")))
    for model in (CHIP, CORE):
        swept = cost(model, swept_op, q_len=q_lens, kv_len=kv_lens)
        for i, j in np.ndindex(3, 3):
            kv_len = int(kv_lens[j])
            point = cost(model, attention(2, int(q_lens[i, 0]), kv_len, **masks(kv_len)))
            for name in ("time_s", "flops", "bytes_read", "bytes_written"):
                found = np.broadcast_to(getattr(swept, name), (3, 3))[i, j]
                assert float(found) == pytest.approx(float(getattr(point, name)), rel=1e-12)


def test_the_cache_of_a_window_takes_the_memory_of_its_rows() -> None:
    sizes: list[float] = []
    for window in (None, 8):
        module, deployment = small_llama(tp=2, q_len=1, kv_len=41)
        if window is not None:
            windowed(module, window)
        run_pipeline(module, default_pipeline(deployment, "dist")[2:])
        footprint = memory_footprint(module, MemoryOptions(0.0, 0, 1, 1))
        sizes.append(footprint.stages[0].state_bytes)
    assert sizes[1] * 41 == sizes[0] * 8 > 0


@pytest.mark.parametrize("model", [CORE, TILE])
def test_a_soft_cap_is_work_of_the_vector_unit_only(model: CostModel) -> None:
    op, capped = attention(1, 64, 4096), attention(1, 64, 4096, soft_cap=FloatAttr(50.0, 64))
    before, after = cost(model, op), cost(model, capped)
    assert before.compute_s < after.compute_s
    assert (before.flops, before.memory_s, before.bytes_read) == (after.flops, after.memory_s, after.bytes_read)


@pytest.mark.parametrize(
    ("mask", "steps"), [({"soft_cap": FloatAttr(50.0, 64)}, 70), ({"alibi_heads": IntegerAttr(8, i64)}, 2)]
)
def test_vector_steps_of_a_soft_cap_and_of_a_bias(mask: dict[str, Attribute], steps: int) -> None:
    """Every score takes 70 more: exp 35, div 31, two additions, two multiplications; or one each for the bias."""
    plan = attentions.tiling_of(PlanAttr.of([2, 1, 1], [16, 4, 64], "pus", 2, ()))
    search = PlanSearch(CoreRates(SG2262, PHYSICAL))
    masks: list[dict[str, Attribute]] = [{}, mask]
    plain, masked = (
        search.attention_resources(attention_shape(attention(1, 64, 4096, **mask)), plan).vec_steps[0] for mask in masks
    )
    # 4 units of 16 queries and 4 heads on a core: every row pays for the scores up to the last key of its unit.
    scores = sum(64 * (4096 - 64 + 16 * (unit + 1)) for unit in range(4))
    assert masked - plain == scores * steps
