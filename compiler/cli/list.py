"""`pmc list`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pmc.compiler.cli.output import Format, deliver
from pmc.compiler.cli.text_table import hanged, output_width
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from pmc.compiler.catalog import Entry

EXAMPLES = """
pmc list
pmc list chips
pmc list passes --format json
pmc list chips --fields
pmc list systems
"""


class Kind(StrEnum):
    """What can be listed."""

    MODELS = "models"
    CHIPS = "chips"
    TOPOLOGIES = "topologies"
    DEPLOYMENTS = "deployments"
    ACCOUNTING = "accounting"
    CALIBRATIONS = "calibrations"
    STACKS = "stacks"
    WORKLOADS = "workloads"
    TAS = "tas"
    SYSTEMS = "systems"
    ARCHITECTURES = "architectures"
    PASSES = "passes"
    PIPELINES = "pipelines"


PRESETS = tuple(kind for kind in Kind if kind not in (Kind.ARCHITECTURES, Kind.PASSES, Kind.PIPELINES))


def list_command(
    kind: Annotated[Kind | None, typer.Argument(help="Without it, all presets.")] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="chips, topologies: the fields of such a file, and what reads each.")
    ] = False,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the list.")] = Format.TEXT,
) -> None:
    """List presets, architectures, passes or pipelines, with what each of them is; `pmc show` says all of one.

    `pmc list systems` also says what was measured on each: serving engines, versions and kinds of tables.
    """
    if fields:
        deliver(_fields(kind, output_format), None)
        return
    kinds = [kind] if kind is not None else list(Kind) if output_format is Format.JSON else list(PRESETS)
    entries = {k.value: _entries(k, measured=kind is k) for k in kinds}
    if output_format is Format.JSON:
        document = {name: [asdict(entry) for entry in found] for name, found in entries.items()}
        deliver(json.dumps(document, indent=1) + "\n", None)
        return
    width = max(len(entry.name) for found in entries.values() for entry in found)
    indent = "" if kind is not None else "  "
    lines: list[str] = []
    for name, found in entries.items():
        lines += [f"{name}:"] if kind is None else []
        for entry in found:
            hanging = " " * (len(indent) + width + 2)
            first, *rest = hanged(entry.description, len(hanging), output_width(None))
            lines += [f"{indent}{entry.name:{width}}  {first}".rstrip(), *(f"{hanging}{line}" for line in rest)]
    deliver("".join(f"{line}\n" for line in lines), None)


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


def _entries(kind: Kind, measured: bool) -> list[Entry]:
    from pmc.compiler.catalog import Entry, pass_entries, preset_entries

    if kind is Kind.ARCHITECTURES:
        from pmc.compiler.frontend import architectures

        return [Entry(name, description) for name, description in architectures().items()]
    if kind is Kind.PASSES:
        return pass_entries()
    if kind is Kind.PIPELINES:
        from pmc.compiler.pipelines import PIPELINE

        return [Entry(level, ", ".join(names) or "(nothing to run)") for level, names in PIPELINE.items()]
    if kind is Kind.SYSTEMS and measured:
        from pmc.compiler.support import system_entries

        return system_entries()
    from pmc.compiler.presets import KINDS

    return preset_entries(next(name for name, folder in KINDS.items() if folder == kind.value))
