"""`pmc init`."""

from __future__ import annotations

from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pmc.compiler.cli.complete import any_preset
from pmc.compiler.files import check_writable_file, write_file
from pmc.compiler.presets import KINDS, presets
from pmc.dialects.errors import PmcError

EXAMPLES = """
pmc init chip my-chip.yaml
pmc init chip my-chip.yaml --from sg2262
pmc init topology my-rack.yaml --from p1-r1-b4-c32
pmc init deployment my-deployment.yaml --from decode-moe
"""


class New(StrEnum):
    """The kinds of files that can be begun."""

    CHIP = "chip"
    TOPOLOGY = "topology"
    DEPLOYMENT = "deployment"


BASES = {New.TOPOLOGY: "p1-r1-b1-c8", New.DEPLOYMENT: "decode"}
"""The presets that a file is begun from where none is named; a chip has a template of its own."""


def init_command(
    kind: Annotated[New, typer.Argument(help="What the file describes.")],
    file: Annotated[Path, typer.Argument(help="The YAML file to write; it must not exist yet.")],
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="PRESET", help="The preset to begin with.", autocompletion=any_preset),
    ] = None,
) -> None:
    """Write a configuration file to begin with, which loads as it is and says at every field what it means.

    A chip comes from a template of a made-up chip, a topology and a deployment from a preset.
    """
    if file.exists():
        raise PmcError(f"{file}: exists already; init writes new files only")
    if file.suffix not in (".yaml", ".yml"):
        raise PmcError(f"{file}: expected a file that ends in .yaml")
    check_writable_file(file)
    write_file(file, _text(kind, base, file.stem))


def _text(kind: New, base: str | None, name: str) -> str:
    from pmc.compiler.config import load_deployment

    if kind is New.DEPLOYMENT:
        return _deployment(load_deployment(base or BASES[kind]))
    if base is None and kind is New.CHIP:
        text = (resources.files("pmc.configs") / KINDS["chip"] / "_template.yaml").read_text()
    else:
        known = presets(kind.value)
        chosen = base or BASES[kind]
        if chosen not in known:
            raise PmcError(f"--from: no {kind.value} preset '{chosen[:80]}'; there are {', '.join(sorted(known))}")
        text = known[chosen].read_text()
    lines = text.splitlines(keepends=True)
    index = next(i for i, line in enumerate(lines) if line.startswith("name: "))
    _, hash_mark, comment = lines[index].rstrip("\n").partition("  #")
    lines[index] = f"name: {name}{hash_mark}{comment}\n"
    return "".join(lines)


def _deployment(deployment: object) -> str:
    """Every field with its meaning."""
    from pmc.compiler.config import yaml_text
    from pmc.dialects.deployment import Deployment, deployment_fields

    assert isinstance(deployment, Deployment)
    described = {field.path: field.info.description or "" for field in deployment_fields()}
    lines: list[str] = []
    block = ""
    for line in yaml_text(deployment).splitlines():
        name = line.strip().partition(":")[0]
        block = block if line.startswith(" ") else name
        text = described.get(f"{block}.{name}" if line.startswith(" ") else name)
        lines.append(line if text is None else f"{line}  # {text}")
    return "".join(f"{line}\n" for line in lines)
