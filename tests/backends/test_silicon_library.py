"""Systems, engines and versions by name, and the table that a version stands for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pmc.backends.silicon import library as library_module
from pmc.backends.silicon.columns import check_header, require_pyarrow
from pmc.backends.silicon.database import PerfDatabase, Source
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.library import Library
from pmc.backends.silicon.schema import KINDS, kind_named
from pmc.backends.silicon.system import read_system
from pmc.dialects.errors import PmcError

from .silicon_library import SYSTEM, gemm_text, table, toy_system

ROW = [(1, 2, 3, 0.5)]
GEMM = kind_named("gemm")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    toy_system(tmp_path)
    for version, ms in (("0.9.2", 1.0), ("0.10.0rc2", 2.0), ("0.10.0", 3.0)):
        table(tmp_path, "gemm", gemm_text([(1, 2, 3, ms)]), version=version)
    bmm = "op_name,bmm_dtype,num_tokens,num_heads,latency\nmla_gen_pre,fp8,1,2,3\n"
    table(tmp_path, "mla_bmm", bmm, version="0.11.0")
    return Library.folder(tmp_path)


def test_versions_are_ordered_by_number_and_candidates_come_first(library: Library) -> None:
    assert library.versions("toy", "vllm") == ("0.9.2", "0.10.0rc2", "0.10.0", "0.11.0")
    assert library.current("toy", "vllm") == "0.11.0"
    (library.root / "query_versions.yaml").write_text(
        "defaults:\n  vllm: {current: '0.9.2', previous: null}\noverrides:\n  other:\n    vllm: {current: '1'}\n"
    )
    assert library.current("toy", "vllm") == "0.9.2"
    assert library.systems == ("toy",)
    for text in ("defaults: {vllm: new}", "defaults: {vllm: {}}", "overrides: [toy]", "[]"):
        (library.root / "query_versions.yaml").write_text(text)
        with pytest.raises(PmcError, match=r"query_versions\.yaml: "):
            library.current("toy", "vllm")


def test_a_version_without_a_table_has_that_of_the_newest_older_one(library: Library) -> None:
    assert library.table_path(GEMM, "toy", "vllm", "0.11.0").parent.name == "0.10.0"
    assert library.table_path(GEMM, "toy", "vllm", "0.10.0rc2").parent.name == "0.10.0rc2"
    with pytest.raises(PmcError, match=r"no mla_bmm table of vllm 0.10.0; newer versions have one: 0.11.0"):
        library.table_path(kind_named("mla_bmm"), "toy", "vllm", "0.10.0")


@pytest.mark.parametrize(
    ("system", "backend", "version", "message"),
    [
        ("toyy", "vllm", None, "no system 'toyy'; did you mean 'toy'"),
        ("toy", "vlm", None, "no tables of 'vlm' on toy; did you mean 'vllm'"),
        ("toy", "vllm", "0.10.1", "no tables of vllm '0.10.1' on toy; did you mean '0.10.0'"),
    ],
)
def test_unknown_names_get_the_nearest(
    library: Library, system: str, backend: str, version: str | None, message: str
) -> None:
    with pytest.raises(PmcError) as error:
        PerfDatabase.open(system, backend, version, library=library)
    assert message in str(error.value)


def test_a_folder_of_tables_alone_is_meant_for_every_version(tmp_path: Path) -> None:
    toy_system(tmp_path)
    (tmp_path / "gemm_perf.csv").write_text(gemm_text([(1, 2, 3, 9.0)]))
    library = Library.folder(tmp_path)
    for version in (None, "1.2.3"):
        assert PerfDatabase.open("toy", "mine", version, library=library).query(Gemm(1, 2, 3, "bfloat16")) == 9.0
    (tmp_path / "gemm_perf.txt").write_text(gemm_text([(1, 2, 3, 9.0)]))
    with pytest.raises(PmcError, match=r"gemm_perf\.csv and gemm_perf\.txt are the same table"):
        library.table_path(GEMM, "toy", "vllm", "0.10.0")


def test_a_system_that_was_never_measured_says_so(tmp_path: Path) -> None:
    toy_system(tmp_path)
    with pytest.raises(PmcError, match="toy has a specification and no measurements"):
        PerfDatabase.open("toy", "vllm", library=Library.folder(tmp_path))


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library_module, "WHEEL", "no_such_package_of_tables")
    with pytest.raises(PmcError, match=r"pip install 'pmc\[silicon\]'"):
        Library.installed()
    with pytest.raises(PmcError, match="no folder of tables"):
        Library.folder(tmp_path / "gone")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mem_bw: 1000000000000", "mem_bw: -1", "gpu.mem_bw"),
        ("  power: 400", "  powr: 400", "unknown field gpu.powr; did you mean 'power'?"),
        ("  p2p_latency: 0.00001", "", "missing field node.p2p_latency"),
        ("data_dir: data/toy", "data_dir: [", "no readable YAML"),
    ],
)
def test_a_system_is_refused_by_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "toy.yaml"
    assert old in SYSTEM
    path.write_text(SYSTEM.replace(old, new))
    with pytest.raises(PmcError) as error:
        read_system(path)
    assert "toy.yaml: " in str(error.value) and message in str(error.value)


def test_rates_links_and_processors_of_a_system(tmp_path: Path) -> None:
    system = toy_system(tmp_path)
    assert (system.rate("fp8"), system.processors) == (2e14, 100)
    assert [system.link_bytes_per_second(n) for n in (2, 8, 9)] == [4e11, 4e11, 5e10]
    with pytest.raises(PmcError, match="toy has no rate for fp4; it has bfloat16, fp8"):
        system.rate("fp4")
    (tmp_path / "toy.yaml").write_text(SYSTEM.replace("  num_sms: 100\n", ""))
    with pytest.raises(PmcError, match="how many tiles run at once is not known"):
        _ = read_system(tmp_path / "toy.yaml").processors


needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None or importlib.util.find_spec("pyarrow") is None,
    reason="the measured tables come with the extra pmc[silicon]",
)


@needs_wheel
def test_every_file_of_the_wheel_is_as_its_schema_says() -> None:
    library = Library.installed()
    for name in library.systems:
        assert library.system(name).processors > 0
    parquet = require_pyarrow("pyarrow.parquet")
    without_schema: set[str] = set()
    for path in sorted(library.root.rglob("*_perf.parquet")):
        kind = path.name.removesuffix("_perf.parquet")
        if kind in KINDS:
            check_header(path, KINDS[kind], parquet.read_schema(path).names)
        else:
            without_schema.add(kind)
    assert without_schema == {"wideep_deepep_ll", "wideep_deepep_normal", "dsv4_megamoe_module"}


@needs_wheel
def test_a_measured_row_of_the_wheel_is_returned_as_it_is() -> None:
    """The row of 64 x 4096 x 4096 on an A100 under vLLM 0.14.0, as the file has it."""
    database = PerfDatabase.open("a100-sxm", "vllm")
    found = database.query(Gemm(64, 4096, 4096, "bfloat16"))
    path = database.library.table_path(GEMM, "a100_sxm", "vllm", "0.14.0")
    columns = ["gemm_dtype", "m", "n", "k"]
    filters = list(zip(columns, ["==", "==", "==", "=="], ["bfloat16", 64, 4096, 4096], strict=True))
    rows = require_pyarrow("pyarrow.parquet").read_table(path, filters=filters)["latency"].to_pylist()
    assert found.source is Source.MEASURED and rows == [float(found)]
