"""`pmc support`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pmc.compiler.cli.complete import preset_names
from pmc.compiler.cli.output import Format, deliver, progress
from pmc.compiler.cli.target import MODELS, TargetOptions
from pmc.compiler.cli.text_table import Column, output_width, prose, text_table
from pmc.dialects.errors import PmcError

EXAMPLES = """
pmc support llama-3.1-8b h200-sxm --tp 2
pmc support deepseek-v3 h200-sxm --backend sglang --dp 8 --ep 8
"""


def support_command(
    model: Annotated[str, typer.Argument(help="Preset, config.json or YAML.", autocompletion=MODELS)],
    system: Annotated[str, typer.Argument(help="The system: h200-sxm.", autocompletion=preset_names("system"))],
    *,
    backend: Annotated[str | None, typer.Option(help="One serving engine; all that have tables.")] = None,
    output_format: Annotated[Format, typer.Option("--format", help="The form of the table.")] = Format.TEXT,
    target: TargetOptions,
) -> None:
    """Tell per kind of op what measured tables of a system know about a model: measured, interpolated or analytic.

    Looks at a step of decode and of prefill under the options of the deployment (base: decode, or decode-moe for a
    model with experts).  Exit code 1 says that some of it cannot be answered.
    """
    with progress(f"looking up {model}"):
        from pmc.backends.silicon.library import OF_LIBRARIES
        from pmc.backends.silicon.shipped import library_at_hand
        from pmc.compiler.config import load_system
        from pmc.compiler.driver import load_model
        from pmc.compiler.support import ENGINES, support

        module, known = load_model(model), load_system(system)
        has = [name for name in library_at_hand().backends(known.tables) if name not in OF_LIBRARIES.values()]
        if not has:
            raise PmcError(f"{system} has a specification and no measurements")
        engines = [backend] if backend is not None else sorted(has, key=(*ENGINES, *has).index)
        for part, name in (("chip", known.chip), ("topology", known.topology)):
            if getattr(target, part) is None:
                target = target.with_file(part, name)
        if target.deployment is None:
            experts = any(op.name == "model.moe" for op in module.walk())
            target = target.with_file("deployment", "decode-moe" if experts else "decode")
        chip, topology, decode = target.load()
        lengths = {"phase": "prefill", "q_len": min(decode.kv_len, 2048), "kv_len": min(decode.kv_len, 2048)}
        prefill = decode.model_copy(update={**lengths, "batch": decode.dp})
        decode = decode.model_copy(update={"phase": "decode", "q_len": 1})
        rows, refused = support(module, known.tables, chip, topology, (decode, prefill), engines)
    if output_format is Format.JSON:
        deliver(json.dumps({"ops": [asdict(row) for row in rows], "refused": refused}, indent=1) + "\n", None)
    else:
        width = output_width(None)
        columns = [
            Column("phase", [row.phase for row in rows], left=True),
            Column("engine", [row.engine for row in rows], left=True),
            Column("table", [row.table for row in rows], left=True),
            Column("ops", [str(row.ops) for row in rows]),
            Column("time us", [f"{row.time_us:.1f}" for row in rows]),
            Column("source", [", ".join(f"{k} {v:.0%}" for k, v in row.shares.items()) for row in rows], left=True),
        ]
        reasons = dict.fromkeys(f"analytic, {row.table} with {row.engine}: {row.reason}" for row in rows if row.reason)
        lines = [*text_table(columns, width), *prose([*reasons, *(f"refused: {line}" for line in refused)], width)]
        deliver("".join(f"{line}\n" for line in lines), None)
    if refused:
        raise typer.Exit(1)
