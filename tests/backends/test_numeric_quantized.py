"""The reference in the formats of a deployment: which operands it rounds, against arithmetic written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser

from pmc.backends.numeric.errors import Array
from pmc.backends.numeric.layer import seeded_layer_environment
from pmc.backends.numeric.precision_formats import round_to
from pmc.backends.numeric.quantized import in_format, run_quantized
from pmc.dialects.deployment import Quantization
from pmc.dialects.layer import Layer

PROGRAM = """
layer.program() {sym_name = "p", phase = "decode"} at "p" {
^bb0(%tokens: !layer.tensor<[batch*q_len], i32>):
  %table = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[16, 8], bf16>
  %x = layer.embedding(%tokens, %table) at "embed" : !layer.tensor<[batch*q_len, 8], bf16>
  %w = layer.weight() {axes = ["", ""]} at "up_proj.weight" : !layer.tensor<[8, 5], bf16>
  %y = layer.matmul(%x, %w) at "up_proj" : !layer.tensor<[batch*q_len, 5], bf16>
  layer.return([%y]) at "p"
}
"""


def rounded(values: Array, name: str) -> Array:
    return round_to(values, name).astype(np.float32)


@pytest.mark.parametrize(
    ("types", "of_x", "of_w"),
    [
        ({"weights": "f8E4M3FN", "activations": "f8E5M2"}, "f8E5M2", "f8E4M3FN"),
        ({"weights": "f8E4M3FN", "activations": "f32"}, "bf16", "f8E4M3FN"),  # nothing becomes longer
        ({"weights": "f8E4M3FN", "activations": "f8E4M3FN", "keep": ["up_*"]}, "bf16", "bf16"),
    ],
    ids=["both", "weights", "kept"],
)
def test_a_product_rounds_its_operands_as_the_deployment_says(types: dict[str, Any], of_x: str, of_w: str) -> None:
    context = Context()
    context.load_dialect(Builtin)
    context.load_dialect(Layer)
    module: ModuleOp = Parser(context, PROGRAM).parse_module()
    inputs = in_format(seeded_layer_environment(module, {"batch": 3, "q_len": 1, "kv_len": 1}, 0), "bf16")
    rule = Quantization.model_validate({"kv_cache": "bf16", "attention": "bf16", "keep": [], "types": [], **types})
    (y,) = run_quantized(module, inputs, rule).outputs
    x = rounded(inputs.weights["embed.weight"][inputs.tokens], of_x)
    w = rounded(inputs.weights["up_proj.weight"], of_w)
    assert np.array_equal(y, rounded(x @ w, "bf16"))
