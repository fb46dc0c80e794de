"""Chips and topologies that remember which of their fields are read."""

from __future__ import annotations

from typing import Any, TypeVar

from pmc.dialects.schema import Schema

SchemaT = TypeVar("SchemaT", bound=Schema)


def recording(value: SchemaT, seen: set[str], prefix: str = "") -> SchemaT:
    """An equal schema that adds the dotted path of every value that is read to `seen`."""
    fields = frozenset(type(value).model_fields)

    class Recorded(type(value)):  # type: ignore[misc]  # a class made at run time
        def __getattribute__(self, name: str) -> object:
            found: object = super().__getattribute__(name)
            if name in fields and not isinstance(found, Schema):
                seen.add(prefix + name)
            return found

    parts: dict[str, Any] = {}
    for name in fields:
        part = value.__dict__[name]
        parts[name] = recording(part, seen, f"{prefix}{name}.") if isinstance(part, Schema) else part
    copy: object = Recorded.model_construct(None, **parts)
    assert isinstance(copy, type(value))
    return copy
