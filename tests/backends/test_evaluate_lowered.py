"""Programs of tiles and commands are evaluated as they stand, and agree with the dist level they came from."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.evaluate import EngineResult, evaluate_module
from pmc.backends.evaluate.assumptions import MEAN_LOAD
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.dialects.accounting import Accounting
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level

MEAN: Accounting = load_accounting("physical").model_copy(update={"expert_load": "balanced"})
LEVELS: tuple[Level, ...] = ("dist", "tile", "commands")


def compiled(level: Level, phase: str, mesh: dict[str, object]) -> ModuleOp:
    """Five layers of DeepSeek-V3 at its full width, charged for the mean load of its experts."""
    config, source = load_model_config("deepseek-v3")
    config.update(num_hidden_layers=5)
    changes = {"phase": phase, "batch": 64, "q_len": 1 if phase == "decode" else 32, "kv_len": 128, **mesh}
    deployment = load_deployment("dsv3-decode-ep32", changes)
    target = load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment
    return compile_model(import_hf(config, source, "deepseek-v3"), *target, level, accounting=MEAN)


def evaluated(level: Level, phase: str, mesh: dict[str, object]) -> EngineResult:
    """The chip roofline with experts under the mean load, which is what tiles and commands were lowered for."""
    return evaluate_module(compiled(level, phase, mesh), "chip")


MESHES: dict[str, dict[str, object]] = {
    "ep": {"tp": 1, "dp": 8, "ep": 8},
    "tp": {"tp": 4, "dp": 2, "ep": 2, "moe_tp": 4},
    "pp": {"tp": 2, "dp": 2, "ep": 4, "pp": 2, "sp": True},
    "cp": {"tp": 2, "cp": 2, "dp": 2, "ep": 8, "q_len": 2},
}


@pytest.mark.parametrize("mesh", MESHES)
def test_decode_does_the_same_work_at_every_level(mesh: str) -> None:
    dist, tile, commands = (evaluated(level, "decode", MESHES[mesh]) for level in LEVELS)
    assert dist.total_flops == tile.total_flops == commands.total_flops
    assert dist.total_link_bytes == tile.total_link_bytes == commands.total_link_bytes > 0
    assert dist.total_bytes <= tile.total_bytes == commands.total_bytes
    comm = [sum(step.comm_us for step in result.steps) for result in (dist, tile, commands)]
    assert comm[1] == pytest.approx(comm[0]) and comm[2] == pytest.approx(comm[0])
    assert dist.total_us <= tile.total_us * (1 + 1e-12)
    assert tile.total_us == pytest.approx(commands.total_us)


def test_prefill_attention_does_the_work_of_its_edge_tiles_too() -> None:
    dist, tile, commands = (evaluated(level, "prefill", MESHES["ep"]) for level in LEVELS)
    assert dist.total_flops <= tile.total_flops == commands.total_flops
    assert tile.total_bytes == commands.total_bytes


def test_lowered_experts_are_said_to_carry_the_mean_load() -> None:
    assert MEAN_LOAD not in evaluated("dist", "decode", MESHES["ep"]).assumptions
    for level in LEVELS[1:]:
        result = evaluated(level, "decode", MESHES["ep"])
        assert result.assumptions[0] == MEAN_LOAD
        assert result.to_dict()["assumptions"] == list(result.assumptions)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_lowered_program_has_no_other_level(level: Level) -> None:
    module = compiled(level, "decode", MESHES["ep"])
    with pytest.raises(PmcError, match=rf"^granularity tile looks at .* the kernels of this module \({level} level\)"):
        evaluate_module(module, "tile")
