"""Tables of measurements: what their schema refuses, and which of several rows with one key stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pmc.backends.silicon.columns import check_header
from pmc.backends.silicon.schema import KINDS, kind_named
from pmc.backends.silicon.table import Table
from pmc.dialects.errors import PmcError

HEADER = "kernel_source,gemm_dtype,m,n,k,latency"


def read(folder: Path, *lines: str, kind: str = "gemm", name: str = "gemm_perf.txt") -> Table:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return Table.read(path, kind_named(kind), name)


def latencies(table: Table, **categories: str) -> dict[tuple[float, ...], float]:
    rows = table.rows(categories)
    return {tuple(point): float(t) for point, t in zip(rows.coordinates, rows.latency_ms, strict=True)}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_takes_its_own_columns_and_no_name_twice(name: str) -> None:
    kind = KINDS[name]
    assert list(check_header(Path("t.txt"), kind, kind.known)) == list(kind.known)
    keys = (*kind.axes, *kind.categories, *kind.lanes, *kind.unread)
    assert len(set(keys)) == len(keys)
    assert not set(keys) & {kind.latency, "power", "power_limit"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("gemm_dtype,m,n,k,latency,colour", "a gemm table has no column 'colour'"),
        ("gemm_dtype,m,n,k,latencey", "did you mean 'latency'?"),
        ("gemm_dtype,m,n,k,latency_us", "column 'latency_us' is in us, a gemm table has 'latency' in ms"),
        ("gemm_dtype,m,n,k,latency [us]", "column 'latency' is in 'us', a gemm table has it in ms"),
        ("gemm_dtype,m (tokens),n,k,latency", "column 'm' is in 'tokens', a gemm table has it in rows"),
        ("gemm_dtype,m,n,latency", "needs the column 'k'"),
        ("gemm_dtype,m,n,k,m,latency", "column 'm' is there twice"),
        ("gemm_dtype,m,n,k,late ncy", "column 'late ncy' has no name of letters"),
    ],
)
def test_a_header_is_refused_by_file_and_column(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(PmcError) as error:
        read(tmp_path, header, ",".join(["1"] * header.count(",")) + ",1")
    assert "gemm_perf.txt: " in str(error.value) and message in str(error.value)


def test_the_right_unit_may_stand_in_the_header(tmp_path: Path) -> None:
    table = read(tmp_path, "gemm_dtype,m [rows],n,k,latency (ms)", "fp8,1,2,3,0.5")
    assert latencies(table, gemm_dtype="fp8") == {(1, 2, 3): 0.5}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,fp8,1,2,3,0", "row 2 has 0.0 in column 'latency', not a positive time"),
        ("a,fp8,1,2,3,nan", "row 2 has nan in column 'latency', not a positive time"),
        ("a,fp8,-1,2,3,1", "row 2 has -1.0 in column 'm', not a number from 0"),
        ("a,fp8,1,two,3,1", "row 2 has 'two' in column 'n', not a number"),
        ("a,fp8,1,2,1", "row 2 has 5 cells, the header has 6"),
    ],
)
def test_a_cell_is_refused_by_row_and_column(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(PmcError, match=r"gemm_perf\.txt") as error:
        read(tmp_path, HEADER, "a,fp8,1,2,3,1", row)
    assert message in str(error.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(PmcError, match="at least one row"):
        read(tmp_path, HEADER)
    with pytest.raises(PmcError, match=r"a table is one of \*\.parquet, \*\.csv, \*\.txt"):
        read(tmp_path, HEADER, "a,fp8,1,2,3,1", name="gemm_perf.xls")
    with pytest.raises(PmcError, match="no readable table"):
        Table.read(tmp_path / "gone.csv", kind_named("gemm"), "gone.csv")


def test_repeated_measurements_become_their_median_and_the_fastest_kernel_stays(tmp_path: Path) -> None:
    """Kernel a: median(4, 9, 5) = 5.  Kernel b: median(6, 2) = 4, so b is taken although a has neither extreme."""
    lines = [f"{lane},fp8,1,2,3,{ms}" for lane, ms in [("a", 4), ("b", 6), ("a", 9), ("b", 2), ("a", 5)]]
    table = read(tmp_path, HEADER, *lines, "a,fp8,1,2,4,8", "c,bfloat16,1,2,3,7")
    assert latencies(table, gemm_dtype="fp8") == {(1, 2, 3): 4, (1, 2, 4): 8}
    assert table.rows({"gemm_dtype": "fp8"}).lanes == ("b", "a")
    assert latencies(table, gemm_dtype="bfloat16") == {(1, 2, 3): 7}


def test_kernels_of_a_layer_are_no_lanes(tmp_path: Path) -> None:
    """A layer with a state is the sum of its kernels: both rows stay, each under its kernel."""
    axes = "batch_size,seq_len,d_model,d_conv,num_k_heads,head_k_dim,num_v_heads,head_v_dim"
    header = f"phase,kernel_source,model_name,{axes},latency"
    rows = [f"context,{kernel},m,1,64,512,4,2,128,4,128,{ms}" for kernel, ms in [("conv1d", 1), ("chunk", 5)]]
    table = read(tmp_path, header, *rows, kind="gdn", name="gdn_perf.txt")
    assert set(latencies(table, phase="context", kernel_source="conv1d").values()) == {1}
    assert set(latencies(table, phase="context", kernel_source="chunk").values()) == {5}


def test_a_column_with_a_default_may_be_missing_and_power_is_kept(tmp_path: Path) -> None:
    axes = "batch_size,isl,num_heads,num_key_value_heads,head_dim,beam_width,step"
    table = read(
        tmp_path, f"attn_dtype,kv_cache_dtype,{axes},latency,power", "bfloat16,fp8,2,64,8,8,128,1,0,0.25,300",
        kind="context_attention", name="context_attention_perf.csv",
    )  # fmt: skip
    rows = table.rows({"attn_dtype": "bfloat16", "kv_cache_dtype": "fp8"})
    assert rows.column("window_size").tolist() == [0]
    assert rows.power_w is not None and rows.power_w.tolist() == [300]


def test_categories_that_are_not_there(tmp_path: Path) -> None:
    table = read(tmp_path, HEADER, "a,fp8,1,2,3,1", "a,bfloat16,1,2,3,1")
    with pytest.raises(PmcError, match="no rows with gemm_dtype 'bfloat'; did you mean 'bfloat16'"):
        table.rows({"gemm_dtype": "bfloat"})
    assert [dict(c) for c in table.category_sets] == [{"gemm_dtype": "bfloat16"}, {"gemm_dtype": "fp8"}]


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(PmcError, match="did you mean 'context_mla'"):
        kind_named("context_mlaa")


def test_parquet_without_its_reader_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PmcError, match=r"need pyarrow: pip install 'pmc\[silicon\]'"):
        Table.read(tmp_path / "gemm_perf.parquet", kind_named("gemm"), "t")


def test_parquet_holds_the_same_as_text(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="parquet needs the extra pmc[silicon]")
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = ["b,fp8,1,2,3,4", "a,fp8,1,2,3,6", "a,bfloat16,7,2,3,6"]
    text = read(tmp_path, HEADER, *lines)
    cells = list(zip(*(line.split(",") for line in lines), strict=True))
    columns: dict[str, list[str] | list[float]] = {}
    for name, column in zip(HEADER.split(","), cells, strict=True):
        columns[name] = list(column) if name in ("kernel_source", "gemm_dtype") else [float(c) for c in column]
    parquet.write_table(arrow.table(columns), tmp_path / "gemm_perf.parquet")
    other = Table.read(tmp_path / "gemm_perf.parquet", kind_named("gemm"), "t")
    for dtype in ("fp8", "bfloat16"):
        assert latencies(other, gemm_dtype=dtype) == latencies(text, gemm_dtype=dtype)
        assert other.rows({"gemm_dtype": dtype}).lanes == text.rows({"gemm_dtype": dtype}).lanes
    (tmp_path / "bad_perf.parquet").write_bytes((tmp_path / "gemm_perf.parquet").read_bytes()[:-20])
    with pytest.raises(PmcError, match=r"bad_perf\.parquet: no readable parquet file"):
        Table.read(tmp_path / "bad_perf.parquet", kind_named("gemm"), "t")
