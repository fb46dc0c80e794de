"""Striped sequences and the steps of ring attention: shards, exchanges, masks, the running state, and lengths."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.parser import Parser

from pmc.backends.numeric import collectives, semantics
from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.environment import Environment
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.padding import NONE
from pmc.backends.numeric.rotary import rope
from pmc.backends.numeric.semantics import State
from pmc.compiler.context import make_context
from pmc.dialects.dist import Axis, Mesh, step_symbol
from pmc.dialects.expr import expr, floordiv, rank_symbol

CP = Axis("cp", 3, 2)
MESH = Mesh(6, (Axis("tp", 2, 1), CP))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


# -- striped shards ---------------------------------------------------------------------------------------------


def test_a_rank_has_every_third_position_from_its_own_number_on() -> None:
    tokens = np.arange(9)
    parts = {rank: collectives.shard(tokens, CP, rank, 0) for rank in range(6)}
    assert [list(parts[rank]) for rank in (0, 2, 4)] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert all(np.array_equal(parts[rank], parts[rank + 1]) for rank in (0, 2, 4)), "tp ranks hold copies"


@pytest.mark.parametrize("dim", [0, 1])
def test_gathering_undoes_the_split(dim: int) -> None:
    whole = normal(0, 6, 12, 2)
    parts = collectives.local_slice(dict.fromkeys(range(6), whole), CP, dim)
    gathered = collectives.all_gather(parts, CP, dim, whole.shape[dim])
    for values in gathered.values():
        np.testing.assert_array_equal(values, whole)


def test_sequences_are_split_alike_behind_dp() -> None:
    """3 sequences of 4 tokens over dp = 2 x cp = 2: token 10*b + i; the last shard of dp is padded."""
    mesh = Mesh(4, (Axis("cp", 2, 1), Axis("dp", 2, 2)))
    tokens = np.array([10 * b + i for b in range(3) for i in range(4)])
    parts = [list(collectives.dim_shard(tokens, 0, ("dp", "cp"), mesh, rank, unit=4)) for rank in range(4)]
    none = NONE
    assert parts == [[0, 2, 10, 12], [1, 3, 11, 13], [20, 22, none, none], [21, 23, none, none]]


def test_a_length_that_cp_does_not_divide_is_an_error() -> None:
    with pytest.raises(NumericError, match="a dim of 7 is not a multiple of cp = 3"):
        collectives.shard(np.arange(7), CP, 0, 0)


def test_an_exchange_hands_every_value_to_the_next_rank_of_its_group() -> None:
    values = {rank: np.array([rank]) for rank in range(6)}
    once = collectives.ring_exchange(values, CP)
    assert [int(once[rank][0]) for rank in range(6)] == [4, 5, 0, 1, 2, 3]
    around = reduce(lambda ranked, _: collectives.ring_exchange(ranked, CP), range(3), values)
    assert all(int(around[rank][0]) == rank for rank in range(6)), "as often as there are ranks it comes home"


def test_a_rank_turns_its_rows_as_those_of_the_whole() -> None:
    """2 sequences of 6 queries after 3 cached positions: rank r has the positions 3 + r and 6 + r of 3 ranks."""
    x = normal(1, 12, 8)
    whole = rope(x, 4, 100.0, True, np.arange(3, 9))
    for rank in range(3):
        rows = rope(x[rank::3], 4, 100.0, True, 3 * np.arange(1, 3) + rank)
        np.testing.assert_allclose(rows, whole[rank::3], rtol=1e-12)


# -- the running state ------------------------------------------------------------------------------------------


@st.composite
def attentions(draw: st.DrawFn) -> tuple[list[Array], list[Array], Array, list[int], int]:
    """Queries, keys, values, the widths of the score pieces and of v; key heads may be fewer, or one in a piece."""
    batch, q_len, past = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(0, 5))
    kv_heads = draw(st.sampled_from([1, 2]))
    heads = kv_heads * draw(st.integers(1, 2))
    dims, v_dim, seed = (
        draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 99)),
    )
    q = [normal(seed, batch * q_len, heads * d) * 3 for d in dims]
    key_heads = [kv_heads, 1][: len(dims)]
    k = [normal(seed + 1 + i, batch, past + q_len, h * d) for i, (h, d) in enumerate(zip(key_heads, dims, strict=True))]
    return q, k, normal(seed + 7, batch, past + q_len, kv_heads * v_dim), dims, v_dim


@settings(deadline=None)
@given(attentions(), st.data())
def test_attention_over_blocks_of_keys_is_attention(
    case: tuple[list[Array], list[Array], Array, list[int], int], data: st.DataObject
) -> None:
    """Any cut of the keys, in any order; a block that ends before the first query has all its keys visible."""
    q, k, v, dims, v_dim = case
    kv_len = v.shape[1]
    expected = semantics.attention(q, k, v, dims, v_dim, 0.7, causal=False)
    cuts = sorted(data.draw(st.sets(st.integers(1, kv_len - 1), max_size=3) if kv_len > 1 else st.just(set[int]())))
    blocks = data.draw(st.permutations(list(zip([0, *cuts], [*cuts, kv_len], strict=True))))
    state: State | None = None
    for start, stop in blocks:
        scores = semantics.attention_scores(q, [piece[:, start:stop] for piece in k], dims, 0.7, causal=False)
        state = semantics.attention_step(scores, v[:, start:stop], v_dim, state)
    assert state is not None
    np.testing.assert_allclose(semantics.attention_finish(state[0], state[2]), expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(attentions(), st.integers(2, 4))
def test_the_steps_of_all_ranks_are_causal_attention(
    case: tuple[list[Array], list[Array], Array, list[int], int], ranks: int
) -> None:
    """Every length times the number of ranks, dealt out; the mask of a step is that of the op that insert-collectives
    writes: a key fewer in the steps beyond the rank's own number."""
    q, k, v, dims, v_dim = case
    q, k, v = [np.repeat(x, ranks, axis=0) for x in q], [np.repeat(x, ranks, axis=1) for x in k], v.repeat(ranks, 1)
    rng = np.random.default_rng(ranks)
    q, k = [x + rng.standard_normal(x.shape) for x in q], [x + rng.standard_normal(x.shape) for x in k]
    expected = semantics.attention(q, k, v, dims, v_dim, 0.7, causal=True)
    hidden = floordiv(expr(step_symbol("cp")) - expr(rank_symbol("cp")) + (ranks - 1), ranks)
    for rank in range(ranks):
        mine = [x[rank::ranks] for x in q]
        state: State | None = None
        for step in range(ranks):
            source = (rank - step) % ranks
            fewer = int(hidden.evaluate({"cp.step": step, "cp.rank": rank}))
            assert fewer == (source > rank)
            scores = semantics.attention_scores(mine, [x[:, source::ranks] for x in k], dims, 0.7, True, fewer)
            state = semantics.attention_step(scores, v[:, source::ranks], v_dim, state)
        assert state is not None
        found = semantics.attention_finish(state[0], state[2])
        np.testing.assert_allclose(found, expected[rank::ranks], rtol=1e-9, atol=1e-12)


def test_a_row_that_sees_no_key_of_a_block_keeps_its_state() -> None:
    """One query, one key of a later rank: hidden, so the second step changes nothing."""
    q, k, v = [normal(0, 1, 4)], [normal(1, 1, 1, 4)], normal(2, 1, 1, 4)
    own = semantics.attention_step(semantics.attention_scores(q, k, [4], 1.0, True), v, 4, None)
    scores = semantics.attention_scores(q, k, [4], 1.0, True, hidden=1)
    assert np.isneginf(scores).all()
    for before, after in zip(own, semantics.attention_step(scores, v, 4, own), strict=True):
        np.testing.assert_array_equal(after, before)
    np.testing.assert_allclose(semantics.attention_finish(own[0], own[2]), v[:, 0], rtol=1e-12)


# -- programs ---------------------------------------------------------------------------------------------------

STRIPED = """
builtin.module attributes {dist.mesh = #dist.mesh<3 ranks, cp = 3 stride 1>} {
  layer.program() {sym_name = "p", phase = "prefill"} at "p" {
  ^bb0(%t: !layer.tensor<[batch*q_len], i32, #dist.sharding<[[cp]]>>):
    %w = layer.weight() {axes = ["vocab", ""]} at "table" : !layer.tensor<[64, 2], f32, #dist.sharding<[[], []]>>
    %x = layer.embedding(%t, %w) at "embed" : !layer.tensor<[batch*q_len, 2], f32, #dist.sharding<[[cp], []]>>
    layer.return([%x]) at "p"
  }
}
"""


def embedded(batch: int, q_len: int, kv_len: int) -> Array:
    tokens = np.arange(batch * q_len)
    environment = Environment(
        {"batch": batch, "q_len": q_len, "kv_len": kv_len}, tokens, {"table": np.repeat(np.arange(64.0)[:, None], 2, 1)}
    )
    return run_dist(Parser(make_context(), STRIPED).parse_module(), environment).outputs[0]


def test_rows_come_back_in_the_order_of_the_tokens() -> None:
    np.testing.assert_array_equal(embedded(2, 6, 9)[:, 0], np.arange(12))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((3, 7, 9), "q_len = 7"),  # all 21 rows could be dealt out, but not alike in every sequence
        ((1, 6, 7), "kv_len = 7"),
        ((2, 1, 9), "q_len = 1"),
    ],
)
def test_a_program_does_not_run_on_lengths_that_cp_does_not_divide(lengths: tuple[int, int, int], message: str) -> None:
    with pytest.raises(NumericError) as error:
        embedded(*lengths)
    assert str(error.value) == (
        f"layer.program at 'p': {message} is not a multiple of cp = 3, which splits every sequence evenly"
    )
