"""Tables: all kinds of columns round trip, ends keep the hash of the whole, odd text is one error."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.ir import Dialect
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError

from pmc.dialects.table import Table, TableAttr, TableSchema
from pmc.dialects.table_columns import (
    EnumColumn,
    IntColumn,
    ListColumn,
    Lists,
    NumberColumn,
    TextColumn,
    Texts,
    Values,
    same,
)

EVENTS = TableSchema(
    (
        IntColumn("id"),
        EnumColumn("op", ("fc", "attn")),
        NumberColumn("gain"),
        TextColumn("name"),
        ListColumn.of("cores", IntColumn),
        ListColumn.of("flops", NumberColumn),
        ListColumn.of("experts", TextColumn),
    ),
    "events",
)


@irdl_attr_definition
class EventsAttr(TableAttr):
    name = "test.table"

    @classmethod
    def schema_of(cls, kind: str, heads: Sequence[str]) -> TableSchema:
        if (kind, tuple(heads)) != ("events", EVENTS.heads):
            raise ValueError(f"'{kind}' is no table of this test")
        return EVENTS


def context() -> Context:
    found = Context()
    found.load_dialect(Dialect("test", [], [EventsAttr]))
    return found


Row = tuple[int, int, float, str, list[int], list[float], list[str]]


def table(rows: Sequence[Row]) -> Table:
    ids, ops, gains, names, cores, flops, experts = zip(*rows, strict=True) if rows else ((),) * 7
    columns: list[Values] = [
        np.array(ids, np.int64), np.array(ops, np.int64), np.array(gains, np.float64), Texts.of(names),
        lists(cores, np.array([c for core in cores for c in core], np.int64)),
        lists(flops, np.array([f for flop in flops for f in flop], np.float64)),
        lists(experts, Texts.of([e for expert in experts for e in expert])),
    ]  # fmt: skip
    return Table.of(EVENTS, columns)


def lists(of: Sequence[Sequence[object]], values: np.ndarray | Texts) -> Lists:
    return Lists(np.cumsum([0, *map(len, of)]), values)


ONE: Row = (7, 1, 0.1, "B(12,7,3)", [5, 37], [1.2e9, 9.5e8], ["E17", "E3"])
ODD: Row = (-1, 0, -0.0, 'it\'s; [a] \\ "b"\n\t\u4e2d', [], [], ["", " "])


def test_the_text_of_a_table() -> None:
    assert table([ONE, ODD]).lines() == [
        "7 attn 0.1 'B(12,7,3)' [5 37] [1200000000.0 950000000.0] ['E17' 'E3']; "
        "-1 fc -0.0 'it\\'s; [a] \\\\ \"b\"\n\t\u4e2d' [] [] ['' ' ']"
    ]
    head = str(EventsAttr(table([ONE]))).partition("sha256")[0]
    assert head == "#test.table<events, [id, op, gain, name, cores, flops, experts], 1 rows, "


floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
rows = st.tuples(
    st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 1), floats, texts,
    st.lists(st.integers(0, 99), max_size=3), st.lists(floats, max_size=3), st.lists(texts, max_size=3),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, max_size=20))
def test_any_rows_round_trip(found: list[Row]) -> None:
    for whole in (table(found), table(found).reduced()):
        attribute = EventsAttr(whole)
        again = Parser(context(), str(attribute)).parse_attribute()
        assert again == attribute and hash(again) == hash(attribute)
        assert str(again) == str(attribute)


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, min_size=1, max_size=12), st.data())
def test_rows_taken_from_a_table_are_those_rows(found: list[Row], data: st.DataObject) -> None:
    picked = data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1))
    taken = [values[np.array(picked)] for values in table(found).columns]
    assert all(map(same, taken, table([found[i] for i in picked]).columns))


@settings(max_examples=100, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4, unique_by=str), st.lists(rows, min_size=1, max_size=4, unique_by=str))
def test_tables_are_equal_where_their_rows_are(a: list[Row], b: list[Row]) -> None:
    alike = table(a).rows() == table(b).rows()
    assert (table(a) == table(b)) == alike == (table(a).digest == table(b).digest)


def test_a_reduced_table_keeps_its_ends_and_the_hash_of_the_whole() -> None:
    whole = table([(i, 0, 0.5, f"E{i}", [i], [], []) for i in range(20)])
    short = whole.reduced()
    assert (short.count, short.digest, short.is_whole) == (20, whole.digest, False)
    assert short.ints("id").tolist() == [0, 1, 2, 3, 16, 17, 18, 19]
    assert short.texts("name").tolist() == [f"E{i}" for i in short.ints("id")]
    assert short.reduced() == short != whole
    assert table([ONE] * 8).reduced().is_whole


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("7 attn", "8 attn", "do not have the hash"),
        ("7 attn", "7 push", "'push' is not one of fc, attn"),
        ("7 attn", "x attn", "'x' in column 'id' is not an integer"),
        ("7 attn", "7", "every row needs 7 values"),
        ("0.1 ", "nan ", "'nan' in column 'gain' is not a number"),
        ("0.1 ", "1e999 ", "'1e999' in column 'gain' is not a number"),
        ("'B(12,7,3)'", "B(12,7,3)", "'B(12,7,3)' in column 'name' is not a text in single quotes"),
        ("'B(12,7,3)'", "['B']", "a list stands in column 'name'"),
        ("[5 37]", "5", "'5' in column 'cores' is not a list"),
        ("[5 37]", "[5 [37]]", "'[' stands where no list begins"),
        ("[5 37]", "[5 37", "'[' stands where no list begins"),
        ("'E3']", "'E3'", "a list does not end"),
        ("'E3']", "'E3' ; ]", "';' stands where no list"),
        ("'E3']", "'E3]", "'E3]' is no value"),
        ("1 rows", "30 rows", "shows all or 8, found 1"),
        ("events,", "tensors,", "'tensors' is no table"),
        ("[id, op", "[op, id", "'events' is no table"),
    ],
)
def test_a_table_that_was_tampered_with_is_one_error(wrong: str, right: str, message: str) -> None:
    text = str(EventsAttr(table([ONE])))
    assert wrong in text
    with pytest.raises(ParseError, match=re.escape(message)):
        Parser(context(), text.replace(wrong, right, 1)).parse_attribute()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="'[]; \\a1.e-", max_size=30))
def test_any_text_in_place_of_rows_is_read_or_one_error(text: str) -> None:
    escaped = text.replace("\\", "\\\\")
    source = re.sub(r'\["7 .*"\]', lambda _: f'["{escaped}"]', str(EventsAttr(table([ONE]))))
    with pytest.raises(ParseError):
        Parser(context(), source).parse_attribute()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (0, np.array([1.0]), "column 'id' must be an array of int64"),
        (1, np.array([2]), "column 'op' must hold codes below 2"),
        (2, np.array([np.nan]), "column 'gain' must hold finite numbers"),
        (3, np.array([1]), "column 'name' must hold texts"),
        (4, Lists(np.array([0, 2]), np.array([1])), "the lists of column 'cores' do not fill their values"),
        (5, Lists(np.array([0, 1]), np.array([1])), "column 'flops' must be an array of float64"),
        (0, np.array([1, 2]), "the columns of a table have one length"),
    ],
)
def test_columns_that_are_not_those_of_the_schema_are_refused(column: int, values: Values, message: str) -> None:
    columns = list(table([ONE]).columns)
    columns[column] = values
    with pytest.raises(ValueError, match=message):
        Table.of(EVENTS, columns)


def test_a_table_without_rows_has_all_columns() -> None:
    assert Table.empty(EVENTS) == table([])
    with pytest.raises(ValueError, match="6 columns, the table has 7"):
        Table.of(EVENTS, table([ONE]).columns[:6])
