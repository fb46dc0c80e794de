"""Schemas of configuration: strict, immutable, with units; and their errors put into one readable line."""

import difflib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, TypeAlias, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from pmc.dialects.element_formats import canonical_format, known_formats
from pmc.dialects.errors import PmcError
from pmc.dialects.type_rules import CHECKPOINT_TYPES, canonical_or_checkpoint, canonical_rule

_LARGE = 2**40  # keeps integers within MLIR's i64 and out of error messages


_LEAST, _MOST = 1e-12, 1e15


def _ordinary(value: float) -> float:
    """Refuse what computations with it could only turn into zero or infinity."""
    if value and not _LEAST <= abs(value) <= _MOST:
        raise ValueError(f"a number other than 0 must be between {_LEAST:g} and {_MOST:g}")
    return value


Number = Annotated[float, AfterValidator(_ordinary)]


@dataclass(frozen=True)
class Words:
    """Marks a field of text that has known words, for completions."""

    known: Callable[[], list[str]]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Count = Annotated[int, Field(gt=0, le=_LARGE)]
Cycles = Annotated[int, Field(ge=0, le=_LARGE, json_schema_extra={"unit": "cycles"})]
Bytes = Annotated[int, Field(gt=0, le=_LARGE, json_schema_extra={"unit": "bytes"})]
Ghz = Annotated[Number, Field(gt=0, json_schema_extra={"unit": "GHz"})]
GbPerS = Annotated[Number, Field(gt=0, json_schema_extra={"unit": "GB/s"})]
GbitPerS = Annotated[Number, Field(gt=0, json_schema_extra={"unit": "Gbit/s"})]
GiB = Annotated[Number, Field(gt=0, json_schema_extra={"unit": "GiB"})]
Ns = Annotated[Number, Field(ge=0, json_schema_extra={"unit": "ns"})]
Us = Annotated[Number, Field(ge=0, json_schema_extra={"unit": "us"})]
Pj = Annotated[Number, Field(ge=0, json_schema_extra={"unit": "pJ"})]
Sequences = Annotated[int, Field(gt=0, le=_LARGE, json_schema_extra={"unit": "sequences"})]
Tokens = Annotated[int, Field(gt=0, le=_LARGE, json_schema_extra={"unit": "tokens"})]
Ratio = Annotated[Number, Field(gt=0, le=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Loads = Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Field(strict=False, min_length=1)]
Paths = Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]-]+$")], ...], Field(strict=False)]

DType: TypeAlias = Annotated[str, AfterValidator(canonical_format), Words(known_formats)]
"""An element type by its MLIR name, or by one that `element_formats` knows; held as the former."""

HeldDType: TypeAlias = Annotated[
    str, AfterValidator(canonical_or_checkpoint), Words(lambda: [CHECKPOINT_TYPES, *known_formats()])
]
"""An element type, or `checkpoint`: that of the checkpoint."""

TypeRules: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(canonical_rule)], ...], Field(strict=False)]
"""Types of single weights, see `type_rules`."""

_BOUNDS = ((Gt, "gt", ">"), (Ge, "ge", ">="), (Lt, "lt", "<"), (Le, "le", "<="))
_NAMES: dict[object, str] = {
    int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "null",
}  # fmt: skip


class SchemaError(PmcError):
    """A configuration that its schema refuses: field, what is expected and what was found."""


class Schema(BaseModel, frozen=True):
    """Immutable, strictly typed, every field written out, nothing unknown, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, validated like a file.  Raises SchemaError."""
        if not update:
            return super().model_copy(deep=deep)
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return type(self).model_validate({**fields, **update})
        except ValidationError as error:
            raise SchemaError(f"{type(self).__name__.lower()}: {explain(error, type(self))[1]}") from None

    @classmethod
    def following(cls, given: Mapping[str, object], value_at: Callable[[str], object]) -> Mapping[str, object]:
        """What other fields become where some are `given` anew, by dotted path; `value_at` a path is what a file says.

        Nothing follows but where a schema says so.  No value has been validated yet.
        """
        return {}

    def __repr__(self) -> str:
        """The name, where it has one, else the values that are no blocks, without flags that are off."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if "name" in values:
            return f"<{type(self).__name__.lower()} {values['name']}>"
        shown = (pair for pair in values.items() if isinstance(pair[1], str | int | float) and pair[1] is not False)
        plain = (f"{name}={value}" for name, value in shown)
        return f"<{type(self).__name__.lower()} {', '.join(plain)}>"


@dataclass(frozen=True)
class Planned:
    """Marks a field, or a block of fields, that is asked for although nothing reads it yet."""

    reader: str
    """What will read it."""


@dataclass(frozen=True)
class ShortName:
    """Marks a field that is known by a name of its own, which stands for its path in a setting."""

    name: str


@dataclass(frozen=True)
class Leaf:
    """A value of a schema, wherever in its blocks it stands."""

    path: str
    """Its dotted path, which begins with the names of its blocks."""
    info: FieldInfo
    planned: Planned | None
    """Set where it, or a block around it, is marked so."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def leaves(schema: type[Schema], prefix: str = "", planned: Planned | None = None) -> Iterator[Leaf]:
    """All values of a schema, in order.  A field that may be a block or a plain value other than null is one value."""
    for name, info in schema.model_fields.items():
        mark = next((m for m in info.metadata if isinstance(m, Planned)), planned)
        members = [m for m in _members(info) if m is not NoneType]
        block = members[0] if len(members) == 1 else None
        if isinstance(block, type) and issubclass(block, Schema):
            yield from leaves(block, f"{prefix}{name}.", mark)
        else:
            yield Leaf(prefix + name, info, mark)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest known word, or nothing when none is near."""
    near = nearest(word, known)
    return "" if near is None else f"; did you mean '{near}'?"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The nearest known word, None when none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def found(value: object) -> str:
    """A value and its kind in one short line: ``'fast' (text)``."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    kind = "true or false" if value is True or value is False else _NAMES.get(type(value), type(value).__name__)
    return f"{reprlib.repr(value)} ({kind})"


def explain(error: ValidationError, schema: type[BaseModel]) -> tuple[str, str]:
    """The most telling error of a failed validation as ``(dotted field path, message)``.

    An unknown field comes first: its cause is mostly a misspelt name, which also makes the right one missing.
    """
    details = error.errors()
    first = min(details, key=lambda d: (d["type"] != "extra_forbidden", d["type"] == "literal_error"))
    path, model, field = _walk(schema, first["loc"])
    match first["type"]:
        case "extra_forbidden":
            fields = tuple((model or schema).model_fields)
            hint = did_you_mean(str(first["loc"][-1]), fields) or f"; known fields: {', '.join(fields)}"
            message = f"unknown field {path}{hint}"
        case "missing":
            message = f"missing field {path}: expected {expected(field)}"
        case "value_error":
            cause = str(first.get("ctx", {}).get("error", first["msg"]))
            message = f"{path}: {cause}" if path else cause
        case _:
            where = f"{path}: " if path else ""
            message = f"{where}expected {expected(field)}, found {found(first['input'])}"
    others = sum(d["type"] == "missing" for d in details) - 1
    return path, message + (f"; {others} more fields are missing" if first["type"] == "missing" and others else "")


def expected(annotation: object) -> str:
    """What a field or type accepts, with bounds and unit: ``number > 0 in GB/s (DRAM bandwidth)``."""
    if isinstance(annotation, FieldInfo):
        kind = expected(annotation.annotation) + _limits(annotation)
        return kind + (f" ({annotation.description})" if annotation.description else "")
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(args[0]) + "".join(_limits(m) for m in args[1:])
    if origin in (Union, UnionType):
        return " or ".join(map(expected, args))
    if origin is Literal:
        return " or ".join(f"'{a}'" for a in args)
    if origin is tuple:
        return f"list of {expected(args[0])}"
    if models_in(annotation):
        return f"mapping with the fields {', '.join(models_in(annotation)[0].model_fields)}"
    return _NAMES.get(annotation, str(annotation))


def _limits(metadata: object) -> str:
    if isinstance(metadata, FieldInfo):
        extra = metadata.json_schema_extra
        unit = f" in {extra['unit']}" if isinstance(extra, dict) and "unit" in extra else ""
        return "".join(map(_limits, metadata.metadata)) + unit
    for kind, attribute, sign in _BOUNDS:
        if isinstance(metadata, kind) and getattr(metadata, attribute) != _LARGE:
            return f" {sign} {getattr(metadata, attribute)}"
    pattern = getattr(metadata, "pattern", None)
    return f" matching {pattern}" if pattern else ""


def unit_of(info: FieldInfo) -> str | None:
    """The unit of a number, wherever in the type of its field it is said; None for a number without one."""
    for metadata in (info, *(m for member in _annotated(info.annotation) for m in member)):
        extra: Any = metadata.json_schema_extra if isinstance(metadata, FieldInfo) else None
        if isinstance(extra, dict) and "unit" in extra:
            return str(cast(dict[str, object], extra)["unit"])
    return None


def _annotated(annotation: object) -> Iterator[tuple[Any, ...]]:
    """What is annotated on the members of a type."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return (get_args(member)[1:] for member in members if get_origin(member) is Annotated)


def value_types(info: FieldInfo, inside: bool = False) -> set[object]:
    """The plain types that a value may have: int, float, bool, str (a choice of words too), tuple, schemas, NoneType.

    With `inside` those of the entries of a list.
    """
    members = _members(info)
    if inside:
        members = [entry for m in members if get_origin(m) is tuple for entry in _members(get_args(m)[0])]
    return {str if get_origin(m) is Literal else get_origin(m) or m for m in members}


def models_in(annotation: object) -> list[type[BaseModel]]:
    """The schemas among the members of a field's type: one for a block, none for a plain value."""
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _members(annotation: object) -> list[Any]:
    annotation = _bare(annotation)
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return list(map(_bare, members))


def _bare(annotation: object) -> Any:
    if isinstance(annotation, FieldInfo):
        annotation = annotation.annotation
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _walk(schema: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel] | None, object]:
    """Follows pydantic's location to (dotted path, schema of the last part, type of the last field)."""
    path, model, field = "", cast(type[BaseModel] | None, schema), cast(object, schema)
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
            field = next(iter(get_args(_bare(field))), field)
            continue
        models = models_in(field)
        owner = next((m for m in models if part in m.model_fields), None)
        plain = not models and get_origin(_bare(field)) in (Union, UnionType)
        if owner is None and (plain or part.startswith("literal[") or part in {m.__name__ for m in models}):
            continue  # pydantic's name for the member of a union, not a field
        model = owner or next(iter(models), None)
        path += f".{part}" if path else part
        field = owner.model_fields[part] if owner else None
    return path, model, field
