"""Results say how far they can be trusted (N21, N22, N24, item 5 of issue 9)."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pmc.backends.evaluate.sweep import sweep_module
from pmc.compiler.api import evaluate
from pmc.compiler.config import load_calibration, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.evaluation import EvaluationOptions, evaluate_request
from pmc.compiler.main import main
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError

CONFIGS = Path(__file__).parents[2] / "configs"
SG = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
H100 = ["--chip", "h100-sxm", "--topology", "nvlink-8", "--deployment", "llama-8b-decode"]
DEEPSEEK = ["--chip", "sg2262", "--topology", "p1-r1-b4-c32", "--deployment", "dsv3-decode-ep32"]
LLAMA_TOKENS = 131072
"""max_position_embeddings of llama-3.1-8b."""


def stdout(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert main(arguments) == code
    return capsys.readouterr().out


def stderr(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert main(arguments) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "granularity", "model"),
    [
        (SG, "chip", "granularity chip on sg2262"),
        (SG, "core", "granularity core on sg2262"),
        (H100, "chip", "granularity chip on h100-sxm"),
    ],
)
def test_n21_a_chip_that_nothing_was_measured_on_gives_relative_results(
    target: list[str], granularity: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "llama-3.1-8b", *target, "--granularity", granularity]
    document = json.loads(stdout([*arguments, "--format", "json"], capsys))
    assert document["relative_only"] is True
    assert document["unvalidated"][0] == model
    text = stdout(arguments, capsys)
    assert f"relative only, never validated against silicon: {model}" in text
    rows = csv.DictReader(io.StringIO(stdout([*arguments, "--format", "csv"], capsys)))
    assert {row["relative_only"] for row in rows} == {"True"}


def test_n21_every_shipped_chip_and_the_template_say_that_nothing_was_compared() -> None:
    for file in (CONFIGS / "chips").glob("*.yaml"):
        assert yaml.safe_load(file.read_text())["compared_with_silicon"] == [], file.name
    template = Chip.model_validate(yaml.safe_load((CONFIGS / "chips" / "_template.yaml").read_text()))
    assert all(template.is_unvalidated(name) for name in Chip.model_fields if name not in LABELS)


LABELS = ("name", "unvalidated", "compared_with_silicon")


def test_n21_only_a_compared_granularity_with_checked_parameters_is_absolute() -> None:
    chip = load_chip("sg2262").model_copy(update={"compared_with_silicon": ("chip",)})
    dist = compile_model(
        load_model("llama-3.1-8b"), chip, load_topology("p1-r1-b1-c8"), load_deployment("llama-8b-decode"), "dist"
    )
    assert evaluate(dist).to_dict()["relative_only"] is False
    assert evaluate(dist, granularity="core").step.ops.unvalidated[0] == "granularity core on sg2262"


def test_issue9_5_a_lower_bound_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = "a lower bound: every op takes at least the time that its roofline says"
    arguments = ["evaluate", "llama-3.1-8b", *SG]
    assert line in stdout(arguments, capsys)
    assert line in stdout([*arguments, "--isl", "64", "--osl", "2"], capsys)
    assert line not in stdout([*arguments, "--granularity", "core"], capsys)
    assert line not in stdout([*arguments, "--calibration", "assumed-losses"], capsys)
    document = json.loads(stdout([*arguments, "--format", "json"], capsys))
    assert document["lower_bound"] is True
    request = json.loads(stdout([*arguments, "--isl", "64", "--osl", "2", "--format", "json"], capsys))
    assert request["lower_bound"] is True and request["assumptions"] == []


def test_n22_what_the_checkpoint_has_and_the_program_has_not_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    mtp = "1 multi-token-prediction layer of the checkpoint not counted"
    stored = "the checkpoint stores weights as f8E4M3FN/128x128:f32 (quantization_config), the deployment has bf16"
    arguments = ["evaluate", "deepseek-v3", *DEEPSEEK, "--format", "json"]
    assert json.loads(stdout(arguments, capsys))["assumptions"] == [mtp]
    assert json.loads(stdout([*arguments, "--weights", "bf16"], capsys))["assumptions"] == [mtp, stored]
    assert mtp in stdout(["evaluate", "deepseek-v3", *DEEPSEEK, "--isl", "64", "--osl", "2"], capsys)


def test_n22_lengths_that_the_model_is_not_made_for_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = tmp_path / "dist.mlir"
    assert main(["compile", "llama-3.1-8b", *SG, "--emit", "dist", "-o", str(dump)]) == 0
    small = ["--batch", "1"]
    for arguments in (
        ["evaluate", "llama-3.1-8b", *SG, *small, "--kv-len", str(LLAMA_TOKENS + 1)],
        ["evaluate", "llama-3.1-8b", *SG, *small, "--isl", str(LLAMA_TOKENS), "--osl", "2"],
        ["evaluate", str(dump), *small, "--kv-len", str(LLAMA_TOKENS + 1)],
        ["analyze", str(dump), *small, "--kv-len", str(LLAMA_TOKENS + 1), "--what", "ops"],
        ["compile", "llama-3.1-8b", *SG, *small, "--kv-len", str(LLAMA_TOKENS + 1), "--emit", "dist"],
    ):
        message = stderr(arguments, capsys, 2)
        assert message.startswith("pmc: error: kv_len 131073 is more than the 131072 tokens that the model is made for")
        assert message.count("\n") == 1 and "--longer-context" in message
    assert main(["evaluate", "llama-3.1-8b", *SG, *small, "--kv-len", str(LLAMA_TOKENS)]) == 0
    capsys.readouterr()


def test_n22_longer_context_runs_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    line = "kv_len 131073 is longer than the model is made for, which is 131072 tokens"
    longer = ["evaluate", "llama-3.1-8b", *SG, "--batch", "1", "--longer-context", "--format", "json"]
    step = json.loads(stdout([*longer, "--kv-len", str(LLAMA_TOKENS + 1)], capsys))
    assert step["assumptions"] == [line]
    request = json.loads(stdout([*longer, "--isl", str(LLAMA_TOKENS), "--osl", "2"], capsys))
    assert request["assumptions"] == [line]


def test_n22_a_sweep_holds_its_longest_point_against_the_model() -> None:
    dist = compile_model(
        load_model("llama-3.1-8b"),
        load_chip("sg2262"),
        load_topology("p1-r1-b1-c8"),
        load_deployment("llama-8b-decode"),
        "dist",
    )
    with pytest.raises(PmcError, match="kv_len 200000 is more than the 131072 tokens"):
        sweep_module(dist, {"kv_len": np.array([1024, 200000])}, "chip")
    assert sweep_module(dist, {"kv_len": np.array([1024, 131072])}, "chip").time_us.shape == (2,)


@pytest.mark.parametrize("what", [["ops"], ["cost", "--dollars-per-chip-hour", "2"]])
def test_n24_the_price_and_the_ops_of_what_does_not_fit_say_so(
    what: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # llama-3.1-8b decode on an H100: the analysis of memory says that 130 sequences of 4096 tokens fit.
    arguments = ["analyze", "llama-3.1-8b", *H100, "--what", *what]
    fits = json.loads(stdout([*arguments, "--batch", "130", "--format", "json"], capsys))
    assert fits["memory"]["fits"] is True
    assert "does not fit" not in stdout([*arguments, "--batch", "130"], capsys)
    text = stdout([*arguments, "--batch", "131"], capsys, code=1)
    assert "does not fit: stage 0 needs" in text and "the largest batch that fits is 130" in text
    assert main([*arguments, "--batch", "131", "--format", "csv"]) == 1
    captured = capsys.readouterr()
    assert "does not fit" not in captured.out and captured.err.startswith("pmc: does not fit: stage 0 needs")
    document = json.loads(stdout([*arguments, "--batch", "131", "--format", "json"], capsys, code=1))
    assert document["memory"]["largest_batch"] == 130


def test_n24_a_chip_without_commands_names_the_granularities_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    message = stderr(["evaluate", "llama-3.1-8b", *H100, "--granularity", "tile"], capsys, 2)
    assert message == (
        "pmc: error: chip h100-sxm has no command level (command_level is null): there are only the granularities "
        "chip and core, and the levels down to dist\n"
    )
    assert main(["evaluate", "llama-3.1-8b", *H100, "--granularity", "core"]) == 0
    capsys.readouterr()


def test_issue9_5_a_calibrated_roofline_is_no_bound() -> None:
    request = evaluate_request(
        load_model("llama-3.1-8b"),
        load_chip("sg2262"),
        load_topology("p1-r1-b1-c8"),
        load_deployment("llama-8b-decode"),
        64,
        2,
        EvaluationOptions(calibration=load_calibration("assumed-losses")),
    )
    assert request.lower_bound is False
