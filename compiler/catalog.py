"""What there is to choose from, in one line each: presets and passes with descriptions, passes with their options."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from dataclasses import dataclass

from pmc.compiler.presets import presets


@dataclass(frozen=True)
class Entry:
    """A preset, a pass or a pipeline."""

    name: str
    description: str


@dataclass(frozen=True)
class PassOptionEntry:
    """An option of a pass."""

    name: str
    """As it is written in a pipeline, with dashes."""
    takes: str
    """The type of its value."""
    default: str | None
    """None where it has to be given."""
    description: str


def preset_entries(kind: str) -> list[Entry]:
    """The presets of a kind: of a YAML file the comment that it begins with, of a model what its config says."""
    found: list[Entry] = []
    for name, file in sorted(presets(kind).items()):
        text = file.read_text()
        found.append(Entry(name, _model_line(text) if file.name.endswith(".json") else _comment(text)))
    return found


def pass_entries() -> list[Entry]:
    """The passes of pmc, and of the packages that bring passes by the entry point `xdsl.universe`."""
    from pmc.compiler.pipelines import foreign_pass_factories, pass_factories

    known = {**pass_factories(), **foreign_pass_factories()}
    return [Entry(name, _first_line(factory())) for name, factory in known.items()]


def pass_options(name: str) -> list[PassOptionEntry]:
    """The options of a pass.  Raises KeyError for a pass that does not exist."""
    from xdsl.passes import get_pass_option_infos

    from pmc.compiler.pipelines import foreign_pass_factories, pass_factories
    from pmc.dialects.deployment import deployment_fields

    pass_class = {**pass_factories(), **foreign_pass_factories()}[name]()
    described = {
        (option.pass_name, option.option or field.name): field.info.description or ""
        for field in deployment_fields()
        if (option := field.pass_option) is not None
    }
    own = _field_docstrings(pass_class)
    return [
        PassOptionEntry(
            info.name.replace("_", "-"),
            info.expected_type.replace("'", ""),
            info.default_value,
            described.get((name, info.name), own.get(info.name, "")),
        )
        for info in get_pass_option_infos(pass_class)
    ]


def _first_line(described: type) -> str:
    return (described.__doc__ or "").strip().partition("\n")[0]


def _comment(text: str) -> str:
    """The first sentence of the comment at the beginning of a YAML file."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    sentence, stop, _ = f"{' '.join(lines)} ".partition(". ")
    return sentence.strip() + ("" if not stop else ".")


def _model_line(text: str) -> str:
    config = json.loads(text)
    experts = config.get("n_routed_experts") or config.get("num_local_experts")
    mixture = f", {experts} experts" if experts else ""
    return f"{config['architectures'][0]}: {config['num_hidden_layers']} layers of {config['hidden_size']}{mixture}."


def _field_docstrings(described: type) -> dict[str, str]:
    """The text that stands under a field in the source of a class."""
    try:
        source = textwrap.dedent(inspect.getsource(described))
    except (OSError, TypeError):
        return {}
    (node,) = ast.parse(source).body
    found: dict[str, str] = {}
    if isinstance(node, ast.ClassDef):
        for field, text in zip(node.body, node.body[1:], strict=False):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return found
