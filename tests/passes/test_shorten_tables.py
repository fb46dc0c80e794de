"""The pass `shorten-tables`."""

from __future__ import annotations

from pmc.compiler.context import make_context
from pmc.compiler.driver import module_text, parse_module
from pmc.dialects.trace import LogicalOp
from pmc.passes.shorten_tables import ShortenTablesPass
from tests.passes.test_physicalize import placed, run


def test_every_table_keeps_its_ends_and_its_hash() -> None:
    module = placed()
    run(module)
    before = [op.compute.data for op in module.ops if isinstance(op, LogicalOp)]
    ShortenTablesPass().apply(make_context(), module)
    module.verify()
    after = [op.compute.data for op in module.ops if isinstance(op, LogicalOp)]
    assert after == [table.reduced() for table in before] != before
    assert [(table.count, table.digest) for table in after] == [(table.count, table.digest) for table in before]
    again = parse_module(module_text(module), "printed.mlir")
    again.verify()
    assert again.is_structurally_equivalent(module)
