"""The annotate-shardings pass under context parallelism: rows, positions, rotary ops and the last token."""

from __future__ import annotations

import pytest

from pmc.dialects import dist, layer
from pmc.dialects.dist import sharding_of
from pmc.dialects.expr import expr
from pmc.dialects.tensor import tensor

from .test_annotate_shardings import SMALL, annotated, at, mesh_of, ops_of, reshards, text


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_llama_rows_and_cache_positions_are_split_by_cp(phase: str) -> None:
    module = annotated("llama-3.1-8b", phase, tp=2, cp=4, dp=3)
    (body,) = ops_of(module, layer.ProgramOp)
    assert text(sharding_of(tensor(body.body.block.args[0]))) == "dpxcp"
    gqa, ffn = "blocks.dense.gqa", "blocks.dense.ffn"
    rows = "dp" if phase == "prefill" else "dpxcp"  # decode gives the logits of every token
    expected = {
        ("embed", "embedding"): "dpxcp - sum tp",
        (f"{gqa}.norm", "rms_norm"): "dpxcp -",
        (f"{gqa}.q_proj", "matmul"): "dpxcp tp",
        (f"{gqa}.k_proj", "matmul"): "dpxcp tp",
        (f"{gqa}.q_rope", "rope"): "dpxcp tp",
        (f"{gqa}.k_cache", "state"): "dp cp tp",
        (f"{gqa}.k_append", "kv_append"): "dp cp tp",
        (f"{gqa}.v_append", "kv_append"): "dp cp tp",
        (f"{gqa}.attention", "attention"): "dpxcp tp",
        (f"{gqa}.o_proj", "matmul"): "dpxcp - sum tp",
        (f"{gqa}.residual", "add"): "dpxcp -",
        (f"{ffn}.down_proj", "matmul"): "dpxcp - sum tp",
        (f"{ffn}.residual", "add"): "dpxcp -",
        ("lm_head.norm", "rms_norm"): f"{rows} -",
        ("lm_head.proj", "matmul"): f"{rows} tp",
    }
    assert {key: text(at(module, *key)) for key in expected} == expected
    # cp splits no weight: all of its ranks run the whole layer on their rows.
    for weight in ops_of(module, layer.WeightOp):
        assert not {axis for axes in sharding_of(tensor(weight.result)).dims for axis in axes} & {"cp", "dp"}
    (end,) = ops_of(module, layer.ReturnOp)
    assert text(sharding_of(tensor(end.values[0]))) == f"{rows} -"


def test_only_the_last_rows_move_for_cp() -> None:
    moved = [
        ("embed", "dpxcp - sum tp", "dpxcp -"),
        ("blocks.dense.gqa.o_proj", "dpxcp - sum tp", "dpxcp -"),
        ("blocks.dense.ffn.down_proj", "dpxcp - sum tp", "dpxcp -"),
        ("lm_head.last_token.of_rank", "dpxcp -", "dp -"),
        ("lm_head.proj", "dp tp", "dp -"),
    ]
    assert reshards(annotated("llama-3.1-8b", "prefill", tp=2, cp=4, dp=3)) == moved
    assert reshards(annotated("llama-3.1-8b", "prefill", cp=4)) == [("lm_head.last_token.of_rank", "cp -", "- -")]


def test_sequence_parallelism_splits_the_rows_of_a_rank_of_cp_further() -> None:
    """All ops but attention and matmuls have a dp-th of the sequences, a cp-th of these, a tp-th of the rows."""
    module = annotated("llama-3.1-8b", "prefill", tp=2, cp=4, dp=3, sp=True)
    for path in ("blocks.dense.gqa.norm", "blocks.dense.gqa.residual", "blocks.dense.ffn.residual"):
        assert text(at(module, path)) == "dpxcpxtp -", path
    assert text(at(module, "blocks.dense.gqa.k_cache")) == "dp cp tp"
    assert reshards(module) == [
        ("embed", "dpxcp - sum tp", "dpxcpxtp -"),
        ("blocks.dense.gqa.norm", "dpxcpxtp -", "dpxcp -"),
        ("blocks.dense.gqa.o_proj", "dpxcp - sum tp", "dpxcpxtp -"),
        ("blocks.dense.ffn.norm", "dpxcpxtp -", "dpxcp -"),
        ("blocks.dense.ffn.down_proj", "dpxcp - sum tp", "dpxcpxtp -"),
        ("blocks.dense", "dpxcpxtp -", "dpxcp -"),
        ("lm_head.last_token.of_rank", "dpxcp -", "dp -"),
        ("lm_head.proj", "dp tp", "dp -"),
    ]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_latents_of_mla_are_split_by_position(phase: str) -> None:
    module = annotated("deepseek-v3", phase, tp=2, cp=2, dp=2, ep=4, moe_tp=2)
    assert [text(sharding_of(tensor(op.result))) for op in ops_of(module, layer.StateOp)] == ["dp cp -"] * 4
    for op in ops_of(module, layer.AttentionOp):
        assert [text(sharding_of(tensor(v))) for v in (*op.q, op.y)] == ["dpxcp tp"] * 3
        # Absorbed attention reads the latent itself, as key and as value; expanded keys have the heads of their rank.
        keys = ["dp cp -"] * 3 if phase == "decode" else ["dp cp tp", "dp cp -", "dp cp tp"]
        assert [text(sharding_of(tensor(v))) for v in (*op.k, op.v)] == keys


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_rank_of_cp_rotates_every_nth_position_from_its_own_number_on(name: str) -> None:
    mesh = {"deepseek-v3": dict(ep=3, dp=1), "llama-3.1-8b": dict(tp=2, dp=2)}[name]
    module = annotated(name, "prefill", {"n_routed_experts": 12} if "deepseek" in name else None, cp=3, **mesh)
    ropes = ops_of(module, layer.RopeOp)
    assert ropes
    lengths = {"q_len": 6, "kv_len": 15}
    for rope in ropes:
        assert rope.stride.value.data == 3 and str(rope.first.data) == "cp.rank"
        # The 6 queries stand at 9 to 14; dealt out in turn from position 0 on, rank r has 9 + r and 12 + r.
        for rank in range(3):
            found = [rope.position(expr(i)).evaluate({**lengths, "cp.rank": rank}) for i in range(2)]
            assert found == [9 + rank, 12 + rank]
        assert rope.q_len.data.evaluate(lengths) == 2


def test_without_cp_positions_are_those_of_the_sequence() -> None:
    for rope in ops_of(annotated("llama-3.1-8b", "prefill", tp=2), layer.RopeOp):
        assert (rope.stride.value.data, str(rope.first.data), str(rope.q_len.data)) == (1, "0", "q_len")


@pytest.mark.parametrize("sp", [False, True])
def test_the_last_token_is_that_of_the_last_rank(sp: bool) -> None:
    """Each rank hands out its last row of a sequence; the last of these, in rank order, is the last token."""
    module = annotated("llama-3.1-8b", "prefill", tp=2, cp=4, dp=3, sp=sp)
    own, last = ops_of(module, layer.LastTokenOp)
    assert (own.path.data, last.path.data) == ("lm_head.last_token.of_rank", "lm_head.last_token")
    assert (str(own.q_len.data), str(last.q_len.data)) == ("ceildiv(q_len, 4)", "4")
    assert [str(d) for d in tensor(own.y).dims] == ["batch*4", "32"]
    assert [str(d) for d in tensor(last.y).dims] == ["batch", "32"]
    assert [text(sharding_of(tensor(v))) for v in (own.x, own.y, last.x, last.y)] == ["dpxcp -"] * 2 + ["dp -"] * 2
    gathered = last.x.owner
    assert isinstance(gathered, dist.ReshardOp) and gathered.x is own.y
    # A rank has one row of each of its sequences, whatever their length.
    rows = dist.local_dim(tensor(own.y).dims[0], ("dp", "cp"), mesh_of(module))
    assert rows.evaluate({"batch": 7, "q_len": 16}) == 3


def test_one_row_per_sequence_has_no_last_token_of_a_rank() -> None:
    (last,) = ops_of(annotated("llama-3.1-8b", "prefill", tp=2), layer.LastTokenOp)
    assert (last.path.data, str(last.q_len.data)) == ("lm_head.last_token", "q_len")
