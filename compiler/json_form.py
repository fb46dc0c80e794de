"""A module as JSON: the tree of its operations, for readers that are not MLIR parsers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, IntegerType, ModuleOp, StringAttr
from xdsl.ir import Attribute, Operation, SSAValue

from pmc.dialects.levels import level_of
from pmc.dialects.table import TableAttr
from pmc.passes.base import history

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def module_json(module: ModuleOp) -> str:
    """`{"level", "passes", "attributes", "ops"}`; an op is `{"op", "path", "operands", "results", ...}`.

    Values are numbered in the order of their definition.  Attributes are JSON where they are plain (numbers, text,
    lists, mappings), and MLIR text where not.  A table says its `row_count`; where it is not `whole`, it
    has only the first and last of its `rows`.
    """
    writer = _Writer()
    document: dict[str, Json] = {
        "level": level_of(module),
        "passes": [entry.data for entry in history(module)],
        "attributes": writer.attributes({k: v for k, v in module.attributes.items() if k != "pmc.passes"}),
        "ops": [writer.op(op) for op in module.ops],
    }
    return json.dumps(document, indent=1) + "\n"


class _Writer:
    def __init__(self) -> None:
        self.names: dict[SSAValue, str] = {}

    def name(self, value: SSAValue) -> str:
        return self.names.setdefault(value, f"%{len(self.names)}")

    def op(self, op: Operation) -> Json:
        properties = {**op.properties, **op.attributes}
        path = properties.pop("path", None)
        document: dict[str, Json] = {"op": op.name}
        if isinstance(path, StringAttr):
            document["path"] = path.data
        if op.operands:
            document["operands"] = [self.name(value) for value in op.operands]
        if op.results:
            document["results"] = {self.name(value): str(value.type) for value in op.results}
        if properties:
            document["attributes"] = self.attributes(properties)
        if op.regions:
            document["regions"] = [
                {
                    "arguments": {self.name(a): str(a.type) for a in block.args},
                    "ops": [self.op(inner) for inner in block.ops],
                }
                for region in op.regions
                for block in region.blocks
            ]
        return document

    def attributes(self, attributes: Mapping[str, Attribute]) -> dict[str, Json]:
        return {name: self.attribute(value) for name, value in attributes.items()}

    def attribute(self, attribute: Attribute) -> Json:
        match attribute:
            case StringAttr() | FloatAttr():
                return attribute.data if isinstance(attribute, StringAttr) else attribute.value.data
            case IntegerAttr():
                value = attribute.value.data
                return bool(value) if attribute.type == IntegerType(1) else value
            case ArrayAttr():
                return [self.attribute(item) for item in attribute.data]
            case DictionaryAttr():
                return self.attributes(attribute.data)
            case TableAttr():
                table = attribute.data
                return {
                    "columns": list(table.schema.heads),
                    "row_count": table.count,
                    "whole": table.is_whole,
                    "rows": list(table.rows()),
                }
            case _:
                return str(attribute)
