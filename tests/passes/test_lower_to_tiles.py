"""The lower-to-tiles pass: work is conserved, arrays are shared safely, and the kernels compute the same tensors."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue
from xdsl.parser import Parser

from pmc.backends.g5.program import lower
from pmc.backends.g5.run import run
from pmc.backends.numeric.layer import run_layer, seeded_layer_environment
from pmc.backends.numeric.rank_programs import run_commands
from pmc.compiler.config import load_accounting, load_chip, load_model_config
from pmc.compiler.context import make_context
from pmc.compiler.driver import parse_module
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import with_fp32
from pmc.dialects import g5, layer, tile
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.analyses.kernel_work import iterations, kernel_work
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.expr import product
from pmc.passes.allocate_dram import AllocateDramPass
from pmc.passes.allocate_lmem import AllocateLmemPass
from pmc.passes.annotate_shardings import AnnotateShardingsPass
from pmc.passes.base import PassError
from pmc.passes.bind_symbols import BindSymbolsPass
from pmc.passes.emit_g5 import EmitG5Pass
from pmc.passes.expand_blocks import ExpandBlocksPass
from pmc.passes.insert_collectives import InsertCollectivesPass
from pmc.passes.localize import LocalizePass
from pmc.passes.lower_to_tiles import LowerToTilesPass
from pmc.passes.partition_stages import PartitionStagesPass
from pmc.passes.quantize import QuantizePass
from pmc.passes.select_tiles import SelectTilesPass
from pmc.passes.tiling.families import family_of

ONE_RANK: dict[str, Any] = {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "moe_tp": 1, "sp": False}

TINY_LLAMA: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
    "intermediate_size": 72,
    "torch_dtype": "float32",
}
TINY_DEEPSEEK: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 50,
    "intermediate_size": 72,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 20,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "torch_dtype": "float32",
    "num_nextn_predict_layers": 0,
}


def small_chip(lmem_bytes: int) -> Chip:
    """Four cores with so little LMEM that every kernel has loops and edges."""
    fields = with_fp32(load_chip("sg2262")).model_dump()
    fields["cores"] = 4
    fields["command_level"]["noc"].update(mesh_columns=2, mesh_rows=2, cluster_columns=1, cluster_rows=1)
    fields["command_level"]["lmem"]["bytes_per_core"] = lmem_bytes
    return Chip.model_validate(fields)


def bound(values: tuple[int, int, int]) -> dict[str, int]:
    return {"batch": values[0], "q_len": values[1], "kv_len": values[2]}


def local(
    module: ModuleOp,
    chip: Chip,
    bindings: dict[str, int],
    deployment: dict[str, Any] | None = None,
    ring_exchange: str = "expanded",
) -> ModuleOp:
    """The module with the plans of one rank."""
    ctx = make_context()
    module.attributes["arch.chip"] = ChipAttr(chip)
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    for step in (
        AnnotateShardingsPass(**{**ONE_RANK, **(deployment or {})}),
        InsertCollectivesPass(ring_exchange),
        LocalizePass(),
        PartitionStagesPass(),
        BindSymbolsPass(**bindings),
        SelectTilesPass(),
    ):
        step.apply(ctx, module)
    return module


def expanded(name: str, phase: str, absorb: bool = True, capacity: str = "worst", **changes: object) -> ModuleOp:
    config, source = load_model_config(name)
    module = import_hf({**config, **changes}, source, name)
    ExpandBlocksPass(phase, absorb, capacity).apply(make_context(), module)
    return module


def lowered(text: str, lmem_bytes: int = 2 << 20) -> ModuleOp:
    """A handwritten program, planned and lowered."""
    ctx = make_context()
    module = parse_module(text, "test")
    module.attributes["arch.chip"] = ChipAttr(small_chip(lmem_bytes))
    module.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    SelectTilesPass().apply(ctx, module)
    LowerToTilesPass().apply(ctx, module)
    module.verify()
    return module


def kernels(module: ModuleOp) -> list[tile.KernelOp]:
    return [op for op in module.walk() if isinstance(op, tile.KernelOp)]


def arrays(module: ModuleOp, kind: str) -> list[tile.GlobalOp]:
    return [op for op in module.walk() if isinstance(op, tile.GlobalOp) and op.kind.data == kind]


# -- the same tensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lmem_bytes", [28672, 1 << 20])
@pytest.mark.parametrize(
    ("name", "phase", "bindings", "deployment", "changes"),
    [
        ("llama", "decode", (3, 1, 37), {}, {}),
        ("llama", "prefill", (2, 35, 70), {}, {"num_attention_heads": 2}),
        ("llama", "prefill", (2, 5, 5), {}, {"tie_word_embeddings": True}),
        ("llama", "prefill", (4, 6, 37), {"tp": 2, "sp": True, "dp": 2}, {}),
        ("llama", "prefill", (2, 6, 37), {"pp": 2}, {}),
        ("deepseek", "decode", (3, 2, 37), {}, {}),
        ("deepseek", "prefill", (2, 33, 44), {}, {"moe_intermediate_size": 33}),
        ("deepseek", "decode", (4, 1, 37), {"tp": 2, "dp": 2, "ep": 4}, {}),
        ("llama", "prefill", (2, 8, 40), {"tp": 2, "cp": 4}, {}),
        ("deepseek", "decode", (1, 4, 38), {"cp": 2, "ep": 2}, {}),
    ],
)
def test_the_commands_of_the_kernels_compute_what_the_tensor_program_computes(
    name: str,
    phase: str,
    bindings: tuple[int, int, int],
    deployment: dict[str, Any],
    changes: dict[str, Any],
    lmem_bytes: int,
) -> None:
    preset, tiny = ("llama-3.1-8b", TINY_LLAMA) if name == "llama" else ("deepseek-v3", TINY_DEEPSEEK)
    # Prefill of DeepSeek expands keys and values, decode absorbs the projections.
    module = expanded(preset, phase, phase == "decode", "worst", **{**tiny, **changes})
    sizes = bound(bindings)
    environment = seeded_layer_environment(module, sizes, seed=1)
    expected = run_layer(module, environment)
    local(module, small_chip(lmem_bytes), sizes, deployment)
    for step in (LowerToTilesPass(), AllocateLmemPass(), AllocateDramPass(), EmitG5Pass()):
        step.apply(make_context(), module)
        module.verify()
    found = run_commands(module, environment)
    for e, f in zip(expected.outputs, found.outputs, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-5)
    for path, state in expected.states.items():
        np.testing.assert_allclose(found.states[path], state, rtol=1e-4, atol=1e-5)


# -- the same work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "phase", "bindings", "deployment"),
    [
        ("deepseek-v3", "decode", (2048, 1, 4096), {"dp": 32, "ep": 32}),
        ("deepseek-v3", "prefill", (32, 1000, 1000), {"dp": 32, "ep": 32}),
        ("llama-3.1-8b", "decode", (7, 1, 513), {}),
        ("llama-3.1-8b", "prefill", (1, 777, 1000), {"tp": 8}),
    ],
)
def test_every_kernel_does_the_work_of_its_op(
    name: str, phase: str, bindings: tuple[int, int, int], deployment: dict[str, Any]
) -> None:
    """FLOPs are those of the op (causal attention: masked parts of edge tiles on top), traffic is never less."""
    module = expanded(name, phase, phase == "decode", "balanced")
    if name == "deepseek-v3":
        QuantizePass("f8E4M3FN", "f8E4M3FN", "f8E4M3FN", "f8E4M3FN", "").apply(make_context(), module)
    local(module, with_fp32(load_chip("sg2262")), bound(bindings), deployment)
    expected: dict[tuple[str, str], list[layer.LayerOp]] = defaultdict(list)
    for op in module.walk():
        if family_of(op) is not None and isinstance(op, layer.LayerOp):
            expected[op.name, op.path.data].append(op)
    works = {key: [op.work() for op in ops] for key, ops in expected.items()}
    causal = {key for key, ops in expected.items() if isinstance(ops[0], layer.AttentionOp) and phase == "prefill"}
    LowerToTilesPass().apply(make_context(), module)
    module.verify()
    assert sum(1 for _ in module.walk()) < 1000
    for kernel in kernels(module):
        key = (kernel.op_name.data, kernel.path.data)
        op_work, work = works[key].pop(0), kernel_work(kernel)
        if key in causal:
            assert 1 <= work.flops.constant / op_work.flops.constant < 1.25, key
        else:
            assert work.flops.constant == op_work.flops.constant, key
        taken, left = scratch_traffic(kernel)
        assert taken == left, "what the cores of a kernel leave for each other is read once"
        assert work.bytes_written.constant - left == op_work.bytes_written.constant, key
        assert work.bytes_read.constant - taken >= op_work.bytes_read.constant, key
        assert work.unit == op_work.unit, key
    assert not any(works.values())


def scratch_traffic(kernel: tile.KernelOp) -> tuple[int, int]:
    """The bytes that a kernel reads and writes of its scratch arrays."""
    moved = {True: 0, False: 0}
    for op in kernel.walk():
        if isinstance(op, tile.LoadOp | tile.StoreOp):
            array = op.memref.owner
            if isinstance(array, tile.GlobalOp) and array.kind.data == "scratch":
                elements = product(s.data for s in op.sizes.data)
                moved[isinstance(op, tile.LoadOp)] += iterations(op, [elements]).sum(elements) * 4
    return moved[True], moved[False]


# -- arrays -----------------------------------------------------------------------------------------------------

LOOP = """
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%x : !layer.tensor<[8, 32], bf16>, %c : !layer.tensor<[8, 32], bf16>):
  %t = layer.add(%x, %c) at "p.in" : !layer.tensor<[8, 32], bf16>
  %u = layer.add(%x, %x) at "p.in2" : !layer.tensor<[8, 32], bf16>
  %y, %z = layer.repeat 2 from 1 of 4 (%h = %t, %g = %u) at "p.loop" : !layer.tensor<[8, 32], bf16>,
      !layer.tensor<[8, 32], bf16> {{
    {body}
  }}
  %r = layer.add(%y, %z) at "p.out" : !layer.tensor<[8, 32], bf16>
  layer.return([%r]) at "p"
}}
"""
WEIGHT = '%w = layer.weight() {axes = ["", ""]} at "p.w" : !layer.tensor<[32, 32], bf16>\n'


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        # The last reader of %h is the add that makes its next value: in place.
        (
            WEIGHT + '%m = layer.matmul(%h, %w) at "p.mm" : !layer.tensor<[8, 32], bf16>\n'
            '%n = layer.add(%h, %m) at "p.add" : !layer.tensor<[8, 32], bf16>\n'
            'layer.yield([%n, %g]) at "p"',
            0,
        ),
        # A matmul reads rows again after it has written others: it cannot write into its operand.
        (
            WEIGHT + '%m = layer.matmul(%h, %w) at "p.mm" : !layer.tensor<[8, 32], bf16>\nlayer.yield([%m, %g]) at "p"',
            1,
        ),
        # The old value is read after the next one is made.
        (
            '%n = layer.add(%h, %g) at "p.add" : !layer.tensor<[8, 32], bf16>\n'
            '%k = layer.add(%g, %h) at "p.add2" : !layer.tensor<[8, 32], bf16>\n'
            'layer.yield([%n, %k]) at "p"',
            1,
        ),
        # A swap needs a copy of each value before either is overwritten.
        ('layer.yield([%g, %h]) at "p"', 4),
    ],
)
def test_loop_carried_values(body: str, copies: int) -> None:
    module = lowered(LOOP.format(body=body))
    repeat = next(op for op in module.walk() if isinstance(op, tile.RepeatOp))
    inside = [op for op in repeat.walk() if isinstance(op, tile.KernelOp) and op.op_name.data == "copy"]
    assert len(inside) == copies
    assert len([k for k in kernels(module) if k.op_name.data == "copy"]) == copies  # the initial values are not copied
    assert (repeat.symbol.data, repeat.count.value.data, repeat.first.value.data) == ("layer", 2, 1)
    for weight in arrays(module, "weight"):
        # Layers 1 and 2 of 4 run, and they are what is stored.
        assert tile.memref_type(weight.result).dims == (2, 32, 32) and weight.all_dims == (4, 32, 32)
        load = next(use.operation for use in weight.result.uses)
        assert isinstance(load, tile.LoadOp)
        assert str(load.offsets.data[0].data) == "layer - 1"


def test_slices_are_views_and_the_cache_is_updated_in_place() -> None:
    module = lowered("""
layer.program() {sym_name = "p", phase = "decode"} at "p" {
^bb0(%x : !layer.tensor<[6, 40], bf16>):
  %c = layer.state() {axes = ["", "", ""]} at "p.cache" : !layer.tensor<[2, 9, 16], bf16>
  %s = layer.slice(%x) {group = 40, offset = 4, size = 16} at "p.s" : !layer.tensor<[6, 16], bf16>
  %k = layer.kv_append(%c, %s) at "p.append" : !layer.tensor<[2, 9, 16], bf16>
  %y = layer.attention([%s], [%k], %k) {qk_dims = [8], v_dim = 8, q_len = <3>, scale = 1.0, causal = true}
    at "p.attention" : !layer.tensor<[6, 16], bf16>
  layer.return([%y]) at "p"
}""")
    assert [k.op_name.data for k in kernels(module)] == ["layer.kv_append", "layer.attention"]
    append = kernels(module)[0]
    views: dict[SSAValue, tile.MemRefType] = {
        op.result: tile.memref_type(op.result) for op in module.walk() if isinstance(op, tile.ViewOp)
    }
    load = next(op for op in append.walk() if isinstance(op, tile.LoadOp))
    # 16 columns from column 4 of rows that are 40 apart; 3 new positions of 2 sequences.
    loaded = views[load.memref]
    assert (loaded.dims, loaded.steps, loaded.offset.data.constant) == ((2, 3, 16), (120, 40, 1), 4)
    store = next(op for op in append.walk() if isinstance(op, tile.StoreOp))
    stored = views[store.memref]
    # Positions 6, 7, 8 of 9.
    assert (stored.steps[0], stored.offset.data.constant) == (9 * 16, 6 * 16)
    (state,) = arrays(module, "state")
    assert {tile.memref_type(a.result).dims for a in arrays(module, "activation")} == set()
    assert not state.layers


def test_reading_the_old_cache_after_the_update_is_an_error() -> None:
    text = """
layer.program() {sym_name = "p", phase = "decode"} at "p" {
^bb0(%x : !layer.tensor<[2, 16], bf16>):
  %c = layer.state() {axes = ["", "", ""]} at "p.cache" : !layer.tensor<[2, 9, 16], bf16>
  %k = layer.kv_append(%c, %x) at "p.append" : !layer.tensor<[2, 9, 16], bf16>
  %y = layer.attention([%x], [%c], %k) {qk_dims = [8], v_dim = 8, q_len = <1>, scale = 1.0, causal = true}
    at "p.attention" : !layer.tensor<[2, 16], bf16>
  layer.return([%y]) at "p"
}"""
    with pytest.raises(PassError, match=r"kv_append at 'p\.append' is read after the update"):
        lowered(text)


def test_an_op_without_a_plan_is_an_error() -> None:
    ctx = make_context()
    module = Parser(ctx, LOOP.format(body='layer.yield([%h, %g]) at "p"')).parse_module()
    module.attributes["arch.chip"] = ChipAttr(small_chip(1 << 20))
    with pytest.raises(PassError, match=r"layer\.add at 'p\.in' has no plan, run select-tiles before"):
        LowerToTilesPass().apply(ctx, module)


PLANNED = """
layer.program() {sym_name = "p", phase = "decode"} at "p" {
^bb0(%x : !layer.tensor<[8, 32], bf16>, %t : !layer.tensor<[8], i32>):
  %w = layer.weight() {axes = ["", ""]} at "p.w" : !layer.tensor<[32, 32], bf16>
  %m = layer.matmul(%x, %w) at "p.mm" attributes {tile.plan = #tile.plan<MATMUL>} : !layer.tensor<[8, 32], bf16>
  %a = layer.add(%m, %x) at "p.add" attributes {tile.plan = #tile.plan<ADD>} : !layer.tensor<[8, 32], bf16>
  %e = layer.embedding(%t, %w) at "p.embed" attributes {tile.plan = #tile.plan<EMBEDDING>}
    : !layer.tensor<[8, 32], bf16>
  %k = layer.weight() {axes = ["", "", ""]} at "p.k" : !layer.tensor<[2, 9, 16], bf16>
  %y = layer.attention([%a], [%k], %k) {qk_dims = [8], v_dim = 8, q_len = <4>, scale = 1.0, causal = true}
    at "p.attention" attributes {tile.plan = #tile.plan<ATTENTION>} : !layer.tensor<[8, 32], bf16>
  layer.return([%y, %e]) at "p"
}"""
PLANS = {
    "MATMUL": 'cores [1, 1, 2, 1], tile [16, 8, 16], order "gmnk", slots 2',
    "ADD": 'cores [4, 1], tile [2, 1, 32], order "oi", slots 2',
    "EMBEDDING": 'cores [4, 1], tile [2, 32], order "tn", slots 2',
    "ATTENTION": 'cores [4, 1, 1], tile [4, 2, 16], order "pus", slots 2',
}


def planned(op: str = "", old: str = "", new: str = "") -> ModuleOp:
    """A program whose plans are written by hand, on four cores with a budget of 45% of 64 KiB, 29491 bytes."""
    text = PLANNED
    for name, plan in PLANS.items():
        assert name != op or old in plan
        text = text.replace(name, plan.replace(old, new) if name == op else plan)
    module = parse_module(text, "test")
    module.attributes["arch.chip"] = ChipAttr(small_chip(1 << 16))
    LowerToTilesPass().apply(make_context(), module)
    return module


def test_plans_may_be_written_by_hand() -> None:
    assert [(k.op_name.data, k.cores.value.data) for k in kernels(planned())] == [
        ("layer.matmul", 2), ("layer.add", 4), ("layer.embedding", 4), ("layer.attention", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "old", "new", "message"),
    [
        ("MATMUL", "[1, 1, 2, 1]", "[1, 1, 5, 1]", "layer.matmul at 'p.mm': asks for 5 cores, chip sg2262 has 4"),
        ("MATMUL", "[16, 8, 16]", "[16, 0, 16]", "layer.matmul at 'p.mm': core counts and tile sizes must be at least"),
        ("MATMUL", "gmnk", "mnkg", "layer.matmul at 'p.mm': unknown order 'mnkg', must be gmnk or gnkm or gmkn"),
        ("MATMUL", "[16, 8, 16]", "[16, 8]", "'p.mm': needs 4 core counts and 3 tile sizes, found 4 and 2"),
        (
            # A 16 x 512 x 2 B x 2 slots; B 512 x 8 x 2 B x 2 slots; FP32 and BF16 results 16 x 8: K is one step, so
            # only what the loop over n brings has two slots.  All of it is above 29491.
            "MATMUL", "[16, 8, 16]", "[256, 128, 16]", "layer.matmul at 'p.mm': its tiles need",
        ),
        ("MATMUL", "slots 2", "slots 2, merge sdma", "'p.mm': merge must say how partial sums are added up exactly"),
        (
            "MATMUL", PLANS["MATMUL"], 'cores [1, 1, 1, 2], tile [16, 8, 16], order "gnkm", slots 2, merge sdma',
            "layer.matmul at 'p.mm': merge sdma needs order gmnk, whose partial sums stay in LMEM, found gnkm",
        ),
        ("ADD", "[4, 1]", "[4, 2]", "layer.add at 'p.add': asks for 8 cores, chip sg2262 has 4"),
        ("ADD", "[2, 1, 32]", "[2, 1, 16]", "layer.add at 'p.add': its rows have 16 columns, those of the op 32"),
        # Two slots of three matrices of 128 rows of 64 bytes.
        ("ADD", "[2, 1, 32]", "[128, 1, 32]", "'p.add': its tiles need 49152 bytes of LMEM, the budget of a core is"),
        ("ADD", "oi", "io", "layer.add at 'p.add': unknown order 'io', must be oi"),
        ("ADD", "slots 2", "slots 2, multicast [w]", "'p.add': multicast of 'w', must be among no operands"),
        ("EMBEDDING", "[4, 1]", "[3, 2]", "layer.embedding at 'p.embed': asks for 6 cores, chip sg2262 has 4"),
        ("EMBEDDING", "[2, 32]", "[0, 32]", "layer.embedding at 'p.embed': core counts and tile sizes must be at"),
        ("EMBEDDING", "tn", "nt", "layer.embedding at 'p.embed': unknown order 'nt', must be tn"),
        ("ATTENTION", "[4, 1, 1]", "[4, 1, 2]", "layer.attention at 'p.attention': asks for 8 cores, chip sg2262 has"),
        ("ATTENTION", "[4, 2, 16]", "[4, 0, 16]", "layer.attention at 'p.attention': core counts and tile sizes must"),
        ("ATTENTION", "pus", "psu", "layer.attention at 'p.attention': unknown order 'psu', must be pus"),
        ("ATTENTION", "[4, 2, 16]", "[4, 2, 4096]", "layer.attention at 'p.attention': its tiles need"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_one_line(op: str, old: str, new: str, message: str) -> None:
    with pytest.raises(PassError) as error:
        planned(op, old, new)
    assert str(error.value).startswith("lower-to-tiles: the plan of layer.")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_tile_of_several_outer_rows_has_all_inner_rows() -> None:
    """Two tokens of four heads: where two cores share the heads, the rows of a tile are not those of one piece."""
    text = """
layer.program() {sym_name = "p", phase = "decode"} at "p" {
^bb0(%z : !layer.tensor<[6, 40], f32>):
  %x = layer.slice(%z) {group = 10, offset = 2, size = 8} at "p.s" : !layer.tensor<[6, 32], f32>
  %y = layer.rope(%x) {head_dim = 8, theta = 100.0, interleaved = false, q_len = <6>, kv_len = <6>} at "p.y"
    attributes {tile.plan = #tile.plan<cores [1, 2], tile [2, 4, 8], order "oi", slots 2>}
    : !layer.tensor<[6, 32], f32>
  layer.return([%y]) at "p"
}"""
    module = parse_module(text, "test")
    module.attributes["arch.chip"] = ChipAttr(small_chip(1 << 16))
    with pytest.raises(PassError, match=r"layer\.rope at 'p\.y': a tile of 2 outer rows must have all 4 inner rows"):
        LowerToTilesPass().apply(make_context(), module)


# -- rings ------------------------------------------------------------------------------------------------------

STATE = "!layer.tensor<[8, 16], f32>, !layer.tensor<[8, 2], f32>, !layer.tensor<[8, 2], f32>"
BLOCK = "!layer.tensor<[2, 4, 16], bf16>"
STEP = (
    "{qk_dims = [8], v_dim = 8, q_len = <4>, scale = 1.0, causal = true} "
    f'at "p.step" : {STATE}'
)  # fmt: skip
RING = f"""
builtin.module attributes {{dist.mesh = #dist.mesh<4 ranks, cp = 4 stride 1>}} {{
layer.program() {{sym_name = "p", phase = "prefill"}} at "p" {{
^bb0(%q : !layer.tensor<[8, 16], bf16>, %x : !layer.tensor<[8, 16], bf16>):
  %c = layer.state() {{axes = ["", "", ""]}} at "p.cache" : {BLOCK}
  %k = layer.kv_append(%c, %x) at "p.append" : {BLOCK}
  %a, %m, %s = layer.attention_step([%q], [%k], %k, []) {STEP}
  %k4, %a4, %m4, %s4 = layer.repeat 3 from 1 of 4 as "cp.step" (%k0 = %k, %a0 = %a, %m0 = %m, %s0 = %s) at "p.ring"
      : {BLOCK}, {STATE} {{
    %k1 = dist.ring_exchange(%k0) {{axis = "cp"}} at "p.exchange" : {BLOCK}
    BODY
  }}
  %y = layer.attention_finish(%a4, %s4) at "p.finish" : !layer.tensor<[8, 16], bf16>
  layer.return([%y]) at "p"
}}
}}
"""
ADD = 'layer.add(%m0, %s0) at "p.add" : !layer.tensor<[8, 2], f32>\n'


def accessed(op: tile.KernelOp | tile.CollectiveOp) -> tuple[list[tile.GlobalOp], list[tile.GlobalOp]]:
    """The arrays that an op reads and writes, by their first access."""

    def array(value: SSAValue) -> tile.GlobalOp | None:
        owner = value.owner
        if isinstance(owner, tile.ViewOp):
            return array(owner.source)
        return owner if isinstance(owner, tile.GlobalOp) else None

    found: tuple[list[tile.GlobalOp], list[tile.GlobalOp]] = ([], [])
    for command in op.walk():
        if isinstance(command, tile.CommandOp):
            for arrays_, values in zip(found, (command.reads(), command.writes()), strict=True):
                named = [array(v) for v in values]
                arrays_.extend(a for a in named if a is not None and a not in arrays_)
    return found


def ring_of(module: ModuleOp) -> tile.RepeatOp:
    return next(op for op in module.walk() if isinstance(op, tile.RepeatOp) and op.symbol.data == "cp.step")


def runs(block: Block) -> list[tile.KernelOp | tile.CollectiveOp]:
    return [op for op in block.ops if isinstance(op, tile.KernelOp | tile.CollectiveOp)]


def names(ops: Sequence[tile.KernelOp | tile.CollectiveOp]) -> list[str]:
    return [op.op_name.data if isinstance(op, tile.KernelOp) else op.collective.name for op in ops]


def test_a_ring_updates_its_state_in_place_and_leaves_the_cache_alone() -> None:
    body = f'''%a1, %m1, %s1 = layer.attention_step([%q], [%k1], %k1, [%a0, %m0, %s0]) {STEP}
    layer.yield([%k1, %a1, %m1, %s1]) at "p.ring"'''
    module = lowered(RING.replace("BODY", body))
    ring = ring_of(module)
    assert (ring.count.value.data, ring.first.value.data) == (3, 1)
    exchange, step, moved = runs(ring.body.block)
    assert names([exchange, step, moved]) == ["dist.ring_exchange", "layer.attention_step", "copy"]
    program = next(op for op in module.walk() if isinstance(op, tile.ProgramOp))
    append, own, start, finish = runs(program.body.block)
    assert names([append, own, start, finish]) == [
        "layer.kv_append", "layer.attention_step", "copy", "layer.attention_finish",
    ]  # fmt: skip
    ((queries, cache), state) = accessed(own)
    assert (queries.kind.data, cache.kind.data) == ("input", "state")
    assert [tile.memref_type(a.result).dims for a in state] == [(8, 16), (8, 2), (8, 2)]
    # What goes around is a copy of the cache; it is received beside what is sent, then takes its place.
    (sent,), (received,) = accessed(exchange)
    assert accessed(start) == ([cache], [sent]) and accessed(moved) == ([received], [sent])
    assert len({sent, received, cache}) == 3
    # The step reads the state where the step before left it, and leaves it there.
    assert accessed(step) == ([queries, *state, received], state)
    assert accessed(finish)[0] == [state[0], state[2]]
    assert [op for op in kernels(module) if cache in accessed(op)[1]] == [append]
    assert len(arrays(module, "activation")) == 5


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        # Maximum and sum change places: each is copied to where the other was.
        (
            f"%a1, %m1, %s1 = layer.attention_step([%q], [%k1], %k1, [%a0, %m0, %s0]) {STEP}\n"
            'layer.yield([%k1, %a1, %s1, %m1]) at "p.ring"',
            2,
        ),
        # One value is maximum and sum at once: the step would overwrite what it still reads.
        (
            f"%a1, %m1, %s1 = layer.attention_step([%q], [%k1], %k1, [%a0, %m0, %m0]) {STEP}\n"
            'layer.yield([%k1, %a1, %m1, %s1]) at "p.ring"',
            1,
        ),
        # The state before the step is wanted after it.
        (
            f"%a1, %m1, %s1 = layer.attention_step([%q], [%k1], %k1, [%a0, %m0, %s0]) {STEP}\n"
            f'%n = {ADD}layer.yield([%k1, %a1, %m1, %n]) at "p.ring"',
            1,
        ),
        # Before it, it may be read: the add makes a value of its own, which becomes the sum.
        (
            f"%n = {ADD}%a1, %m1, %s1 = layer.attention_step([%q], [%k1], %k1, [%a0, %m0, %s0]) {STEP}\n"
            'layer.yield([%k1, %a1, %m1, %s1]) at "p.ring"',
            0,
        ),
    ],
)
def test_the_state_of_a_ring_is_overwritten_only_where_it_is_dead(body: str, copies: int) -> None:
    module = lowered(RING.replace("BODY", body))
    inside = names(runs(ring_of(module).body.block))
    assert inside.count("copy") == copies + 1  # and the block that came by
    assert names(kernels(module)).count("copy") == copies + 2


@pytest.mark.parametrize(
    ("before", "after", "copies"),
    [
        ("", "", 0),
        # The first maximum is wanted in every step of the ring, though the ring has overwritten the one it carries.
        (
            "layer.yield([%k1, %a1, %m1, %s1])",
            '%n = layer.add(%m, %m1) at "p.add" : ROWS\nlayer.yield([%k1, %a1, %n, %s1])', 1,
        ),
        # Or after the ring.
        ("layer.attention_finish(%a4, %s4)", "layer.attention_finish(%a4, %m)", 1),
        # Maximum and sum start from one value: each has an array of its own.
        ("%s0 = %s)", "%s0 = %m)", 2),
    ],
)  # fmt: skip
def test_a_first_state_that_is_read_again_is_copied(before: str, after: str, copies: int) -> None:
    body = f'''%a1, %m1, %s1 = layer.attention_step([%q], [%k1], %k1, [%a0, %m0, %s0]) {STEP}
    layer.yield([%k1, %a1, %m1, %s1]) at "p.ring"'''
    text = RING.replace("BODY", body)
    assert before in text
    module = lowered(text.replace(before, after.replace("ROWS", "!layer.tensor<[8, 2], f32>")) if before else text)
    program = next(op for op in module.walk() if isinstance(op, tile.ProgramOp))
    assert names(runs(program.body.block)).count("copy") == 1 + copies  # and the cache


@pytest.mark.parametrize("name", ["llama", "deepseek", "deepseek-latent"])
def test_rings_of_models_copy_only_what_came_by(name: str) -> None:
    """One copy for every exchange, none for the state, and no store to a cache but that of the own rows."""
    preset, tiny = ("llama-3.1-8b", TINY_LLAMA) if name == "llama" else ("deepseek-v3", TINY_DEEPSEEK)
    module = expanded(preset, "prefill", False, "worst", **tiny)
    mesh: dict[str, Any] = {"cp": 4} if name == "llama" else {"cp": 4, "ep": 4}
    exchange = "smallest" if name == "deepseek-latent" else "expanded"
    local(module, small_chip(1 << 20), bound((2, 8, 16)), mesh, exchange)
    LowerToTilesPass().apply(make_context(), module)
    module.verify()
    rings = [op for op in module.walk() if isinstance(op, tile.RepeatOp) and op.symbol.data == "cp.step"]
    assert len(rings) == (1 if name == "llama" else 2)
    blocks = {"llama": 2, "deepseek": 3, "deepseek-latent": 2}[name]
    for ring in rings:
        ops = runs(ring.body.block)
        expand = ["layer.matmul"] if name == "deepseek-latent" else []
        assert names(ops) == [*["dist.ring_exchange"] * blocks, *expand, "layer.attention_step", *["copy"] * blocks]
        sent, received = zip(*(accessed(op) for op in ops[:blocks]), strict=True)
        assert [accessed(op) for op in ops[-blocks:]] == list(zip(received, sent, strict=True))
        reads, writes = accessed(ops[-blocks - 1])
        assert len(writes) == 3 and set(writes) <= set(reads)
        assert not {a.kind.data for op in ops for a in accessed(op)[1]} - {"activation"}
    for kernel in kernels(module):
        if any(a.kind.data == "state" for a in accessed(kernel)[1]):
            assert kernel.op_name.data == "layer.kv_append"


CARRIED = "!layer.tensor<[batch*q_len, 16], f32>"
STEPS_IN_LAYERS = f"""
layer.program() {{sym_name = "p", phase = "decode"}} at "p" {{
^bb0(%tokens : !layer.tensor<[batch*q_len], i32>):
  %table = layer.weight() {{axes = ["vocab", ""]}} at "embed.weight" : !layer.tensor<[32, 16], f32>
  %x = layer.embedding(%tokens, %table) at "embed" : {CARRIED}
  %t = layer.add(%x, %x) at "t" : {CARRIED}
  %y = layer.repeat 3 from 0 of 3 (%h = %x) at "layers" : {CARRIED} {{
    %w = layer.weight() {{axes = ["", ""]}} at "layers.weight" : !layer.tensor<[16, 16], f32>
    %m = layer.matmul(%h, %w) at "layers.proj" : {CARRIED}
    %s = layer.slice(INIT) {{group = 16, offset = 0, size = 16}} at "layers.s" : {CARRIED}
    %r = layer.repeat 2 from 1 of 3 as "step" (%i = FROM) at "steps" : {CARRIED} {{
      %j = layer.add(%i, %m) at "steps.add" : {CARRIED}
      layer.yield([%j]) at "steps"
    }}
    %n = layer.add(%m, %r) at "layers.add" : {CARRIED}
    layer.yield([%n]) at "layers"
  }}
  layer.return([%y]) at "p"
}}
"""


@pytest.mark.parametrize(
    ("init", "start"),
    [
        ("%t", "%t"),  # every layer starts from what was made before all layers
        ("%t", "%s"),
        ("%h", "%h"),  # from its own input
        ("%h", "%s"),
        ("%m", "%m"),  # from what the steps read besides
    ],
)
def test_steps_inside_layers_do_not_overwrite_what_is_read_again(init: str, start: str) -> None:
    ctx = make_context()
    module = Parser(ctx, STEPS_IN_LAYERS.replace("INIT", init).replace("FROM", start)).parse_module()
    module.verify()
    sizes = bound((2, 1, 3))
    environment = seeded_layer_environment(module, sizes, 0)
    (expected,) = run_layer(module, environment).outputs
    local(module, small_chip(1 << 20), sizes)
    for step in (LowerToTilesPass(), AllocateLmemPass(), AllocateDramPass(), EmitG5Pass()):
        step.apply(ctx, module)
        module.verify()
    np.testing.assert_allclose(run_commands(module, environment).outputs[0], expected, rtol=1e-4)


STORES = """
layer.program() {sym_name = "m", phase = "decode"} at "m" {
^bb0(%x: !layer.tensor<[64, 1536], f8E4M3FN>):
  %w = layer.weight() {axes = ["", ""]} at "proj.weight" : !layer.tensor<[1536, 49152], f8E4M3FN>
  %y = layer.matmul(%x, %w) at "proj" attributes {tile.plan = #tile.plan<cores [1, 1, 64, 1], tile [64, 192, 1536],
    order "gmkn", slots 2>} : !layer.tensor<[64, 49152], bf16>
  layer.return([%y]) at "m"
}"""


@pytest.mark.parametrize("late", [True, False])
def test_stores_in_loops_are_late_where_that_is_asked_for(late: bool) -> None:
    ctx = make_context()
    module = Parser(ctx, STORES).parse_module()
    module.attributes["arch.chip"] = ChipAttr(load_chip("sg2262"))
    LowerToTilesPass(late_stores=late).apply(ctx, module)
    module.verify()
    (store,) = (op for op in module.walk() if isinstance(op, tile.StoreOp))
    assert (store.late is not None) is late


def test_loads_that_do_not_wait_for_a_store_save_time() -> None:
    """Four tiles of columns: a load that waits for the store of the tile before starts when that is computed."""
    times: dict[bool, int] = {}
    for late in (True, False):
        ctx = make_context()
        module = Parser(ctx, STORES).parse_module()
        chip = load_chip("sg2262")
        module.attributes["arch.chip"] = ChipAttr(chip)
        for step in (LowerToTilesPass(late_stores=late), AllocateLmemPass(), AllocateDramPass(), EmitG5Pass()):
            step.apply(ctx, module)
        (program,) = (op for op in module.walk() if isinstance(op, g5.ProgramOp))
        times[late] = run(lower(program, chip, {}), chip).duration_ps
    assert 0.6 <= times[True] / times[False] <= 0.7, times
