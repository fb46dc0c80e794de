"""The memory of a rank: weights and caches by their sizes on paper, activations against an unrolled execution."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from pmc.backends.evaluate.footprint import MemoryFootprint, MemoryOptions
from pmc.backends.evaluate.liveness import live_points
from pmc.backends.evaluate.memory import FootprintPlan, memory_footprint
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, load_model, parse_module
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_config, shrink_deployment
from pmc.dialects import dist, layer
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.tensor import element_bits, tensor
from pmc.dialects.tile import GlobalOp, StageOp

SG2262 = load_chip("sg2262")
PLAIN = MemoryOptions(reserve_fraction=0.0, reserve_bytes=0, kv_block_tokens=1, micro_batches=1)
LLAMA_8B_PARAMETERS = 8_030_261_248
"""As counted by transformers."""


def options(**changes: Any) -> MemoryOptions:
    return MemoryOptions(**{**vars(PLAIN), **changes})


def compiled(model: str, deployment: str, level: Level = "dist", **changes: Any) -> ModuleOp:
    target = (SG2262, load_topology("p1-r1-b4-c32"), load_deployment(deployment, changes))
    return compile_model(load_model(model), *target, level)


def small(deployment: str, model: str, level: Level = "dist", **changes: Any) -> ModuleOp:
    """A model of four layers and small dims in bf16."""
    config, source = load_model_config(model)
    shrunk = shrink_deployment(load_deployment(deployment, changes))
    quantization: dict[str, Any] = {"weights": "bf16", "activations": "bf16", "kv_cache": "bf16", "keep": []}
    shrunk = Deployment.model_validate({**shrunk.model_dump(), "quantization": quantization})
    module = import_hf(shrink_config(config, shrunk, layers=4), source, model)
    return compile_model(module, shrink_chip(SG2262), load_topology("p1-r1-b4-c32"), shrunk, level)


def with_chip(module: ModuleOp, **dram: Any) -> ModuleOp:
    data = SG2262.model_dump()
    data["dram"].update(dram)
    module.attributes["arch.chip"] = ChipAttr(Chip.model_validate(data))
    return module


# -- weights and caches -----------------------------------------------------------------------------------------


def test_llama_8b_holds_its_parameters_and_its_heads() -> None:
    footprint = memory_footprint(compiled("llama-3.1-8b", "llama-8b-decode"), PLAIN)
    (stage,) = footprint.stages
    assert stage.weight_bytes == 2 * LLAMA_8B_PARAMETERS
    # 32 layers x (K and V) x 8 heads x 128 x 2 bytes per token; 32 sequences of 4096 tokens.
    assert stage.states_by_kind == {"key_value_heads": 32 * 2 * 8 * 128 * 2 * 32 * 4096}
    assert stage.communication_bytes == 0 and stage.reserve_bytes == 0
    assert stage.total_bytes == sum(stage.parts.values())


def test_tensor_parallel_ranks_hold_their_shards() -> None:
    whole = memory_footprint(compiled("llama-3.1-70b", "llama-70b-decode-tp8", tp=1), PLAIN).stages[0]
    shard = memory_footprint(compiled("llama-3.1-70b", "llama-70b-decode-tp8"), PLAIN).stages[0]
    norms = sum(row.bytes for row in whole.weights if ".norm." in row.path)
    assert shard.weight_bytes == (whole.weight_bytes - norms) // 8 + norms, "norms are on every rank, the rest is split"
    assert shard.state_bytes * 8 == whole.state_bytes
    # 16 ranks share 8 key heads: each head is there twice.
    wide = memory_footprint(compiled("llama-3.1-70b", "llama-70b-decode-tp8", tp=16), PLAIN).stages[0]
    assert wide.state_bytes == shard.state_bytes


def test_deepseek_experts_and_latents_by_hand() -> None:
    (stage,) = memory_footprint(compiled("deepseek-v3", "dsv3-decode-ep32"), PLAIN).stages
    sizes = {row.path: row.bytes for row in stage.weights}
    # 58 layers x 256/32 experts x 7168 x 2048, FP8.
    assert sizes["blocks.moe.moe.experts.gate_proj.weight"] == 58 * 8 * 7168 * 2048
    assert sizes["blocks.dense.ffn.down_proj.weight"] == 3 * 18432 * 7168
    # One latent of 512 + 64 bytes per token and layer, for all 128 heads; 2048/32 sequences of 4096 tokens.
    assert stage.states_by_kind == {"latent": 61 * 576 * 64 * 4096}
    prefill = memory_footprint(compiled("deepseek-v3", "dsv3-prefill-ep32"), PLAIN).stages[0]
    assert prefill.states_by_kind == {"latent": 61 * 576 * 4096}, "expanded keys are activations, the cache is latent"
    assert prefill.weight_bytes == stage.weight_bytes


@pytest.mark.parametrize("stages", [2, 4])
def test_a_stage_stores_only_its_layers(stages: int) -> None:
    changes: dict[str, Any] = {"tp": 2, "dp": 16 // stages, "ep": 32 // stages, "pp": stages}
    unstaged: dict[str, Any] = {**changes, "pp": 1}
    parts = memory_footprint(compiled("deepseek-v3", "dsv3-decode-ep32", **changes), PLAIN).stages
    whole = memory_footprint(compiled("deepseek-v3", "dsv3-decode-ep32", **unstaged), PLAIN).stages[0]
    assert [stage.stage for stage in parts] == list(range(stages))
    assert sum(stage.weight_bytes for stage in parts) == whole.weight_bytes
    assert sum(stage.state_bytes for stage in parts) == whole.state_bytes
    layers = [sum(row.layers for row in stage.states if row.path.endswith("c_kv_cache")) for stage in parts]
    assert sum(layers) == 61 and max(layers) - min(layers) <= 1


def test_a_tied_embedding_is_stored_once_per_stage() -> None:
    config, source = load_model_config("llama-3.1-8b")
    changes = {"num_hidden_layers": 2, "tie_word_embeddings": True}

    def stages(**mesh: int) -> list[dict[str, int]]:
        deployment = load_deployment("llama-8b-decode", mesh)
        module = import_hf({**config, **changes}, source, "tied")
        compile_model(module, SG2262, load_topology("p1-r1-b4-c32"), deployment, "dist")
        return [{row.path: row.bytes for row in s.weights} for s in memory_footprint(module, PLAIN).stages]

    table = 128256 * 4096 * 2
    (one,) = stages()
    assert one["embed.weight"] == table and "lm_head.proj.weight" not in one
    first, last = stages(pp=2, tp=2)
    assert first["embed.weight"] == last["embed.weight"] == table // 2


def test_a_paged_cache_holds_whole_blocks() -> None:
    module = compiled("llama-3.1-8b", "llama-8b-decode")
    sizes = {b: memory_footprint(module, options(kv_block_tokens=b), {"kv_len": 4097}).stages[0] for b in (1, 16, 4096)}
    per_token = sizes[1].state_bytes // 4097
    assert sizes[16].state_bytes == per_token * 4112 and sizes[4096].state_bytes == per_token * 8192
    assert sizes[16].activation_bytes == sizes[1].activation_bytes
    bound = compiled("llama-3.1-8b", "llama-8b-decode", kv_len=4097)
    parsed = parse_module(str(bound).replace("kv_len, ", "4097, "), "bound")
    assert memory_footprint(parsed, options(kv_block_tokens=16)).stages[0].state_bytes == per_token * 4112


def test_micro_batches_shrink_activations_and_not_caches() -> None:
    module = compiled("deepseek-v3", "dsv3-decode-ep32", tp=2, dp=8, ep=16, pp=2)
    one = memory_footprint(module, PLAIN)
    four = memory_footprint(module, options(micro_batches=4))
    for whole, part in zip(one.stages, four.stages, strict=True):
        assert part.state_bytes == whole.state_bytes and part.weight_bytes == whole.weight_bytes
        assert part.communication_bytes * 4 == whole.communication_bytes
        assert part.activation_bytes < whole.activation_bytes / 3


def test_communication_buffers_are_those_of_the_largest_transfer() -> None:
    stage = memory_footprint(compiled("llama-3.1-70b", "llama-70b-decode-tp8"), PLAIN).stages[0]
    # The logits: 64 x 128256/8 in, 64 x 128256 out, bf16.
    assert stage.communication_path == "lm_head.proj"
    assert stage.communication_bytes == 64 * (128256 // 8 + 128256) * 2


# -- activations ------------------------------------------------------------------------------------------------

PROGRAM = """
builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch, 10], i8>):
    %a = layer.quantize(%x) at "a" : !layer.tensor<[batch, 10], f32>
    %v = layer.slice(%a) {group = 10, offset = 0, size = 2} at "v" : !layer.tensor<[batch, 2], f32>
    %r = layer.repeat 3 from 0 of 3 (%h = %INIT) at "r" : !layer.tensor<[batch, 10], f32> {
      %b = layer.quantize(%h) at "r.b" : !layer.tensor<[batch, 10], f64>
      %c = layer.quantize(%b) at "r.c" : !layer.tensor<[batch, 10], f32>
      %d = layer.add(%c, %c) at "r.d" : !layer.tensor<[batch, 10], f32>
      layer.yield([%d]) at "r"
    }
    %e = layer.quantize(%USED) at "e" : !layer.tensor<[batch, WIDTH], i8>
    layer.return([%r, %e]) at "m"
  }
}
"""


def peak(init: str, used: str, width: int, batch: int) -> dict[str, int]:
    text = PROGRAM.replace("%INIT", f"%{init}").replace("%USED", f"%{used}").replace("WIDTH", str(width))
    program = next(iter(parse_module(text, "test").ops))
    assert isinstance(program, layer.ProgramOp)
    live = live_points(program.body.block, program.body.block.args)
    sizes = live.bytes_at({"batch": batch})
    return {point.path: int(size) for point, size in zip(live.points, sizes, strict=True)}


def test_values_live_from_their_op_to_their_last_use() -> None:
    # Rows of 10: x 10 bytes all the time; a, h, c, d, r 40; b 80; e 10.  h takes over the memory of a.
    assert peak("a", "r", 10, 1) == {
        "a": 50, "v": 50, "r.b": 10 + 40 + 80, "r.c": 10 + 80 + 40, "r.d": 10 + 40 + 40, "e": 10 + 40 + 10,
    }  # fmt: skip


def test_a_view_keeps_its_base_and_a_value_used_later_is_copied_into_the_repeat() -> None:
    # v is used after the repeat, so a stays all through it, beside h.
    assert peak("a", "v", 2, 3) == {
        "a": 150, "v": 150, "r.b": 3 * (10 + 40 + 40 + 80), "r.c": 3 * (10 + 40 + 80 + 40),
        "r.d": 3 * (10 + 40 + 40 + 40), "e": 3 * (10 + 40 + 40 + 2),
    }  # fmt: skip


def unrolled_peak(program: layer.ProgramOp, stage: Block, bindings: dict[str, int]) -> int:
    """The peak of an execution with every iteration written out and values freed after their last use."""
    trace: list[tuple[list[int], list[int]]] = []  # per executed op: buffers used, buffers made
    sizes: list[int] = []
    where: dict[SSAValue, int | None] = {}

    def allocate(value: SSAValue) -> int:
        sizes.append(int(tensor(value).bytes.evaluate(bindings)))
        return len(sizes) - 1

    def run(block: Block) -> None:
        for op in block.ops:
            used = [b for v in op.operands if (b := where.get(v)) is not None]
            made: list[int] = []
            match op:
                case layer.SourceOp():
                    where[op.result] = None
                    continue
                case layer.RepeatOp():
                    carried = [where[v] for v in op.inits]
                    for _ in range(op.trip_count):
                        where.update(zip(op.body.block.args, carried, strict=True))
                        run(op.body.block)
                        last = op.body.block.last_op
                        assert last is not None
                        carried = [where[v] for v in last.operands]
                    where.update(zip(op.results, carried, strict=True))
                    continue
                case layer.SliceOp() | dist.LocalSliceOp() | layer.KvAppendOp():
                    where[op.results[0]] = where[op.operands[0]]
                case _:
                    for result in op.results:
                        where[result] = allocate(result)
                        made.append(len(sizes) - 1)
            trace.append((used, made))

    arguments = [
        a for a in program.body.block.args if any(stage.find_ancestor_op_in_block(u.operation) for u in a.uses)
    ]
    for argument in program.body.block.args:
        where[argument] = allocate(argument) if argument in arguments else None
    inputs = {b for a in arguments if (b := where[a]) is not None}
    run(stage)
    last_use = {b: i for i, (used, made) in enumerate(trace) for b in (*used, *made)}
    live, most = set(inputs), 0
    for index, (_, made) in enumerate(trace):
        live |= set(made)
        most = max(most, sum(sizes[b] for b in live))
        live = {b for b in live if b in inputs or last_use[b] > index}
    return most


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize(
    "mesh",
    [
        {},
        {"tp": 2, "dp": 4, "ep": 2, "moe_tp": 4},
        {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2, "sp": True, "pp": 2},
        {"tp": 2, "cp": 4, "dp": 2, "ep": 16, "q_len": 4},
    ],
)
def test_the_peak_is_that_of_an_unrolled_execution(phase: str, mesh: dict[str, Any]) -> None:
    module = small(f"dsv3-{phase}-ep32", "deepseek-v3", **mesh)
    footprint = memory_footprint(module, PLAIN)
    program = next(iter(module.ops))
    assert isinstance(program, layer.ProgramOp)
    staged = [op.body.block for op in program.body.block.ops if isinstance(op, dist.StageOp)] or [program.body.block]
    for stage, block in zip(footprint.stages, staged, strict=True):
        assert stage.activation_bytes == unrolled_peak(program, block, dict(footprint.bindings))


# -- against the addresses of the tile level --------------------------------------------------------------------

TILE_BOUND = 1.5
"""The allocation keeps inputs and outputs all the time, copies values into the carried array of a repeat and strided
views into dense ones, and places arrays first-fit: up to half as much again as what is alive."""


@pytest.mark.parametrize(
    ("deployment", "model", "mesh"),
    [
        ("llama-8b-decode", "llama-3.1-8b", {}),
        ("llama-70b-prefill-tp8", "llama-3.1-70b", {}),
        ("dsv3-decode-ep32", "deepseek-v3", {}),
        ("dsv3-prefill-ep32", "deepseek-v3", {"tp": 2, "dp": 4, "ep": 4, "moe_tp": 2}),
        ("llama-8b-decode", "llama-3.1-8b", {"pp": 3}),
        ("llama-70b-prefill-tp8", "llama-3.1-70b", {"tp": 4, "pp": 2, "sp": True}),
        ("llama-70b-prefill-tp8", "llama-3.1-70b", {"tp": 2, "cp": 4}),
        ("dsv3-decode-ep32", "deepseek-v3", {"tp": 2, "dp": 2, "ep": 4, "pp": 2}),
    ],
)
def test_the_allocation_of_a_shrunk_model_is_near_the_estimate(
    deployment: str, model: str, mesh: dict[str, Any]
) -> None:
    estimate = memory_footprint(small(deployment, model, **mesh), PLAIN)
    assert len(estimate.stages) == mesh.get("pp", 1)
    _check_allocation(small(deployment, model, "tile", **mesh), estimate)


def test_the_allocation_of_llama_8b_is_near_the_estimate() -> None:
    estimate = memory_footprint(compiled("llama-3.1-8b", "llama-8b-decode"), PLAIN)
    _check_allocation(compiled("llama-3.1-8b", "llama-8b-decode", "tile"), estimate)


LLAMA_70B_PARAMETERS = 70_553_706_496
"""As counted by transformers."""


def test_two_stages_hold_llama_70b_where_one_chip_does_not() -> None:
    """The weights take 2 x 70.55 GB, and a chip has 137 GB: half the layers fit, and either the table or the head."""
    bf16: dict[str, Any] = {"weights": "bf16", "activations": "bf16", "kv_cache": "bf16", "keep": []}
    changes: dict[str, Any] = {"tp": 1, "pp": 2, "batch": 8, "quantization": bf16}
    estimate = memory_footprint(compiled("llama-3.1-70b", "llama-70b-decode-tp8", **changes), PLAIN)
    tiles = compiled("llama-3.1-70b", "llama-70b-decode-tp8", "tile", **changes)
    caches = 2 * 80 * 8 * 4096 * 8 * 128 * 2  # keys and values, layers, sequences, tokens, heads, dims, bytes
    for arrays, stage in zip(_stages(tiles), estimate.stages, strict=True):
        assert _stored_bytes(arrays) == stage.weight_bytes + stage.state_bytes
        assert max(map(_end, arrays)) == pytest.approx((2 * LLAMA_70B_PARAMETERS + caches) / 2, rel=0.01)
    compiled("llama-3.1-70b", "llama-70b-decode-tp8", "commands", **changes)
    with pytest.raises(PmcError, match=r"allocate-dram: program 'llama-3.1-70b' needs .* bytes too many"):
        compiled("llama-3.1-70b", "llama-70b-decode-tp8", "tile", **{**changes, "pp": 1})


def _stages(tiles: ModuleOp) -> list[list[GlobalOp]]:
    """The arrays of every stage, or of the program where it has none."""
    bodies = [op for op in tiles.walk() if isinstance(op, StageOp)] or [tiles]
    return [[op for op in body.walk() if isinstance(op, GlobalOp)] for body in bodies]


def _end(array: GlobalOp) -> int:
    assert array.address is not None
    return array.address.value.data + array.memref.bytes


def _stored_bytes(arrays: list[GlobalOp]) -> int:
    return sum(op.memref.bytes for op in arrays if op.kind.data in ("weight", "state"))


def _check_allocation(tiles: ModuleOp, estimate: MemoryFootprint) -> None:
    inputs = [op for op in tiles.walk() if isinstance(op, GlobalOp) and op.kind.data == "input"]
    for arrays, stage in zip(_stages(tiles), estimate.stages, strict=True):
        stored = stage.weight_bytes + stage.state_bytes
        assert _stored_bytes(arrays) == stored
        padding = 32 * len(arrays)
        if len(estimate.stages) > 1:  # the inputs, which every rank has, stand outside the stages
            padding += sum(op.memref.bytes + 32 for op in inputs)
        needed = stored + stage.activation_bytes
        assert needed <= max(map(_end, arrays)) <= stored + TILE_BOUND * stage.activation_bytes + padding


# -- feasibility ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "deployment", "mesh"),
    [
        ("llama-3.1-8b", "llama-8b-decode", {}),
        ("deepseek-v3", "dsv3-decode-ep32", {}),
        ("deepseek-v3", "dsv3-prefill-ep32", {"tp": 4, "dp": 4, "ep": 16, "pp": 2}),
    ],
)
def test_the_largest_batch_fits_and_the_next_does_not(model: str, deployment: str, mesh: dict[str, Any]) -> None:
    module = compiled(model, deployment, **mesh)
    chosen = options(reserve_fraction=0.1, kv_block_tokens=64)
    largest = memory_footprint(module, chosen).largest_batch
    assert largest is not None and largest > 1
    at, beyond = (memory_footprint(module, chosen, {"batch": b}) for b in (largest, largest + 1))
    assert at.fits and at.excess_bytes <= 0 and at.verdict.startswith("fits: ")
    assert not beyond.fits and beyond.largest_batch == largest
    assert beyond.excess_bytes == beyond.fullest.total_bytes - SG2262.dram_bytes > 0
    assert f"{beyond.excess_bytes} bytes too many" in beyond.verdict
    assert f"the largest batch that fits is {largest}" in beyond.verdict


def test_llama_8b_fits_as_many_sequences_as_the_sum_says() -> None:
    module = compiled("llama-3.1-8b", "llama-8b-decode")
    footprint = memory_footprint(module, PLAIN)
    one, two = (memory_footprint(module, PLAIN, {"batch": b}).stages[0] for b in (1, 2))
    per_sequence = two.total_bytes - one.total_bytes
    free = SG2262.dram_bytes - one.total_bytes
    assert footprint.largest_batch == 1 + free // per_sequence


def test_points_of_arrays_are_the_points_one_by_one() -> None:
    module = compiled("deepseek-v3", "dsv3-decode-ep32", tp=2, dp=8, ep=16, pp=2)
    chosen = options(kv_block_tokens=16, micro_batches=3, reserve_fraction=0.02)
    plan = FootprintPlan.of(module, chosen)
    batches, lengths = np.array([[1], [7], [4096]]), np.array([128, 1000, 70000])
    needs = plan.needs({"batch": batches, "q_len": 1, "kv_len": lengths}, SG2262.dram_bytes)
    assert needs.shape == (3, 3)
    for i, batch in enumerate(batches[:, 0]):
        for j, kv_len in enumerate(lengths):
            point = memory_footprint(module, chosen, {"batch": int(batch), "kv_len": int(kv_len)})
            assert needs[i, j] == point.fullest.total_bytes


def test_what_alone_exceeds_is_named() -> None:
    footprint = memory_footprint(with_chip(compiled("llama-3.1-8b", "llama-8b-decode"), capacity_gib=8.0), PLAIN)
    assert footprint.largest_batch == 0
    assert "weights and states alone exceed the capacity; no batch fits" in footprint.verdict


def test_a_program_without_the_symbol_has_no_largest_batch() -> None:
    text = str(compiled("llama-3.1-8b", "llama-8b-decode")).replace("batch*q_len", "32").replace("[batch", "[32")
    footprint = memory_footprint(parse_module(text, "bound"), PLAIN)
    assert footprint.largest_batch is None and footprint.fits
    symbolic = memory_footprint(compiled("llama-3.1-8b", "llama-8b-decode"), PLAIN)
    assert footprint.fullest.parts == symbolic.fullest.parts


# -- forms and errors -------------------------------------------------------------------------------------------


def test_every_form_holds_the_same_bytes() -> None:
    footprint = memory_footprint(
        compiled("deepseek-v3", "dsv3-decode-ep32", tp=2, dp=8, ep=16, pp=2), options(reserve_bytes=7)
    )
    rows = footprint.to_rows()
    assert all(tuple(row) == MemoryFootprint.COLUMNS for row in rows)
    for stage in footprint.stages:
        sizes = [row["bytes"] for row in rows if row["stage"] == stage.stage]
        assert sum(s for s in sizes if isinstance(s, int)) == stage.total_bytes
    data = json.loads(footprint.to_json())
    assert data["rows"] == rows and data["fits"] is True
    assert [s["total_bytes"] for s in data["stages"]] == [s.total_bytes for s in footprint.stages]
    read = list(csv.DictReader(io.StringIO(footprint.to_csv())))
    assert [int(row["bytes"]) for row in read] == [row["bytes"] for row in rows]


def test_sub_byte_weights_are_packed() -> None:
    packed: dict[str, Any] = {"quantization.weights": "i4"}
    module = compiled("llama-3.1-8b", "llama-8b-decode", **packed)
    rows = {row.path: row for row in memory_footprint(module, PLAIN).stages[0].weights}
    row = rows["blocks.dense.ffn.up_proj.weight"]
    assert row.element_type == "i4" and row.bytes * 2 == 32 * 4096 * 14336
    assert (
        element_bits(tensor(next(o for o in module.walk() if isinstance(o, layer.WeightOp)).result).element_type) == 16
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reserve_fraction": 1.0}, "reserve_fraction is 1.0, must be at least 0 and less than 1"),
        ({"reserve_bytes": -1}, "reserve_bytes is -1, must be at least 0"),
        ({"kv_block_tokens": 0}, "kv_block_tokens is 0, must be at least 1"),
        ({"micro_batches": 0}, "micro_batches is 0, must be at least 1"),
    ],
)
def test_options_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PmcError) as caught:
        options(**changes)
    assert str(caught.value) == message


def test_a_module_without_the_shapes_of_a_rank_is_refused() -> None:
    with pytest.raises(
        PmcError, match=r"^memory of program 'llama-3.1-8b': expected the layer or dist level, found tile"
    ):
        memory_footprint(small("llama-8b-decode", "llama-3.1-8b", "tile"), PLAIN)
    from pmc.compiler.driver import run_pipeline
    from pmc.compiler.pipelines import default_pipeline

    module = load_model("llama-3.1-8b")
    module.attributes["arch.chip"] = ChipAttr(SG2262)
    run_pipeline(module, default_pipeline(load_deployment("llama-8b-decode"), "dist")[:3])
    with pytest.raises(PmcError, match=r"the types are those of whole tensors; run localize first$"):
        memory_footprint(module, PLAIN, {"batch": 1, "q_len": 1, "kv_len": 1})


def test_a_symbol_without_a_value_is_named() -> None:
    module = compiled("llama-3.1-8b", "llama-8b-decode")
    del module.attributes["arch.deployment"]
    with pytest.raises(PmcError, match=r"^memory of program 'llama-3.1-8b': symbol 'kv_len' of .* has no value$"):
        memory_footprint(module, PLAIN, {"batch": 1, "q_len": 1})
