"""`pmc thermal run MODEL`: what it prints and writes, that it starts from `pmc simulate`, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pmc.compiler.main import main

from .tiny import LLAMA, SMALL, TARGET, write_config

STACK = ["--thermal", "sg2262-stacked", "--set", "arch.geometry.grid=[8,8]", "--set", "arch.dram.banks=[8,8,1]"]
SHORT = ["--windows", "6", "--window-us", "5"]
HOT = ["--set", "arch.power.pj_per_flop=800"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_config(tmp_path_factory.mktemp("model"), LLAMA))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["thermal", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def windows(folder: Path) -> list[dict[str, str]]:
    with (folder / "windows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_prints_a_table_and_leaves_its_files(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [model, *TARGET, *SMALL, *STACK, *SHORT, *HOT, "--out", str(tmp_path)]
    code, out, err = run(capsys, "run", *options)
    assert code == 0
    assert "step time, us" in out and "energies of commands: the stack sg2262-stacked" in out
    assert err.startswith("relative only, never validated against silicon: sg2262.gdma_multicast")
    assert "sg2262-stacked.cooling" in err
    rows = windows(tmp_path)
    assert [row["window"] for row in rows] == [str(number) for number in range(6)]
    assert rows[-1]["ts_ns"] == "30000"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["relative_only"] is True and "sg2262-stacked.power" in result["unvalidated"]
    assert result["mean"]["tokens_per_s"] == pytest.approx(8 * result["mean"]["steps_per_s"])
    assert result["mean"]["step_us"] == pytest.approx(6 / sum(1 / float(row["step_us"]) for row in rows))
    log = (tmp_path / "run.log").read_text()
    assert all(word in log for word in ("arch.chip", "arch.deployment", "stack:", "window 5:"))
    assert (tmp_path / "peaks.png").read_bytes()[1:4] == (tmp_path / "map.png").read_bytes()[1:4] == b"PNG"
    again = tmp_path / "again"
    assert run(capsys, "run", *options[:-1], str(again))[1] == out
    for name in ("windows.csv", "run.log", "result.json"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_without_heat_the_step_is_that_of_pmc_simulate(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", model, *TARGET, *SMALL, "--format", "json"]) == 0
    total = json.loads(capsys.readouterr().out)["total_us"]
    cool = ["--set", "arch.power.pj_per_flop=0"]
    assert run(capsys, "run", model, *TARGET, *SMALL, *STACK, *SHORT, *cool, "--out", str(tmp_path))[0] == 0
    assert {(float(row["step_us"]), row["limits"]) for row in windows(tmp_path)} == {(total, "none")}


def test_heat_makes_the_step_longer(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hot = ["--set", "arch.power.pj_per_flop=2000"]
    code, out, _ = run(capsys, "run", model, *TARGET, *SMALL, *STACK, *SHORT, *hot, "--out", str(tmp_path))
    assert code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["step_us"]["last"] > result["step_us"]["full_speed"]
    assert result["limited_by"]["clock"] == 1.0
    assert "heat lowers the clock in 100% of 6 windows" in out


def test_a_chip_that_runs_away_in_a_window_keeps_the_snapshot_before(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [model, *TARGET, *SMALL, *STACK, "--windows", "60", "--window-us", "2", *HOT]
    assert run(capsys, "run", *options, "--out", str(tmp_path))[0] == 0
    peaks = [max(float(row["T_peak_logic"]), float(row["T_peak_dram"])) for row in windows(tmp_path)]
    stopped = peaks.index(max(peaks))
    limit = (max(peaks[:stopped]) + peaks[stopped]) / 2
    code, out, err = run(
        capsys, "run", *options, "--set", f"arch.power.run_away_c={limit}", "--out", str(tmp_path / "b")
    )
    assert (code, out) == (1, "")
    assert f"has run away in window {stopped}:" in err and "last_snapshot.json" in err
    last = json.loads((tmp_path / "b" / "last_snapshot.json").read_text())
    assert last["ts_ns"] == 2000 * stopped
    assert max(last["temps_core_c"]) == float(windows(tmp_path)[stopped - 1]["T_peak_logic"])
    assert len(windows(tmp_path / "b")) == stopped
    assert "stopped: thermal:" in (tmp_path / "b" / "run.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "MODEL", *TARGET], "missing option: --thermal STACK"),
        (["run", "MODEL", "--thermal", "sg2262-stacked"], "missing options: --chip, --topology"),
        (["run", "MODEL", *TARGET, *STACK, "--set", "arch.mesh.cores=[4,8]"],
         "stack sg2262-stacked has 4 x 8 cores (mesh.cores), chip sg2262 has 8 x 8"),
        (["run", "MODEL", *TARGET, *STACK, "--set", "chip.tiu_ghz=1.2"],
         "stack sg2262-stacked runs at 1.5 GHz (the first of dvfs steps_ghz), chip sg2262 at 1.2 GHz"),
        (["run", "MODEL", *TARGET, *STACK, "--scenario", "tas"], "--scenario: is for the study"),
        (["compare", "MODEL", *TARGET, *STACK], "compare: is for the study"),
        (["run", "MODEL", *TARGET, *STACK, "--set", "tas.top_k=3"], "--set tas.tacs.top_k: a MODEL has no tas"),
        (["run", *TARGET, "--scenario", "tas"], "--chip, --topology, --deployment: needs a MODEL"),
        (["run", "--scenario", "tas"], "missing options: --arch, --workload, --tas"),
        (["run", "MODEL", *TARGET, *STACK, "--set", "arhc.mesh.cores=[4,8]"], "unknown part 'arhc'"),
        (["run", "MODEL", "--chip", "h100-sxm", "--topology", "nvlink-8", "--deployment", "llama-8b-decode", *STACK],
         "h100-sxm"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(
    arguments: list[str], words: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [model if word == "MODEL" else word for word in arguments]
    code, out, err = run(capsys, *given, "--out", str(tmp_path / "out"))
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1 and err.startswith("pmc: error: ")
