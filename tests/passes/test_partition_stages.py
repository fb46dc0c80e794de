"""The partition-stages pass: layers in stages, values handed on by send and recv."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.parser import Parser

from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.compiler.config import load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.frontend import import_hf
from pmc.dialects import dist, layer
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import PassError
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass
from pmc.passes.partition_stages import PartitionStagesPass, balanced_lengths, layer_times, stage_lengths

CONTEXT = make_context()
LLAMA = dict(
    hidden_size=16, num_attention_heads=4, num_key_value_heads=2, vocab_size=32, intermediate_size=24, head_dim=4,
)  # fmt: skip
DEEPSEEK = dict(
    hidden_size=16, num_attention_heads=4, num_key_value_heads=4, vocab_size=32, intermediate_size=24,
    n_routed_experts=8, moe_intermediate_size=8, q_lora_rank=12, kv_lora_rank=8, qk_nope_head_dim=4,
    qk_rope_head_dim=2, v_head_dim=4, n_group=2, topk_group=1, num_experts_per_tok=2,
)  # fmt: skip


def expanded(name: str, **changes: Any) -> ModuleOp:
    config, source = load_model_config(name)
    small = LLAMA if name.startswith("llama") else DEEPSEEK
    module = import_hf({**config, **small, **changes}, source, name)
    ExpandBlocksPass(phase="decode", capacity="worst").apply(CONTEXT, module)
    return module


def partition(module: ModuleOp, **mesh: Any) -> ModuleOp:
    for module_pass in (
        AnnotateShardingsPass(**mesh), InsertCollectivesPass(), LocalizePass(), PartitionStagesPass(),
    ):  # fmt: skip
        module_pass.apply(CONTEXT, module)
        module.verify()
    return module


def stages(module: ModuleOp) -> list[dist.StageOp]:
    return [op for op in module.walk() if isinstance(op, dist.StageOp)]


def repeats(stage: dist.StageOp) -> list[tuple[str, int, int, int]]:
    """Path, first, count and stored layers of every repeat."""
    return [
        (op.path.data, op.first.value.data, op.trip_count, op.total.value.data)
        for op in stage.walk()
        if isinstance(op, layer.RepeatOp)
    ]


# -- how layers are dealt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        (32, 4, [8, 8, 8, 8]),
        (61, 4, [15, 16, 15, 15]),  # one left over: an inner stage
        (62, 4, [15, 16, 16, 15]),
        (63, 4, [15, 16, 16, 16]),  # then the last, which has no embedding
        (3, 2, [1, 2]),
        (5, 5, [1, 1, 1, 1, 1]),
        (7, 1, [7]),
    ],
)
def test_stage_lengths(layers: int, count: int, expected: list[int]) -> None:
    assert stage_lengths(layers, count) == expected


@given(st.integers(1, 200), st.integers(1, 64))
def test_stage_lengths_are_balanced(layers: int, count: int) -> None:
    lengths = stage_lengths(layers, count)
    assert len(lengths) == count and sum(lengths) == layers
    assert max(lengths) - min(lengths) <= 1
    assert lengths[0] == min(lengths)  # the first stage also embeds
    if layers % count == 1 and count > 2:
        assert lengths[-1] == min(lengths)  # the last also computes logits


@given(st.lists(st.sampled_from([1.0, 1.0, 1.0, 2.0, 3.5, 7.0]), min_size=1, max_size=9), st.data())
def test_no_split_has_a_shorter_longest_stage(seconds: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(seconds)))
    lengths = balanced_lengths(seconds, count)
    assert len(lengths) == count and sum(lengths) == len(seconds) and min(lengths) >= 1

    def times(bounds: tuple[int, ...]) -> list[float]:
        return [sum(seconds[a:b]) for a, b in pairwise((0, *bounds, len(seconds)))]

    found = times(tuple(np.cumsum(lengths)[:-1].tolist()))
    others = [times(bounds) for bounds in combinations(range(1, len(seconds)), count - 1)]
    shortest = min(max(split) for split in others)
    assert max(found) == shortest
    assert sum(t * t for t in found) == pytest.approx(
        min(sum(t * t for t in split) for split in others if max(split) == shortest), rel=1e-6
    )


def test_equal_stages_among_many_layers() -> None:
    """126 layers on 16 stages: none has more than 8, and equal layers leave nothing to chance."""
    assert sorted(balanced_lengths([0.1] * 126, 16)) == [7, 7, *[8] * 14]
    assert balanced_lengths([2.0, *[1.0] * 5, 3.0], 3) == [3, 3, 1]  # 4, 3, 3 as good as 3, 3, 4


def test_ops_around_layers_count_where_they_run() -> None:
    module = expanded("llama-3.1-8b", num_hidden_layers=3)
    (program,) = module.ops
    assert isinstance(program, layer.ProgramOp)
    # Seven matmuls a layer, three times; the embedding before the first, the LM head behind the last.
    times: dict[Operation, float] = {
        op: 1.0 if op.parent_op() is program else 3.0
        for op in program.walk()
        if isinstance(op, layer.EmbeddingOp | layer.MatmulOp)
    }
    assert layer_times(program.body.block, times) == [8.0, 7.0, 8.0]


# -- programs ---------------------------------------------------------------------------------------------------


def test_a_repeat_that_a_boundary_cuts_goes_on_in_the_next_stage() -> None:
    module = partition(expanded("llama-3.1-8b", num_hidden_layers=5), pp=2)
    assert [repeats(s) for s in stages(module)] == [[("blocks.dense", 0, 2, 5)], [("blocks.dense", 2, 3, 5)]]


def test_stages_cover_repeats_of_two_kinds() -> None:
    module = partition(expanded("deepseek-v3", num_hidden_layers=7, first_k_dense_replace=3), pp=3)
    assert [repeats(s) for s in stages(module)] == [
        [("blocks.dense", 0, 2, 3)],
        [("blocks.dense", 2, 1, 3), ("blocks.moe", 0, 2, 4)],
        [("blocks.moe", 2, 2, 4)],
    ]


@pytest.mark.parametrize("pp", [2, 3, 5])
def test_each_boundary_is_one_send_and_its_recv(pp: int) -> None:
    module = partition(expanded("llama-3.1-8b", num_hidden_layers=5), pp=pp, tp=2)
    found = stages(module)
    assert [s.index.value.data for s in found] == list(range(pp))
    links: dict[int, list[Any]] = {}
    for stage in found:
        for op in stage.walk():
            if isinstance(op, dist.SendOp | dist.RecvOp):
                links.setdefault(op.channel.value.data, []).append((stage.index.value.data, op))
    assert len(links) == pp - 1
    for (source, send), (target, recv) in links.values():
        assert isinstance(send, dist.SendOp) and isinstance(recv, dist.RecvOp)
        assert target == source + 1
        assert (send.peer.value.data, recv.peer.value.data) == (target, source)
        assert send.x.type == recv.y.type


def test_embedding_is_in_the_first_stage_and_logits_in_the_last() -> None:
    first, middle, last = stages(partition(expanded("llama-3.1-8b", num_hidden_layers=4), pp=3))
    paths = [{op.path.data for op in s.body.block.ops if isinstance(op, layer.WeightOp)} for s in (first, middle, last)]
    assert paths == [{"embed.weight"}, set(), {"lm_head.norm.weight", "lm_head.proj.weight"}]
    assert isinstance(last.body.block.last_op, layer.ReturnOp)


def test_a_tied_table_is_named_in_both_stages_that_use_it() -> None:
    module = partition(expanded("llama-3.1-8b", num_hidden_layers=2, tie_word_embeddings=True), pp=2)
    first, last = stages(module)
    found = [
        [(op.path.data, op.transpose_of.data if op.transpose_of else "") for op in s.body.block.ops
         if isinstance(op, layer.WeightOp) and "norm" not in op.path.data]
        for s in (first, last)
    ]  # fmt: skip
    assert found == [[("embed.weight", "")], [("lm_head.proj.weight", "embed.weight")]]


def test_one_stage_leaves_the_program_as_it_is() -> None:
    module = expanded("llama-3.1-8b", num_hidden_layers=2)
    for module_pass in (AnnotateShardingsPass(tp=2), InsertCollectivesPass(), LocalizePass()):
        module_pass.apply(CONTEXT, module)
    body = next(op for op in module.ops if isinstance(op, layer.ProgramOp)).clone()
    PartitionStagesPass().apply(CONTEXT, module)
    assert next(op for op in module.ops if isinstance(op, layer.ProgramOp)).is_structurally_equivalent(body)


def test_more_stages_than_layers() -> None:
    with pytest.raises(PassError) as error:
        partition(expanded("llama-3.1-8b", num_hidden_layers=3), pp=4)
    assert str(error.value) == "partition-stages: pp = 4 stages for 3 layers; at most one stage per layer"


def test_a_program_is_partitioned_once() -> None:
    module = partition(expanded("llama-3.1-8b", num_hidden_layers=3), pp=3)
    with pytest.raises(PassError, match=r"partition-stages: 'llama-3.1-8b' already has stages"):
        PartitionStagesPass().apply(CONTEXT, module)


@pytest.mark.parametrize("pp", [2, 4, 6])
def test_a_pipeline_computes_what_one_rank_does(pp: int) -> None:
    module = expanded("deepseek-v3", num_hidden_layers=6, first_k_dense_replace=2)
    environment = seeded_layer_environment(module, {"batch": 3, "q_len": 1, "kv_len": 5}, 2)
    reference = run_layer(module, environment)
    result = run_dist(partition(module, pp=pp, dp=2, ep=2), environment)
    np.testing.assert_allclose(result.outputs[0], reference.outputs[0], atol=1e-10)
    for path, values in reference.states.items():
        np.testing.assert_allclose(result.states[path], values, atol=1e-12, err_msg=path)


# -- rings ------------------------------------------------------------------------------------------------------

ATTENTION_AROUND_LAYERS = """
layer.program() {sym_name = "p", phase = "prefill"} at "p" {
^bb0(%tokens: !layer.tensor<[batch*q_len], i32>):
  %table = layer.weight() {axes = ["vocab", ""]} at "embed.weight" : !layer.tensor<[32, 16], f32>
  %x = layer.embedding(%tokens, %table) at "embed" : !layer.tensor<[batch*q_len, 16], f32>
  %wq = layer.weight() {axes = ["", "heads"]} at "q.weight" : !layer.tensor<[16, 16], f32>
  %q = layer.matmul(%x, %wq) at "q" : !layer.tensor<[batch*q_len, 16], f32>
  FIRST
  %h = layer.repeat 4 from 0 of 4 (%a = %z) at "layers" : !layer.tensor<[batch*q_len, 16], f32> {
    %w = layer.weight() {axes = ["", ""]} at "layers.weight" : !layer.tensor<[16, 16], f32>
    %b = layer.matmul(%a, %w) at "layers.proj" : !layer.tensor<[batch*q_len, 16], f32>
    layer.yield([%b]) at "layers"
  }
  LAST
  %y = layer.add(%h, %u) at "out" : !layer.tensor<[batch*q_len, 16], f32>
  layer.return([%y]) at "p"
}
"""
"""One attention before the layers and one after them, of the same queries."""


def attention(new: str, result: str, name: str) -> str:
    keys = "!layer.tensor<[batch, kv_len, 8], f32>"
    return f"""
      %{name}w = layer.weight() {{axes = ["", "kv_heads"]}} at "{name}.weight" : !layer.tensor<[16, 8], f32>
      %{name}x = layer.matmul({new}, %{name}w) at "{name}.k" : !layer.tensor<[batch*q_len, 8], f32>
      %{name}c = layer.state() {{axes = ["batch", "position", "kv_heads"]}} at "{name}.cache" : {keys}
      %{name}k = layer.kv_append(%{name}c, %{name}x) at "{name}.append" : {keys}
      {result} = layer.attention([%q], [%{name}k], %{name}k)
        {{qk_dims = [4], v_dim = 4, q_len = <q_len>, scale = 0.5, causal = true}} at "{name}"
        : !layer.tensor<[batch*q_len, 16], f32>
    """


def around_layers() -> ModuleOp:
    first, last = attention("%x", "%z", "first"), attention("%h", "%u", "last")
    text = ATTENTION_AROUND_LAYERS.replace("FIRST", first).replace("LAST", last)
    module = Parser(make_context(), text).parse_module()
    module.verify()
    return module


@pytest.mark.parametrize(("pp", "expected"), [(2, [[0, 1], [2, 3]]), (4, [[0], [1], [2], [3]])])
def test_a_ring_is_no_layers(pp: int, expected: list[list[int]]) -> None:
    """It has its place before or after the layers, with all its steps, and does not count among them."""
    found = stages(partition(around_layers(), cp=4, pp=pp))
    layers = [(first, count) for stage in found for path, first, count, _ in repeats(stage) if path == "layers"]
    assert [list(range(first, first + count)) for first, count in layers] == expected
    rings = [[r for r in repeats(stage) if r[0] != "layers"] for stage in found]
    assert rings == [[("first", 1, 3, 4)], *([] for _ in range(pp - 2)), [("last", 1, 3, 4)]]
    for stage in found:
        for op in stage.walk():
            if isinstance(op, layer.RepeatOp):
                assert op.is_layers == (op.path.data == "layers")
    # Steps and end of a ring are in the stage of the ring.
    for stage, name in ((found[0], "first"), (found[-1], "last")):
        ops = [op for op in stage.walk() if isinstance(op, layer.LayerOp) and op.path.data == name]
        assert [op.name for op in ops] == ["layer.attention_step"] * 2 + ["layer.attention_finish"]


@pytest.mark.parametrize("pp", [2, 3, 4])
def test_what_the_steps_of_a_ring_use_is_sent_along(pp: int) -> None:
    """The queries are made in the first stage; the ring of the last reads them inside its body."""
    found = stages(partition(around_layers(), cp=2, pp=pp))
    for stage in found:
        inside = {value for op in stage.walk() for value in op.results}
        inside |= {a for op in stage.walk() for r in op.regions for b in r.blocks for a in b.args}
        for op in stage.walk():
            assert all(v in inside or isinstance(v.owner, Block) for v in op.operands), op
    sent = [[op.path.data for op in stage.walk() if isinstance(op, dist.SendOp)] for stage in found]
    # The result of the layers and the queries go from stage to stage, each once.
    assert sent == [["layers", "q"]] * (pp - 1) + [[]]
    last = next(op for op in found[-1].walk() if isinstance(op, layer.RepeatOp) and not op.is_layers)
    step = next(op for op in last.walk() if isinstance(op, layer.AttentionStepOp))
    assert isinstance(step.q[0].owner, dist.RecvOp)


@pytest.mark.parametrize("mesh", [dict(pp=2, cp=2), dict(pp=4, cp=4, tp=2), dict(pp=3, cp=2, dp=2, tp=2)])
def test_rings_in_a_pipeline_compute_what_one_rank_does(mesh: dict[str, int]) -> None:
    module = around_layers()
    environment = seeded_layer_environment(module, {"batch": 3, "q_len": 4, "kv_len": 12}, 3)
    reference = run_layer(module, environment)
    result = run_dist(partition(module, **mesh), environment)
    np.testing.assert_allclose(result.outputs[0], reference.outputs[0], atol=1e-10)
    for path, values in reference.states.items():
        np.testing.assert_allclose(result.states[path], values, atol=1e-12, err_msg=path)


def test_rings_inside_layers_go_with_them() -> None:
    module = partition(expanded("llama-3.1-8b", num_hidden_layers=5), cp=2, pp=2)
    assert [repeats(s) for s in stages(module)] == [
        [("blocks.dense", 0, 2, 5), ("blocks.dense.gqa.attention", 1, 1, 2)],
        [("blocks.dense", 2, 3, 5), ("blocks.dense.gqa.attention", 1, 1, 2)],
    ]
