"""The dumps that are mutated: all levels of models as small as they get."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import Observer, compile_model, module_text
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import unroll_specs
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model
from pmc.dialects.levels import Level, level_of


@dataclass(frozen=True)
class Dump:
    """A module between two passes."""

    name: str
    text: str


class _Dumps(Observer):
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.dumps: list[Dump] = []

    def after(self, step: int, name: str, module: Any) -> None:
        self.dumps.append(Dump(f"{self.prefix}/{step:02}-{name}", module_text(module)))
        if level_of(module) in ("model", "layer", "dist") and step % 2:
            self.dumps.append(Dump(f"{self.prefix}/{step:02}-{name}-generic", module_text(module, generic=True)))


@dataclass(frozen=True)
class Case:
    """A model, a deployment with fields replaced, and how far it is compiled."""

    model: str
    deployment: str
    changes: dict[str, int]
    emit: Level


CASES = (
    Case("llama-3.1-8b", "llama-8b-decode", {"tp": 2, "dp": 2}, "commands"),
    Case("llama-3.1-8b", "llama-8b-prefill", {"cp": 2, "pp": 2}, "dist"),
    Case("deepseek-v3", "dsv3-decode-ep32", {"tp": 2, "dp": 2, "ep": 2, "moe_tp": 2}, "dist"),
    Case("deepseek-v3", "dsv3-decode-ep32", {"tp": 1, "dp": 2, "ep": 2, "moe_tp": 1}, "commands"),
    Case("deepseek-v3.2", "dsv32-decode-ep32", {"tp": 1, "dp": 2, "ep": 2, "moe_tp": 1}, "commands"),
)
"""Every axis, both phases, experts, a latent, stages, a ring; loops and commands of the shortest programs only."""


@cache
def corpus() -> tuple[tuple[Dump, ...], ...]:
    """The dumps of every case after every pass, and unrolled."""
    return tuple(_dumps(case) for case in CASES)


def _dumps(case: Case) -> tuple[Dump, ...]:
    config, source = load_model_config(case.model)
    deployment = load_deployment(case.deployment, {**case.changes, "batch": 4})
    small = shrink_deployment(deployment)
    if "first_k_dense_replace" in config:  # the dense layers are those of Llama
        config = {**config, "first_k_dense_replace": 0}
    model = shrink_model(import_hf(config, source, "small"), small, small.pp)
    observer = _Dumps(f"{case.model}-{case.deployment.split('-')[2]}")
    target = shrink_chip(load_chip("sg2262")), load_topology("p1-r1-b1-c8"), small
    compile_model(model, *target, case.emit, [observer], unroll_specs(0, False) if case.emit == "commands" else ())
    return tuple(observer.dumps)
