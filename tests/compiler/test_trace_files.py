"""CSV and JSON of traces: what is written reads back, columns are those of the study, faults name file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pmc.compiler.trace_files import (
    FILES,
    PLACEMENT_FILE,
    placement_document,
    placement_tables,
    read_logical,
    read_placement,
    read_replicas,
    write_logical,
    write_placement,
    write_replicas,
)
from pmc.dialects.analyses.identity_placement import identity_placement
from pmc.dialects.errors import PmcError
from pmc.dialects.table_csv import TableCsv, read_table, write_table
from pmc.dialects.trace_tables import LOGICAL_COMPUTE, LOGICAL_MEMORY, REROUTE, TABLES
from tests.dialects.tas_cases import overlay, stack, table_of, tables, workload

STUDY = {
    "compute": "event_id,t_gen_ns,mb_id,token_id,experts_json,flops_json,op_type",
    "memory": "event_id,tensor_id,access,bytes,locality_hint",
    "reroute": "t_apply_ns,scope,from_core,to_core,mb_ids_json,reason,expected_gain",
    "migrate": "t_apply_ns,obj_type,obj_id,src,dst,size_bytes,cost",
    "compute_events": "evt_id,t_start_ns,core_id,duration_cycles,flops,op,dvfs_domain,power_hint",
    "memory_events": "evt_id,t_start_ns,src_core,dst_bank,bytes,rw,hops,noc_qos",
}


@pytest.mark.parametrize("kind", STUDY)
def test_the_columns_are_those_of_the_study(kind: str) -> None:
    assert ",".join(TABLES[kind].names) == STUDY[kind]
    assert set(FILES) == set(STUDY)


def test_a_row_reads_as_in_the_study(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.csv"
    write_table(path, table_of(LOGICAL_COMPUTE, (1, 0, 0, 0, ["E17", "E3"], [1.2e9, 9.5e8], "fc")))
    assert path.read_text().splitlines() == [
        STUDY["compute"],
        '1,0,0,0,"[""E17"",""E3""]","[1200000000.0,950000000.0]",fc',
    ]
    study = tmp_path / "study.csv"
    study.write_text(f'{STUDY["compute"]}\n1,0,0,0,"[""E17"",""E3""]","[1.2e9,9.5e8]",fc\n')
    assert read_table(study, LOGICAL_COMPUTE) == read_table(path, LOGICAL_COMPUTE)


def test_logical_traces_read_back_and_are_the_same_for_a_seed(tmp_path: Path) -> None:
    first = tables(workload())
    paths = write_logical(tmp_path / "a", *first)
    assert [str(path.relative_to(tmp_path / "a")) for path in paths] == [FILES["compute"], FILES["memory"]]
    assert read_logical(*paths) == first
    again = write_logical(tmp_path / "b", *tables(workload()))
    other = write_logical(tmp_path / "c", *tables(workload(**{"routing.seed": 43})))
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert paths[0].read_bytes() != other[0].read_bytes()


def test_a_file_grows_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "overlay.csv"
    one, two = (overlay(w, "", [("mb", 33, 21, [12, 13]), ('it\'s, a "test"\n', 0, 1, [])]).reroute for w in (0, 1))
    with TableCsv(path, REROUTE) as file:
        file.write(one)
        assert read_table(path, REROUTE) == one, "rows are there before the file is closed"
    with TableCsv(path, REROUTE, append=True) as file:
        file.write(two)
    assert read_table(path, REROUTE).rows() == [*one.rows(), *two.rows()]
    with TableCsv(path, REROUTE) as file:
        file.write(two)
    assert read_table(path, REROUTE) == two


def test_what_does_not_belong_into_a_file_is_refused(tmp_path: Path) -> None:
    compute, memory = tables(workload())
    with TableCsv(tmp_path / "x.csv", LOGICAL_COMPUTE) as file:
        with pytest.raises(PmcError, match="takes whole tables 'compute', not 'memory'"):
            file.write(memory)
        with pytest.raises(PmcError, match="takes whole tables"):
            file.write(compute.reduced())
    with pytest.raises(PmcError, match=r"x\.csv:1: the columns are event_id,.*expected event_id,tensor_id"):
        TableCsv(tmp_path / "x.csv", LOGICAL_MEMORY, append=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(PmcError, match="cannot be written"):
        TableCsv(tmp_path / "file" / "x.csv", LOGICAL_MEMORY)


GOOD = ("1", "0", "0", "0", '["E1"]', "[1.0]", "fc")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "one", r"file\.csv:3: event_id: 'one' in column 'event_id' is not an integer"),
        (1, "1.5", r"file\.csv:3: t_gen_ns: '1.5'"),
        (1, "", r"file\.csv:3: t_gen_ns: ''"),
        (4, "E1", r"file\.csv:3: experts_json: 'E1' is not a JSON list"),
        (4, '["E1"', r"file\.csv:3: experts_json: .* is not a JSON list"),
        (4, '{"a": 1}', r"file\.csv:3: experts_json: .* is not a JSON list"),
        (4, "[1]", r"file\.csv:3: experts_json: '\[1\]' is not a list of texts"),
        (4, "[null]", r"file\.csv:3: experts_json: '\[null\]' is not a list of texts"),
        (5, '["1"]', r"file\.csv:3: flops_json: .* is not a list of numbers"),
        (5, "[NaN]", r"file\.csv:3: flops_json: .* is not a list of numbers"),
        (5, "[true]", r"file\.csv:3: flops_json: .* is not a list of numbers"),
        (6, "conv", r"file\.csv:3: op_type: 'conv' is not one of fc, attn"),
    ],
)
def test_a_malformed_value_is_named_with_file_and_line(tmp_path: Path, column: int, value: str, message: str) -> None:
    wrong = [*GOOD[:column], value, *GOOD[column + 1 :]]
    path = tmp_path / "file.csv"
    quoted = [[f'"{v.replace(chr(34), chr(34) * 2)}"' for v in row] for row in (GOOD, wrong, GOOD)]
    lines = [STUDY["compute"], *(",".join(row) for row in quoted)]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(PmcError, match=message):
        read_table(path, LOGICAL_COMPUTE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"x\.csv:1: the columns are missing, expected t_apply_ns"),
        (b"a,b\n", r"x\.csv:1: the columns are a,b, expected"),
        (b"HEAD\n1,mb,2\n", r"x\.csv:2: 3 values, expected 7"),
        (b'HEAD\n1,"mb', r"x\.csv:2: "),
        (b"HEAD\n1,\xff\n", r"x\.csv:\d: not UTF-8 text"),
        (b"HEAD\n1,mb,0,1,[],hot,inf\n", r"x\.csv:2: expected_gain: 'inf' is not a number"),
        (b"HEAD\n1,mb,0,1,[0.5],hot,1\n", r"x\.csv:2: mb_ids_json: '\[0.5\]' is not a list of integers"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.replace(b"HEAD", STUDY["reroute"].encode()))
    with pytest.raises(PmcError, match=message):
        read_table(path, REROUTE)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(PmcError, match=r"none\.csv: cannot be read"):
        read_table(tmp_path / "none.csv", REROUTE)
    with pytest.raises(PmcError, match=r"none\.json: cannot be read"):
        read_placement(tmp_path / "none.json")


def test_placements_read_back(tmp_path: Path) -> None:
    placed = identity_placement(stack(), workload())
    path = tmp_path / PLACEMENT_FILE
    write_placement(path, *placed)
    assert read_placement(path) == placed
    document = json.loads(path.read_text())
    assert document["experts"]["E5"] == {"cores": [1], "policy": "single"}
    assert document["tensors"]["W_E0_1"] == {"dram_bank": "B(1,0,0)"}
    assert '\n    "E5": {"cores": [1], "policy": "single"},\n' in path.read_text(), "an expert a line"
    assert placement_tables(placement_document(*placed), "") == placed


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "place.json: expected"),
        ({"experts": {}}, "place.json: missing field tensors"),
        ({"experts": {"E1": {"cores": []}}, "tensors": {}}, "place.json: .*E1"),
        ({"experts": {"E1": {"cores": [], "policy": "single"}}, "tensors": {}}, "place.json: experts.E1.cores"),
        ({"experts": {"E1": {"cores": [True], "policy": "single"}}, "tensors": {}}, "place.json: experts.E1.cores"),
        ({"experts": {"E1": {"cores": [1], "policy": "both"}}, "tensors": {}}, "place.json: experts.E1.policy"),
        ({"experts": {}, "tensors": {"W_E1_0": {"dram_bank": 7}}}, "place.json: tensors.W_E1_0.dram_bank"),
        ({"experts": {}, "tensors": {}, "more": 1}, "place.json: unknown field more"),
    ],
)
def test_a_malformed_placement_is_named_with_its_field(tmp_path: Path, document: Any, message: str) -> None:
    path = tmp_path / "place.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PmcError, match=message):
        read_placement(path)


def test_replicas_read_back(tmp_path: Path) -> None:
    path = tmp_path / "replica_state.json"
    write_replicas(path, {"E3": ((5, 37), 1_000_000)})
    assert json.loads(path.read_text()) == {"E3": {"cores": [5, 37], "ts_created_ns": 1_000_000}}
    assert read_replicas(path) == {"E3": ((5, 37), 1_000_000)}
    write_replicas(path, {})
    assert read_replicas(path) == {}
    for text, message in (
        ('{"E3": {"cores": [5]}}', "ts_created_ns"),
        ('{"E3": 4}', "E3"),
        ("[]", "expected"),
        ('{"a": 1,\n}', ":2: "),
    ):
        path.write_text(text)
        with pytest.raises(PmcError, match=message):
            read_replicas(path)
