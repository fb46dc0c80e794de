"""Programs that share their beginnings are, to the letter, those that are compiled alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import default_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.sweep.programs import Pipeline, SharedCompiler, Target, neighbours
from pmc.dialects.errors import PmcError

MOE = {"tp": (1, 4), "dp": (4, 16), "ep": (8, 16), "pp": (1, 2, 4), "dispatch": ("direct", "per_node")}
DENSE = {"tp": (2, 3, 4), "dp": (1, 2), "pp": (1, 2), "sp": (False, True), "lm_head": ("tp", "stage")}
BOARDS = {"tp": (1,), "dp": (2,), "ep": (2,), "pp": (1, 2), "dispatch": ("per_node",)}
"""On boards of 3 chips the ranks of the first stage share one, those of the second do not."""
ROUTED = {
    "tp": (1,), "dp": (16,), "ep": (16,), "dispatch": ("per_rank", "direct"), "routing": ("uniform", {"zipf": 1.2})
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "deployment", "axes", "programs", "chips_per_board"),
    [
        ("deepseek-v3", "dsv3-decode-ep32", MOE, 10, 8),
        ("deepseek-v3", "dsv3-decode-ep32", BOARDS, 2, 3),
        ("llama-3.1-8b", "llama-8b-decode", DENSE, 10, 8),
        # A row for every choice of a token, whatever the routing: two targets, one program.
        ("deepseek-v3", "dsv3-decode-ep32", ROUTED, 3, 8),
    ],
)
def test_shared_programs_are_those_compiled_alone(
    model: str, deployment: str, axes: Mapping[str, Sequence[object]], programs: int, chips_per_board: int
) -> None:
    module = load_model(model)
    compiler = SharedCompiler(module)
    chip, topology = (
        load_chip("sg2262"),
        load_topology("p1-r1-b4-c32", {"boards_per_rack": 32, "chips_per_board": chips_per_board}),
    )
    wanted: dict[Pipeline, Target] = {}
    for values in product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        target = Target(chip, topology, load_deployment(deployment, changes), default_accounting())
        try:
            wanted[compiler.pipeline(target)] = target
        except PmcError as error:
            assert str(error) == compiled_alone(module, target)
    assert len(wanted) >= programs
    pipelines = sorted(wanted)
    found = [str(program) for program in compiler.programs([(p, wanted[p]) for p in pipelines])]
    assert found == [compiled_alone(module, wanted[p]) for p in pipelines]


CONTEXT = {"cp": (1, 2), "tp": (1, 2), "pp": (1, 3), "batch": (4, 8)}
"""Sizes that stand in lengths and positions; the batch is none of the program's."""
COPIES = {
    "tp": (2, 4), "dp": (4, 8), "ep": (8, 16), "pp": (1, 2), "dispatch": ("direct", "per_rank"), "sp": (False, True),
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "deployment", "axes", "modules", "programs"),
    [
        ("deepseek-v3", "dsv3-decode-ep32", {**MOE, "dispatch": ("direct",)}, 2, 2),
        ("deepseek-v3", "dsv3-decode-ep32", COPIES, 8, 12),
        ("llama-3.1-8b", "llama-8b-decode", DENSE, 6, 12),
        ("llama-3.1-8b", "llama-8b-prefill", CONTEXT, 4, 4),
    ],
)
def test_retyped_modules_are_the_programs_before_their_stages(
    model: str, deployment: str, axes: Mapping[str, Sequence[object]], modules: int, programs: int
) -> None:
    """One module for all sizes of axes over which values are sharded alike, and for all numbers of stages."""
    module = load_model(model)
    compiler = SharedCompiler(module)
    chip, topology = load_chip("sg2262"), load_topology("p1-r1-b4-c32", {"boards_per_rack": 32})
    wanted: dict[Pipeline, list[Target]] = {}
    for values in product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        target = Target(chip, topology, load_deployment(deployment, changes), default_accounting())
        try:
            wanted.setdefault(compiler.pipeline(target, dealt=False), []).append(target)
        except PmcError as error:
            assert str(error) == compiled_alone(module, target)
    order = neighbours(wanted)
    seen: dict[int, ModuleOp] = {}
    for pipeline, found in zip(order, compiler.layouts([(p, wanted[p][0]) for p in order]), strict=True):
        assert isinstance(found, ModuleOp)
        seen[id(found)] = found
        for target in wanted[pipeline]:
            compiler.retarget(found, pipeline, target)
            dealt = found.clone()
            compiler.partition(target).apply(compiler.context, dealt)
            assert str(dealt) == compiled_alone(module, target)
    assert (len(seen), len(order)) == (modules, programs)


def compiled_alone(model: ModuleOp, target: Target) -> str:
    """The program of a target as text, or why there is none."""
    try:
        return str(
            compile_model(
                model.clone(), target.chip, target.topology, target.deployment, "dist", accounting=target.accounting
            )
        )
    except PmcError as error:
        return str(error)
