"""The select-tiles pass: what it asks its planner, whose plans it keeps, and its errors."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.config import load_accounting, load_chip
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline
from pmc.compiler.tile_selection import tile_planner
from pmc.dialects import layer
from pmc.dialects.accounting import ACCOUNTING, Accounting, AccountingAttr
from pmc.dialects.analyses.attention_tiling import AttentionShape
from pmc.dialects.analyses.index_tiling import IndexShape
from pmc.dialects.analyses.matmul_tiling import MatmulShape
from pmc.dialects.analyses.planner import PLANNERS, PlannerRegistry
from pmc.dialects.analyses.split import Split
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.expr import expr
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.base import PassError
from pmc.passes.select_tiles import SelectTilesPass

PHYSICAL = load_accounting("physical")


def chip(lmem_bytes: int = 2 << 20) -> Chip:
    fields = load_chip("sg2262").model_dump()
    fields["command_level"]["lmem"]["bytes_per_core"] = lmem_bytes
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


def plans(module: ModuleOp) -> list[PlanAttr]:
    found = [op.attributes[PLAN] for op in module.walk() if PLAN in op.attributes]
    assert all(isinstance(p, PlanAttr) for p in found)
    return [p for p in found if isinstance(p, PlanAttr)]


@dataclass
class _Recording:
    """A planner with one plan for everything, which notes what it is asked."""

    asked: list[MatmulShape | IndexShape | AttentionShape] = field(
        default_factory=list[MatmulShape | IndexShape | AttentionShape]
    )
    made_for: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    PLAN = PlanAttr.of([1, 1, 2, 1], [16, 8, 16], "gmkn", 1)

    def __call__(self, chip: Chip, accounting: Accounting) -> "_Recording":
        self.made_for.append((chip.name, accounting.name))
        return self

    def matmul(self, shape: MatmulShape) -> PlanAttr:
        self.asked.append(shape)
        return self.PLAN

    def index_scores(self, shape: IndexShape) -> PlanAttr:
        self.asked.append(shape)
        return self.PLAN

    def attention(self, shape: AttentionShape) -> PlanAttr:
        self.asked.append(shape)
        return self.PLAN


@pytest.fixture
def recording() -> Iterator[_Recording]:
    planner = _Recording()
    PLANNERS.provide(planner)
    yield planner
    PLANNERS.provide(tile_planner)


def test_ops_of_equal_types_share_one_search_and_the_planner_is_the_one_provided(recording: _Recording) -> None:
    module = matmul_module(64, 512, 1024, chip())
    run_pipeline(module, [ArgSpec("select-tiles", {})])
    first, second, add = plans(module)
    assert first is second is _Recording.PLAN
    assert recording.asked == [
        MatmulShape(1, 64, 1024, 512, a_bits=16, b_bits=16, out_bits=16, dtype="bf16", converts=True)
    ]
    assert recording.made_for == [("sg2262", "physical")]
    # Row-wise ops need no search: 64 rows on 64 cores.
    assert add == PlanAttr.of([64, 1], [1, 1, 1024], "oi")


def test_an_existing_plan_is_kept() -> None:
    module = matmul_module(64, 512, 1024, chip())
    mine = PlanAttr.of([1, 1, 2, 1], [64, 512, 512], "gmnk")
    next(op for op in module.walk() if isinstance(op, layer.MatmulOp)).attributes[PLAN] = mine
    SelectTilesPass().apply(make_context(), module)
    first, second, _ = plans(module)
    assert first is mine and second != mine


def attention_module(q_len: int, causal: bool) -> ModuleOp:
    """Absorbed MLA: 128 heads share a latent of 512, whose values are its keys, and 64 of position."""
    rows = 64 * q_len
    text = f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%q : !layer.tensor<[{rows}, 65536], f8E4M3FN>, %r : !layer.tensor<[{rows}, 8192], f8E4M3FN>,
     %c : !layer.tensor<[64, 4096, 512], f8E4M3FN>, %k : !layer.tensor<[64, 4096, 64], f8E4M3FN>):
  %y = layer.attention([%q, %r], [%c, %k], %c) {{qk_dims = [512, 64], v_dim = 512, q_len = <{q_len}>, scale = 0.1,
    causal = {"true" if causal else "false"}}} at "p.attention" : !layer.tensor<[{rows}, 65536], bf16>
  layer.return([%y]) at "p"
}}"""
    module = Parser(make_context(), text).parse_module()
    module.attributes["arch.chip"] = ChipAttr(chip())
    module.attributes[ACCOUNTING] = AccountingAttr(PHYSICAL)
    return module


@pytest.mark.parametrize(("q_len", "masked"), [(1, False), (2, True)])
def test_an_attention_is_asked_for_as_it_is(recording: _Recording, q_len: int, masked: bool) -> None:
    SelectTilesPass().apply(make_context(), attention_module(q_len, causal=True))
    (shape,) = recording.asked
    assert isinstance(shape, AttentionShape)
    assert (shape.sequences, shape.kv_heads, shape.group, shape.q_len, shape.kv_len) == (64, 1, 128, q_len, 4096)
    assert shape.causal is masked  # the one query of a decode step sees every key


def test_attention_of_absorbed_mla_keeps_all_heads_in_one_unit() -> None:
    """128 heads share the latent: splitting them would read the cache again, so one unit per sequence is best."""
    module = attention_module(1, causal=True)
    SelectTilesPass().apply(make_context(), module)
    (plan,) = plans(module)
    assert plan.core_counts == (64, 1, 1)
    assert plan.tile_sizes[:2] == (1, 128)


def test_the_accounting_of_the_module_decides() -> None:
    """What a core receives: 128 rows of A and 264 columns of B are less than 64 rows and all 520 columns.

    Where that is free, all columns on every core have no remainder: 65 blocks of 8 do not divide by 2.
    """
    charged, free = (matmul_module(4096, 512, 520, chip()) for _ in range(2))
    free.attributes[ACCOUNTING] = AccountingAttr(load_accounting("ds-tpu"))
    for module in (charged, free):
        SelectTilesPass().apply(make_context(), module)
    assert plans(charged)[0].core_counts == (1, 32, 2, 1)
    assert plans(free)[0].core_counts == (1, 64, 1, 1)


def test_a_module_without_an_accounting_is_told_how_to_get_one() -> None:
    module = matmul_module(64, 512, 1024, chip())
    del module.attributes[ACCOUNTING]
    with pytest.raises(PmcError, match=r"^select-tiles: .* no attribute .arch\.accounting., .*--accounting"):
        SelectTilesPass().apply(make_context(), module)


def test_without_a_provider_the_pass_says_who_brings_one() -> None:
    with pytest.raises(PmcError, match=r"^no planner of tiles is provided: import pmc\.compiler\.pipelines"):
        PlannerRegistry().planner(chip(), PHYSICAL)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (matmul_module(4, 64, 64, None), "no attribute 'arch.chip'"),
        (
            matmul_module("batch", 64, 64, chip()),
            "layer.matmul at 'p.mm': symbol 'batch' of 'batch' has no value (run bind-symbols before)",
        ),
        (
            # Found by fuzzing: sizes that no machine integer holds.
            matmul_module(16, 64, 2**50, chip()),
            f"select-tiles: layer.matmul at 'p.mm': a tensor of {2**56} elements has no plan, at most {2**42} have",
        ),
        (
            # 45% of 4096 bytes.  A 16 x 16 (512 B, two slots) + B 16 x 8 (256 B, two slots) + C 16 x 8 f32 (512 B)
            # and bf16 (256 B) are 2304.
            matmul_module(16, 64, 8, chip(lmem_bytes=4096)),
            "select-tiles: layer.matmul at 'p.mm': no tile of 16 x 8 x 64 fits the LMEM budget of 1843 bytes per core",
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
