"""The memory of a rank: weights and caches by their sizes on paper, activations against unrolled programs and tiles."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from pmc.backends.evaluate.footprint import MemoryFootprint, MemoryOptions
from pmc.backends.evaluate.memory import FootprintPlan, max_of_all, memory_footprint
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model, load_model, parse_module, run_pipeline
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects import layer
from pmc.dialects.analyses.value_arrays import Move, ProgramArrays, StageArrays, ValueArray
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.tensor import element_bits, tensor
from pmc.dialects.tile import GlobalOp, StageOp
from pmc.dialects.tile_plan import PLAN, PlanAttr

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
    quantization: dict[str, Any] = {
        "weights": "bf16",
        "activations": "bf16",
        "kv_cache": "bf16",
        "attention": "bf16",
        "keep": [],
        "types": [],
    }
    shrunk = Deployment.model_validate({**shrunk.model_dump(), "quantization": quantization})
    module = shrink_model(import_hf(config, source, model), shrunk, layers=4)
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


def alive(program: layer.ProgramOp, bindings: dict[str, int]) -> list[tuple[str, str, int]]:
    """Path and name of every step with the bytes in memory meanwhile, of a program without stages."""
    arrays = ProgramArrays.of(program)
    (stage,) = arrays.stages
    inputs = sum(int(a.type.bytes.evaluate(bindings)) for a in arrays.inputs)
    sizes = [int(a.type.bytes.evaluate(bindings)) for a in stage.lifetimes]
    held = [inputs + sum(sizes[i] for i in numbers) for numbers in stage.alive]
    return [(step.path, step.op, size) for step, size in zip(stage.steps, held, strict=False)]


def peak(init: str, used: str, width: int, batch: int) -> dict[str, int]:
    text = PROGRAM.replace("%INIT", f"%{init}").replace("%USED", f"%{used}").replace("WIDTH", str(width))
    program = next(iter(parse_module(text, "test").ops))
    assert isinstance(program, layer.ProgramOp)
    return {path: size for path, op, size in alive(program, {"batch": batch}) if op != "copy"}


def test_values_live_from_their_op_to_their_last_use() -> None:
    # Rows of 10: x 10 bytes all the time; a, h, c, d, r 40; b 80; e 10.  h, d and r have the memory of a all the time.
    assert peak("a", "r", 10, 1) == {
        "a": 50, "r.b": 10 + 40 + 80, "r.c": 10 + 40 + 80 + 40, "r.d": 10 + 40 + 40, "e": 10 + 40 + 10,
        "m": 10 + 40 + 10,
    }  # fmt: skip


def test_a_view_keeps_its_base_and_a_value_used_later_is_copied_into_the_repeat() -> None:
    # v is used after the repeat, so a stays all through it, beside h.
    assert peak("a", "v", 2, 3) == {
        "a": 150, "r.b": 3 * (10 + 40 + 40 + 80), "r.c": 3 * (10 + 40 + 40 + 80 + 40),
        "r.d": 3 * (10 + 40 + 40 + 40), "e": 3 * (10 + 40 + 40 + 2), "m": 3 * (10 + 40 + 2),
    }  # fmt: skip


Arrays = list[ValueArray]


def unrolled(found: ProgramArrays, block: Block) -> Iterator[tuple[Arrays, Arrays]]:
    """The arrays that every op and copy reads and writes, with every iteration written out."""

    def arrays(values: Iterable[SSAValue | ValueArray]) -> Arrays:
        held = [v if isinstance(v, ValueArray) else found.array_of[v] for v in values]
        return [a for a in held if isinstance(a, ValueArray) and a not in found.inputs]

    def moves(listed: Sequence[Move]) -> Iterator[tuple[Arrays, Arrays]]:
        for move in listed:
            yield arrays([move.source]), [move.destination]

    for op in block.ops:
        match op:
            case layer.SourceOp() | layer.SliceOp() | layer.YieldOp():
                pass
            case layer.RepeatOp():
                yield from moves(found.before[op])
                for _ in range(op.trip_count):
                    yield from unrolled(found, op.body.block)
                    yield from moves(found.handed_over[op])
            case layer.ReturnOp():
                yield from moves(found.returned)
            case _:
                yield arrays(op.operands), arrays(op.results)


def unrolled_peak(found: ProgramArrays, stage: StageArrays, bindings: dict[str, int]) -> int:
    """The most that is in memory when every array is free from its last read until it is written again."""

    def size(arrays: Iterable[ValueArray]) -> int:
        return sum(int(a.type.bytes.evaluate(bindings)) for a in arrays)

    live = {a for a in stage.arrays if a.is_output}
    most = size(live)
    for reads, writes in reversed(list(unrolled(found, stage.scope.body.block))):
        most = max(most, size(live | {*reads, *writes}))
        live = live - set(writes) | set(reads)
    return size(found.inputs) + most


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
    found = ProgramArrays.of(program)
    for stage, arrays in zip(footprint.stages, found.stages, strict=True):
        assert stage.activation_bytes == unrolled_peak(found, arrays, dict(footprint.bindings))


# -- against the addresses of the tile level --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployment", "model", "mesh"),
    [
        ("llama-8b-decode", "llama-3.1-8b", {}),
        ("llama-70b-prefill-tp8", "llama-3.1-70b", {}),
        ("dsv3-decode-ep32", "deepseek-v3", {}),
        ("dsv3-prefill-ep32", "deepseek-v3", {"tp": 2, "dp": 4, "ep": 4, "moe_tp": 2}),
        ("dsv32-prefill-ep32", "deepseek-v3.2", {"tp": 2, "dp": 4, "ep": 4, "moe_tp": 2}),
        ("llama-8b-decode", "llama-3.1-8b", {"pp": 3}),
        ("llama-70b-prefill-tp8", "llama-3.1-70b", {"tp": 4, "pp": 2, "sp": True}),
        ("llama-70b-prefill-tp8", "llama-3.1-70b", {"tp": 2, "cp": 4}),
        ("dsv3-decode-ep32", "deepseek-v3", {"tp": 2, "dp": 2, "ep": 4, "pp": 2}),
    ],
)
def test_the_footprint_of_a_shrunk_model_is_what_is_allocated(
    deployment: str, model: str, mesh: dict[str, Any]
) -> None:
    estimate = memory_footprint(small(deployment, model, **mesh), PLAIN)
    assert len(estimate.stages) == mesh.get("pp", 1)
    _check_allocation(small(deployment, model, "tile", **mesh), estimate)


def test_the_footprint_of_llama_8b_is_what_is_allocated() -> None:
    estimate = memory_footprint(compiled("llama-3.1-8b", "llama-8b-decode"), PLAIN)
    _check_allocation(compiled("llama-3.1-8b", "llama-8b-decode", "tile"), estimate)


def test_scratch_memory_of_a_plan_counts_while_its_op_runs() -> None:
    """Four cores along k leave partial sums of the logits, [4, 32, 128256] in FP32."""
    module = compiled("llama-3.1-8b", "llama-8b-decode")
    rest = default_pipeline(load_deployment("llama-8b-decode"), "commands")
    run_pipeline(module, [spec for spec in rest if spec.name == "bind-symbols"])
    before = memory_footprint(module, PLAIN).stages[0]
    head = next(op for op in module.walk() if isinstance(op, layer.MatmulOp) and op.path.data == "lm_head.proj")
    merges: dict[str, tuple[int, ...]] = {"dram": (1, 1, 4, 4), "sdma": (1, 1, 4, 4), "none": (1, 1, 4, 1)}
    grown: dict[str, int] = {}
    for merge, cores in merges.items():
        head.attributes[PLAN] = PlanAttr.of(cores, [32, 32, 32], "gmnk", merge=merge)
        after = memory_footprint(module, PLAIN).stages[0]
        assert (before.activation_path, after.activation_path) == ("lm_head.proj", "lm_head.proj")
        grown[merge] = after.activation_bytes - before.activation_bytes
        assert after.total_bytes - before.total_bytes == grown[merge]
    # From LMEM to LMEM only one result tile could go; such a plan is refused where it is used.
    assert grown == {"dram": 4 * 32 * 128256 * 4, "sdma": 0, "none": 0}


LLAMA_70B_PARAMETERS = 70_553_706_496
"""As counted by transformers."""


def test_two_stages_hold_llama_70b_where_one_chip_does_not() -> None:
    """The weights take 2 x 70.55 GB, and a chip has 137 GB: half the layers fit, and either the table or the head."""
    bf16: dict[str, Any] = {
        "weights": "bf16",
        "activations": "bf16",
        "kv_cache": "bf16",
        "attention": "bf16",
        "keep": [],
        "types": [],
    }
    changes: dict[str, Any] = {"tp": 1, "pp": 2, "pp_layers": "40,40", "batch": 8, "quantization": bf16}
    estimate = memory_footprint(compiled("llama-3.1-70b", "llama-70b-decode-tp8", **changes), PLAIN)
    tiles = compiled("llama-3.1-70b", "llama-70b-decode-tp8", "tile", **changes)
    caches = 2 * 80 * 8 * 4096 * 8 * 128 * 2  # keys and values, layers, sequences, tokens, heads, dims, bytes
    for arrays, stage in zip(_stages(tiles), estimate.stages, strict=True):
        assert _stored_bytes(arrays) == stage.weight_bytes + stage.state_bytes
        assert max(map(_end, arrays)) == pytest.approx((2 * LLAMA_70B_PARAMETERS + caches) / 2, rel=0.01)
    compiled("llama-3.1-70b", "llama-70b-decode-tp8", "commands", **changes)
    with pytest.raises(PmcError, match=r"allocate-dram: program 'llama-3.1-70b' needs .* bytes too many"):
        compiled("llama-3.1-70b", "llama-70b-decode-tp8", "tile", **{**changes, "pp": 1, "pp_layers": "balanced"})


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
    for arrays, stage in zip(_stages(tiles), estimate.stages, strict=True):
        assert _stored_bytes(arrays) == stage.weight_bytes + stage.state_bytes
        assert max(map(_end, arrays)) == stage.total_bytes


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
    least = max_of_all([stage.least({"batch": batches, "q_len": 1, "kv_len": lengths}) for stage in plan.stages])
    assert least.shape == (3, 3)
    for i, batch in enumerate(batches[:, 0]):
        for j, kv_len in enumerate(lengths):
            point = memory_footprint(module, chosen, {"batch": int(batch), "kv_len": int(kv_len)})
            # The bound does not know whether the last array ends with padding, of up to 31 bytes.
            assert 0 <= point.fullest.total_bytes - least[i, j] < SG2262.alignment_bytes


def test_what_alone_exceeds_is_named() -> None:
    footprint = memory_footprint(with_chip(compiled("llama-3.1-8b", "llama-8b-decode"), capacity_gib=8.0), PLAIN)
    assert footprint.largest_batch == 0
    assert "weights and states alone exceed the capacity; no batch fits" in footprint.verdict


def test_a_program_without_the_symbol_has_no_largest_batch() -> None:
    text = str(compiled("llama-3.1-8b", "llama-8b-decode")).replace("[batch*q_len", "[32").replace("[batch", "[32")
    text = text.replace("q_len = <q_len>", "q_len = <1>")
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
