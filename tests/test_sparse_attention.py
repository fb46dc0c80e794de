"""DeepSeek sparse attention from the config to commands: the cases D1 to D11 of its plan, and what is refused.

D1 to D3 are about the decomposition, D4 to D8 about commands and time, D9 about results of parameters that were never
validated, D10 about mutations that must turn other cases red (more of them in `tests/check`), D11 about what stays as
it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from pmc.backends.evaluate.engine import evaluate_module
from pmc.backends.g5.stream import Part, StepTimes, simulate
from pmc.compiler.config import (
    ConfigError,
    load_accounting,
    load_chip,
    load_deployment,
    load_model_config,
    load_topology,
)
from pmc.compiler.driver import compile_model
from pmc.compiler.evaluation import EvaluationOptions, evaluate_request
from pmc.compiler.frontend import import_hf
from pmc.dialects import dist, g5, layer, model, tile
from pmc.dialects.analyses import topk_tiling
from pmc.dialects.analyses.hazards import Command, Item, lags
from pmc.dialects.analyses.kernel_work import kernel_work
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.arch import Chip
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.levels import Level
from pmc.dialects.tensor import tensor
from pmc.dialects.vector_kinds import SoftmaxStepAttr
from pmc.passes.expand_blocks.attention import expand_mla
from pmc.passes.expand_blocks.block_builder import BlockBuilder
from pmc.passes.tiling.code import path_of

KV_LEN, TOP_K = expr("kv_len"), 2048
CHAIN = (
    ("indexer.wq_b", "layer.matmul"),
    ("indexer.wk", "layer.matmul"),
    ("indexer.scores", "layer.index_scores"),
    ("indexer.topk", "layer.topk_select"),
    ("gather_c_kv", "layer.gather_rows"),
    ("gather_k_rope", "layer.gather_rows"),
    ("attention", "layer.sparse_attention"),
)
"""What sparse attention is made of besides the projections of MLA, in order."""


def compiled(deployment: Deployment, level: Level, **changes: Any) -> ModuleOp:
    config, source = load_model_config("deepseek-v3.2")
    module = import_hf({**config, **changes}, source, "deepseek-v3.2")
    compile_model(module, load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment, level)
    return module


DECODE_CHANGES: dict[str, Any] = {}


def deployed(phase: str, **changes: Any) -> Deployment:
    return load_deployment(f"dsv32-{phase}-ep32", {**(DECODE_CHANGES if phase == "decode" else {}), **changes})


def one(module: ModuleOp, kind: type[Any], path: str = "") -> Any:
    """The op of a kind in the layers of experts."""
    found = ((path_of(op), op) for op in module.walk() if isinstance(op, kind))
    return next(op for where, op in found if "moe.dsa" in where and where.endswith(path))


def sizes(value: SSAValue, **bindings: int) -> list[int]:
    return [int(dim.evaluate(bindings)) for dim in tensor(value).dims]


# -- the config -------------------------------------------------------------------------------------------------


def test_the_preset_has_the_indexer_of_the_published_config() -> None:
    config, source = load_model_config("deepseek-v3.2")
    module = import_hf(config, source, "v32")
    blocks = [block for block, _ in model.model_blocks(module) if isinstance(block, model.DsaOp)]
    assert [b.path.data for b in blocks] == ["blocks.dense.dsa", "blocks.moe.dsa"]
    sizes = [b.properties[n] for b in blocks for n in ("index_n_heads", "index_head_dim", "index_topk")]
    assert [getattr(size, "value").data for size in sizes] == [64, 128, 2048] * 2  # noqa: B009
    v3 = import_hf(*load_model_config("deepseek-v3"), "v3")
    # Index queries from the latent, the index key and its norm with a bias, the weights of the heads; 61 layers.
    added = 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    assert model.parameter_count(module) - model.parameter_count(v3) == 61 * added == 851_524_864


@pytest.mark.parametrize("field", ["index_n_heads", "index_head_dim", "index_topk"])
def test_a_missing_field_of_the_indexer_is_named(field: str) -> None:
    config, _ = load_model_config("deepseek-v3.2")
    without = {name: value for name, value in config.items() if name != field}
    with pytest.raises(ConfigError) as error:
        import_hf(without, "mine.json", "mine")
    assert str(error.value) == f"mine.json: {field}: missing, expected an integer of at least 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"q_lora_rank": None},
            "mine.json: q_lora_rank: null, but the indexer projects the query latent: expected an integer",
        ),
        (
            {"index_head_dim": 64},
            "mine.json: model.dsa at 'blocks.dense.dsa': index_head_dim 64 must be more than the rotated "
            "qk_rope_head_dim 64",
        ),
        ({"index_topk": 0}, "mine.json: index_topk: expected an integer of at least 1, found 0"),
    ],
)
def test_an_indexer_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    config, _ = load_model_config("deepseek-v3.2")
    with pytest.raises(ConfigError) as error:
        import_hf({**config, **changes}, "mine.json", "mine")
    assert str(error.value) == message


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(
        PmcError, match=r"index_heads dim of .*weights_proj\.weight' has 6 elements, not divisible by tp"
    ):
        compiled(deployed("decode", tp=4, dp=8), "dist", index_n_heads=6)


# -- shards -----------------------------------------------------------------------------------------------------


def test_index_heads_are_split_over_tp_and_their_scores_are_summed() -> None:
    module = compiled(deployed("decode", tp=4, dp=8), "dist")
    scores = one(module, layer.IndexScoresOp)
    assert scores.heads == 16 and scores.y.type.partial_axes == ("tp",)
    (reduced,) = (use.operation for use in scores.y.uses)
    assert isinstance(reduced, dist.AllReduceOp)
    # 256 sequences over 8: the scores of 32 against all keys, in FP32, as every rank needs them to select the same.
    assert sizes(reduced.y, batch=256, q_len=1, kv_len=131072) == [32, 131072]
    (topk,) = (use.operation for use in reduced.y.uses)
    assert isinstance(topk, layer.TopkSelectOp)
    assert one(module, layer.SparseAttentionOp).heads == 32


def test_ranks_of_cp_gather_the_keys_and_score_them_for_their_own_queries() -> None:
    module = compiled(deployed("prefill", dp=16, cp=2, q_len=1024), "dist")
    scores, topk = one(module, layer.IndexScoresOp), one(module, layer.TopkSelectOp)
    lengths = {"batch": 32, "q_len": 1024, "kv_len": 4096}
    assert sizes(scores.y, **lengths) == [2 * 512, 4096]
    for value in (*scores.k, *(op.cache for op in module.walk() if isinstance(op, layer.GatherRowsOp))):
        assert isinstance(value.owner, dist.AllGatherOp | dist.CollectiveGroupOp)
        assert sizes(value, **lengths)[1] == 4096
    # Query i of rank r stands at 2 i + r of the last 1024 of 4096.
    assert topk.position(expr("i")).evaluate({"i": 7, "cp.rank": 1, **lengths}) == 4096 - 1024 + 15
    attention = one(module, layer.SparseAttentionOp)
    assert attention.last_slot(expr("i")).evaluate({"i": 512 + 7, "cp.rank": 1, **lengths}) == 4096 - 1024 + 15


# -- the decomposition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_d1_the_indexer_scores_all_keys(phase: str) -> None:
    module = compiled(deployed(phase), "layer")
    ops = [(op.path.data, op.name) for op in module.walk() if isinstance(op, layer.LayerOp)]
    places = [ops.index((f"blocks.moe.dsa.{path}", name)) for path, name in CHAIN]
    assert places == sorted(places)
    scores = one(module, layer.IndexScoresOp)
    assert tensor(scores.y).dims[1] == KV_LEN  # not what is selected
    assert [tensor(key).dims[1] for key in scores.k] == [KV_LEN, KV_LEN]
    at = {"batch": 3, "q_len": 2, "kv_len": 5000}
    assert scores.work().flops.evaluate(at) == 2 * 6 * 5000 * 64 * 128
    assert scores.compute_dtype() == "f8E4M3FN"


def test_d2_the_indexer_dominates_long_contexts() -> None:
    module = compiled(deployed("decode"), "layer")
    scores, attention = one(module, layer.IndexScoresOp), one(module, layer.SparseAttentionOp)
    ratios: list[float] = []
    for kv_len in (2**17, 2**18, 2**19, 2**20):
        at = {"batch": 1, "q_len": 1, "kv_len": kv_len}
        ratios.append(scores.work().flops.evaluate(at) / attention.work().flops.evaluate(at))
    # keys * 64 heads of 128 against 2048 keys * 128 heads of (512 + 64) + 512
    assert ratios == pytest.approx([n * 64 * 128 / (TOP_K * 128 * 1088) for n in (2**17, 2**18, 2**19, 2**20)])
    assert ratios == sorted(ratios) and ratios[0] > 3


@pytest.mark.parametrize(("kv_len", "keys"), [(1000, 1000), (2048, 2048), (100_000, 2048)])
def test_d3_scores_are_of_all_keys_and_attention_of_those_selected(kv_len: int, keys: int) -> None:
    module = compiled(deployed("decode"), "layer")
    scores, attention = one(module, layer.IndexScoresOp), one(module, layer.SparseAttentionOp)
    at = {"batch": 1, "q_len": 1, "kv_len": kv_len}
    assert tensor(scores.y).dims[1].evaluate(at) == kv_len
    assert {tensor(value).dims[1].evaluate(at) for value in (*attention.k, attention.v)} == {keys}
    assert attention.work().flops.evaluate(at) == 2 * keys * 128 * (576 + 512)
    quadratic = [op for op in module.walk() if isinstance(op, layer.AttentionOp)]
    assert not quadratic  # nothing else attends to all keys


# -- commands and time ------------------------------------------------------------------------------------------

SMALL = {"prefill": {"q_len": 64, "kv_len": 3000}, "decode": {"batch": 64, "kv_len": 5000}}
"""Steps whose commands take little time to list: more keys than are selected, all of them masked for no query."""


@lru_cache
def commands(phase: str) -> ModuleOp:
    return compiled(deployed(phase, **SMALL[phase]), "commands")


def program(module: ModuleOp, path: str) -> g5.ProgramOp:
    found = [op for op in module.walk() if isinstance(op, g5.ProgramOp)]
    return next(op for op in found if op.path.data == f"blocks.moe.dsa.{path}")


@lru_cache
def step(phase: str) -> StepTimes:
    return simulate(commands(phase))


def part(phase: str, path: str) -> Part:
    return next(p for p in step(phase).parts if p.path == f"blocks.moe.dsa.{path}")


def timed(phase: str, path: str) -> list[list[tuple[g5.CommandOp, int, int]]]:
    """Of every core the commands of a kernel in the order in which they were given: op, start and end."""
    times = part(phase, path).times
    assert times is not None
    found: list[list[tuple[g5.CommandOp, int, int]]] = [[] for _ in range(times.commands.cores)]
    cores: list[int] = times.core.tolist()
    for index, core in enumerate(cores):
        found[core].append((times.op(index), int(times.start_ps[index]), int(times.end_ps[index])))
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_d4_attention_pays_for_its_softmax(phase: str) -> None:
    vec = part(phase, "attention").busy_ps["vec"]
    (softmax,) = (
        op
        for op in program(commands(phase), "attention").walk()
        if isinstance(op, g5.VecOp) and isinstance(op.kind, SoftmaxStepAttr)
    )
    assert dict(softmax.dependencies).keys() >= {"tiu"}
    assert vec > 0
    # Products and softmax of a tile follow each other: no core ends before it has done both.
    busy = part(phase, "attention").busy_ps
    assert part(phase, "attention").duration_ps > busy["tiu"] + softmax_ps(phase) > busy["tiu"]


def softmax_ps(phase: str) -> int:
    """The least that a core spends on softmax steps."""
    return min(
        sum(end - start for op, start, end in core if isinstance(op, g5.VecOp) and isinstance(op.kind, SoftmaxStepAttr))
        for core in timed(phase, "attention")
    )


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_d5_gathered_keys_and_values_are_loaded_once(phase: str) -> None:
    module = compiled(deployed(phase, **SMALL[phase]), "tile")
    kernels = {op.path.data: op for op in module.walk() if isinstance(op, tile.KernelOp)}
    owners: dict[SSAValue, tile.GlobalOp] = {}
    for found in (op for op in module.walk() if isinstance(op, tile.GlobalOp)):
        owners[found.result] = found
    for view in (op for op in module.walk() if isinstance(op, tile.ViewOp)):
        owners[view.result] = owners[view.source]
    loads = [op for op in kernels["blocks.moe.dsa.attention"].walk() if isinstance(op, tile.LoadOp)]
    sources = {owners[op.memref].path.data for op in loads if owners[op.memref].kind.data != "scratch"}
    gathers = {"blocks.moe.dsa.gather_c_kv", "blocks.moe.dsa.gather_k_rope"}
    # Nothing but queries and the buffers of the gather: no cache, and the values are the keys.
    assert {s for s in sources if "gather" in s} == gathers and not any("cache" in s for s in sources)
    tokens = {"prefill": 64, "decode": 2}[phase]
    for width, path in ((512, "gather_c_kv"), (64, "gather_k_rope")):
        (load,) = (op for op in loads if owners[op.memref].path.data == f"blocks.moe.dsa.{path}")
        moved = loaded_bytes(kernels["blocks.moe.dsa.attention"], load)
        assert moved == tokens * TOP_K * width == kernel_work(kernels[f"blocks.moe.dsa.{path}"]).bytes_written.constant


def loaded_bytes(kernel: tile.KernelOp, load: tile.LoadOp) -> int:
    """What one load brings from DRAM in all iterations of all cores: the work of the kernel, less that without it."""
    whole = kernel_work(kernel).bytes_read.constant
    copy = kernel.clone()
    loads = [op for op in kernel.walk() if isinstance(op, tile.LoadOp)]
    again = [op for op in copy.walk() if isinstance(op, tile.LoadOp)][loads.index(load)]
    block = again.parent_block()
    assert block is not None
    block.erase_op(again)
    return whole - kernel_work(copy).bytes_read.constant


@pytest.mark.parametrize(("phase", "domain"), [("prefill", "on_chip"), ("decode", "dram")])
def test_d6_gathered_rows_come_from_the_chip_in_prefill_and_from_dram_in_decode(phase: str, domain: str) -> None:
    module, tokens = commands(phase), {"prefill": 64, "decode": 2}[phase]
    for path, width in (("gather_c_kv", 512), ("gather_k_rope", 64)):
        found = program(module, path)
        (gather,) = (op for op in found.walk() if isinstance(op, g5.GatherRowsOp))
        assert (gather.ENGINE, gather.bandwidth_domain.data) == ("sdma", domain)
        resources = program_resources(found, load_chip("sg2262"))
        rows, index = tokens * TOP_K * width, tokens * TOP_K * 4
        assert resources.sdma_bytes.sum() == rows
        # Rows that the cores hold do not cross the DRAM interface; the buffer is written in either case.
        assert resources.dram_read == index + (rows if domain == "dram" else 0)
        assert resources.dram_written == rows


def test_d6_the_domain_decides_about_time() -> None:
    def gather_us(phase: str, **chip: float) -> float:
        data = load_chip("sg2262").model_dump()
        data["dram"]["bandwidth_gb_per_s"] *= chip.get("dram", 1.0)
        data["command_level"]["sdma"]["gb_per_s"] *= chip.get("sdma", 1.0)
        config, source = load_model_config("deepseek-v3.2")
        module = import_hf(config, source, "v32")
        # As many rows in both phases, to tell the domains apart.
        lengths = {"batch": 64, "kv_len": 5000} if phase == "decode" else {"batch": 64, "q_len": 1, "kv_len": 5000}
        compile_model(
            module, Chip.model_validate(data), load_topology("p1-r1-b4-c32"), deployed(phase, **lengths), "dist"
        )
        result = evaluate_module(module, "chip")
        return sum(s.time_us for s in result.steps if s.path == "blocks.moe.dsa.gather_c_kv")

    # The roofline: rows in and out of DRAM, or only out of it, and 4 bytes of position per row.
    assert gather_us("decode") / gather_us("prefill") == pytest.approx((1024 + 4) / (512 + 4))


def test_d7_a_selection_costs_what_all_keys_cost_and_no_sort_unit_is_asked() -> None:
    chip = load_chip("sg2262")

    def steps(keys: int, kept: int) -> float:
        selection = topk_tiling.Selection(64, keys, kept, 32, "f32")
        r = topk_tiling.resources(selection, topk_tiling.plan_selection(selection, chip), chip)
        return float(r.vec_steps[0])

    # One row per core, ten steps per key.
    assert [steps(n, 2048) for n in (4096, 8192, 2**17)] == [10 * n for n in (4096, 8192, 2**17)]
    assert {steps(8192, kept) for kept in (1, 16, 2048, 8192)} == {81_920}
    assert {op.ENGINE for op in program(commands("decode"), "indexer.topk").walk() if isinstance(op, g5.CommandOp)} == {
        "gdma",
        "vec",
    }


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_d8_nothing_of_the_chain_is_hidden(phase: str) -> None:
    """Kernels follow each other, and in a kernel every step on a tile waits for the one before."""
    order = [p.path.removeprefix("blocks.moe.dsa.") for p in step(phase).parts]
    chain = [path for path, _ in CHAIN if path not in ("indexer.wq_b", "indexer.wk")]
    places = [order.index(path) for path in chain]
    assert places == sorted(places)
    for path in chain:
        *_, last = program(commands(phase), path).body.block.ops
        assert isinstance(last, g5.BarrierOp)  # the next kernel starts when this one has ended
    for path in ("indexer.scores", "attention"):
        for core in timed(phase, path):
            compute = [(start, end) for op, start, end in core if op.ENGINE in ("tiu", "vec")]
            assert all(start >= end for (_, end), (start, _) in pairwise(compute)), path
    for path in ("gather_c_kv", "gather_k_rope"):
        for core in timed(phase, path):
            loads = [end for op, _, end in core if isinstance(op, g5.GdmaOp) and op.is_load]
            gathers = [(start, end) for op, start, end in core if isinstance(op, g5.GatherRowsOp)]
            stores = [start for op, start, _ in core if isinstance(op, g5.GdmaOp) and not op.is_load]
            assert len(loads) == len(gathers) == len(stores) > 0
            assert all(start >= end for (start, _), end in zip(gathers, loads, strict=True)), "gathers"
            assert all(start >= end for start, (_, end) in zip(stores, gathers, strict=True)), "stores"


def test_d9_what_was_never_validated_makes_the_result_relative() -> None:
    module = compiled(deployed("decode", **SMALL["decode"]), "dist")
    result = evaluate_module(module, "tile")
    assert "chip.command_level.gdma.startup_ns" in result.unvalidated
    assert json.loads(result.to_json())["relative_only"] is True


def test_d10_without_the_indexer_d1_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(build: BlockBuilder, x: SSAValue, chosen: SSAValue | None, op: Any, phase: str) -> tuple[SSAValue]:
        return (expand_mla(build, x, op, absorbed=True),)

    monkeypatch.setattr("pmc.passes.expand_blocks.program.expand_dsa", dense)
    monkeypatch.setitem(DECODE_CHANGES, "quantization.keep", [])  # of weights that are no longer there
    with pytest.raises(ValueError, match=r"indexer\.wq_b.* is not in list"):
        test_d1_the_indexer_scores_all_keys("decode")


@pytest.mark.parametrize(("engine", "where"), [("sdma", "stores"), ("tiu", "indexer.scores")])
def test_d10_without_an_edge_of_the_chain_d8_is_red(engine: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(items: Sequence[Item]) -> dict[Command, dict[str, int]]:
        found = lags(items)
        return {command: {e: lag for e, lag in waits.items() if e != engine} for command, waits in found.items()}

    monkeypatch.setattr("pmc.passes.emit_g5.lags", lost)
    for cached in (commands, step):
        cached.cache_clear()
    try:
        with pytest.raises(AssertionError, match=where):
            test_d8_nothing_of_the_chain_is_hidden("decode")
    finally:
        for cached in (commands, step):
            cached.cache_clear()


def test_d11_what_attends_to_all_keys_stays_as_it_was() -> None:
    module = import_hf(*load_model_config("deepseek-v3"), "v3")
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), load_deployment("dsv3-decode-ep32")
    compile_model(module, *target, "dist", accounting=load_accounting("ds-tpu"))
    sparse = (layer.IndexScoresOp, layer.TopkSelectOp, layer.GatherRowsOp, layer.SparseAttentionOp, layer.LayerNormOp)
    assert not any(isinstance(op, sparse) for op in module.walk())
    assert evaluate_module(module, "tile").total_us == pytest.approx(15591.045, abs=0.0005)


def test_a_result_says_that_gathered_rows_are_taken_to_be_held() -> None:
    def said(phase: str, **lengths: int) -> list[str]:
        result = evaluate_module(compiled(deployed(phase, **lengths), "dist"), "chip")
        return [text for text in result.assumptions if "gathers" in text]

    held = "rows that a prefill gathers are taken to be held by the cores: no read of DRAM is charged for them"
    # 576 bytes of every token of one sequence per chip, or of two, in 64 cores of 2 MiB.
    assert said("prefill") == [f"{held} (2.4 MB of a layer in 134.2 MB of LMEM)"]
    full = f"{held} (151.0 MB of a layer in 134.2 MB of LMEM, which they cannot)"
    assert said("prefill", batch=64, kv_len=2**17) == [full]
    assert said("decode") == []
    config, source = load_model_config("deepseek-v3.2")
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployed("decode", batch=32)
    request = evaluate_request(import_hf(config, source, "v32"), *target, 8192, 4, EvaluationOptions())
    assert f"{held} (4.7 MB of a layer in 134.2 MB of LMEM)" in request.assumptions
