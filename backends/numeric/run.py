"""Runs a module of any level, on given or seeded inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.numeric.dist import run_dist
from pmc.backends.numeric.environment import SYMBOLS, Environment, Source, evaluate_dims, seeded_environment
from pmc.backends.numeric.errors import Array, NumericError
from pmc.backends.numeric.layer import LayerRun, run_layer, seeded_layer_environment
from pmc.backends.numeric.model import run_model, seeded_model_environment
from pmc.backends.numeric.precision import EXACT64, Precision
from pmc.backends.numeric.rank_programs import run_commands, run_tiles
from pmc.dialects import g5, layer, tile
from pmc.dialects.analyses.stored_arrays import StoredKind, stored_arrays
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.dist import DATA, Mesh, MeshAttr, Sharding, ShardingAttr
from pmc.dialects.levels import MESH, level_of


def run_module(module: ModuleOp, environment: Environment, precision: Precision = EXACT64) -> LayerRun:
    """Logits and caches after one step of a module of any level.

    `precision` is that of the levels down to dist; tiles and commands store the element types of their arrays.
    Raises NumericError.
    """
    with np.errstate(all="ignore"):  # what is not finite is found in the values, with the name of the op
        return _run_level(module, environment, precision)


def _run_level(module: ModuleOp, environment: Environment, precision: Precision) -> LayerRun:
    match level_of(module):
        case "model":
            run = run_model(module, environment, precision.compute)
            return LayerRun((run.logits, *run.drafted), run.states, {})
        case "layer":
            return run_layer(module, environment, precision)
        case "dist":
            return run_dist(module, environment, precision)
        case "tile":
            return run_tiles(module, environment)
        case "commands":
            return run_commands(module, environment)
        case "empty":
            raise NumericError("the module holds no program")


def bindings_of(module: ModuleOp, given: Mapping[str, int]) -> dict[str, int]:
    """The symbol values: those given, else those of the deployment that the module was compiled for."""
    deployment = module.attributes.get("arch.deployment")
    known: dict[str, int] = {}
    if isinstance(deployment, DeploymentAttr):
        known = deployment.data.symbols
    bindings = {**known, **given}
    missing = [symbol for symbol in SYMBOLS if symbol not in bindings]
    if missing:
        raise NumericError(f"no value for {', '.join(missing)}, and the module has no deployment to take it from")
    return bindings


def seeded_inputs(module: ModuleOp, bindings: Mapping[str, int], seed: int) -> Environment:
    """Deterministic inputs of the whole model for a module of any level; the same at every level of one model."""
    match level_of(module):
        case "model":
            deployment = module.attributes.get("arch.deployment")
            drafts = deployment.data.draft_tokens if isinstance(deployment, DeploymentAttr) else 0
            return seeded_model_environment(module, dict(bindings), seed, drafts)
        case "layer":
            return seeded_layer_environment(module, dict(bindings), seed)
        case "empty":
            raise NumericError("the module holds no program")
        case _:
            sources = _whole_sources(module, bindings)
    vocabularies = [s.shape[s.stacked] for s in sources if s.axes[:1] == ("vocab",)]
    if not vocabularies:
        raise NumericError("no weight with a vocabulary dim, so the range of token ids is unknown")
    return seeded_environment(sources, vocabularies[0], bindings, seed, _arguments(module) - 1)


@dataclass(frozen=True)
class _Local:
    """A weight or cache as one rank holds it: `layer_counts` are leading dims."""

    path: str
    kind: StoredKind
    layer_counts: tuple[int, ...]
    dims: tuple[int, ...]
    axes: tuple[str, ...]
    role: str | None
    below: int | None
    sharding: Sharding | None

    def whole(self, mesh: Mesh, bindings: Mapping[str, int]) -> Source:
        """The array of all ranks: a dim that dp splits is the batch, every other is split without rest."""
        if self.sharding is None:
            raise NumericError(f"{self.kind} '{self.path}' has no sharding")
        dims = [
            bindings["batch"] if DATA in axes else size * prod(mesh.axis(a).size for a in axes)
            for size, axes in zip(self.dims, self.sharding.dims, strict=True)
        ]
        return Source(self.path, self.kind, (*self.layer_counts, *dims), self.axes, self.role, self.below)


def _whole_sources(module: ModuleOp, bindings: Mapping[str, int]) -> list[Source]:
    """The weights and caches of a program of ranks, each path once, in the sizes of the whole model."""
    attribute = module.attributes.get(MESH)
    if not isinstance(attribute, MeshAttr):
        raise NumericError(f"the module has no {MESH}, so the size of the whole model is unknown")
    found: dict[str, Source] = {}
    for local in _local_sources(module, bindings):
        if local.path not in found:
            found[local.path] = local.whole(attribute.data, bindings)
    return list(found.values())


def _local_sources(module: ModuleOp, bindings: Mapping[str, int]) -> Iterable[_Local]:
    for program in module.ops:
        match program:
            case layer.ProgramOp():
                for array in stored_arrays(program).values():
                    dims = evaluate_dims(array.type.dims, bindings, array.path)
                    # Before localize the dims are those of the whole, which is what an unsharded rank holds.
                    sharding = array.key.sharding or Sharding(tuple(() for _ in dims))
                    counts, about = array.layer_counts, (array.axes, array.role, array.below)
                    yield _Local(array.path, array.kind, counts, dims, *about, sharding)
            case tile.ProgramOp() | g5.StreamOp():
                for op in program.walk():
                    if isinstance(op, tile.GlobalOp | g5.ArrayOp) and op.kind.data in ("weight", "state"):
                        yield _stored(op)
            case _:
                pass


def _stored(op: tile.GlobalOp | g5.ArrayOp) -> _Local:
    layers, dims = bool(op.layers), op.all_dims
    axes = tuple(axis.data for axis in op.axes.data) if op.axes is not None else ()
    kind: StoredKind = "weight" if op.kind.data == "weight" else "state"
    role = None if op.role is None else op.role.data
    below = None if op.below is None else op.below.value.data
    sharding = op.sharding.data if isinstance(op.sharding, ShardingAttr) else None
    return _Local(op.path.data, kind, dims[:layers], dims[layers:], axes, role, below, sharding)


def _arguments(module: ModuleOp) -> int:
    """The arrays of token ids that the program of a module takes."""
    for program in module.ops:
        match program:
            case layer.ProgramOp():
                return len(program.body.block.args)
            case tile.ProgramOp() | g5.StreamOp():
                arrays = (op for op in program.walk() if isinstance(op, tile.GlobalOp | g5.ArrayOp))
                return sum(op.kind.data == "input" for op in arrays)
            case _:
                pass
    raise NumericError("the module holds no program")


# -- files ------------------------------------------------------------------------------------------------------

TOKENS, DRAFTED, WEIGHTS, STATES = "tokens", "drafted/", "weights/", "states/"


def load_inputs(path: Path, bindings: Mapping[str, int]) -> Environment:
    """Inputs from an `.npz` file: `tokens`, `weights/PATH`, `states/PATH`, `drafted/0` and on where tokens are drafted.

    Raises NumericError.
    """
    try:
        with np.load(path) as file:
            arrays: dict[str, Array] = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise NumericError(f"{path}: not a readable .npz file: {error}") from None
    if TOKENS not in arrays:
        raise NumericError(f"{path}: has no array '{TOKENS}'")
    groups = {
        prefix: {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
        for prefix in (WEIGHTS, STATES)
    }
    drafted: list[Array] = []
    while (name := f"{DRAFTED}{len(drafted)}") in arrays:
        drafted.append(arrays[name])
    return Environment(dict(bindings), arrays[TOKENS], groups[WEIGHTS], groups[STATES], drafted=tuple(drafted))


def input_arrays(environment: Environment) -> dict[str, Array]:
    """The arrays of an environment by the names that `load_inputs` reads."""
    return {
        TOKENS: environment.tokens,
        **{f"{DRAFTED}{number}": values for number, values in enumerate(environment.drafted)},
        **{WEIGHTS + path: values for path, values in environment.weights.items()},
        **{STATES + path: values for path, values in environment.states.items()},
    }


def result_arrays(run: LayerRun) -> dict[str, Array]:
    """The arrays of a run: `logits`, `drafted/0` and on for those of a draft layer, and `states/PATH`."""
    drafted = {f"{DRAFTED}{number}": values for number, values in enumerate(run.outputs[1:])}
    return {"logits": run.outputs[0], **drafted, **{STATES + path: values for path, values in run.states.items()}}
