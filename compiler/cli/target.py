"""What to compile for, as the command line says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pmc.compiler.cli.complete import preset_names, setting
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.dialects.accounting import Accounting
    from pmc.dialects.arch import Chip, Topology
    from pmc.dialects.deployment import Deployment

CONFIGURATIONS: Mapping[str, str] = {
    "chip": "Chip: preset or YAML file.",
    "topology": "Topology: preset or YAML file.",
    "deployment": "Deployment: preset or YAML file, of which the options below replace fields; decode, prefill, "
    "decode-moe and prefill-moe are bases for them.",
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
    fields: Mapping[str, object]
    """The fields of the deployment that were given, by their dotted path."""
    settings: Mapping[str, Mapping[str, object]]
    """The fields of the chip, the topology and the accounting that were given, by part and dotted path."""
    given: tuple[str, ...]
    """The options that were given, as they were written."""

    def with_file(self, name: str, file: str) -> TargetOptions:
        """The same with another chip, topology, deployment or accounting."""
        files = {own: file if own == name else getattr(self, own) for own in CONFIGURATIONS}
        return TargetOptions(**files, fields=self.fields, settings=self.settings, given=self.given)

    def load(self) -> tuple[Chip, Topology, Deployment]:
        """The configurations.  Raises PmcError, once for all missing options."""
        from pmc.compiler.config import load_chip, load_deployment, load_topology
        from pmc.dialects.deployment import deployment_fields

        known = list(deployment_fields())
        missing = [name for name in ("chip", "topology") if getattr(self, name) is None]
        if self.deployment is None:
            missing += [f.name for f in known if f.path not in self.fields and not f.is_list]
        if missing:
            options = ", ".join(map(flag, missing))
            bases = "--deployment decode (or prefill, decode-moe, prefill-moe) gives all but --chip and --topology"
            hint = "" if self.deployment is not None else f"; {bases}"
            raise PmcError(f"missing options: {options}{hint}")
        assert self.chip is not None and self.topology is not None
        chip = load_chip(self.chip, self.settings.get("chip"))
        topology = load_topology(self.topology, self.settings.get("topology"))
        values = dict(self.fields)
        if self.deployment is None:  # no pattern given is no pattern
            values.update({f.path: [] for f in known if f.is_list and f.path not in values})
        return chip, topology, load_deployment(self.deployment, values)

    def varied(self, changes: Sequence[str]) -> TargetOptions:
        """The same with other options: `chip=NAME`, `tp=4` or any field of the deployment, `chip.cores=128`.

        Raises PmcError for a change that is none of these, or that is given twice.
        """
        from pmc.compiler.overrides import parse_setting, values_by_part

        files: dict[str, str] = {}
        texts: list[str] = []
        for change in changes:
            name, equals, value = change.partition("=")
            if name in CONFIGURATIONS and equals:
                if name in files:
                    raise PmcError(f"--against {name} is given twice")
                files[name] = value
            else:
                texts.append(change if "." in name else f"deployment.{change}")
        settings = values_by_part(map(parse_setting, texts))
        fields = {**self.fields, **settings.pop("deployment", {})}
        parts = {part: {**self.settings.get(part, {}), **values} for part, values in settings.items()}
        return TargetOptions(
            files.get("chip", self.chip),
            files.get("topology", self.topology),
            files.get("deployment", self.deployment),
            files.get("accounting", self.accounting),
            fields,
            {**self.settings, **parts},
            self.given,
        )

    def load_accounting(self) -> Accounting | None:
        """The accounting, None where nothing is said about it.  Raises PmcError."""
        from pmc.compiler.config import DEFAULT_ACCOUNTING, load_accounting

        settings = self.settings.get("accounting")
        if self.accounting is None and settings is None:
            return None
        return load_accounting(self.accounting or DEFAULT_ACCOUNTING, settings)


def flag(name: str) -> str:
    """The option of that name."""
    return f"--{name.replace('_', '-')}"


MODELS = preset_names("model")
"""Completes the name of a model."""

SETTING: Any = typer.Option(
    "--set",
    autocompletion=setting,
    metavar="PART.FIELD=VALUE",
    help="Replace one field of the chip, topology, deployment or accounting: chip.lmem_bytes=4MiB, "
    "topology.links.c2c.gb_per_s=900; repeatable. `pmc list chips --fields` names the fields.",
)
"""The option `--set`."""

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result here, not to stdout.")
]
"""The option `-o`."""
