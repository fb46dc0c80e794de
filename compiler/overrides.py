"""Single fields of a configuration by name: `--set chip.cores=128`, and the same from Python.

    parse_settings(["chip.lmem_bytes=4MiB"])  # {"chip": {"command_level.lmem.bytes_per_core": 4194304}}

A field is named by its path in the file.  Blocks at the beginning of the path may be left out where only one path ends
so: `chip.bandwidth_gb_per_s` is `chip.dram.bandwidth_gb_per_s`.  A number may carry a unit, which is converted into
that of the field: `4MiB`, `1.8TB/s`, `1us`.  What the values may be is checked by the schema, as in a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from pmc.compiler.config import ConfigError, parse_value
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.deployment import Deployment, TextForm
from pmc.dialects.schema import Leaf, Schema, ShortName, did_you_mean, leaves, nearest, unit_of, value_types

PARTS: Mapping[str, type[Schema]] = {
    "chip": Chip,
    "topology": Topology,
    "deployment": Deployment,
    "accounting": Accounting,
}
"""What a setting can be about."""


@cache
def study_parts() -> Mapping[str, type[Schema]]:
    """What a setting of a thermal study can be about.  The schemas are imported where they are asked for."""
    from pmc.dialects.moe_workload import MoeWorkload
    from pmc.dialects.stacked_arch import StackedArch
    from pmc.dialects.tas_params import TasParams

    return {"arch": StackedArch, "workload": MoeWorkload, "tas": TasParams}


BYTES = {
    "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
UNITS: Mapping[str, Mapping[str, float]] = {
    "bytes": {"bytes": 1, **BYTES},
    "GiB": {name: scale / 2**30 for name, scale in BYTES.items()},
    "GB/s": {f"{name}/s": scale / 1e9 for name, scale in BYTES.items()},
    "Gbit/s": {"Mbit/s": 1e-3, "Gbit/s": 1.0, "Tbit/s": 1e3},
    "GHz": {"MHz": 1e-3, "GHz": 1.0},
    "ns": {name: scale * 1e9 for name, scale in SECONDS.items()},
    "us": {name: scale * 1e6 for name, scale in SECONDS.items()},
}
"""For the unit of a field the units that a value may have, and what one of them is in the unit of the field."""

_NUMBER = re.compile(r"([+-]?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*([A-Za-z/]*)")


@dataclass(frozen=True)
class Setting:
    """One field of one part of a target, replaced."""

    part: str
    """`chip`, `topology`, `deployment` or `accounting`."""
    path: str
    """The dotted path of the field in its schema."""
    value: object
    """The value as a file would give it; the schema has not seen it yet."""

    @property
    def name(self) -> str:
        """`chip.cores`."""
        return f"{self.part}.{self.path}"


def parse_settings(texts: Iterable[str], parts: Mapping[str, type[Schema]] = PARTS) -> dict[str, dict[str, object]]:
    """For each part that is named its fields and their values.  Raises ConfigError."""
    return values_by_part(parse_setting(text, parts) for text in texts)


def parse_setting(text: str, parts: Mapping[str, type[Schema]] = PARTS) -> Setting:
    """The setting that `PART.FIELD=VALUE` says, of one of the parts.  Raises ConfigError."""
    name, equals, value = text.partition("=")
    part, _, field = name.strip().partition(".")
    if not equals or not field:
        raise ConfigError("--set", f"expected PART.FIELD=VALUE, as chip.cores=128, found '{text[:80]}'")
    path = field_path(part, field, parts)
    return Setting(part, path, value_of(part, path, value.strip()))


def values_by_part(settings: Iterable[Setting]) -> dict[str, dict[str, object]]:
    """For each part that is named its fields and their values.  Raises ConfigError for a field that is given twice."""
    values: dict[str, dict[str, object]] = {}
    for setting in settings:
        fields = values.setdefault(setting.part, {})
        if setting.path in fields:
            raise ConfigError("--set", f"{setting.name} is given twice")
        fields[setting.path] = setting.value
    return values


def field_path(part: str, field: str, parts: Mapping[str, type[Schema]] = PARTS) -> str:
    """The full path of a field or a block of a part.  Raises ConfigError for none, or for several that it could be."""
    if part not in parts:
        hint = did_you_mean(part, parts) or f"; settings are about {', '.join(parts)}"
        raise ConfigError("--set", f"unknown part '{part[:80]}'{hint}")
    field = field.replace("-", "_")
    paths, short = _paths(part), _short_names(part)
    if field in paths:
        return field
    if field in short:
        return short[field]
    ends = [path for path in paths if path.endswith(f".{field}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError("--set", f"{part}.{field} may be {' or '.join(f'{part}.{path}' for path in ends)}")
    raise ConfigError("--set", f"unknown field {part}.{field[:80]}{_hint(part, field)}")


def _hint(part: str, field: str) -> str:
    """The nearest name: of a whole path, a short name, or the end of a path."""
    ends = {path.rpartition(".")[2]: path for path in reversed(_paths(part))}
    names = {**ends, **{short: short for short in _short_names(part)}, **{path: path for path in _paths(part)}}
    for word in (field, field.rpartition(".")[2]):
        if near := nearest(word, names):
            return f"; did you mean '{part}.{names[near]}'?"
    return f"; known fields: {', '.join(_schema(part).model_fields)}"


def _schema(part: str) -> type[Schema]:
    return PARTS[part] if part in PARTS else study_parts()[part]


@cache
def _leaves(part: str) -> dict[str, Leaf]:
    return {leaf.path: leaf for leaf in leaves(_schema(part))}


@cache
def _paths(part: str) -> tuple[str, ...]:
    """All fields, and the blocks around them."""
    blocks = {path[:dot] for path in _leaves(part) for dot in range(len(path)) if path[dot] == "."}
    return (*_leaves(part), *sorted(blocks))


@cache
def _short_names(part: str) -> dict[str, str]:
    found = ((m, path) for path, leaf in _leaves(part).items() for m in leaf.info.metadata)
    return {mark.name: path for mark, path in found if isinstance(mark, ShortName)}


def all_names() -> list[str]:
    """Every field of every part, as `--set` takes it."""
    return [f"{part}.{path}" for part in PARTS for path in _leaves(part)]


def short_names() -> list[str]:
    """The names that stand for longer paths."""
    return [f"{part}.{short}" for part in PARTS for short in _short_names(part)]


def value_of(part: str, path: str, text: str) -> object:
    """What a file would say for the text of a setting, in the unit of the field.

    Raises ConfigError for text that is no value of any field of this kind; bounds are left to the schema.
    """
    leaf = _leaves(part).get(path)
    if text == "null":
        return None
    if leaf is None:  # a block
        return parse_value(text, f"--set {part}.{path}")
    form = next((m for m in leaf.info.metadata if isinstance(m, TextForm)), None)
    if form is not None:
        try:
            return form.parse(text)
        except ValueError:
            raise ConfigError("--set", f"{part}.{path}: expected {form.forms}, found '{text[:80]}'") from None
    kinds = value_types(leaf.info)
    if bool in kinds and text in ("true", "false"):
        return text == "true"
    if (int in kinds or float in kinds) and (number := _NUMBER.fullmatch(text)):
        return _number(part, leaf, *number.groups())
    if tuple in kinds:
        return _list(f"--set {part}.{path}", leaf, text)
    return text


def _number(part: str, leaf: Leaf, digits: str, unit: str) -> object:
    """The number in the unit of the field, an integer where it is one."""
    value = float(digits)
    own = unit_of(leaf.info)
    if not unit:
        return int(digits) if re.fullmatch(r"[+-]?[\d_]+", digits) else _whole(value, leaf)
    known = UNITS.get(own or "", {own: 1} if own else {})
    if unit not in known:
        takes = f"takes {', '.join(known)}" if known else "has no unit"
        raise ConfigError("--set", f"{part}.{leaf.path}: unknown unit '{unit}': the field {takes}")
    return _whole(value * known[unit], leaf)


def _whole(value: float, leaf: Leaf) -> int | float:
    return int(value) if value.is_integer() and float not in value_types(leaf.info) else value


def _list(source: str, leaf: Leaf, text: str) -> object:
    """A list: of text, `[a,b]` or `a`; of anything else as YAML writes it."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if str in value_types(leaf.info, inside=True):
        return [word for item in inner.split(",") if (word := item.strip().strip("\"'"))]
    return parse_value(text, source)
