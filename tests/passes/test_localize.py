"""The localize pass: the shapes of one rank, and what the program keeps of the whole."""

from typing import Any

import pytest
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, NoneAttr
from xdsl.ir import SSAValue

from pmc.compiler.config import load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.driver import module_text, parse_module
from pmc.compiler.frontend import import_hf
from pmc.dialects import dist, layer
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import ARGUMENTS, RESULTS, SHARDING, PartialAttr, Sharding, ShardingAttr, sharding_of
from pmc.dialects.tensor import TensorType, shape_text, tensor
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import PassError
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass

CONTEXT = make_context()


def sharded(name: str, collectives: bool = True, **mesh: Any) -> ModuleOp:
    config, source = load_model_config(name)
    module = import_hf(config, source, name)
    ExpandBlocksPass(phase="decode").apply(CONTEXT, module)
    AnnotateShardingsPass(**mesh).apply(CONTEXT, module)
    if collectives:
        InsertCollectivesPass().apply(CONTEXT, module)
    return module


def local(name: str, **mesh: Any) -> ModuleOp:
    module = sharded(name, **mesh)
    LocalizePass().apply(CONTEXT, module)
    module.verify()
    return module


def value(module: ModuleOp, path: str) -> SSAValue:
    return next(op.results[0] for op in module.walk() if isinstance(op, layer.LayerOp) and op.path.data == path)


def dims(module: ModuleOp, path: str) -> str:
    return shape_text(tensor(value(module, path)).dims)


def test_llama_70b_on_one_of_eight_ranks() -> None:
    module = local("llama-3.1-70b", tp=8, dp=2)
    expected = {
        "embed.weight": f"[{128256 // 8}, 8192]",
        "blocks.dense.gqa.q_proj.weight": f"[8192, {8192 // 8}]",
        "blocks.dense.gqa.k_proj.weight": "[8192, 128]",  # one of 8 key heads
        "blocks.dense.gqa.k_cache": "[ceildiv(batch, 2), kv_len, 128]",
        "blocks.dense.gqa.o_proj": "[ceildiv(batch, 2)*q_len, 8192]",
        "blocks.dense.ffn.gate_proj.weight": f"[8192, {28672 // 8}]",
        "blocks.dense.ffn.silu_mul": f"[ceildiv(batch, 2)*q_len, {28672 // 8}]",
        "lm_head.proj": f"[ceildiv(batch, 2)*q_len, {128256 // 8}]",
    }
    assert {path: dims(module, path) for path in expected} == expected


def test_deepseek_v3_on_one_of_32_ranks() -> None:
    module = local("deepseek-v3", dp=32, ep=32)
    moe, mla = "blocks.moe.moe", "blocks.moe.mla"
    assert dims(module, f"{moe}.experts.gate_proj.weight") == "[8, 7168, 2048]"
    assert dims(module, f"{moe}.shared.gate_proj.weight") == "[7168, 2048]"
    assert dims(module, f"{mla}.q_b_proj.weight") == f"[1536, {128 * 192}]"
    dispatch = next(op for op in module.walk() if isinstance(op, dist.DispatchOp))
    experts, capacity, width = tensor(dispatch.y).dims
    assert (experts.constant, width.constant) == (8, 7168)
    # balanced: batch * top_k / experts slots of each expert
    assert capacity.evaluate({"batch": 2048, "q_len": 1}) == 2048 * 8 // 256


def test_weights_of_one_rank_times_ranks_are_the_whole() -> None:
    """Split weights add up to the model, replicated ones are held by all."""
    whole = sharded("deepseek-v3", tp=4, dp=2, ep=2, moe_tp=4)
    mesh = whole.attributes["dist.mesh"]
    assert isinstance(mesh, dist.MeshAttr)
    before = {op.path.data: op for op in whole.walk() if isinstance(op, layer.WeightOp)}
    expected = {
        path: tensor(op.result).elements.constant // _ways(sharding_of(tensor(op.result)), mesh.data)
        for path, op in before.items()
    }
    LocalizePass().apply(CONTEXT, whole)
    after = {op.path.data: tensor(op.result).elements.constant for op in whole.walk() if isinstance(op, layer.WeightOp)}
    assert after == expected
    assert after["blocks.moe.moe.experts.up_proj.weight"] * 8 == 256 * 7168 * 2048


def _ways(sharding: Sharding, mesh: dist.Mesh) -> int:
    ways = 1
    for axes in sharding.dims:
        for axis in axes:
            ways *= mesh.axis(axis).size
    return ways


def test_only_partial_sums_keep_an_encoding() -> None:
    module = local("deepseek-v3", tp=2, dp=4, ep=4, moe_tp=2)
    partial = {
        op.path.data: tensor(result).encoding
        for op in module.walk()
        for result in op.results
        if isinstance(op, PmcOp) and not isinstance(tensor(result).encoding, NoneAttr)
    }
    assert set(partial.values()) == {PartialAttr(("tp",))}
    assert set(partial) == {
        "embed",
        "blocks.dense.mla.o_proj",
        "blocks.moe.mla.o_proj",
        "blocks.dense.ffn.down_proj",
        *(f"blocks.moe.moe.{n}" for n in ("experts.down_proj", "combine", "shared.down_proj", "add_shared")),
    }


def test_sources_arguments_and_results_say_which_part_of_the_whole_they_are() -> None:
    module = local("llama-3.1-8b", tp=4, dp=2)
    sources = {
        op.path.data: op.attributes[SHARDING] for op in module.walk() if isinstance(op, layer.WeightOp | layer.StateOp)
    }
    assert sources["blocks.dense.gqa.o_proj.weight"] == ShardingAttr(Sharding((("tp",), ())))
    assert sources["blocks.dense.gqa.k_cache"] == ShardingAttr(Sharding((("dp",), (), ("tp",))))
    program = next(op for op in module.ops if isinstance(op, layer.ProgramOp))
    assert program.attributes[ARGUMENTS] == ArrayAttr([ShardingAttr(Sharding((("dp",),)))])
    end = next(op for op in module.walk() if isinstance(op, layer.ReturnOp))
    whole = TensorType.of((layer.expr("batch") * layer.expr("q_len"), 128256), tensor(end.values[0]).element_type)
    assert end.attributes[RESULTS] == ArrayAttr([whole.with_encoding(ShardingAttr(Sharding((("dp",), ()))))])


def test_an_embedding_learns_the_axis_of_its_vocabulary() -> None:
    split = next(op for op in local("llama-3.1-8b", tp=4).walk() if isinstance(op, layer.EmbeddingOp))
    assert split.vocab_axis is not None and split.vocab_axis.data == "tp"
    whole = next(op for op in local("llama-3.1-8b", dp=4).walk() if isinstance(op, layer.EmbeddingOp))
    assert whole.vocab_axis is None


def test_a_reshard_that_is_left_is_an_error() -> None:
    module = sharded("llama-3.1-8b", collectives=False, tp=2)
    with pytest.raises(PassError) as error:
        LocalizePass().apply(CONTEXT, module)
    assert str(error.value) == "localize: dist.reshard at 'embed' is left; run insert-collectives first"


def test_a_local_program_cannot_be_localized_again() -> None:
    module = local("llama-3.1-8b", tp=2)
    with pytest.raises(PassError, match=r"localize: '.*' has no sharding; run annotate-shardings first"):
        LocalizePass().apply(CONTEXT, module)


@pytest.mark.parametrize("generic", [False, True])
def test_a_local_program_reads_back(generic: bool) -> None:
    module = local("deepseek-v3", tp=2, dp=4, ep=4, moe_tp=2, sp=True, pp=2)
    again = parse_module(module_text(module, generic), "local.mlir")
    assert again.is_structurally_equivalent(module)
