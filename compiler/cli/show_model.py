"""`pmc show` of a model: its architecture in one screen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pmc.compiler.cli.compiled import Parameters, short
from pmc.compiler.cli.output import Format
from pmc.dialects.errors import PmcError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from pmc.compiler.model_summary import ModelSummary
    from pmc.dialects.checkpoint import StoredTypes

NAMES = 14
"""Characters of what stands to the left, at least."""


def model_text(name: str, module: ModuleOp, output_format: Format) -> str:
    """Layers, blocks and their sizes, parameters, and what is kept of a sequence."""
    from pmc.compiler.cli.text_table import Column, output_width, prose, text_table
    from pmc.compiler.model_summary import block_rows, parameters_of_block, sizes_of, summary_of
    from pmc.dialects.model import model_blocks

    summary = summary_of(module)
    parameters = Parameters.of(module)
    if output_format is Format.JSON:
        blocks = [
            {
                "path": block.path.data,
                "block": block.name,
                "count": count,
                "parameters": count * parameters_of_block(block),
                "sizes": sizes_of(block),
            }
            for block, count in model_blocks(module)
        ]
        counts = {**parameters._asdict(), "of_draft_layer": summary.draft_parameters}
        document = {"name": name, **_fields(summary), "parameters": counts, "blocks": blocks}
        return json.dumps(document, indent=1) + "\n"
    rows = block_rows(module)
    columns = [
        Column("path", [row.path for row in rows], "total", left=True),
        Column("block", [row.name for row in rows], left=True),
        Column("count", [str(row.layers) for row in rows]),
        Column("parameters", [f"{row.parameters:,}" for row in rows], f"{parameters.total:,}"),
    ]
    width = output_width(None)
    lines = [
        *prose([f"{name}: {parameters}"], width),
        *_wrapped(_facts(summary, parameters), width),
        "",
        *_wrapped(_blocks(summary), width),
        "",
        *text_table(columns, width),
    ]
    return "".join(f"{line}\n" for line in lines)


def _wrapped(rows: list[tuple[str, str]], width: int | None) -> Iterator[str]:
    """A name to the left of its text, which is broken where it passes the width."""
    from pmc.compiler.cli.text_table import hanged

    indent = max(NAMES, *(len(name) + 2 for name, _ in rows))
    for name, text in rows:
        first, *more = hanged(text, indent, width)
        yield f"{name:<{indent}}{first}"
        yield from (" " * indent + line for line in more)


def _facts(summary: ModelSummary, parameters: Parameters) -> list[tuple[str, str]]:
    checkpoint = summary.checkpoint
    sizes = [
        summary.architecture,
        summary.dtype,
        f"hidden_size {summary.hidden_size}",
        f"vocab_size {summary.vocab_size}" + (" (embedding and head are one table)" if summary.tied else ""),
    ]
    if checkpoint is not None and checkpoint.longest_context is not None:
        sizes.append(f"made for {checkpoint.longest_context} tokens")
    rows = [
        ("architecture", ", ".join(sizes)),
        ("layers", f"{summary.layers}: {summary.order}"),
        ("norms", summary.norms),
        ("cache", f"{cache_words(summary)}, in the types of the model"),
    ]
    if summary.draft_parameters:
        own, both = summary.draft_parameters, parameters.total + summary.draft_parameters
        rows.append(("draft layer", f"{short(own)} parameters of its own, {short(both)} with those of the model"))
    if checkpoint is not None and checkpoint.stored is not None:
        rows.append(("checkpoint", stored_words(checkpoint.stored)))
    if checkpoint is not None and checkpoint.left_out():
        rows.append(("not counted", ", ".join(checkpoint.left_out())))
    return rows


def stored_words(stored: StoredTypes) -> str:
    """The types of a quantized checkpoint, those of most weights first."""
    parts = [f"weights are stored as {stored.weights or 'the type of the model'}"]
    parts += [f"for activations in {stored.activations}"] if stored.activations else []
    parts += [f"a KV cache in {stored.kv_cache}"] if stored.kv_cache else []
    parts += [f"but {', '.join(stored.types)}"] if stored.types else []
    return ", ".join(parts)


def cache_words(summary: ModelSummary) -> str:
    """What all layers keep of a sequence."""
    caches = summary.caches
    parts = [f"{caches.per_token:,.10g} bytes per token"] if caches.per_token else []
    parts += [f"at most {caches.in_windows:,} bytes per sequence in windows"] if caches.in_windows else []
    parts += [f"{caches.states:,} bytes per sequence in states of a fixed size"] if caches.states else []
    return "; ".join(parts) or "nothing is kept"


def _blocks(summary: ModelSummary) -> list[tuple[str, str]]:
    from pmc.compiler.model_summary import words

    return [(kind.name, f"{words(kind.sizes)} (in {', '.join(kind.layers)})") for kind in summary.blocks]


def _fields(summary: ModelSummary) -> dict[str, object]:
    checkpoint = summary.checkpoint
    return {
        "architecture": summary.architecture,
        "dtype": summary.dtype,
        "hidden_size": summary.hidden_size,
        "vocab_size": summary.vocab_size,
        "layers": summary.layers,
        "order": summary.order,
        "norms": summary.norms,
        "cache_bytes": summary.caches._asdict(),
        "checkpoint": None if checkpoint is None else checkpoint.model_dump(mode="json"),
    }


def picture(name: str, module: ModuleOp) -> str:
    """The architecture as SVG."""
    from pmc.compiler.model_picture import model_svg

    return model_svg(module, f"{name}: {Parameters.of(module)}")


def load(name: str) -> ModuleOp:
    """The module of a model.  Raises PmcError for a dump, which may hold one rank only."""
    from pmc.compiler.driver import load_model

    if name.endswith(".mlir"):
        raise PmcError(f"{name} is a dump; show takes a model")
    return load_model(name)
