"""Which level of the lowering a module is at, read off the ops it holds."""

from __future__ import annotations

from typing import Literal

from xdsl.dialects.builtin import ModuleOp

Level = Literal["model", "layer", "dist", "tile", "commands"]

LEVELS: tuple[Level, ...] = ("model", "layer", "dist", "tile", "commands")
"""All levels, from the model to the machine."""

Stage = Level | Literal["empty"]
"""The level of a module, or that it holds no program: only a trace, or nothing yet."""

STAGES: tuple[Stage, ...] = ("empty", *LEVELS)

MESH = "dist.mesh"
"""The module attribute that holds the device mesh; its presence makes a layer program an SPMD program."""

_CONTAINERS: dict[str, Level] = {"model.llm": "model", "tile.program": "tile", "g5.stream": "commands"}


def level_of(module: ModuleOp) -> Stage:
    """The level of `module`, decided by its first container op."""
    for op in module.ops:
        if op.name in _CONTAINERS:
            return _CONTAINERS[op.name]
        if op.name == "layer.program":
            return "dist" if MESH in module.attributes else "layer"
    return "empty"
