"""`pmc show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pmc.compiler.cli.complete import any_preset
from pmc.compiler.cli.output import Format, deliver
from pmc.compiler.files import write_file
from pmc.compiler.presets import KINDS, presets
from pmc.dialects.errors import PmcError

EXAMPLES = """
pmc show sg2262
pmc show decode-moe
pmc show deepseek-v3 --svg deepseek-v3.svg
pmc show deepseek-v3 --format json
pmc show ./config.json
pmc show select-tiles
"""


def show_command(
    name: Annotated[
        str, typer.Argument(help="A preset of any kind, a pass, or a config.json.", autocompletion=any_preset)
    ],
    output_format: Annotated[Format, typer.Option("--format", help="The form of what is shown.")] = Format.TEXT,
    svg: Annotated[Path | None, typer.Option(help="Draw the blocks of a model into this file.")] = None,
) -> None:
    """Show all of one preset or pass.

    Of a model its layers, its blocks and their sizes, how many parameters each of them has, and what is kept of a
    sequence; of a chip, topology or any other preset the file, whose comments say where each value is from; of a
    deployment every field, also those that its file has from another; of a pass what it does and its options.
    """
    from pmc.compiler.pipelines import foreign_pass_factories, pass_factories

    kind = next((kind for kind in KINDS if name in presets(kind)), None)
    passes = {**pass_factories(), **foreign_pass_factories()}
    is_model = kind == "model" or (kind is None and name not in passes and Path(name).exists())
    if svg is not None and not is_model:
        raise PmcError("--svg: only models are drawn")
    if is_model:
        from pmc.compiler.cli.show_model import load, model_text, picture

        module = load(name)
        text = model_text(name, module, output_format)
        if svg is not None:
            write_file(svg, picture(name, module))
    elif kind == "deployment":
        from pmc.compiler.config import load_deployment, yaml_text

        text = _form(yaml_text(load_deployment(name)), load_deployment(name).model_dump(mode="json"), output_format)
    elif kind is not None:
        from pmc.compiler.config import load_fields

        text = _form(presets(kind)[name].read_text(), load_fields(kind, name), output_format)
    elif name in passes:
        from dataclasses import asdict
        from inspect import cleandoc

        from pmc.compiler.catalog import pass_options

        options = pass_options(name)
        lines = [
            f"  {o.name}{'' if o.default is None else f'={o.default}'} ({o.takes})  {o.description}".rstrip()
            for o in options
        ]
        about = cleandoc(passes[name]().__doc__ or "")
        text = f"{about}\n" + "".join(f"{line}\n" for line in (["options:", *lines] if lines else []))
        text = _form(text, {"name": name, "about": about, "options": [asdict(o) for o in options]}, output_format)
    else:
        from pmc.dialects.schema import did_you_mean

        known = {*passes, *(preset for kind in KINDS for preset in presets(kind))}
        raise PmcError(f"'{name[:80]}' is neither a preset, nor a pass, nor a config.json{did_you_mean(name, known)}")
    deliver(text, None)


def _form(text: str, document: object, output_format: Format) -> str:
    return json.dumps(document, indent=1) + "\n" if output_format is Format.JSON else text
