"""`pmc run` and `pmc check` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmc.compiler.check import FP32
from pmc.compiler.config import load_chip, load_deployment, load_model_config
from pmc.compiler.driver import module_text
from pmc.compiler.frontend import import_hf
from pmc.compiler.main import main
from pmc.compiler.shrink import shrink_deployment, shrink_model, with_fp32

SIZES = ["--batch", "3", "--q-len", "1", "--kv-len", "11"]


def small_model(folder: Path) -> Path:
    """DeepSeek-V3 with four small layers in FP32, for tp 2, dp 2, ep 4."""
    wanted = load_deployment("dsv3-decode-ep32", {"tp": 2, "dp": 2, "ep": 4})
    small = shrink_deployment(wanted, quantization=FP32)
    path = folder / "small.mlir"
    config, source = load_model_config("deepseek-v3")
    path.write_text(module_text(shrink_model(import_hf(config, source, "small"), small, 4)))
    return path


def compile_dumps(model: Path, folder: Path, pp: int = 1) -> list[Path]:
    """A dump after each pass down to commands."""
    mesh = ["--tp", "2", "--dp", "2", "--ep", "4", "--pp", str(pp), "--expert-capacity", "worst"]
    types = ["--weights", "f32", "--activations", "f32", "--kv-cache", "f32", "--attention", "f32"]
    chip = folder.parent / "chip.yaml"
    chip.write_text(with_fp32(load_chip("sg2262")).model_dump_json(), encoding="utf-8")
    target = ["--chip", str(chip), "--topology", "p1-r1-b1-c8", "--deployment", "dsv3-decode-ep32"]
    arguments = ["compile", str(model), *target, *mesh, *types, *SIZES, "--emit", "commands"]
    assert main([*arguments, "--dump-dir", str(folder), "-o", str(folder.parent / "out.txt")]) == 0
    return sorted(folder.glob("*.mlir"))


def run(*arguments: str) -> dict[str, Any]:
    """The arrays of a run."""
    output = Path(arguments[arguments.index("-o") + 1])
    assert main(["run", *arguments]) == 0
    with np.load(output) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("pp", [1, 2])
def test_every_dump_of_a_compilation_gives_the_results_of_the_model(tmp_path: Path, pp: int) -> None:
    model = small_model(tmp_path)
    dumps = compile_dumps(model, tmp_path / "dumps", pp)
    assert len(dumps) == 19
    expected = run(str(model), *SIZES, "--seed", "5", "-o", str(tmp_path / "model.npz"))
    for dump in dumps:
        found = run(str(dump), *SIZES, "--seed", "5", "-o", str(tmp_path / "dump.npz"))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=f"{dump.name}: {name}")


def test_lengths_may_be_set_by_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(small_model(tmp_path)), ["-o", str(tmp_path / "out.npz")]
    settings = [f"deployment.{flag[2:].replace('-', '_')}={n}" for flag, n in zip(SIZES[::2], SIZES[1::2], strict=True)]
    expected = run(model, *SIZES, *out)
    found = run(model, *(word for setting in settings for word in ("--set", setting)), *out)
    assert all(np.array_equal(found[name], values) for name, values in expected.items())
    assert main(["run", model, "--set", settings[0], "--set", "deployment.tp=2"]) == 2
    assert "--set deployment.tp: only with --shrink" in capsys.readouterr().err


def test_saved_inputs_give_the_same_results_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = str(small_model(tmp_path)), str(tmp_path / "inputs.npz")
    assert main(["run", model, *SIZES, "--seed", "7", "--save-inputs", inputs, "--format", "json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["run", model, *SIZES, "--inputs", inputs, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert first["results"]["logits"]["shape"] == [3, 38]
    assert main(["run", model, *SIZES, "--seed", "8", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) != first


def test_emulated_storage_rounds_the_logits(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    layer = compile_dumps(model, tmp_path / "dumps")[1]
    text = layer.read_text().replace(", f32>", ", bf16>")
    rounded = tmp_path / "bf16.mlir"
    rounded.write_text(text)
    options = [*SIZES, "--precision", "emulated", "-o", str(tmp_path / "out.npz")]
    logits = run(str(rounded), *options)["logits"]
    bits = np.ascontiguousarray(logits, np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()  # a bf16 is the upper half of an FP32
    exact = run(str(layer), *SIZES, "-o", str(tmp_path / "exact.npz"))["logits"]
    assert np.abs(logits - exact).max() > 0


Arrays = dict[str, Any]


def without(arrays: Arrays, name: str) -> Arrays:
    """All arrays but one."""
    return {key: values for key, values in arrays.items() if key != name}


def changed(arrays: Arrays, name: str, values: Any) -> Arrays:
    """All arrays, one of them replaced."""
    return {**arrays, name: values}


BAD_INPUTS: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no tokens": (partial(without, name="tokens"), "has no array 'tokens'"),
    "few tokens": (
        partial(changed, name="tokens", values=np.zeros(2, np.int64)),
        "tokens are int64[2], must be integers [3]",
    ),
    "no weight": (partial(without, name="weights/embed.weight"), "no array for weight 'embed.weight'"),
    "wrong shape": (
        partial(changed, name="weights/lm_head.norm.weight", values=np.ones(3)),
        "weight 'lm_head.norm.weight' is [3], must be [38]",
    ),
    "not finite": (
        partial(changed, name="weights/lm_head.norm.weight", values=np.full(38, np.nan)),
        "weight 'lm_head.norm.weight'",
    ),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_inputs_are_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = BAD_INPUTS[kind]
    model, inputs = str(small_model(tmp_path)), tmp_path / "inputs.npz"
    assert main(["run", model, *SIZES, "--save-inputs", str(inputs)]) == 0
    with np.load(inputs) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    np.savez(inputs, **change(arrays))
    capsys.readouterr()
    output = tmp_path / "out.npz"
    assert main(["run", model, *SIZES, "--inputs", str(inputs), "-o", str(output)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1 and not captured.out and not output.exists()


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "inputs.npz"
    bad.write_text("tokens: 3")
    assert main(["run", str(small_model(tmp_path)), *SIZES, "--inputs", str(bad)]) == 2
    assert "not a readable .npz file" in capsys.readouterr().err


def test_a_model_that_is_too_large_to_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "deepseek-v3", *SIZES]) == 2
    assert "--shrink of `pmc run`" in capsys.readouterr().err


def test_check_prints_a_line_per_pass(capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode", "--tp", "2"]
    assert main(["check", "llama-3.1-8b", *target, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    assert [phase["phase"] for phase in result["phases"]] == ["prefill"] * 3 + ["decode"] * 3 + ["sequence"]
    assert main(["check", "llama-3.1-8b", *target]) == 0
    text = capsys.readouterr().out
    assert text.endswith("every pass keeps the meaning\n")
    assert text.count("emit-g5") == 6
