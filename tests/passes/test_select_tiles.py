"""The select-tiles pass: the search, its bounds and its errors."""

import time
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp, bf16
from xdsl.parser import Parser
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline
from pmc.compiler.tile_selection import tile_costs
from pmc.dialects import layer
from pmc.dialects.accounting import ACCOUNTING, Accounting, AccountingAttr
from pmc.dialects.analyses.split import Split
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import (
    TILE_COSTS,
    AttentionPlans,
    AttentionShape,
    FloatArray,
    MatmulPlans,
    MatmulShape,
    TileCostModel,
    TileCostRegistry,
)
from pmc.dialects.tile_plan import PlanAttr
from pmc.passes.base import PassError
from pmc.passes.select_tiles import PLAN, SelectTilesPass
from pmc.passes.tiling import attention, matmul
from pmc.passes.tiling.target import Target

PHYSICAL = load_accounting("physical")


def chip(lmem_bytes: int = 2 << 20, dram_gb_per_s: float = 8601.6) -> Chip:
    fields = load_chip("sg2262").model_dump()
    fields["command_level"]["lmem"]["bytes_per_core"] = lmem_bytes
    fields["dram"]["bandwidth_gb_per_s"] = dram_gb_per_s
    return Chip.model_validate(fields)


def matmul_module(m: int | str, k: int, n: int, target: Chip | None) -> ModuleOp:
    text = f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x : !layer.tensor<[{m}, {k}], bf16>):
  %w = layer.weight() {{axes = ["", ""]}} at "p.w" : !layer.tensor<[{k}, {n}], bf16>
  %y = layer.matmul(%x, %w) at "p.mm" : !layer.tensor<[{m}, {n}], bf16>
  %z = layer.matmul(%x, %w) at "p.mm2" : !layer.tensor<[{m}, {n}], bf16>
  %s = layer.add(%y, %z) at "p.add" : !layer.tensor<[{m}, {n}], bf16>
  layer.return([%s]) at "p"
}}"""
    module = Parser(make_context(), text).parse_module()
    module.verify()
    if target is not None:
        module.attributes["arch.chip"] = ChipAttr(target)
    module.attributes[ACCOUNTING] = AccountingAttr(PHYSICAL)
    return module


def cost_model(target: Chip) -> TileCostModel:
    return tile_costs(target, PHYSICAL)


def plans(module: ModuleOp) -> list[PlanAttr]:
    found = [op.attributes[PLAN] for op in module.walk() if PLAN in op.attributes]
    assert all(isinstance(p, PlanAttr) for p in found)
    return [p for p in found if isinstance(p, PlanAttr)]


def test_every_kernel_op_gets_a_plan_and_equal_ops_get_one_plan() -> None:
    module = matmul_module(64, 512, 1024, chip())
    SelectTilesPass().apply(make_context(), module)
    module.verify()
    first, second, add = plans(module)
    assert first is second
    assert len(first.core_counts) == len(first.tile_sizes) == 3
    assert np.prod(first.core_counts) <= 64
    assert np.prod(add.core_counts) <= 64


def test_an_existing_plan_is_kept() -> None:
    module = matmul_module(64, 512, 1024, chip())
    mine = PlanAttr.of([1, 1, 2], [64, 512, 512], "gmnk")
    next(op for op in module.walk() if isinstance(op, layer.MatmulOp)).attributes[PLAN] = mine
    SelectTilesPass().apply(make_context(), module)
    assert plans(module)[0] is mine


@pytest.mark.parametrize(("m", "k", "n"), [(5, 48, 72), (64, 7168, 2112), (513, 96, 40), (1, 4096, 128256)])
def test_the_choice_is_the_best_candidate_that_fits(m: int, k: int, n: int) -> None:
    mm = matmul.Matmul(1, m, n, k, bf16, bf16, bf16, False)
    target = Target(chip(), cost_model(chip()))
    found = matmul.candidates(mm, target)
    need = matmul.lmem_bytes(mm, found, target)
    seconds = cost_model(chip()).matmul_seconds(mm.shape, found)
    module = matmul_module(m, k, n, chip())
    SelectTilesPass().apply(make_context(), module)
    plan = plans(module)[0]
    chosen = [
        i
        for i in range(len(seconds))
        if (found.cores_g[i], found.cores_m[i], found.cores_n[i]) == plan.core_counts
        and (found.tile_m[i], found.tile_n[i], found.tile_k[i]) == plan.tile_sizes
        and plan.order.data == ("gmnk", "gnmk")[found.order[i]]
    ]
    assert len(chosen) == 1
    assert need[chosen[0]] <= target.budget
    assert seconds[chosen[0]] <= seconds[need <= target.budget].min() * (1 + 1e-6) + 1e-12


def test_more_memory_or_bandwidth_is_never_slower() -> None:
    def best(target_chip: Chip) -> float:
        mm = matmul.Matmul(1, 300, 5000, 3000, bf16, bf16, bf16, False)
        target = Target(target_chip, cost_model(target_chip))
        found = matmul.candidates(mm, target)
        fits = matmul.lmem_bytes(mm, found, target) <= target.budget
        return float(cost_model(target_chip).matmul_seconds(mm.shape, found)[fits].min())

    sizes = [best(chip(lmem_bytes=1 << b)) for b in range(16, 24)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    bandwidths = [best(chip(dram_gb_per_s=b)) for b in (100.0, 1000.0, 10000.0)]
    assert bandwidths == sorted(bandwidths, reverse=True)


def test_a_large_search_takes_milliseconds() -> None:
    target = Target(chip(), cost_model(chip()))
    module = matmul_module(4096, 7168, 18432, chip())
    op = next(op for op in module.walk() if isinstance(op, layer.MatmulOp))
    start = time.perf_counter()
    matmul.MatmulFamily().plan(op, target)
    assert time.perf_counter() - start < 0.5  # 20 ms on an idle machine


def test_attention_of_absorbed_mla_keeps_all_heads_in_one_unit() -> None:
    """128 heads share the latent: splitting them would read the cache again, so one unit per sequence is best."""
    text = """
layer.program() {sym_name = "p", phase = "decode"} at "p" {
^bb0(%q : !layer.tensor<[64, 65536], f8E4M3FN>, %r : !layer.tensor<[64, 8192], f8E4M3FN>,
     %c : !layer.tensor<[64, 4096, 512], f8E4M3FN>, %k : !layer.tensor<[64, 4096, 64], f8E4M3FN>):
  %y = layer.attention([%q, %r], [%c, %k], %c) {qk_dims = [512, 64], v_dim = 512, q_len = <1>, scale = 0.1,
    causal = true} at "p.attention" : !layer.tensor<[64, 65536], bf16>
  layer.return([%y]) at "p"
}"""
    module = Parser(make_context(), text).parse_module()
    module.attributes["arch.chip"] = ChipAttr(chip())
    module.attributes[ACCOUNTING] = AccountingAttr(PHYSICAL)
    SelectTilesPass().apply(make_context(), module)
    (plan,) = plans(module)
    assert plan.core_counts == (64,)
    assert plan.tile_sizes[:2] == (1, 128)
    op = next(op for op in module.walk() if isinstance(op, layer.AttentionOp))
    problem = attention.attention_of(op)
    assert problem.shape.v_is_key
    assert not problem.shape.causal  # the one query sees every key
    assert (problem.shape.kv_heads, problem.shape.group) == (1, 128)


class _Slowest:
    """Prefers what the tile model likes least."""

    def __init__(self, chip: Chip, accounting: Accounting) -> None:
        self.model = tile_costs(chip, accounting)

    def matmul_seconds(self, shape: MatmulShape, plans: MatmulPlans) -> FloatArray:
        return -self.model.matmul_seconds(shape, plans)

    def attention_seconds(self, shape: AttentionShape, plans: AttentionPlans) -> FloatArray:
        return -self.model.attention_seconds(shape, plans)


@pytest.fixture
def slowest() -> Iterator[None]:
    TILE_COSTS.provide(_Slowest)
    yield
    TILE_COSTS.provide(tile_costs)


def test_the_cost_model_is_the_one_that_is_provided(slowest: None) -> None:
    worst = matmul_module(64, 512, 1024, chip())
    run_pipeline(worst, [ArgSpec("select-tiles", {})])
    assert plans(worst)[0].tile_sizes[:2] == (16, 8)  # reads its operands again for every cube


def test_the_accounting_of_the_module_decides() -> None:
    """65 blocks of 8 columns: 8 x 8 cores read least, but one core in eight gets 9 of them where waves are whole."""
    whole, fractional = (matmul_module(4096, 512, 520, chip()) for _ in range(2))
    mean = PHYSICAL.model_copy(update={"waves": "fractional"})
    fractional.attributes[ACCOUNTING] = AccountingAttr(mean)
    for module in (whole, fractional):
        SelectTilesPass().apply(make_context(), module)
    assert plans(whole)[0].core_counts == (1, 64, 1)
    assert plans(fractional)[0].core_counts == (1, 8, 8)


def test_a_module_without_an_accounting_is_told_how_to_get_one() -> None:
    module = matmul_module(64, 512, 1024, chip())
    del module.attributes[ACCOUNTING]
    with pytest.raises(PmcError, match=r"^select-tiles: .* no attribute .arch\.accounting., .*--accounting"):
        SelectTilesPass().apply(make_context(), module)


def test_without_a_provider_the_pass_says_who_brings_one() -> None:
    with pytest.raises(PmcError, match=r"^no cost model of tiles is provided: import pmc\.compiler\.pipelines"):
        TileCostRegistry().model(chip(), PHYSICAL)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (matmul_module(4, 64, 64, None), "no attribute 'arch.chip'"),
        (matmul_module("batch", 64, 64, chip()), "layer.matmul at 'p.mm': 'batch' is not a constant"),
        (
            # A 16 x 16 (512 B, two slots) + B 16 x 8 (256 B, two slots) + C 16 x 8 f32 (512 B) and bf16 (256 B).
            matmul_module(16, 64, 8, chip(lmem_bytes=4096)),
            "layer.matmul at 'p.mm': the smallest tile (16 x 8 x 16) needs 2304 bytes of LMEM, "
            "the budget of a core is 1843",
        ),
    ],
)
def test_errors_name_the_op_and_the_limit(module: ModuleOp, message: str) -> None:
    with pytest.raises(PassError) as caught:
        SelectTilesPass().apply(make_context(), module)
    assert isinstance(caught.value, PmcError)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_cover_every_item_once() -> None:
    """All totals, core counts, tiles and granules: contiguous, complete, disjoint, no empty core, no empty tile."""
    for total, cores, tile, granule in product(range(1, 26), (1, 2, 3, 5), (1, 2, 3, 4, 7, 8), (1, 4)):
        split = Split.over(total, cores, tile, granule)
        assert 1 <= split.parts <= cores
        covered: list[int] = []
        for core in range(split.parts):
            trips = split.trips(expr(core)).constant
            assert 1 <= trips <= split.max_trips
            for index in range(trips):
                start = split.start(expr(core), expr(index)).constant
                size = split.size(expr(core), expr(index)).constant
                assert 1 <= size <= tile
                covered.extend(range(start, start + size))
        assert covered == list(range(total)), (total, cores, tile, granule)
