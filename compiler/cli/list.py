"""`pmc list`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from pmc.compiler.cli.output import Format, deliver
from pmc.dialects.errors import PmcError

EXAMPLES = """\b
Examples:
  pmc list
  pmc list chips
  pmc list passes --format json
  pmc list chips --fields
"""


class Kind(StrEnum):
    """What can be listed."""

    MODELS = "models"
    CHIPS = "chips"
    TOPOLOGIES = "topologies"
    DEPLOYMENTS = "deployments"
    PASSES = "passes"
    PIPELINES = "pipelines"


def list_command(
    kind: Annotated[Kind | None, typer.Argument(help="Without it, all presets.")] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="chips, topologies: the fields of such a file, and what reads each.")
    ] = False,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the list.")] = Format.TEXT,
) -> None:
    """List presets, passes or pipelines."""
    if fields:
        deliver(_fields(kind, output_format), None)
        return
    if output_format is Format.JSON:
        names = {kind.value: _names(kind)} if kind else {k.value: _names(k) for k in Kind}
        deliver(json.dumps(names, indent=1) + "\n", None)
    elif kind is not None:
        deliver("".join(f"{name}\n" for name in _names(kind)), None)
    else:
        presets = (Kind.MODELS, Kind.CHIPS, Kind.TOPOLOGIES, Kind.DEPLOYMENTS)
        deliver("".join(f"{k}:\n" + "".join(f"  {name}\n" for name in _names(k)) for k in presets), None)


def _fields(kind: Kind | None, output_format: Format) -> str:
    from pmc.compiler.field_readers import field_uses
    from pmc.dialects.arch import Chip, Topology

    if kind is not Kind.CHIPS and kind is not Kind.TOPOLOGIES:
        raise PmcError("--fields is about chips and topologies: pmc list chips --fields")
    uses = field_uses(Chip if kind is Kind.CHIPS else Topology)
    if output_format is Format.JSON:
        return json.dumps({kind.value: [asdict(use) for use in uses]}, indent=1) + "\n"
    width = max(len(use.path) for use in uses)
    return "".join(f"{use.path:{width}}  {', '.join(use.readers) or use.planned}\n" for use in uses)


def _names(kind: Kind) -> list[str]:
    if kind in (Kind.PASSES, Kind.PIPELINES):
        from pmc.compiler.pipelines import PIPELINE, pass_names

        if kind is Kind.PASSES:
            return list(pass_names())
        return [f"{level}: {', '.join(names) or '(nothing to run)'}" for level, names in PIPELINE.items()]
    from pmc.compiler.presets import KINDS, presets

    singular = next(name for name, folder in KINDS.items() if folder == kind.value)
    return sorted(presets(singular))


list_command.__doc__ = f"{list_command.__doc__}\n\n{EXAMPLES}"
