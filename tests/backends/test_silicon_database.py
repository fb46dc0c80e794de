"""Queries: measured rows as they are, the model between and beyond them, bands, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pmc.backends.silicon import predictor as predictor_module
from pmc.backends.silicon.artefact import Artefact, artefact_text, read_artefact
from pmc.backends.silicon.bands import Bands
from pmc.backends.silicon.calibrate import Plan
from pmc.backends.silicon.columns import Floats
from pmc.backends.silicon.database import DatabaseMode, PerfDatabase, PerformanceResult, Source
from pmc.backends.silicon.fit import fit_rows
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.library import Library
from pmc.backends.silicon.mla import MlaBmm
from pmc.backends.silicon.physical import Fit, Parameters
from pmc.backends.silicon.residual import Measured, krige
from pmc.dialects.errors import PmcError

from .silicon_library import LAW, gemm_grid, gemm_points, gemm_text, law_ms, table, toy_library, toy_system


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> PerfDatabase:
    return PerfDatabase.open("toy", "vllm", library=toy_library(tmp_path_factory.mktemp("library")))


def shapes(draw: np.random.Generator, count: int, m: tuple[float, float], weight: tuple[float, float]) -> Floats:
    """[count, (m, n, k)] with logs to base 2 in these ranges."""
    columns = [draw.uniform(*m, count), draw.uniform(*weight, count), draw.uniform(*weight, count)]
    return np.round(2 ** np.stack(columns, axis=1))


def test_a_measured_row_comes_back_untouched(database: PerfDatabase) -> None:
    grid = gemm_grid()
    times = law_ms(database.system, grid, seed=1)
    for row in (0, 100, len(grid) - 1):
        m, n, k = (int(c) for c in grid[row])
        found = database.query(Gemm(m, n, k, "bfloat16"))
        assert (found, found.source, found.error_band) == (float(times[row]), Source.MEASURED, None)
        assert found.origin == "data/toy/vllm/1.0.0/gemm_perf.txt: cublas"


def test_between_rows_the_law_is_found_again(database: PerfDatabase) -> None:
    """Shapes that were never measured, within 3% at the median: the noise of 2% and what is between the rows."""
    draw = np.random.default_rng(5)
    points = shapes(draw, 40, (1, 12), (9.5, 12.5))
    truth = law_ms(database.system, points, seed=0, noise=0.0)
    errors: list[float] = []
    for (m, n, k), true in zip(points, truth, strict=True):
        found = database.query(Gemm(int(m), int(n), int(k), "bfloat16"))
        assert found.source is Source.INTERPOLATED and found.error_band is not None
        assert found.error_band[0] <= found <= found.error_band[1]
        errors.append(abs(found / true - 1))
    assert np.median(errors) < 0.03 and max(errors) < 0.3


def test_beyond_rows_it_is_said_and_far_beyond_refused(database: PerfDatabase) -> None:
    far = database.query(Gemm(512, 65536, 8192, "bfloat16"))
    near = database.query(Gemm(512, 8192, 8000, "bfloat16"))
    assert far.source is Source.EXTRAPOLATED and near.source is Source.INTERPOLATED
    assert far.error_band is not None and near.error_band is not None
    assert far.error_band[1] / far > near.error_band[1] / near
    with pytest.raises(PmcError, match="too far beyond what was measured"):
        database.query(Gemm(1 << 20, 8192, 8192, "bfloat16"))


def test_the_physical_model_grows_with_every_size(database: PerfDatabase) -> None:
    for sizes in ([(m, 4096, 4096) for m in (1, 8, 64, 512, 4096)], [(64, n, 2048) for n in (512, 1024, 4096, 16384)]):
        times = [database.query(Gemm(*size, "bfloat16"), DatabaseMode.EMPIRICAL) for size in sizes]
        assert times == sorted(times) and times[-1] > times[0]


def test_modes_say_where_a_number_is_from(database: PerfDatabase) -> None:
    workload = Gemm(4096, 4096, 4096, "bfloat16")
    sol = database.query(workload, DatabaseMode.SOL)
    assert sol == pytest.approx(1e3 * 2 * 4096**3 / 1e14) and sol.source is Source.ANALYTIC and sol.error_band is None
    model = database.query(workload, DatabaseMode.EMPIRICAL)
    assert model.source is Source.ANALYTIC and model.error_band is not None and model > sol
    assert database.query(workload, DatabaseMode.SILICON) == database.query(workload, DatabaseMode.HYBRID)


def test_what_has_neither_table_nor_fit_is_refused_in_every_mode(database: PerfDatabase) -> None:
    unmeasured = Gemm(64, 512, 512, "fp8")
    for mode in (DatabaseMode.SILICON, DatabaseMode.EMPIRICAL, DatabaseMode.HYBRID):
        with pytest.raises(PmcError, match="no rows with gemm_dtype 'fp8'; it has bfloat16"):
            database.query(unmeasured, mode)
        with pytest.raises(PmcError, match=r"toy has no mla_bmm table of vllm 1.0.0"):
            database.query(MlaBmm(1, 2, "mla_gen_pre", "fp8"), mode)


def test_a_fit_answers_without_the_table(database: PerfDatabase, tmp_path: Path) -> None:
    fit = database.predictor(Gemm(1, 1, 1, "bfloat16")).fit
    others = [replace(fit, **{f: "other"}, rows=1) for f in ("backend", "version")]
    artefact = Artefact(database.system, "made up", 20, (fit, *others))
    (tmp_path / "fits.json").write_text(artefact_text(artefact))
    fits = read_artefact(tmp_path / "fits.json").fits
    assert read_artefact(tmp_path / "fits.json") == artefact and fits[0] == fit
    toy_system(tmp_path)
    table(tmp_path, "mla_bmm", "op_name,bmm_dtype,num_tokens,num_heads,latency\nmla_gen_pre,fp8,1,2,3\n")
    library = replace(database.library, root=tmp_path)
    alone = PerfDatabase.open("toy", "vllm", library=library, fits=[replace(fit, system="other", rows=1), *fits])
    workload = Gemm(100, 1000, 1000, "bfloat16")
    expected = database.query(workload, DatabaseMode.EMPIRICAL)
    for mode in (DatabaseMode.EMPIRICAL, DatabaseMode.HYBRID):
        found = alone.query(workload, mode)
        assert (found, found.error_band, found.source) == (expected, expected.error_band, Source.ANALYTIC)
    with pytest.raises(PmcError, match="no gemm table"):
        alone.query(workload, DatabaseMode.SILICON)
    # A damaged table is no missing one.
    table(tmp_path, "gemm", "m,n\n1,2\n")
    with pytest.raises(PmcError, match="needs the column 'k'"):
        alone.query(workload, DatabaseMode.HYBRID)


def test_the_bands_of_a_fit_are_not_learned_again(database: PerfDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its bands in the artefact a fit gives the same numbers, and no row is left out again."""
    workload = Gemm(100, 1000, 1000, "bfloat16")
    fit = next(s.outcome for s in Plan.of(database.library, "toy").run())
    assert isinstance(fit, Fit) and fit.bands == database.predictor(workload).bands

    def refuse(*_: object) -> Bands:
        raise AssertionError("learned again")

    monkeypatch.setattr(predictor_module, "learn_bands", refuse)
    with pytest.raises(AssertionError, match="learned again"):
        PerfDatabase.open("toy", "vllm", library=database.library).query(workload)
    again = PerfDatabase.open("toy", "vllm", library=database.library, fits=[fit]).query(workload)
    expected = database.query(workload)
    assert (again, again.error_band, again.source) == (expected, expected.error_band, expected.source)


def test_files_that_are_no_fits(tmp_path: Path, database: PerfDatabase) -> None:
    fit = replace(database.fit(Gemm(1, 1, 1, "bfloat16")), bands=Bands((0.1, 0.2), (-0.1, -0.2), (0.1, 0.3)))
    good = artefact_text(Artefact(database.system, "made up", 20, (fit,)))
    (tmp_path / "fits.json").write_text(good)
    assert read_artefact(tmp_path / "fits.json").fits == (fit,)
    broken = {
        '"tile":': '"tiles":',
        '"rows":': '"rows": "many", "r":',
        'fits 2"': 'fits 1"',
        '"mem_bw":': '"mem_width":',
        '"parameters":[': '"parameters":[-1,',
        "[-0.1,-0.2]": "[-0.1,0.2]",
        "[0.1,0.3]": "[0.1]",
    }
    for old, new in broken.items():
        assert good.count(old) == 1
        (tmp_path / "fits.json").write_text(good.replace(old, new))
        with pytest.raises(PmcError, match=r"fits\.json: "):
            read_artefact(tmp_path / "fits.json")
    for text in ("{}", "[1]", "nothing", good[:-20], "\xff"):
        (tmp_path / "fits.json").write_text(text, encoding="latin-1")
        with pytest.raises(PmcError, match=r"fits\.json: no artefact of fits"):
            read_artefact(tmp_path / "fits.json")
    with pytest.raises(PmcError, match="no readable fits"):
        read_artefact(tmp_path / "gone.json")
    with pytest.raises(PmcError, match=r"overlap_power is 0\.5, expected a number from 1"):
        replace(LAW, overlap_power=0.5)


def test_energy_is_power_times_time(tmp_path: Path) -> None:
    toy_system(tmp_path)
    rows = gemm_text([(m, n, 512, m * n / 1e5, 200 + m) for n in (64, 128) for m in range(1, 20)])
    table(tmp_path, "gemm", rows.replace("latency", "latency,power"))
    database = PerfDatabase.open("toy", "vllm", library=Library.folder(tmp_path))
    measured = database.query(Gemm(10, 64, 512, "bfloat16"))
    assert measured.energy == pytest.approx(210 * 10 * 64 / 1e5)
    between = database.query(Gemm(10, 100, 512, "bfloat16"))
    assert between.energy is not None and between.energy / between == pytest.approx(210, rel=0.03)


def test_a_result_is_a_float_of_positive_milliseconds() -> None:
    result = PerformanceResult(1.5, Source.MEASURED, 30.0)
    assert result + 1 == 2.5 and (result.energy, result.source) == (30.0, Source.MEASURED)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(PmcError, match="expected a positive number"):
            PerformanceResult(bad, Source.MEASURED)


def test_bands_cover_what_was_not_seen(database: PerfDatabase) -> None:
    """Of other draws of the same law, at other shapes: 80% are to be within, and 70 to 92% of 300 are."""
    draw = np.random.default_rng(9)
    points = shapes(draw, 300, (0, 12), (9, 13))
    truth = law_ms(database.system, points, seed=3)
    found = database.predictor(Gemm(1, 1, 1, "bfloat16")).predict(gemm_points(points))
    inside = np.mean((found.low_ms <= truth) & (truth <= found.high_ms))
    assert 0.70 <= inside <= 0.92


def test_a_fit_is_the_same_every_time_and_needs_some_rows(database: PerfDatabase) -> None:
    rows = database.rows(Gemm(1, 1, 1, "bfloat16"))
    first, second = (fit_rows(Gemm, rows, database.system, "vllm", "1.0.0") for _ in range(2))
    assert first == second and isinstance(first, Fit) and isinstance(first.parameters, Parameters)
    with pytest.raises(PmcError, match="8 rows are too few for a fit"):
        fit_rows(Gemm, rows.take(np.arange(8)), database.system, "vllm", "1.0.0")


def test_residuals_reproduce_a_smooth_field_and_pass_over_a_wrong_row() -> None:
    grid = np.array([[x, y] for x in range(9) for y in range(9)], dtype=np.float64) / 2
    field = 0.3 * np.sin(grid[:, 0]) + 0.2 * grid[:, 1]
    at = np.array([[1.7, 2.2], [0.6, 3.1]])
    expected = 0.3 * np.sin(at[:, 0]) + 0.2 * at[:, 1]
    assert krige(Measured(grid, field), at).residual == pytest.approx(expected, abs=0.02)
    wrong = field.copy()
    wrong[np.argmin(np.sum((grid - at[0]) ** 2, axis=1))] += 2.0
    assert krige(Measured(grid, wrong), at).residual == pytest.approx(expected, abs=0.08)
    weights = krige(Measured(grid, field), at).weights
    assert np.sum(weights, axis=1) == pytest.approx(1)


def test_rows_that_are_left_out_do_not_count() -> None:
    grid = np.arange(12, dtype=np.float64)[:, None]
    owner = np.arange(12) // 3
    values = np.where(owner == 1, 100.0, 1.0)
    found = krige(Measured(grid, values), grid[4:5], np.array([1]), owner)
    assert found.residual == pytest.approx(1.0) and found.distance == pytest.approx(2.0)


def test_the_nearest_rows_are_the_nearest() -> None:
    """Blocks of rows leave none of the 24 nearest out: all rows, rows that are left out, and a last block with few."""
    draw = np.random.default_rng(4)
    rows, points = draw.uniform(0, 12, (3001, 3)), draw.uniform(-1, 13, (20, 3))
    owner = draw.integers(0, 3, 3001)
    for left_out in (None, owner[:20]):
        squares = np.sum(np.square(points[:, None] - rows), axis=-1)
        if left_out is not None:
            squares[left_out[:, None] == owner] = np.inf
        found = krige(Measured(rows, np.zeros(3001)), points, left_out, None if left_out is None else owner)
        assert np.array_equal(found.rows, np.argsort(squares, axis=1)[:, :24])
