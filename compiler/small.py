"""A small version of a model and its target, of the same structure: what `pmc check` runs, and `--shrink` compiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import VerifyException

from pmc.compiler.config import changed
from pmc.compiler.driver import compile_model, run_pipeline, set_target
from pmc.compiler.frontend import import_hf
from pmc.compiler.pipelines import default_pipeline
from pmc.compiler.shrink import LEAST_BUDGET, MOST_BUDGET, shrink_chip, shrink_deployment, shrink_model
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError

LAYERS = 3
"""Layers of a small model: of a kind with dense layers before it, one of these and two others."""


@dataclass(frozen=True)
class SmallTarget:
    """A small model of the model level, and what to compile it for; the topology stays as it is."""

    model: ModuleOp
    chip: Chip
    topology: Topology
    deployment: Deployment


def small_target(
    config: Mapping[str, Any],
    source: str,
    chip: Chip,
    topology: Topology,
    deployment: Deployment,
    lengths: Mapping[str, int],
) -> SmallTarget:
    """The small version of a Hugging Face config from `source` and its target, in the types of the deployment.

    `lengths` are those of `batch`, `q_len` and `kv_len` that are not to be chosen.  Raises PmcError for what
    `pmc compile` refuses of the model itself.
    """
    refuse_mistakes(config, source, chip, topology, deployment)
    small = changed(shrink_deployment(deployment), lengths)
    found = chip_for(small_model(config, source, small, LAYERS, None), chip, topology, small)
    return SmallTarget(small_model(config, source, small, LAYERS, None), found, topology, small)


def small_model(config: Mapping[str, Any], source: str, small: Deployment, layers: int, dtype: str | None) -> ModuleOp:
    """The module of a small model with `layers` layers, or as many as give every pipeline stage two."""
    fewest = 2 * small.pp if small.pp > 1 else 1
    return shrink_model(import_hf(config, source, "small"), small, max(layers, fewest), dtype)


def refuse_mistakes(
    config: Mapping[str, Any], source: str, chip: Chip, topology: Topology, deployment: Deployment
) -> None:
    """Raise PmcError for a deployment that the model itself, unshrunk, cannot have: no fault of a pass.

    What a verifier says of the result of a pass is one: the small model will show it.
    """
    try:
        compile_model(import_hf(config, source, "model"), chip, topology, deployment, "dist")
    except PmcError as error:
        if not isinstance(error.__cause__, VerifyException):
            raise


def chip_for(model: ModuleOp, chip: Chip, topology: Topology, small: Deployment) -> Chip:
    """A small chip with hardly more LMEM than the smallest tiles of a small model need, which is lowered to find it."""
    budget = LEAST_BUDGET
    found = chip if chip.command_level is None else shrink_chip(chip, budget)
    specs = default_pipeline(small, "tile")
    tiling = next(i for i, spec in enumerate(specs) if spec.name == "select-tiles")
    set_target(model, found, topology, small)
    try:
        run_pipeline(model, specs[:tiling], verify_each=False)
    except Exception:  # whatever it is, the check itself will say where
        return found
    # Ops that a budget has a plan for keep it: they have one in every larger budget, too.
    while chip.command_level is not None and budget < MOST_BUDGET:
        set_target(model, found, topology, small)
        try:
            run_pipeline(model, specs[tiling : tiling + 1], verify_each=False)
            break
        except PmcError:
            budget += budget // 4
            found = shrink_chip(chip, budget)
        except Exception:  # an earlier pass is wrong: again, the check will say where
            break
    return found
