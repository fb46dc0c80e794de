"""What a plan costs is what its commands need (N1 to N4, N25 of the wrong numbers), and chips fit networks (N13).

The laws behind these cases hold for any plan in `tests/passes/test_plans.py`, for all ops in
`benchmarks/plan_vs_commands.py` and for every field in `tests/backends/test_field_readers.py`.
"""

from __future__ import annotations

from functools import cache

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.command_time import engine_seconds
from pmc.backends.cost.model import Target
from pmc.backends.cost.planned import PlannedOp
from pmc.backends.cost.rates import CoreRates
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate import evaluate_module
from pmc.backends.evaluate.engine import symbol_values
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.field_readers import field_uses
from pmc.dialects import g5, layer
from pmc.dialects.analyses.expand import expand
from pmc.dialects.analyses.program_resources import program_resources
from pmc.dialects.analyses.program_work import layer_symbols
from pmc.dialects.arch import Chip, Topology, check_network
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level

CHIP, RACK = load_chip("sg2262"), load_topology("p1-r1-b4-c32")
DMA = 149.4e9 * 0.9
"""Bytes a second that the GDMA of a core moves: command_level.gdma of the chip."""


@cache
def deepseek(emit: Level = "commands", batch: int = 2048) -> ModuleOp:
    deployment = load_deployment("dsv3-decode-ep32", {"batch": batch})
    return compile_model(load_model("deepseek-v3"), CHIP, RACK, deployment, emit)


@cache
def programs() -> dict[str, g5.ProgramOp]:
    """The emitted programs by path."""
    return {op.path.data: op for op in deepseek().walk() if isinstance(op, g5.ProgramOp)}


@cache
def plans(batch: int = 2048) -> dict[str, PlannedOp]:
    """What the tile model says of every op, by path."""
    module = compile_model(
        load_model("deepseek-v3"), CHIP, RACK, load_deployment("dsv3-decode-ep32", {"batch": batch}), "dist"
    )
    costs = TileCostModel(Target.of(module), load_accounting("physical"))
    lengths = symbol_values(module, {})
    found = {op.path.data: costs.planned(op, lengths) for op in module.walk() if isinstance(op, layer.LayerOp)}
    return {path: planned for path, planned in found.items() if planned is not None}


@pytest.mark.parametrize("batch", [80, 2048])
def test_n01_a_core_waits_for_what_it_receives(batch: int) -> None:
    """A core's DMA bounds every op; an attention over 4096 keys of 576 bytes cannot be faster than all cores' DMA."""
    for path, planned in plans(batch).items():
        assert planned.time.total_s[0] >= planned.time.engines.gdma_s[0] * (1 - 1e-12), path
    sequences = -(-batch // 32)
    least = sequences * 4096 * 576 / 64 / DMA
    assert plans(batch)["blocks.moe.mla.attention"].time.total_s[0] > least


def test_n02_both_products_of_an_attention_run_in_the_type_that_is_charged() -> None:
    program = programs()["blocks.moe.mla.attention"]
    types = {str(op.matrix_type) for op in program.walk() if isinstance(op, g5.TiuOp)}
    assert types == {"f8E4M3FN"}
    rates = CoreRates(CHIP, load_accounting("physical"))
    emitted = engine_seconds(program_resources(program, CHIP), rates)["matrix"].max()
    assert plans()["blocks.moe.mla.attention"].time.engines.tiu_s[0] == pytest.approx(emitted, rel=1e-12)


@pytest.mark.parametrize("name", ["k_absorb", "v_absorb"])
def test_n03_the_next_loads_do_not_wait_for_the_store(name: str) -> None:
    """Two results on core 0, K in one tile: both loads of the second stand before the store of the first."""
    program = programs()[f"blocks.moe.mla.{name}"]
    order = sorted(
        (int(number), runs.op.direction.data)
        for runs in expand(program, [0], layer_symbols(program))
        if isinstance(runs.op, g5.GdmaOp)
        for number in runs.ids
    )
    assert [direction for _, direction in order] == ["load"] * 4 + ["store"] * 2


def test_n04_bytes_and_mbu_are_those_of_the_plan() -> None:
    result = evaluate_module(deepseek("dist"), "tile")
    rows = {row.path: row for row in result.steps if row.op in ("layer.matmul", "layer.attention")}
    assert len(rows) > 10
    for path, row in rows.items():
        counted = program_resources(programs()[path], CHIP)
        assert (row.bytes_read, row.bytes_written) == (
            row.count * counted.dram_read, row.count * counted.dram_written
        ), path  # fmt: skip
        # The DRAM moves these bytes at its peak at best.
        assert row.memory_us * 1e-6 * 8601.6e9 >= (row.bytes_read + row.bytes_written) * (1 - 1e-9), path


def test_n13_a_network_needs_a_chip_with_its_ports() -> None:
    """10 TB/s on ports of 448 GB/s, and more chips than the chip can address."""
    fast, many = RACK.model_dump(), RACK.model_dump()
    fast["links"]["c2c"]["gb_per_s"] = 10_000.0
    many.update(boards_per_rack=129)
    cases = ((fast, "links.c2c.gb_per_s is 10000, the ports"), (many, "1032 chips, chip sg2262 allows 1024"))
    for content, message in cases:
        with pytest.raises(PmcError, match=message):
            check_network(CHIP, Topology.model_validate(content))
    assert load_topology("nvlink-8").board_wiring == "switch"


def test_n25_every_field_of_a_chip_is_read_or_says_that_it_is_not() -> None:
    """46 of 62 changed nothing.  What a field changes is tested where its readers are."""
    uses = field_uses(Chip)
    assert len(uses) > 60 and all(bool(use.readers) != bool(use.planned) for use in uses)
    assert sum(use.planned is not None for use in uses) <= 7
