"""Every op of the layer dialect against a formula written a second time, and the interpreter's errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import BoolAttr, Builtin, FloatAttr, IntegerAttr, ModuleOp, NoneAttr, StringAttr, i64
from xdsl.ir import Operation
from xdsl.parser import Parser

from pmc.backends.numeric import elementwise, routing, semantics
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import ValueKey, run_layer, seeded_layer_environment
from pmc.backends.numeric.model import choose_experts
from pmc.backends.numeric.precision import EMULATED, EXACT32, EXACT64
from pmc.backends.numeric.rotary import Scaling, rope, rope_frequencies
from pmc.backends.numeric.tensor_ops import TENSOR_OPS
from pmc.backends.numeric.vector_kinds import Tiles, run_kind
from pmc.dialects.expr import ExprAttr, expr
from pmc.dialects.layer import Layer, LayerNormOp, LayerOp, MatmulOp, RmsNormOp, SourceOp
from pmc.dialects.vector_kinds import (
    ACTIVATIONS,
    GATED_ACTIVATIONS,
    ActivationAttr,
    GatedActivationAttr,
    MultiplyAttr,
    RopeAttr,
    RowGateAttr,
    SoftCapAttr,
    TemperatureAttr,
)

RNG = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def program(body: str, phase: str = "decode") -> ModuleOp:
    """A module with one program that takes %tokens [batch*q_len]."""
    ctx = Context()
    ctx.load_dialect(Builtin)
    ctx.load_dialect(Layer)
    text = (
        f'layer.program() {{sym_name = "p", phase = "{phase}"}} at "p" {{\n'
        f"^bb0(%tokens: !layer.tensor<[batch*q_len], i32>):\n{body}\n}}"
    )
    module = Parser(ctx, text).parse_module()
    module.verify()
    return module


EMBED = """
%table = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[16, 8], bf16>
%x = layer.embedding(%tokens, %table) at "embed" : !layer.tensor<[batch*q_len, 8], bf16>
"""


def run(body: str, weights: Mapping[str, Array] | None = None) -> Array:
    """The one output of the embedding followed by `body`, which reads %x and returns."""
    module = program(EMBED + body)
    environment = seeded_layer_environment(module, {"batch": 2, "q_len": 1, "kv_len": 3}, 0)
    environment = Environment(
        environment.bindings, environment.tokens, {**environment.weights, **(weights or {})}, environment.states
    )
    return run_layer(module, environment).outputs[0]


# -- dense semantics --------------------------------------------------------------------------------------------


def test_every_tensor_op_has_semantics() -> None:
    ops: Sequence[type[Operation]] = list(Layer.operations)
    missing = [
        op.name for op in ops if issubclass(op, LayerOp) and not issubclass(op, SourceOp) and op not in TENSOR_OPS
    ]
    assert missing == []


def test_matmuls() -> None:
    x, w = normal(2, 3, 5), normal(5, 7)
    np.testing.assert_allclose(semantics.matmul(x, w), np.einsum("abk,kn->abn", x, w))
    x, w = normal(4, 3, 5), normal(4, 5, 7)
    np.testing.assert_allclose(semantics.grouped_matmul(x, w), np.einsum("eck,ekn->ecn", x, w))


def test_head_matmul_is_one_matmul_per_head_and_its_transpose() -> None:
    heads, rank, group = 3, 5, 4
    w = normal(rank, heads * group)
    for transpose, width_in, width_out in ((False, rank, group), (True, group, rank)):
        x = normal(6, heads * width_in)
        y = semantics.head_matmul(x, w, group, transpose)
        for h in range(heads):
            block = w[:, h * group : (h + 1) * group]
            expected = x[:, h * width_in : (h + 1) * width_in] @ (block.T if transpose else block)
            np.testing.assert_allclose(y[:, h * width_out : (h + 1) * width_out], expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_with_two_pieces(causal: bool, kv_heads: int) -> None:
    batch, q_len, kv_len, heads, d0, d1, v_dim, scale = 2, 3, 5, 4, 6, 2, 3, 0.37
    q0, q1 = normal(batch * q_len, heads * d0), normal(batch * q_len, heads * d1)
    k0, k1 = normal(batch, kv_len, kv_heads * d0), normal(batch, kv_len, d1)
    v = normal(batch, kv_len, kv_heads * v_dim)
    y = semantics.attention([q0, q1], [k0, k1], v, [d0, d1], v_dim, scale, causal)
    for b in range(batch):
        for i in range(q_len):
            for h in range(heads):
                row, g = b * q_len + i, h // (heads // kv_heads)
                seen = kv_len - q_len + i + 1 if causal else kv_len
                scores = [
                    scale
                    * (
                        q0[row, h * d0 : (h + 1) * d0] @ k0[b, s, g * d0 : (g + 1) * d0]
                        + q1[row, h * d1 : (h + 1) * d1] @ k1[b, s]
                    )
                    for s in range(seen)
                ]
                p = np.exp(scores) / np.exp(scores).sum()
                expected = p @ v[b, :seen, g * v_dim : (g + 1) * v_dim]
                np.testing.assert_allclose(y[row, h * v_dim : (h + 1) * v_dim], expected)


POSITIONS = """
%p = layer.weight() {axes = ["", ""]} at "positions" : !layer.tensor<[ROWS, 8], bf16>
%y = layer.position_embedding(%x, %p) {q_len = <q_len>, kv_len = <kv_len>, offset = 2} at "add" :
     !layer.tensor<[batch*q_len, 8], bf16>
layer.return([%y]) at "p"
"""


def test_learned_positions_start_behind_what_the_cache_holds() -> None:
    module = program(EMBED + POSITIONS.replace("ROWS", "9"))
    environment = seeded_layer_environment(module, {"batch": 2, "q_len": 3, "kv_len": 7}, 0)
    table, positions = environment.weights["embed.weight"], environment.weights["positions"]
    # Positions 4, 5 and 6 of both sequences, two rows further down.
    expected = [table[token] + positions[4 + i % 3 + 2] for i, token in enumerate(environment.tokens)]
    np.testing.assert_array_equal(run_layer(module, environment).outputs[0], expected)


def test_a_table_that_ends_before_the_last_position() -> None:
    module = program(EMBED + POSITIONS.replace("ROWS", "8"))
    environment = seeded_layer_environment(module, {"batch": 2, "q_len": 3, "kv_len": 7}, 0)
    with pytest.raises(NumericError, match="at 'add': the last position needs row 8, the table has 8"):
        run_layer(module, environment)


def test_rms_norm_of_rows_and_of_groups() -> None:
    x, w = normal(3, 8), normal(4)
    y = semantics.rms_norm(x, w, 0.5, 4)
    for columns in (slice(0, 4), slice(4, 8)):
        mean = (x[:, columns] ** 2).sum(axis=1) / 4
        np.testing.assert_allclose(y[:, columns], x[:, columns] / np.sqrt(mean + 0.5)[:, None] * w)


NORMS = """
%w = layer.weight() {axes = [""]} at "w" : !layer.tensor<[8], bf16>
%b = layer.weight() {axes = [""], role = "bias"} at "b" : !layer.tensor<[8], bf16>
%y = OP at "y" : !layer.tensor<[batch*q_len, 8], bf16>
layer.return([%y]) at "p"
"""


@pytest.mark.parametrize(
    ("name", "operands", "zero_centered"),
    [
        ("rms_norm", "%x", False),
        ("rms_norm", "%x, %w", False),
        ("rms_norm", "%x, %w", True),
        ("layer_norm", "%x, %w", False),
        ("layer_norm", "%x, %w, %b", False),
        ("layer_norm", "%x, %w, %b", True),
    ],
)
def test_norms_with_and_without_gain_and_bias(name: str, operands: str, zero_centered: bool) -> None:
    has_gain, has_bias = "%w" in operands, "%b" in operands
    x, w, b = normal(2, 8), normal(8), normal(8)
    flag = ", zero_centered = unit" if zero_centered else ""
    group = ", group = 8" if name == "rms_norm" else ""
    op = f"layer.{name}({operands}) {{eps = 0.5{group}{flag}}}"
    table = np.zeros((16, 8))
    table[:2] = x
    weights = {"embed.weight": table, "w": w, "b": b}
    module = program(EMBED + NORMS.replace("OP", op))
    environment = seeded_layer_environment(module, {"batch": 2, "q_len": 1, "kv_len": 3}, 0)
    environment = Environment(environment.bindings, np.array([0, 1]), weights, environment.states)
    centred = x - (0 if name == "rms_norm" else x.sum(axis=1, keepdims=True) / 8)
    expected = centred / np.sqrt((centred**2).sum(axis=1, keepdims=True) / 8 + 0.5)
    expected = expected * (1 + w if zero_centered else w if has_gain else 1) + (b if has_bias else 0)
    np.testing.assert_allclose(run_layer(module, environment).outputs[0], expected)
    # The same command on a tile.
    (found,) = (o for o in module.walk() if isinstance(o, RmsNormOp | LayerNormOp))
    kind = found.vector_kind(expr("row"))
    bias = [b[None] if has_bias else np.zeros((1, 8))] if name == "layer_norm" else []
    rows = [x, *([w[None]] if has_gain else []), *bias]
    (tiled,) = run_kind(kind, Tiles(rows, [], (2, 8), {}))
    np.testing.assert_allclose(tiled, expected)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def clamped(gate: float, up: float) -> tuple[float, float]:
    return min(gate, 2.0), max(-2.0, min(up, 2.0))


SCALARS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x * logistic(x),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "sigmoid": logistic,
}
PAIRS: dict[str, Callable[[float, float], float]] = {
    "clamped_silu": lambda gate, up: SCALARS["silu"](clamped(gate, up)[0]) * clamped(gate, up)[1],
    "clamped_swiglu": lambda gate, up: (
        (clamped(gate, up)[1] + 1) * clamped(gate, up)[0] * logistic(1.7 * clamped(gate, up)[0])
    ),
}
POINTS = np.array([-30.0, -3.0, -2.0, -0.7, 0.0, 0.1, 1.0, 2.0, 2.5, 30.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_on_tensors_and_on_tiles(name: str) -> None:
    expected = [SCALARS[name](x) for x in POINTS]
    (tiled,) = run_kind(ActivationAttr(StringAttr(name)), Tiles([POINTS[None]], [], (1, 10), {}))
    for found in (elementwise.activation(name, POINTS), tiled[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", GATED_ACTIVATIONS)
def test_a_gated_activation_on_tensors_and_on_tiles(name: str) -> None:
    gate, up = (grid.reshape(-1) for grid in np.meshgrid(POINTS, POINTS))
    pair = PAIRS.get(name, lambda g, u: SCALARS[name](g) * u)
    expected = [pair(g, u) for g, u in zip(gate, up, strict=True)]
    limit, alpha = 2.0 if name in PAIRS else None, 1.7 if name == "clamped_swiglu" else None
    parameters = (NoneAttr() if value is None else FloatAttr(value, 64) for value in (limit, alpha))
    kind = GatedActivationAttr(StringAttr(name), *parameters)
    (tiled,) = run_kind(kind, Tiles([gate[None], up[None]], [], (1, 100), {}))
    for found in (elementwise.gated_activation(name, gate, up, limit, alpha), tiled[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cap", [0.3, 30.0])
def test_a_soft_cap_on_tensors_and_on_tiles(cap: float) -> None:
    expected = [cap * math.tanh(x / cap) for x in POINTS]
    (tiled,) = run_kind(SoftCapAttr(FloatAttr(cap, 64)), Tiles([POINTS[None]], [], (1, 10), {}))
    for found in (elementwise.soft_cap(POINTS, cap), tiled[0]):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_a_row_gate_on_tensors_and_on_tiles() -> None:
    x, gate = normal(4, 3), np.array([[0.0], [2.0], [-50.0], [900.0]])
    factors = (0.5, logistic(2), logistic(-50), 1.0)
    expected = [[value * factor for value in row] for row, factor in zip(x, factors, strict=True)]
    (tiled,) = run_kind(RowGateAttr(), Tiles([x, gate], [], (4, 3), {}))
    for found in (elementwise.row_gate(x, gate), tiled):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_gate_of_every_head() -> None:
    x, gate = normal(2, 6), np.array([[0.0, 2.0], [-3.0, 1.0]])
    expected = [[x[r, c] * logistic(gate[r, c // 3]) for c in range(6)] for r in range(2)]
    np.testing.assert_allclose(elementwise.row_gate(x, gate), expected, rtol=1e-12)


def test_a_product_with_one_number_on_tiles() -> None:
    x = normal(4, 3)
    (tiled,) = run_kind(MultiplyAttr(), Tiles([x, np.array([[-2.5]])], [], (4, 3), {}))
    np.testing.assert_array_equal(tiled, [[-2.5 * value for value in row] for row in x])


def test_a_temperature_on_tensors_and_on_tiles() -> None:
    """Steps of 4 positions: the first that counts is position 3, the fourth one."""
    x, positions = normal(6, 3), np.array([2, 3, 11])
    factors = [1.0, 1 + 0.1 * math.log(2), 1 + 0.1 * math.log(4)]
    expected = x * np.array([*factors, *factors])[:, None]
    np.testing.assert_allclose(elementwise.temperature(x, 4, 0.1, positions), expected, rtol=1e-12)
    kind = TemperatureAttr(IntegerAttr(4, i64), FloatAttr(0.1, 64), ExprAttr.of(0))
    (tiled,) = run_kind(kind, Tiles([x[:3]], [], (3, 3), {"position": positions}))
    np.testing.assert_allclose(tiled, expected[:3], rtol=1e-12)


def test_a_bias_of_all_rows_and_of_the_rows_of_each_expert() -> None:
    x, b = normal(3, 5, 4), normal(3, 4)
    expected = [[x[e, c] + b[e] for c in range(5)] for e in range(3)]
    np.testing.assert_array_equal(elementwise.add_bias(x, b), expected)
    np.testing.assert_array_equal(elementwise.add_bias(x[0], b[0]), expected[0])
    np.testing.assert_array_equal(elementwise.add_bias(x, b, 0), x)


def test_silu_mul_keeps_large_arguments_finite() -> None:
    gate, up = np.array([0.0, 1.0, -1.0, 1000.0, -1000.0]), np.array([5.0, 2.0, 2.0, 1.0, 1.0])
    expected = [0.0, 2 / (1 + math.exp(-1)), -2 / (1 + math.exp(1)), 1000.0, 0.0]
    np.testing.assert_allclose(semantics.silu_mul(gate, up), expected)


def test_embedding_shards_add_up_to_the_whole() -> None:
    table, tokens = normal(10, 4), np.array([0, 9, 4, 5, 4])
    whole = semantics.embedding(tokens, table)
    np.testing.assert_array_equal(whole, table[tokens])
    shards = [semantics.embedding(tokens, table[f : f + 5], f) for f in (0, 5)]
    np.testing.assert_array_equal(shards[0] + shards[1], whole)
    assert not shards[0][1].any() and not shards[1][0].any()


def test_slices_last_token_and_append() -> None:
    x = np.arange(24.0).reshape(2, 12)
    np.testing.assert_array_equal(semantics.column_slice(x, 6, 1, 2), [[1, 2, 7, 8], [13, 14, 19, 20]])
    np.testing.assert_array_equal(semantics.last_token(np.arange(6.0)[:, None], 3), [[2.0], [5.0]])
    cache, new = normal(2, 5, 3), normal(4, 3)
    y = semantics.kv_append(cache, new)
    np.testing.assert_array_equal(y[:, :3], cache[:, :3])
    np.testing.assert_array_equal(y[1, 3:], new[2:])
    assert not np.array_equal(cache, y)


# -- rotary -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_turns_each_pair_by_its_angle(interleaved: bool) -> None:
    d, q_len, kv_len = 6, 3, 7
    x = normal(2 * q_len, 2 * d)
    y = rope(x, d, 100.0, interleaved, np.arange(kv_len - q_len, kv_len))
    for row in range(2 * q_len):
        position = kv_len - q_len + row % q_len
        for h in range(2):
            for j in range(d // 2):
                a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + d // 2)
                angle = position * 100.0 ** (-2 * j / d)
                z = complex(x[row, h * d + a], x[row, h * d + b]) * complex(math.cos(angle), math.sin(angle))
                assert y[row, h * d + a] == pytest.approx(z.real) and y[row, h * d + b] == pytest.approx(z.imag)


def test_llama3_scaling_keeps_short_and_stretches_long_wavelengths() -> None:
    scaling: Scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain, _ = rope_frequencies(128, 500000.0, None)
    scaled, factor = rope_frequencies(128, 500000.0, scaling)
    assert factor == 1.0
    wavelengths = 2 * math.pi / plain
    np.testing.assert_allclose(scaled[wavelengths < 2048], plain[wavelengths < 2048])
    np.testing.assert_allclose(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 8)
    between = (wavelengths > 2048) & (wavelengths < 8192)
    assert between.any() and (scaled < plain)[between].all() and (scaled > plain / 8)[between].all()


def test_yarn_scaling_of_deepseek_v3() -> None:
    scaling: Scaling = {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    plain, _ = rope_frequencies(64, 10000.0, None)
    scaled, factor = rope_frequencies(64, 10000.0, scaling)
    assert factor == 1.0  # mscale / mscale_all_dim
    # Pairs with more than 32 turns in 4096 positions: below 64*ln(4096/(32*2*pi)) / (2*ln(10000)) = 10.47.
    np.testing.assert_allclose(scaled[:11], plain[:11])
    # Pairs with less than one turn: from 64*ln(4096/(2*pi)) / (2*ln(10000)) = 22.51, rounded up.
    np.testing.assert_allclose(scaled[23:], plain[23:] / 40)
    ramp = (16 - 10) / (23 - 10)
    assert scaled[16] == pytest.approx(plain[16] * (1 - ramp) + plain[16] / 40 * ramp)
    without: Scaling = {k: v for k, v in scaling.items() if not k.startswith("mscale")}
    assert rope_frequencies(64, 10000.0, without)[1] == pytest.approx(1 + 0.1 * math.log(40))


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "dynamic"}, "semantics, must be default, linear, proportional, llama3, yarn or longrope"),
        (
            {"rope_type": "longrope", "attention_factor": 1.0, "factor_of_pair": [1.0, 2.0]},
            r"needs 4 numbers 'factor_of_pair', found \[1.0, 2.0\]",
        ),
        ({"rope_type": "yarn", "factor": 4.0}, "needs the number 'original_max_position_embeddings', found None"),
        (
            # Found by fuzzing: the bounds of the blend were divided by it.
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 0.0},
            "'beta_fast' is 0.0, must be greater than 0",
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": math.inf},
            "'beta_fast' is inf, must be greater than 0 and finite",
        ),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 5.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            "'low_freq_factor' is 5.0, must be at most 'high_freq_factor', 4.0",
        ),
    ],
)
def test_rope_scaling_errors(scaling: Scaling, message: str) -> None:
    with pytest.raises(NumericError, match=message):
        rope_frequencies(8, 10000.0, scaling)


def test_llama3_with_one_bound_stretches_all_wavelengths_beyond_it() -> None:
    """As in the files of Llama 4 Scout: 16 positions are 2.5, 1.1 and 0.5 turns of these pairs."""
    scaling: Scaling = {
        "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    plain, stretched = rope_frequencies(6, 11.0, None)[0], rope_frequencies(6, 11.0, scaling)[0]
    np.testing.assert_allclose(stretched / plain, [1, 1, 1 / 16])


def test_a_proportional_rope_turns_the_first_pairs_of_a_whole_head() -> None:
    found, factor = rope_frequencies(8, 16.0, {"rope_type": "proportional", "partial_rotary_factor": 0.5})
    np.testing.assert_allclose(found, [1, 0.5, 0, 0])
    assert factor == 1


def test_a_blend_of_yarn_may_begin_at_hardly_any_turn() -> None:
    # Found by fuzzing: length / turns was infinite.  So few turns begin beyond the last column: nothing is blended.
    scaling: Scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 1e-310}
    assert np.isfinite(rope_frequencies(8, 10000.0, scaling)[0]).all()


@pytest.mark.parametrize("interleaved", [True, False])
def test_a_rope_of_some_columns_is_that_of_a_narrow_head_beside_a_copy(interleaved: bool) -> None:
    x, positions = normal(3, 2 * 10), np.array([5, 6, 7])
    parts = x.reshape(3, 2, 10)
    narrow = rope(parts[..., :6].reshape(3, 12), 6, 100.0, interleaved, positions).reshape(3, 2, 6)
    expected = np.concatenate([narrow, parts[..., 6:]], axis=-1)
    y = rope(x, 10, 100.0, interleaved, positions, rotary_dim=6)
    np.testing.assert_array_equal(y.reshape(3, 2, 10), expected)
    given = FloatAttr(100.0, 64), BoolAttr.from_bool(interleaved), ExprAttr.of("row"), NoneAttr(), IntegerAttr(6, 64)
    kind = RopeAttr(*given, NoneAttr(), NoneAttr())
    (tiled,) = run_kind(kind, Tiles([parts[:, 1]], [], (3, 10), {"position": positions}))
    np.testing.assert_allclose(tiled, expected[:, 1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("q_len", ["0", "batch + 1"])
def test_rope_turns_whole_sequences(q_len: str) -> None:
    """Found by fuzzing: rows were divided by a q_len of 0."""
    body = (
        f"%y = layer.rope(%x) {{head_dim = 4, theta = 100.0, interleaved = false, q_len = <{q_len}>, "
        'kv_len = <kv_len>} at "q_rope" : !layer.tensor<[batch*q_len, 8], bf16>\nlayer.return([%y]) at "p"'
    )
    with pytest.raises(NumericError, match=r"layer\.rope at 'q_rope': 2 rows are not whole sequences of q_len [03]"):
        run(body)


# -- mixture of experts -----------------------------------------------------------------------------------------


def test_router_chooses_with_bias_and_weighs_without() -> None:
    logits = np.log(np.array([[4.0, 3.0, 2.0, 1.0]]))  # softmax: 0.4 0.3 0.2 0.1
    weights, indices = routing.router_topk(
        logits, np.array([0.0, 0.0, 0.0, 1.0]), 2, "softmax", 1, 1, normalize=False, scale=2.0
    )
    np.testing.assert_array_equal(indices, [[3, 0]])
    np.testing.assert_allclose(weights, [[0.2, 0.8]])
    weights, _ = routing.router_topk(logits, None, 2, "softmax", 1, 1, normalize=True, scale=1.0)
    np.testing.assert_allclose(weights, [[4 / 7, 3 / 7]])
    weights, _ = routing.router_topk(np.zeros((1, 4)), None, 2, "sigmoid", 1, 1, normalize=False, scale=1.0)
    np.testing.assert_allclose(weights, [[0.5, 0.5]])


def test_router_opens_the_groups_with_the_best_two() -> None:
    # Group 0 has the best expert, but group 1 the best pair: 0.9 + 0.1 < 0.6 + 0.6.
    scores = np.array([[0.9, 0.1, 0.05, 0.6, 0.6, 0.3, 0.5, 0.2, 0.1]])
    logits = np.log(scores / (1 - scores))
    _, indices = routing.router_topk(logits, None, 3, "sigmoid", 3, 1, normalize=True, scale=1.0)
    np.testing.assert_array_equal(indices, [[3, 4, 5]])
    _, indices = routing.router_topk(logits, None, 3, "sigmoid", 3, 2, normalize=True, scale=1.0)
    np.testing.assert_array_equal(indices, [[0, 3, 4]])


def test_router_keeps_closed_groups_closed_when_choices_are_negative() -> None:
    logits, bias = np.zeros((1, 4)), np.array([-9.0, -9.0, -8.0, -8.0])
    _, indices = routing.router_topk(logits, bias, 2, "sigmoid", 2, 1, normalize=True, scale=1.0)
    np.testing.assert_array_equal(indices, [[2, 3]])


def test_a_group_is_worth_its_two_best_or_its_best() -> None:
    """Group 0 has the best expert, group 1 the two that add up to most."""
    logits = np.array([[0.9, 0.0, 0.6, 0.6]])
    for best, chosen in ((2, [2, 3]), (1, [0, 1])):
        _, indices = routing.router_topk(logits, None, 2, "none", 2, 1, normalize=False, scale=1.0, best_of_group=best)
        assert indices.tolist() == [chosen]
        assert choose_experts(logits[0], np.zeros(4), 2, 2, 1, best) == chosen


def test_dispatch_fills_slots_in_token_order() -> None:
    x = np.array([[1.0], [2.0], [3.0]])
    indices = np.array([[2, 0], [2, 1], [0, 2]])
    y = routing.dispatch(x, indices, 3, 3)[..., 0]
    np.testing.assert_array_equal(y, [[1, 3, 0], [2, 0, 0], [1, 2, 3]])


def test_combine_is_the_weighted_sum_over_experts_also_across_ranks() -> None:
    tokens, experts, top_k, hidden = 7, 6, 3, 4
    x, weights = normal(tokens, hidden), normal(tokens, top_k)
    indices = np.stack([RNG.permutation(experts)[:top_k] for _ in range(tokens)])
    factors = np.arange(1.0, experts + 1)
    y = routing.dispatch(x, indices, experts, tokens) * factors[:, None, None]
    expected = np.stack(
        [sum(weights[t, j] * factors[indices[t, j]] for j in range(top_k)) * x[t] for t in range(tokens)]
    )
    np.testing.assert_allclose(routing.combine(y, indices, weights), expected)
    ranks = [
        routing.combine(
            routing.dispatch(x, indices, 3, tokens, f) * factors[f : f + 3, None, None], indices, weights, f
        )
        for f in (0, 3)
    ]
    np.testing.assert_allclose(ranks[0] + ranks[1], expected)


def test_a_full_expert_is_an_error() -> None:
    with pytest.raises(NumericError, match="expert 1 gets 3 tokens, its capacity is 2"):
        routing.dispatch(normal(3, 2), np.array([[1], [1], [1]]), 2, 2)


def test_tokens_and_their_experts_belong_together() -> None:
    """One row of weights would be that of all tokens, and indices of another number of tokens those of others."""
    indices = np.array([[0, 1], [1, 0]])
    with pytest.raises(NumericError, match=r"indices of the shape \(2, 2\) and weights of \(1, 2\)"):
        routing.combine(normal(2, 4, 3), indices, normal(1, 2))
    with pytest.raises(NumericError, match="1 tokens are dispatched by the experts of 2"):
        routing.dispatch(normal(1, 3), indices, 2, 4)


# -- precision --------------------------------------------------------------------------------------------------


def test_a_residual_and_its_norm_are_those_of_two_ops() -> None:
    weight = '%n = layer.weight() {axes = [""]} at "n.weight" : !layer.tensor<[8], bf16>\n'
    type_ = "!layer.tensor<[batch*q_len, 8], bf16>"
    one = f'%t, %y = layer.add_rms_norm(%x, %x, %n) {{eps = 0.5}} at "n" : {type_}, {type_}\n'
    two = f'%t = layer.add(%x, %x) at "t" : {type_}\n'
    two += f'%y = layer.rms_norm(%t, %n) {{eps = 0.5, group = 8}} at "n" : {type_}\n'
    for value in ("%t", "%y"):
        found = [run(f'{weight}{body}layer.return([{value}]) at "p"') for body in (one, two)]
        np.testing.assert_allclose(*found, rtol=1e-12)


def test_storage_rounds_saturates_and_is_ignored_when_exact() -> None:
    module = program(
        EMBED
        + '%q = layer.quantize(%x) at "q" : !layer.tensor<[batch*q_len, 8], f8E4M3FN>\n'
        + 'layer.return([%q]) at "p"'
    )
    environment = seeded_layer_environment(module, {"batch": 3, "q_len": 2, "kv_len": 2}, 0)
    table = environment.weights["embed.weight"] * 300
    environment = Environment(environment.bindings, environment.tokens, {"embed.weight": table})
    assert np.array_equal(run_layer(module, environment, EXACT64).outputs[0], table[environment.tokens])
    run32 = run_layer(module, environment, EXACT32).outputs[0]
    assert run32.dtype == np.float32 and np.array_equal(run32, table[environment.tokens].astype(np.float32))
    emulated = run_layer(module, environment, EMULATED).outputs[0]
    stored = table[environment.tokens].astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = np.clip(stored, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(emulated, expected)
    assert np.abs(emulated).max() == 448 < np.abs(table[environment.tokens]).max()


# -- programs ---------------------------------------------------------------------------------------------------

MATMUL = """
%w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[8, 5], bf16>
%y = layer.matmul(%x, %w) at "proj" : !layer.tensor<[batch*q_len, 5], bf16>
layer.return([%y]) at "p"
"""
REPEAT = """
%y = layer.repeat 2 from 1 of 4 (%h = %x) at "blocks" : !layer.tensor<[batch*q_len, 8], bf16> {
  %w = layer.weight() {axes = ["", ""]} at "blocks.w.weight" : !layer.tensor<[8, 8], bf16>
  %m = layer.matmul(%h, %w) at "blocks.w" : !layer.tensor<[batch*q_len, 8], bf16>
  %c = layer.state() {axes = ["batch", "", ""]} at "blocks.cache" : !layer.tensor<[batch, kv_len, 8], bf16>
  %a = layer.kv_append(%c, %m) at "blocks.append" : !layer.tensor<[batch, kv_len, 8], bf16>
  layer.yield([%m]) at "blocks"
}
layer.return([%y]) at "p"
"""


def test_repeat_uses_the_stored_layers_from_first_and_writes_their_caches() -> None:
    module = program(EMBED + REPEAT)
    environment = seeded_layer_environment(module, {"batch": 2, "q_len": 2, "kv_len": 5}, 3)
    assert environment.weights["blocks.w.weight"].shape == (4, 8, 8)
    before = environment.states["blocks.cache"]
    assert before.shape == (4, 2, 5, 8) and not before[:, :, 3:].any() and before[:, :, :3].all()
    result = run_layer(module, environment, record=True)
    w = environment.weights["blocks.w.weight"]
    first = environment.weights["embed.weight"][environment.tokens] @ w[1]
    np.testing.assert_allclose(result.outputs[0], first @ w[2])
    cache = result.states["blocks.cache"]
    np.testing.assert_allclose(cache[1][:, 3:], first.reshape(2, 2, 8))
    np.testing.assert_array_equal(cache[[0, 3]], before[[0, 3]])
    recorded = result.values[ValueKey("blocks.w", "layer.matmul", 0)]
    assert len(recorded) == 2
    np.testing.assert_allclose(recorded[1], result.outputs[0])


def test_tied_weight_is_the_transpose_of_the_stored_one() -> None:
    y = run(
        '%w = layer.weight() {axes = ["", "vocab"], transpose_of = "embed.weight"} at "head.weight" '
        ": !layer.tensor<[8, 16], bf16>\n"
        '%y = layer.matmul(%x, %w) at "head" : !layer.tensor<[batch*q_len, 16], bf16>\nlayer.return([%y]) at "p"',
        {"embed.weight": np.eye(16, 8)},
    )
    assert y.shape == (2, 16) and set(np.unique(y)) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 4)), r"weight 'proj.weight' is \[8, 4\], must be \[8, 5\]"),
        (np.full((8, 5), np.inf), r"weight 'proj.weight': element \[0, 0\] is inf, must be finite"),
    ],
)
def test_bad_weights(array: Array, message: str) -> None:
    with pytest.raises(NumericError, match=message):
        run(MATMUL, {"proj.weight": array})


def test_missing_array() -> None:
    module = program(EMBED + MATMUL)
    good = seeded_layer_environment(module, {"batch": 1, "q_len": 1, "kv_len": 1}, 0)
    weights = {"embed.weight": good.weights["embed.weight"]}
    with pytest.raises(NumericError, match=r"no array for weight 'proj.weight', must be \[8, 5\]"):
        run_layer(module, Environment(good.bindings, good.tokens, weights))


def test_token_outside_the_vocabulary() -> None:
    module = program(EMBED + MATMUL)
    good = seeded_layer_environment(module, {"batch": 1, "q_len": 1, "kv_len": 1}, 0)
    with pytest.raises(NumericError, match=r"layer.embedding at 'embed': token ids are 16 to 16, .* has 0 to 15"):
        run_layer(module, Environment(good.bindings, np.array([16]), good.weights))


def test_result_of_another_shape_than_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TENSOR_OPS, MatmulOp, lambda op, operands, context: (np.zeros((1, 8)),))
    with pytest.raises(NumericError, match=r"layer.matmul at 'proj': result 0 is \[1, 8\], .* says \[2, 5\]"):
        run(MATMUL)


def test_overflow_of_a_result_names_the_op() -> None:
    with pytest.raises(NumericError, match=r"layer.matmul at 'proj': result 0: element .* must be finite"):
        run(MATMUL, {"proj.weight": np.full((8, 5), 1e308), "embed.weight": np.full((16, 8), 1e10)})


def test_op_without_semantics_is_named() -> None:
    module = program(EMBED + MATMUL)
    environment = seeded_layer_environment(module, {"batch": 1, "q_len": 1, "kv_len": 1}, 0)
    matmul = next(op for op in module.walk() if op.name == "layer.matmul")
    semantics_of = TENSOR_OPS.pop(type(matmul))
    try:
        with pytest.raises(NumericError, match=r"layer.matmul at 'proj': the op has no numeric semantics"):
            run_layer(module, environment)
    finally:
        TENSOR_OPS[type(matmul)] = semantics_of


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"batch": 1, "q_len": 1}, "symbol 'kv_len' is None, must be at least 1"),
        ({"batch": 0, "q_len": 1, "kv_len": 1}, "symbol 'batch' is 0, must be at least 1"),
        ({"batch": 1, "q_len": 4, "kv_len": 3}, "q_len 4 exceeds kv_len 3"),
    ],
)
def test_bad_bindings(bindings: dict[str, int], message: str) -> None:
    with pytest.raises(NumericError, match=message):
        seeded_layer_environment(program(EMBED + MATMUL), bindings, 0)


def test_seeded_arrays_depend_on_seed_and_path_only() -> None:
    bindings = {"batch": 1, "q_len": 1, "kv_len": 1}
    small = seeded_layer_environment(program(EMBED + 'layer.return([%x]) at "p"'), bindings, 5)
    large = seeded_layer_environment(program(EMBED + MATMUL), bindings, 5)
    other = seeded_layer_environment(program(EMBED + MATMUL), bindings, 6)
    np.testing.assert_array_equal(small.weights["embed.weight"], large.weights["embed.weight"])
    assert not np.array_equal(other.weights["embed.weight"], large.weights["embed.weight"])
