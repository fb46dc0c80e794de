"""Fits of a system as artefacts: `pmc calibrate`, and those that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmc.backends.silicon import database as database_module
from pmc.backends.silicon import library as library_module
from pmc.backends.silicon.artefact import Artefact, artefact_text, read_artefact
from pmc.backends.silicon.attention import ContextAttention
from pmc.backends.silicon.calibrate import Plan
from pmc.backends.silicon.database import DatabaseMode, PerfDatabase, Source
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.library import Library
from pmc.backends.silicon.physical import Fit
from pmc.backends.silicon.shipped import shipped, shipped_folder, shipped_systems
from pmc.compiler.main import main
from pmc.dialects.errors import PmcError

from .silicon_library import gemm_text, table, toy_library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    library = toy_library(tmp_path_factory.mktemp("library"))
    table(library.root, "mla_bmm", "op_name,bmm_dtype,num_tokens,num_heads,latency\nmla_gen_pre,fp8,1,2,3\n")
    return library


def calibrate(library: Library, output: Path, *options: str) -> int:
    return main(["calibrate", "--perf-dir", str(library.root), "-o", str(output), *options])


def test_a_folder_is_fitted_and_the_fits_answer(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(library, tmp_path / "fits.json") == 0
    printed = capsys.readouterr()
    assert "vllm    gemm        1   612" in printed.out
    assert (
        "no fit: vllm mla_bmm mla_gen_pre fp8: data/toy/vllm/1.0.0/mla_bmm_perf.txt: 1 rows are too few" in printed.out
    )
    assert printed.err == ""
    made = read_artefact(tmp_path / "fits.json")
    (fit,) = made.fits
    assert (fit.kind, fit.backend, fit.version, fit.rows, fit.seed) == ("gemm", "vllm", "1.0.0", 306, 20)
    assert (fit.source, made.data) == ("data/toy/vllm/1.0.0/gemm_perf.txt", str(library.root))
    assert made.system == library.system("toy") and fit.bands is not None
    database = PerfDatabase.open("toy", "vllm", library=library, fits=made.fits)
    workload = Gemm(100, 1000, 1000, "bfloat16")
    assert database.fit(workload) == fit
    assert database.query(workload) == PerfDatabase.open("toy", "vllm", library=library).query(workload)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "tox"], "no system 'tox'; did you mean 'toy'?"),
        (["--backend", "vlm"], "no tables of 'vlm' on toy; did you mean 'vllm'?"),
        (["--version", "2.0"], "no tables of vllm '2.0' on toy"),
        (["--kinds", "gem"], "no model of kind 'gem'; did you mean 'gemm'?"),
        (["--kinds", "kda"], "toy has no table of kda under vllm in "),
        (["--kinds", "mla_bmm"], "nothing could be fitted: data/toy/vllm/1.0.0/mla_bmm_perf.txt: 1 rows are too few"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert calibrate(library, tmp_path / "fits.json", *options) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert not (tmp_path / "fits.json").exists()


def test_tables_that_say_too_little_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--perf-dir", str(tmp_path), "-o", str(tmp_path / "f.json")]) == 2
    assert "--system says whose tables to fit; there is no system in" in capsys.readouterr().err
    library = toy_library(tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert calibrate(library, tmp_path / "f.json") == 2
    assert "toy has a specification and no measurements" in capsys.readouterr().err
    (tmp_path / "gemm_perf.csv").write_text(gemm_text([(m, 64, 64, m) for m in range(1, 20)]))
    assert calibrate(library, tmp_path / "f.json") == 2
    assert "tables without folders say no engine" in capsys.readouterr().err
    assert calibrate(library, tmp_path / "f.json", "--backend", "mine") == 0
    assert read_artefact(tmp_path / "f.json").fits[0].backend == "mine"


@pytest.fixture
def without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "WHEEL", "no_such_package_of_tables")


@pytest.mark.usefixtures("without_tables")
def test_shipped_fits_answer_without_the_tables() -> None:
    database = PerfDatabase.open("h200-sxm", "vllm", mode=DatabaseMode.HYBRID)
    assert database.version == "0.24.0" and database.system.spec.gpu.mem_bw == 4.8e12
    workloads = [
        Gemm(4096, 4096, 4096, "bfloat16"),
        ContextAttention(1, 4096, 32, 8, 128, 1, 0, 0, "bfloat16", "bfloat16"),
    ]
    for workload in workloads:
        found, sol = database.query(workload), database.query(workload, DatabaseMode.SOL)
        assert found.source is Source.ANALYTIC and found.error_band is not None
        assert found.error_band[0] < found < found.error_band[1]
        assert sol < found < 2.5 * sol
        with pytest.raises(PmcError, match=r"measured tables are not installed: pip install 'pmc\[silicon\]'"):
            database.query(workload, DatabaseMode.SILICON)
    with pytest.raises(PmcError, match="no system 'h200sxm'; did you mean 'h200_sxm'"):
        PerfDatabase.open("h200sxm", "vllm")
    with pytest.raises(PmcError, match="no fits of 'vlm' on h200_sxm; did you mean 'vllm'"):
        PerfDatabase.open("h200_sxm", "vlm")
    with pytest.raises(PmcError, match=r"no tables of vllm '0.11' on h200_sxm"):
        PerfDatabase.open("h200_sxm", "vllm", "0.11")


def test_shipped_fits_are_small_and_each_is_of_its_system() -> None:
    files = sorted(shipped_folder().glob("*"))
    assert sum(path.stat().st_size for path in files) < 1e6
    assert len(shipped_systems()) == len(files) == 14
    for name in shipped_systems():
        artefact = shipped(name)
        assert artefact.system.name == name and artefact.data.startswith("aiconfigurator_core ")
        assert all(fit.system == name and fit.bands is not None for fit in artefact.fits)
        assert artefact_text(artefact) == (shipped_folder() / f"{name}.json").read_text(encoding="utf-8")


def test_shipped_fits_are_left_aside_for_other_data(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of one release of the tables: neither a folder of one's own nor another release gets them."""
    (fit,) = [step.outcome for step in Plan.of(library, "toy", kinds=("gemm",)).run()]
    assert isinstance(fit, Fit)
    made = Artefact(library.system("toy"), "tables 1.0", fit.seed, (fit,))
    monkeypatch.setattr(database_module, "shipped_systems", lambda: ("toy",))
    monkeypatch.setattr(database_module, "shipped", {"toy": made}.__getitem__)
    for package, expected in ((None, 0), ("tables 1.1", 0), ("tables 1.0", 1)):
        assert len(PerfDatabase.open("toy", "vllm", library=Library(library.root, package)).fits) == expected
