"""`pmc thermal`: the files of a run, what is resumed, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmc.backends.thermal.metrics import RUN_COLUMNS, WINDOW_COLUMNS
from pmc.backends.thermal.snapshot import RunAwayError
from pmc.compiler.config import yaml_text
from pmc.compiler.driver import parse_module
from pmc.compiler.main import main
from pmc.compiler.tas.experiment import CHECKPOINT_EVERY, Job, run_scenario
from pmc.compiler.tas.page import PAGE, write_page
from pmc.compiler.tas.run_files import CHECKPOINT, read_committed, read_windows
from pmc.compiler.tas.run_trace import write_trace
from pmc.compiler.tas.scenario import SCENARIOS, Study, setting_of
from pmc.dialects.errors import PmcError
from pmc.dialects.trace import LogicalOp, OverlayOp, PhysicalOp, PlacementOp
from tests.compiler.thermal_cases import HOT, study

COLUMNS = {
    "traces/logical_compute.csv": "event_id,t_gen_ns,mb_id,token_id,experts_json,flops_json,op_type",
    "traces/logical_memory.csv": "event_id,tensor_id,access,bytes,locality_hint",
    "runtime/overlay_reroute.csv": "t_apply_ns,scope,from_core,to_core,mb_ids_json,reason,expected_gain",
    "runtime/overlay_migrate.csv": "t_apply_ns,obj_type,obj_id,src,dst,size_bytes,cost",
    "traces/compute_events.csv": "evt_id,t_start_ns,core_id,duration_cycles,flops,op,dvfs_domain,power_hint",
    "traces/memory_events.csv": "evt_id,t_start_ns,src_core,dst_bank,bytes,rw,hops,noc_qos",
    "mixtral-8x7b.csv": "scenario,workload,T_peak_logic,T_peak_dram,T_avg,ips,lat_ms,bw_util,refresh_mhz,noc_load",
}
"""The tables of the study, section 3, and their columns."""

STEPS = CHECKPOINT_EVERY + 5


def small(**fields: Any) -> Study:
    """Skewed, on a chip that gets hot enough for moves."""
    return study(workload={"routing.zipf_s": 1.2, "sequence.steps": STEPS}, tas=HOT, **fields)


def job(out: Path, scenario: str = "tacs", **fields: Any) -> Job:
    return replace(Job(small(), scenario, out, None, False, "api", None), **fields)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files of a run but its log, whose resumed runs say so."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".npz"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of TACS."""
    found = job(tmp_path_factory.mktemp("whole"))
    run_scenario(found)
    return found.folder


def test_a_run_writes_all_files_with_the_columns_of_the_study(whole: Path) -> None:
    for name, columns in COLUMNS.items():
        assert (whole / name).read_text().splitlines()[0] == columns
    assert json.loads((whole / "mapping/placement.json").read_text()).keys() == {"experts", "tensors"}
    replicas = json.loads((whole / "runtime/replica_state.json").read_text())
    assert replicas and all(entry.keys() == {"cores", "ts_created_ns"} for entry in replicas.values())
    assert (whole / "windows.csv").read_text().splitlines()[0] == ",".join((*WINDOW_COLUMNS, "committed"))
    assert not (whole / CHECKPOINT).exists()
    log = (whole / "run.log").read_text()
    assert "scenario tacs, seed 42" in log and "zipf_s: 1.2" in log and f"window {STEPS - 1}: cores up to" in log


def test_the_row_of_a_run_is_that_of_its_windows(whole: Path) -> None:
    windows = read_windows(whole / "windows.csv")
    assert [row["window"] for row in windows] == list(range(STEPS)) and len(read_committed(whole / "windows.csv"))
    with (whole / "mixtral-8x7b.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == RUN_COLUMNS and row["scenario"] == "tacs"
    assert float(row["T_peak_logic"]) == max(window["T_peak_logic"] for window in windows)
    assert float(row["ips"]) == pytest.approx(np.mean([window["tokens"] for window in windows]) / 3e-3)


def test_the_module_of_a_run_parses_and_verifies(whole: Path) -> None:
    module = parse_module((whole / "module.mlir").read_text(), "module.mlir")
    module.verify()
    kinds = [type(op) for op in module.ops]
    assert kinds[:2] == [LogicalOp, PlacementOp]
    physical = [op for op in module.ops if isinstance(op, PhysicalOp)]
    overlays = [op for op in module.ops if isinstance(op, OverlayOp)]
    assert physical[-1].end == STEPS and overlays
    assert physical[-1].committed.data == read_committed(whole / "windows.csv")[-1]
    assert setting_of(module).windows == STEPS


def test_the_timeline_of_a_run_has_every_event_at_the_clock_of_its_core(tmp_path: Path) -> None:
    # Around 70 degrees some cores are above the first trip, and others are not.
    hot = job(tmp_path, study=small(arch={"cooling.ambient_c": 70.0}), windows=8)
    run_scenario(hot)
    write_trace(hot.folder, 3_000_000, "mixtral-8x7b", tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    parts = sorted((e["ts"], e["dur"]) for e in events if e["ph"] == "X" and e["name"] in ("fc", "attn"))
    clocks = [line.split(",") for line in (hot.folder / "clocks.csv").read_text().splitlines()]
    assert len(clocks) == 8 and len({clock for row in clocks for clock in row}) > 1
    with (hot.folder / "traces/compute_events.csv").open(newline="") as file:
        rows = [
            (int(row["t_start_ns"]), int(row["core_id"]), int(row["duration_cycles"])) for row in csv.DictReader(file)
        ]
    expected = sorted((t / 1e3, n / float(clocks[t // 3_000_000][core]) / 1e3) for t, core, n in rows)
    assert np.allclose(parts, expected, rtol=1e-9)


def test_a_second_run_writes_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    again = job(tmp_path)
    run_scenario(again)
    assert bytes_of(again.folder) == bytes_of(whole)


def test_a_resumed_run_writes_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    broken = job(tmp_path)

    def stop(windows: int) -> None:
        stop.done += windows  # type: ignore[attr-defined]  # pyright: ignore
        if stop.done == CHECKPOINT_EVERY + 3:  # type: ignore[attr-defined]  # pyright: ignore
            raise KeyboardInterrupt

    stop.done = 0  # type: ignore[attr-defined]  # pyright: ignore
    with pytest.raises(KeyboardInterrupt):
        run_scenario(broken, stop)
    assert (broken.folder / CHECKPOINT).exists()
    assert len(read_windows(broken.folder / "windows.csv")) > CHECKPOINT_EVERY, "more than the checkpoint has"
    seen: list[int] = []
    run_scenario(replace(broken, resume=True), seen.append)
    assert seen == [CHECKPOINT_EVERY, *[1] * (STEPS - CHECKPOINT_EVERY)]
    assert bytes_of(broken.folder) == bytes_of(whole)
    assert "goes on with window 25" in (broken.folder / "run.log").read_text()


def test_what_has_ended_is_not_run_again_but_for_other_inputs(tmp_path: Path) -> None:
    done = job(tmp_path, windows=2)
    row = run_scenario(done)
    seen: list[int] = []
    again = run_scenario(replace(done, resume=True), seen.append)
    assert again == row and not seen
    longer = run_scenario(replace(done, windows=3, resume=True), seen.append)
    assert longer != row and seen == [0, 1, 1, 1]


def test_a_checkpoint_of_another_study_is_refused(tmp_path: Path) -> None:
    def stop(windows: int) -> None:
        if (tmp_path / "tacs" / CHECKPOINT).exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_scenario(job(tmp_path), stop)
    other = study(workload={"routing.zipf_s": 1.1, "sequence.steps": STEPS}, tas=HOT)
    with pytest.raises(PmcError, match="is that of another chip, workload or other parameters: give another --out"):
        run_scenario(job(tmp_path, study=other, resume=True))


RUN_AWAY = {"power.run_away_c": 58.0}
"""Above the chip at even work, below the core of the hottest expert."""


def test_a_chip_that_runs_away_keeps_its_last_temperatures(tmp_path: Path) -> None:
    found = job(tmp_path, "baseline", study=small(arch=RUN_AWAY))
    with pytest.raises(
        RunAwayError, match=r"thermal: core \d+ has run away in window \d+: .* the limit is 58 C"
    ) as error:
        run_scenario(found)
    window = error.value.window
    assert window is not None
    kept = json.loads((found.folder / "last_snapshot.json").read_text())
    assert kept["ts_ns"] == window * 3_000_000 and max(kept["temps_core_c"]) <= 58.0
    assert len(kept["temps_bank_c"]) == 128
    assert "ERROR stopped: thermal: core" in (found.folder / "run.log").read_text()


# -- on the command line -----------------------------------------------------------------------------------------


def files(folder: Path, **fields: Any) -> list[str]:
    """The options of a study whose files are in a folder."""
    found = study(workload={"routing.zipf_s": 1.2}, tas=HOT, **fields)
    options: list[str] = []
    for name, part in (("arch", found.arch), ("workload", found.workload), ("tas", found.tas)):
        (folder / f"{name}.yaml").write_text(yaml_text(part))
        options += [f"--{name}", str(folder / f"{name}.yaml")]
    return [*options, "--out", str(folder / "out")]


def pmc(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_one_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = pmc("thermal", "run", *files(tmp_path), "--scenario", "baseline", "--windows", "2", capsys=capsys)
    assert code == 0, err
    assert "T_peak_logic" in out and "baseline" in out and "relative only" in out
    assert len(read_windows(tmp_path / "out/baseline/windows.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "run needs --scenario NAME; compare runs all of them and takes none"),
        (("compare", "--scenario", "tas"), "run needs --scenario NAME; compare runs all of them and takes none"),
        (("run", "--scenario", "best"), "unknown scenario 'best', expected baseline, taps, tacs, tas"),
        (("run", "--scenario", "tas", "--engine", "file"), "--engine file needs the executable: --hotspot COMMAND"),
        (("run", "--scenario", "tas", "--set", "arch.nothing=1"), "nothing"),
    ],
)
def test_what_cannot_be_asked_for(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = pmc("thermal", arguments[0], *files(tmp_path), *arguments[1:], capsys=capsys)
    assert code != 0 and message in err and not out and len(err.splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_without_scipy_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> None:
        assert name == "scipy"

    monkeypatch.setattr("pmc.compiler.core_heat.find_spec", none)
    code, _, err = pmc("thermal", "run", *files(tmp_path), "--scenario", "tas", capsys=capsys)
    assert code != 0 and "temperatures need SciPy: pip install 'pmc[thermal]'" in err


def test_a_run_that_runs_away_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*files(tmp_path, arch=RUN_AWAY), "--set", "workload.sequence.steps=30", "--scenario", "baseline"]
    code, _, err = pmc("thermal", "run", *options, capsys=capsys)
    assert code == 1 and "has run away in window" in err and "last_snapshot.json" in err
    assert (tmp_path / "out/baseline/last_snapshot.json").exists()


def test_the_page_has_the_pictures_and_the_table(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [run_scenario(job(tmp_path, scenario, windows=3)) for scenario in ("baseline", "tas")]
    path = write_page(tmp_path, small().arch, rows)
    text = path.read_text()
    assert path == tmp_path / PAGE and text.startswith("<!doctype html>")
    names = ["peaks", "comparison", "map-baseline", "map-tas"]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    assert text.count("data:image/png;base64,") == len(names)
    assert all(f"<th>{column}</th>" in text for column in RUN_COLUMNS) and "not validated against silicon" in text


def test_all_four_scenarios_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = pmc("thermal", "compare", *files(tmp_path), "--windows", "2", capsys=capsys)
    assert code == 0, err
    for scenario in SCENARIOS:
        assert scenario in out and (tmp_path / "out" / scenario / "mixtral-8x7b.csv").exists()
    assert (tmp_path / "out" / PAGE).exists() and PAGE in out
