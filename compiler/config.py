"""Loading of presets and configuration files; every failure is one ConfigError of one line.

A chip, topology, deployment, accounting or calibration is a YAML (or JSON) file that fills its schema in
``pmc.dialects``; a model is a Hugging Face ``config.json``. Each is named by a preset (`pmc list`) or by a path. A
deployment may name a preset or file that it ``extends``: fields that it does not give are those of that one.
"""

import json
import math
from collections.abc import Callable, Hashable, Mapping
from functools import cache, partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from pmc.compiler.presets import KINDS, SUFFIXES, presets
from pmc.compiler.presets import list_presets as list_presets
from pmc.dialects.accounting import Accounting
from pmc.dialects.arch import Chip, Topology
from pmc.dialects.calibration import Calibration
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.gpu_system import GpuSystem
from pmc.dialects.schema import Schema, did_you_mean, explain, found

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64

DEFAULT_ACCOUNTING = "physical"
"""The preset that says what is charged where none is named."""

SchemaT = TypeVar("SchemaT", bound=Schema)

Overrides = Mapping[str, object]
"""Values of fields by their dotted path, which replace those of a file."""


class ConfigError(PmcError):
    """A configuration that cannot be used: one line with file, field, what is expected and what was found."""

    def __init__(self, source: object, problem: str):
        super().__init__(" ".join(f"{source}: {problem}".split()))


def load_chip(name_or_path: str | Path, overrides: Overrides | None = None) -> Chip:
    """The chip of a preset or file, with some fields replaced, see `changed`.  Raises ConfigError."""
    return load_schema(Chip, "chip", name_or_path, overrides)


def load_topology(name_or_path: str | Path, overrides: Overrides | None = None) -> Topology:
    """The topology of a preset or file, with some fields replaced, see `changed`.  Raises ConfigError."""
    return load_schema(Topology, "topology", name_or_path, overrides)


def load_accounting(name_or_path: str | Path, overrides: Overrides | None = None) -> Accounting:
    """What the cost models charge, of a preset or file, with some fields replaced.  Raises ConfigError."""
    return load_schema(Accounting, "accounting", name_or_path, overrides)


def load_system(name_or_path: str | Path) -> GpuSystem:
    """A chip, a topology and the system of measured tables, of a preset or file; `_` is `-`.  Raises ConfigError."""
    name = str(name_or_path)
    plain = name.replace("_", "-") if not name.endswith(SUFFIXES) else name
    return load_schema(GpuSystem, "system", plain, None)


MODELOPT_FILE = "hf_quant_config.json"
"""In which NVIDIA ModelOpt says how it has quantized the checkpoint whose `config.json` stands beside."""


@cache
def default_accounting() -> Accounting:
    """The accounting of who names none: what the hardware would do."""
    return load_accounting(DEFAULT_ACCOUNTING)


def load_calibration(name_or_path: str | Path) -> Calibration:
    """How far a target is from its model, of a preset or file. Raises ConfigError."""
    return load_schema(Calibration, "calibration", name_or_path, None)


def load_deployment(name_or_path: str | Path | None, overrides: Overrides | None = None) -> Deployment:
    """The deployment of a preset or file with some fields replaced. Raises ConfigError.

    ``overrides`` maps field paths (``tp``, ``kv-len``, ``quantization.weights``) to values. None means not
    given, so that command line options pass straight through. Without a name, the
    overrides give every field.
    """
    given = {path.replace("-", "_"): value for path, value in (overrides or {}).items() if value is not None}
    if name_or_path is None:
        return _validate(Deployment, _override({}, given), "deployment", given)
    file, source = _locate("deployment", name_or_path)
    return _validate(Deployment, _override(_read_extended(file, source), given), source, given)


def load_model_config(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """A Hugging Face model configuration and a name for its source: the preset, or the path as given.

    Takes a preset, a JSON or YAML file, or a folder that holds ``config.json``. What NVIDIA ModelOpt wrote into
    ``hf_quant_config.json`` beside a ``config.json`` is a field of that name. Raises ConfigError.
    """
    file, source = _locate("model", name_or_path)
    config = _read(file, source, finite=False)
    if isinstance(file, Path) and file.name == "config.json":
        beside = file.with_name(MODELOPT_FILE)
        if beside.is_file():
            config[MODELOPT_FILE] = _read(beside, str(beside), finite=False)
    return config, str(name_or_path)


def changed(configuration: SchemaT, overrides: Overrides) -> SchemaT:
    """A copy with the fields at some dotted paths replaced, validated like a file.

    A field of a chip or topology that gets another value becomes one of its `unvalidated` fields, so that results that
    rest on it say so.  Raises ConfigError.
    """
    content = configuration.model_dump(mode="json")
    return _with_overrides(type(configuration), content, type(configuration).__name__.lower(), overrides)


def load_fields(kind: str, name_or_path: str | Path) -> dict[str, Any]:
    """What a preset or file of a kind says, as plain values.  Raises ConfigError where it is no mapping."""
    file, source = _locate(kind, name_or_path)
    return _read(file, source)


def load_content(schema: type[SchemaT], content: Mapping[str, Any], source: str) -> SchemaT:
    """The configuration that the content of a file gives; `source` names it in errors.  Raises ConfigError."""
    return _validate(schema, dict(content), source, {})


def yaml_text(configuration: Schema) -> str:
    """A configuration as a YAML file would give it, every field written out."""
    return yaml.safe_dump(configuration.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110)


def load_schema(schema: type[SchemaT], kind: str, name_or_path: str | Path, overrides: Overrides | None) -> SchemaT:
    """The configuration of a kind that a preset or file gives, with some fields replaced.  Raises ConfigError."""
    file, source = _locate(kind, name_or_path)
    return _with_overrides(schema, _read(file, source), source, overrides or {})


def _with_overrides(schema: type[SchemaT], content: dict[str, Any], source: str, overrides: Overrides) -> SchemaT:
    if not overrides:
        return _validate(schema, content, source, {})
    given, overrides = overrides, {**schema.following(overrides, partial(_at, content)), **overrides}
    if "unvalidated" in schema.model_fields and "unvalidated" not in overrides:
        listed = content.get("unvalidated")
        if isinstance(listed, list):
            new = [path for path, value in overrides.items() if path != "name" and _at(content, path) != value]
            content["unvalidated"] = [*cast(list[object], listed), *(path for path in new if path not in listed)]
    return _validate(schema, _override(content, overrides), source, given)


def _at(content: dict[str, Any], path: str) -> object:
    """The value at a dotted path, None where there is none."""
    value: Any = content
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return cast(object, value)


def _validate(schema: type[SchemaT], content: dict[str, Any], source: str, overrides: Mapping[str, object]) -> SchemaT:
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        path, message = explain(error, schema)
        if any(f"{path}.".startswith(f"{given}.") for given in overrides):
            source = "option"
        elif overrides and not path:  # fields that do not fit together: either side may be the cause
            source = f"{source} with {', '.join(overrides)} given"
        raise ConfigError(source, message) from None


def _override(content: dict[str, Any], overrides: Mapping[str, object]) -> dict[str, Any]:
    for path, value in overrides.items():
        *blocks, last = path.split(".")
        target = content
        for block in blocks:
            inner = target.setdefault(block, {})
            if not isinstance(inner, dict):
                raise ConfigError("option", f"{path}: {block} is {found(inner)}, not a block of fields")
            target = cast(dict[str, Any], inner)
        target[last] = list(cast(tuple[object, ...], value)) if isinstance(value, tuple) else value
    return content


def _locate(kind: str, name_or_path: str | Path) -> tuple[Traversable, str]:
    """The file of a preset or path, and the name that error messages give it."""
    known = presets(kind)
    name = str(name_or_path)
    if name in known:
        return known[name], f"{kind} preset {name}"
    path = Path(name).expanduser()
    try:
        if kind == "model" and path.is_dir():
            path = path / "config.json"
        if name and path.is_file():
            return path, str(path)
        exists = bool(name) and path.exists()
    except (OSError, ValueError):  # a name that no file system takes
        exists = False
    if exists:
        raise ConfigError(path, f"expected a {kind} file, found something that is not a regular file")
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise ConfigError(path, f"no such {kind} file")
    hint = did_you_mean(name, known) or f"; presets: {', '.join(sorted(known))}"
    raise ConfigError(f"{kind} '{name[:80]}'", f"neither a preset nor a file{hint}")


def _read(file: Traversable, source: str, finite: bool = True) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, of plain values only, and of finite ones where `finite`.

    A model configuration may hold Infinity or NaN in fields that no computation reads.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(source, f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(source, f"larger than {MAX_BYTES // 2**20} MiB, which no configuration is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(source, f"not UTF-8 text (byte {error.start})") from None
    parse: Callable[[str, str], object] = _parse_json if file.name.endswith(".json") else _parse_yaml
    try:
        content = parse(text, source)
        _check_plain(content, source, "", 0, finite)
    except RecursionError:
        raise ConfigError(source, f"nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(content, dict):
        raise ConfigError(source, f"expected a mapping of fields, found {found(content)}")
    return cast(dict[str, Any], content)


def _read_extended(file: Traversable, source: str) -> dict[str, Any]:
    """The mapping in a file, over that of the deployment that it `extends`, and of the one which that extends."""
    content, chain = _read(file, source), [str(file)]
    while (base := content.pop("extends", None)) is not None:
        file = _base(file, base, source)
        if str(file) in chain:
            raise ConfigError(source, f"extends: {base} extends itself in the end")
        chain.append(str(file))
        content = _merged(_read(file, f"{source}, which extends {base}"), content)
    return content


def _base(file: Traversable, name: object, source: str) -> Traversable:
    """What `extends: name` in a file means: a file beside it, or a preset by its name or its file."""
    if not isinstance(name, str) or "/" in name:
        raise ConfigError(
            source, f"extends: expected a preset or the name of a file beside this one, found {found(name)}"
        )
    folders = [resources.files("pmc.configs") / KINDS["deployment"]]
    if isinstance(file, Path):
        folders.insert(0, file.parent)
    names = [name] if name.endswith(SUFFIXES) else [f"{name}{suffix}" for suffix in SUFFIXES]
    known = [candidate for folder in folders for n in names if (candidate := folder / n).is_file()]
    if not known:
        hint = did_you_mean(name, presets("deployment"))
        raise ConfigError(source, f"extends: no file '{name[:80]}' beside this one and no such preset{hint}")
    return known[0]


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **over}
    for name in base.keys() & over.keys():
        if isinstance(base[name], dict) and isinstance(over[name], dict):
            merged[name] = _merged(base[name], over[name])
    return merged


def parse_value(text: str, source: str) -> object:
    """A value written as YAML, of plain finite values only.  Raises ConfigError."""
    value = _parse_yaml(text, source)
    _check_plain(value, source, "", 0, finite=True)
    return value


def _check_plain(value: object, source: str, path: str, depth: int, finite: bool) -> None:
    if depth > MAX_DEPTH:
        raise RecursionError
    match value:
        case dict():
            for key, item in cast(dict[object, object], value).items():
                if not isinstance(key, str):
                    raise ConfigError(source, f"{path or 'top level'}: field names are text, found {found(key)}")
                _check_plain(item, source, f"{path}.{key}" if path else key, depth + 1, finite)
        case list():
            for index, item in enumerate(cast(list[object], value)):
                _check_plain(item, source, f"{path}[{index}]", depth + 1, finite)
        case float() if finite and not math.isfinite(value):
            raise ConfigError(source, f"{path}: expected a finite number, found {value}")
        case None | bool() | int() | float() | str():
            pass
        case _:
            raise ConfigError(source, f"{path}: expected text, a number, true, false or null, found {found(value)}")


def _parse_json(text: str, source: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(source, f"field '{twice}' is given twice")
        return fields

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(source, f"line {error.lineno} column {error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(source, f"not JSON that can be read: {error}") from None


def _refuse(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """Safe YAML without tags, anchors or duplicate fields, each an error with its line."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        peek: Any = self.peek_event  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        event = peek()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refuse("anchors and aliases are not allowed", event.start_mark)
        if (tag := getattr(event, "tag", None)) is not None:
            raise _refuse(f"tag {tag} is not allowed", event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RecursionError
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _refuse(f"field '{key.value}' is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, source: str) -> object:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        raise ConfigError(source, f"{where}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # control characters; impossible dates and integers
        raise ConfigError(source, f"not YAML that can be read: {error}") from None
