"""What to compile for, as the command line says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.dialects.accounting import Accounting
    from pmc.dialects.arch import Chip, Topology
    from pmc.dialects.deployment import Deployment, DeploymentField

CONFIGURATIONS: Mapping[str, str] = {
    "chip": "Chip: preset or YAML file.",
    "topology": "Topology: preset or YAML file.",
    "deployment": "Deployment: preset or YAML file. Without it, the options below give every field.",
    "accounting": "What cost models charge, and tiles are chosen by: preset (physical if not given) or YAML file.",
}
"""The options that name a file, with their help."""


@dataclass(frozen=True)
class TargetOptions:
    """Chip, topology, deployment and accounting as given on the command line; None is not given."""

    chip: str | None
    topology: str | None
    deployment: str | None
    accounting: str | None
    fields: Mapping[str, Any]
    """The fields of the deployment that were given, by name."""

    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [*(name for name in CONFIGURATIONS if getattr(self, name) is not None), *self.fields]

    def load(self) -> tuple[Chip, Topology, Deployment]:
        """The configurations.  Raises PmcError, once for all missing options."""
        from pmc.compiler.config import load_chip, load_deployment, load_topology
        from pmc.dialects.deployment import deployment_fields

        known = list(deployment_fields())
        missing = [name for name in ("chip", "topology") if getattr(self, name) is None]
        if self.deployment is None:
            missing += [f.name for f in known if f.name not in self.fields and not f.is_list]
        if missing:
            options = ", ".join(map(flag, missing))
            hint = "" if self.deployment is not None else "; --deployment gives all but --chip and --topology"
            raise PmcError(f"missing options: {options}{hint}")
        assert self.chip is not None and self.topology is not None
        chip, topology = load_chip(self.chip), load_topology(self.topology)
        values = {f.path: _value(f, self.fields[f.name]) for f in known if f.name in self.fields}
        if self.deployment is None:  # no pattern given is no pattern
            values.update({f.path: [] for f in known if f.is_list and f.name not in self.fields})
        return chip, topology, load_deployment(self.deployment, values)

    def load_accounting(self) -> Accounting | None:
        """The accounting, None where none is given.  Raises PmcError."""
        from pmc.compiler.config import load_accounting

        return None if self.accounting is None else load_accounting(self.accounting)


def flag(name: str) -> str:
    """The option of that name."""
    return f"--{name.replace('_', '-')}"


def _value(field: DeploymentField, given: Any) -> object:
    """What the schema takes for an option.  Raises PmcError for text that is none of its forms."""
    if field.text_form is None:
        return given
    try:
        return field.text_form.parse(given)
    except ValueError:
        raise PmcError(f"{flag(field.name)}: expected {field.text_form.forms}, found '{given}'") from None


Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result here, not to stdout.")
]
"""The option `-o`."""
