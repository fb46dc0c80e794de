"""A module of IR as the Python API hands it out: short to show, never changed by what it is given to."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.driver import load_model, module_text
from pmc.compiler.files import write_file
from pmc.compiler.pipelines import DEPLOYMENT
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level, level_of
from pmc.passes.base import history


@dataclass(frozen=True, eq=False, repr=False)
class Module:
    """A model, or what it was compiled to, with its whole target in its attributes."""

    op: ModuleOp
    """The op of xDSL."""
    name: str
    """The preset or file that it comes from."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> Module:
        """The module of a preset, a `config.json` (or its folder, or YAML), or an `.mlir` file.  Raises PmcError."""
        return cls(load_model(name_or_path), str(name_or_path))

    @property
    def level(self) -> Level | Literal["empty"]:
        """`model`, `layer`, `dist`, `tile` or `commands`."""
        return level_of(self.op)

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that it has been through, with their options."""
        return tuple(entry.data for entry in history(self.op))

    @property
    def has_target(self) -> bool:
        """Whether it was compiled, for the target that it then holds."""
        return DEPLOYMENT in self.op.attributes

    def copy(self) -> ModuleOp:
        """A copy of the op, which may be changed."""
        return self.op.clone()

    def save(self, path: str | Path) -> None:
        """Write it as MLIR text, from which `load` and every command go on.  Raises PmcError."""
        write_file(Path(path), str(self))

    def __str__(self) -> str:
        return module_text(self.op)

    def __repr__(self) -> str:
        return f"<module {self.name}: {self.level} level, {sum(1 for _ in self.op.walk())} ops>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p><pre>{escape(str(self))}</pre>"


def module_of(model: Module | ModuleOp | str | Path) -> Module:
    """A module, or the one that a name or path stands for.  Raises PmcError."""
    match model:
        case Module():
            return model
        case ModuleOp():
            return Module(model, "module")
        case str() | Path():
            return Module.load(model)
        case _:  # pyright: ignore[reportUnnecessaryComparison]
            raise PmcError(f"expected a model, or the name of a preset or a file, found {type(model).__name__}")
