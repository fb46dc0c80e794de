"""Random plans are legal, run soon, and meet the limits on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil, prod

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import run_pipeline, set_target
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import shrink_deployment
from pmc.compiler.small import LAYERS, chip_for, small_model
from pmc.dialects import layer
from pmc.dialects.analyses.matmul_tiling import chunks, tiling_of
from pmc.dialects.analyses.workload import matmul_shape
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.tile_plan import PLAN, PlanAttr
from pmc.passes.select_tiles import SelectTilesPass
from pmc.passes.tiling.families import family_of
from pmc.passes.tiling.random_plans import MOST_TILES_OF_A_MATMUL, TIGHT


@cache
def before_plans(phase: str) -> ModuleOp:
    """A small DeepSeek-V3 up to the choice of algorithms, for the chip that `pmc check` compiles it for."""
    config, source = load_model_config("deepseek-v3")
    deployment = load_deployment("dsv3-decode-ep32").model_copy(update={"phase": phase})
    small, topology = shrink_deployment(deployment), load_topology("p1-r1-b4-c32")
    model = small_model(config, source, small, LAYERS, None)
    chip = chip_for(small_model(config, source, small, LAYERS, None), load_chip("sg2262"), topology, small)
    set_target(model, chip, topology, small)
    specs = default_pipeline(small, "tile")
    before = next(i for i, spec in enumerate(specs) if spec.name == "select-tiles")
    run_pipeline(model, specs[:before])
    return model


def drawn(phase: str, seed: int) -> Iterator[tuple[Operation, PlanAttr, Chip, bool]]:
    """All ops with their plans, and whether it is their turn to have a tight one."""
    module = before_plans(phase).clone()
    SelectTilesPass(choose="random", seed=seed).apply(make_context(), module)
    attribute = module.attributes["arch.chip"]
    assert isinstance(attribute, ChipAttr)
    turns: dict[str, int] = {}
    for op in module.walk():
        plan = op.attributes.get(PLAN)
        if isinstance(plan, PlanAttr):
            turn = turns[op.name] = turns.get(op.name, 2 * seed - 1) + 1
            yield op, plan, attribute.data, turn % TIGHT == TIGHT - 1


def longer(plan: PlanAttr, dim: int) -> PlanAttr:
    sizes = list(plan.tile_sizes)
    sizes[dim] += 1
    names = [name.data for name in plan.multicast.data]
    return PlanAttr.of(plan.core_counts, sizes, plan.order.data, plan.buffer_slots, names, plan.merge.data)


def at_a_limit(op: Operation, plan: PlanAttr, chip: Chip) -> bool:
    family = family_of(op)
    assert family is not None and family.fault(op, plan, chip) is None
    faults = (family.fault(op, longer(plan, dim), chip) for dim in range(len(plan.tile_sizes)))
    return any(fault is not None and "the budget of a core is" in fault for fault in faults)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_in_three_ops_of_a_kind_has_a_plan_that_just_fits(phase: str) -> None:
    plans = [found for seed in (0, 1) for found in drawn(phase, seed)]
    limited = [at_a_limit(op, plan, chip) for op, plan, chip, tight in plans if tight]
    free = [at_a_limit(op, plan, chip) for op, plan, chip, tight in plans if not tight]
    # Some have another limit: of an attention, the heads that share a key head.
    assert sum(limited) > 0.7 * len(limited) and sum(free) < 0.1 * len(free)
    assert {op.name for op, *_, tight in plans if tight} >= {"layer.matmul", "layer.attention", "layer.rms_norm"}


def test_a_random_plan_of_a_matmul_has_few_tiles() -> None:
    for op, plan, chip, _ in drawn("prefill", 0):
        if isinstance(op, layer.MatmulOp | layer.GroupedMatmulOp | layer.HeadMatmulOp):
            shape = matmul_shape(op)
            parts = [int(part[0]) for part in chunks(shape, tiling_of(plan), chip).parts]
            sizes = (shape.m, shape.n, shape.k)
            trips = [
                ceil(ceil(size / n) / tile) for size, n, tile in zip(sizes, parts[1:], plan.tile_sizes, strict=True)
            ]
            assert prod(parts) * ceil(shape.groups / parts[0]) * prod(trips) <= MOST_TILES_OF_A_MATMUL
