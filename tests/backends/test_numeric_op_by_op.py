"""Kernels against their ops: the bounds are wide enough for rounding and too narrow for faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from xdsl.dialects import test
from xdsl.dialects.builtin import ModuleOp, bf16, f32
from xdsl.ir import Attribute

from pmc.backends.numeric.dist import layouts
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import ValueKey
from pmc.backends.numeric.model import seeded_model_environment
from pmc.backends.numeric.op_by_op import bound, first_deviation
from pmc.backends.numeric.precision_formats import round_to
from pmc.backends.numeric.quantized import in_format
from pmc.backends.numeric.rank_programs import run_tiles
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import layer
from pmc.dialects.tensor import TensorType

M, K, N = 5, 96, 7


def matmul(element: Attribute) -> layer.MatmulOp:
    types = [TensorType.of(dims, element) for dims in ((M, K), (K, N))]
    x, w = test.TestOp(result_types=types).results
    return layer.MatmulOp.make([x, w], [TensorType.of((M, N), element)], "mm")


def sums(x: Array, w: Array, order: Sequence[int]) -> Array:
    """x w in FP32, the products added one after the other in `order`."""
    y = np.zeros((M, N), np.float32)
    for k in order:
        y += x[:, k : k + 1] * w[k : k + 1]
    return y


@pytest.mark.parametrize(("element", "name"), [(f32, "f32"), (bf16, "bf16")])
def test_sums_in_any_order_are_within_the_bound_and_shorter_ones_are_not(element: Attribute, name: str) -> None:
    """30 orders of adding up 96 products; then a sum that loses one product of average size."""
    random = np.random.default_rng(1)
    op, missed = matmul(element), 0
    for _ in range(30):
        x, w = (round_to(random.standard_normal(s), name).astype(np.float32) for s in ((M, K), (K, N)))
        y = round_to(sums(x, w, range(K)), name).astype(np.float32)
        other = round_to(sums(x, w, random.permutation(K).tolist()), name).astype(np.float32)
        limit = bound(op, [x, w], element, y)
        assert (np.abs(y - other) <= limit).all()
        lost = round_to(sums(x, w, range(1, K)), name).astype(np.float32)
        missed += bool((np.abs(y - lost) <= limit).all())
    assert missed == 0


def tiles_of(quantization: Mapping[str, Any]) -> tuple[ModuleOp, Environment, Mapping[ValueKey, Any]]:
    """The tensor program of a small Llama, its inputs, and what its kernels left."""
    config, source = load_model_config("llama-3.1-8b")
    types: dict[str, Any] = {**quantization, "keep": [], "types": []}
    small = shrink_deployment(load_deployment("llama-8b-decode", {"quantization": types}))
    module = shrink_model(import_hf(config, source, "small"), small, 1, None)
    symbols = {"batch": small.batch, "q_len": small.q_len, "kv_len": small.kv_len}
    environment = in_format(seeded_model_environment(module, symbols, 0), "bf16")
    set_target(module, shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b4-c32"), small)
    specs = default_pipeline(small, "tile")
    dist = len(default_pipeline(small, "dist"))
    run_pipeline(module, specs[:3])
    known = layouts(module)
    run_pipeline(module, specs[3 : dist + 2])
    program = module.clone()
    run_pipeline(module, specs[dist + 2 :])
    return program, environment, run_tiles(module, environment, known).ranked


@pytest.mark.parametrize(
    "quantization",
    [
        {"weights": "bf16", "activations": "bf16", "kv_cache": "bf16", "attention": "bf16"},
        {"weights": "f8E4M3FN", "activations": "f8E4M3FN", "kv_cache": "f8E5M2", "attention": "f8E5M2"},
    ],
    ids=["bf16", "fp8"],
)
def test_kernels_are_their_ops_and_one_wrong_element_is_found_where_it_is(quantization: Mapping[str, Any]) -> None:
    program, environment, kernels = tiles_of(quantization)
    assert first_deviation(program, environment, kernels)[0] is None
    key = ValueKey("blocks.dense.gqa.o_proj", "layer.matmul", 0)
    values = kernels[key][0][0]
    values.reshape(-1)[np.abs(values).argmax()] *= 1 + 2.0**-5  # four steps of bf16
    found = first_deviation(program, environment, kernels)[0]
    assert found is not None
    assert (found.path, found.what) == (key.path, "layer.matmul result 0 of rank 0")
    assert found.error > found.bound
