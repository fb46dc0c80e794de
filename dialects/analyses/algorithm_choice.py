"""Where `select-algorithms` finds what is fastest, which a backend knows: passes do not know backends."""

from __future__ import annotations

from typing import Protocol

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.dialects.collective import AlgorithmAttr
from pmc.dialects.errors import PmcError


class AlgorithmChoice(Protocol):
    """The algorithms of collectives of fixed size."""

    def allowed(self, op: Operation) -> tuple[AlgorithmAttr, ...]:
        """All that the links of the group allow; none for a group of one rank."""
        ...

    def fastest(self, op: Operation) -> AlgorithmAttr | None:
        """The one that takes least time, None for a group of one rank."""
        ...


class ChoiceFactory(Protocol):
    """Makes the choice for the target and the accounting of a module; raises PmcError where it has none."""

    def __call__(self, module: ModuleOp) -> AlgorithmChoice: ...


class ChoiceRegistry:
    """Holds the factory that every `select-algorithms` uses."""

    def __init__(self) -> None:
        self._provided: ChoiceFactory | None = None

    def provide(self, factory: ChoiceFactory) -> None:
        """Set what every `select-algorithms` uses from here on."""
        self._provided = factory

    def choice(self, module: ModuleOp) -> AlgorithmChoice:
        """The choice for a module.  Raises PmcError while nothing is provided."""
        if self._provided is None:
            raise PmcError("no choice of algorithms is provided: import pmc.compiler.pipelines, which brings one")
        return self._provided(module)


CHOICES = ChoiceRegistry()
"""The one registry; `pmc.compiler.pipelines` fills it."""
