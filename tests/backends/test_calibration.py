"""The calibration attribute, what it does to times, and that it marks results."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser

from pmc.backends.evaluate import evaluate_module, sweep_module
from pmc.backends.evaluate.overlap import Overlap, evaluate_step
from pmc.compiler.config import ConfigError, load_accounting, load_calibration, load_chip, load_topology
from pmc.compiler.driver import module_text, parse_module
from pmc.compiler.main import main
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr
from pmc.dialects.arch import Arch, ChipAttr, TopologyAttr
from pmc.dialects.calibration import Calibration, CalibrationAttr
from pmc.dialects.dist import Dist
from pmc.dialects.errors import PmcError
from pmc.dialects.layer import Layer

PROGRAM = """
builtin.module attributes {dist.mesh = #dist.mesh<8 ranks, tp = 8 stride 1, ep = 1 stride 1>} {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch, 4096], f8E4M3FN>):
    %w = layer.weight() {axes = ["", ""]} at "w" : !layer.tensor<[4096, 4096], f8E4M3FN>
    %p = layer.matmul(%x, %w) at "proj" : !layer.tensor<[batch, 4096], bf16, #dist.partial<tp>>
    %y = dist.all_reduce(%p) {axis = "tp"} at "reduce" : !layer.tensor<[batch, 4096], bf16>
    %z = dist.all_gather(%y) {axis = "ep", dim = 0} at "alone" : !layer.tensor<[batch, 4096], bf16>
    layer.return([%z]) at "m"
  }
}
"""
VALUES = {
    "bandwidth_factor": 0.5,
    "congestion": 1.5,
    "startup_us": 3.0,
    "overlap_efficiency": 0.25,
    "compute_efficiency": 0.8,
}


def calibration(validated: bool = True, **values: float) -> Calibration:
    parameters = {
        name: {"value": value, "source": "a test", "validated": validated}
        for name, value in {**VALUES, **values}.items()
    }
    return Calibration.model_validate({"name": "test", **parameters})


def module(calibrated: Calibration | None = None) -> ModuleOp:
    context = Context()
    for dialect in (Builtin, Layer, Dist, Arch):
        context.load_dialect(dialect)
    parsed = Parser(context, PROGRAM).parse_module()
    parsed.attributes["arch.chip"] = ChipAttr(load_chip("sg2262"))
    parsed.attributes[ACCOUNTING] = AccountingAttr(load_accounting("physical"))
    parsed.attributes["arch.topology"] = TopologyAttr(load_topology("p1-r1-b1-c8"))
    if calibrated is not None:
        parsed.attributes["arch.calibration"] = CalibrationAttr(calibrated)
    return parsed


def test_the_attribute_survives_text() -> None:
    text = module_text(module(calibration(False)))
    assert 'arch.calibration = #arch.calibration<{name = "test", bandwidth_factor = {source = ' in text
    again = parse_module(text, "m.mlir")
    assert again.attributes["arch.calibration"] == CalibrationAttr(calibration(False))
    assert module_text(again) == text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bandwidth_factor", 0.0, "number > 0 and <= 1"),
        ("bandwidth_factor", 1.01, "number > 0 and <= 1"),
        ("congestion", 0.99, "number >= 1"),
        ("startup_us", -0.1, "number >= 0"),
        ("overlap_efficiency", -0.1, "number >= 0 and <= 1"),
        ("overlap_efficiency", 1.1, "number >= 0 and <= 1"),
        ("compute_efficiency", 0.0, "number > 0 and <= 1"),
        ("compute_efficiency", 2.0, "number > 0 and <= 1"),
    ],
)
def test_a_factor_outside_its_range_is_one_line(name: str, value: float, expected: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "configs/calibrations/ideal.yaml").read_text()
    begin = text.index(f"\n{name}:")
    before, after = text[:begin], text[begin:]
    line = next(line for line in after.splitlines() if "value:" in line)
    path = tmp_path / "c.yaml"
    path.write_text(before + after.replace(line, f"  value: {value}", 1))
    with pytest.raises(ConfigError) as caught:
        load_calibration(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {name}.value: expected ") and f"found {value}" in message
    assert "\n" not in message
    assert all(part in message for part in expected.split(" and "))
    bad = module_text(module(calibration())).replace(
        f'{name} = {{source = "a test", validated = true, value = {VALUES[name]}}}',
        f'{name} = {{source = "a test", validated = true, value = {value}}}',
    )
    with pytest.raises(PmcError, match=rf"^m.mlir:\d+:\d+: {name}.value: expected "):
        parse_module(bad, "m.mlir")


def test_times_are_corrected_as_the_formulas_say() -> None:
    for level in ("chip", "core", "tile"):
        plain = evaluate_module(module(), level, {"batch": 64}).steps
        found = evaluate_module(module(calibration()), level, {"batch": 64}).steps
        assert found[0].time_us == pytest.approx(plain[0].time_us / 0.8, rel=1e-12)
        assert found[1].time_us == pytest.approx(plain[1].time_us * 1.5 / 0.5 + 3.0, rel=1e-12)
        # A group of one rank sends nothing: no start-up, though its slower memory is felt.
        assert found[2].comm_us == plain[2].comm_us == 0.0
        assert found[2].time_us == pytest.approx(plain[2].time_us * 3.0, rel=1e-12)
        for a, b in zip(plain, found, strict=True):
            assert (a.flops, a.bytes_read, a.bytes_written, a.link_bytes) == (
                b.flops, b.bytes_read, b.bytes_written, b.link_bytes,
            )  # fmt: skip


def test_a_sweep_is_corrected_too() -> None:
    import numpy as np

    batches = np.array([1, 64])
    swept = sweep_module(module(calibration()), {"batch": batches}, "core").time_us
    points = [evaluate_module(module(calibration()), "core", {"batch": int(b)}).total_us for b in batches]
    assert swept == pytest.approx(points, rel=1e-12)


def test_overlap_efficiency_scales_the_saving() -> None:
    identity = {"bandwidth_factor": 1.0, "congestion": 1.0, "startup_us": 0.0, "compute_efficiency": 1.0}
    program = PROGRAM.replace(
        'at "alone" : !layer.tensor<[batch, 4096], bf16>',
        'at "alone" : !layer.tensor<[batch, 4096], bf16>\n'
        '    %q = layer.matmul(%x, %w) at "beside" : !layer.tensor<[batch, 4096], bf16>',
    )
    base = module()
    totals: dict[float, float] = {}
    serial = 0.0
    for efficiency in (0.0, 0.5, 1.0):
        beside = parse_module(program, "m.mlir")
        beside.attributes.update(base.attributes)
        beside.attributes["arch.calibration"] = CalibrationAttr(
            calibration(validated=True, **identity, overlap_efficiency=efficiency)
        )
        step = evaluate_step(beside, "core", {"batch": 2048}, overlap=Overlap.STREAMS)
        totals[efficiency], serial = step.total_us, step.ops.total_us
    assert totals[0.0] == pytest.approx(serial, rel=1e-12)
    assert totals[1.0] < serial
    assert totals[0.5] == pytest.approx((totals[0.0] + totals[1.0]) / 2, rel=1e-12)


def test_an_unvalidated_parameter_marks_every_format(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # Chip and topology are taken as validated, so that the mark can only come from the calibration.
    plain = module(calibration(True))
    validated = {"unvalidated": (), "compared_with_silicon": ("core",)}
    plain.attributes["arch.chip"] = ChipAttr(load_chip("sg2262").model_copy(update=validated))
    links = load_topology("p1-r1-b1-c8").model_copy(update={"unvalidated": ()})
    plain.attributes["arch.topology"] = TopologyAttr(links)
    result = evaluate_module(plain, "core", {"batch": 8})
    assert result.unvalidated == () and result.to_dict()["relative_only"] is False
    assert {row["relative_only"] for row in csv.DictReader(io.StringIO(result.to_csv()))} == {"False"}
    plain.attributes["arch.calibration"] = CalibrationAttr(calibration(False))
    result = evaluate_module(plain, "core", {"batch": 8})
    assert result.unvalidated == tuple(f"calibration.{name}" for name in VALUES)
    assert result.to_dict()["relative_only"] is True
    assert {row["relative_only"] for row in csv.DictReader(io.StringIO(result.to_csv()))} == {"True"}

    target = ["llama-3.1-8b", "--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
    for lengths in ([], ["--isl", "8", "--osl", "2"]):
        command = ["evaluate", *target, "--calibration", "assumed-losses", *lengths]
        assert main(command) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("relative only"))
        assert "calibration.bandwidth_factor" in line
        assert main([*command, "--format", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["relative_only"] is True and "calibration.congestion" in document["unvalidated"]
        assert main([*command, "--format", "csv"]) == 0
        assert {r["relative_only"] for r in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"True"}


def test_presets_load_and_the_ideal_one_changes_nothing() -> None:
    assert load_calibration("assumed-losses").unvalidated()
    ideal = evaluate_module(module(load_calibration("ideal")), "core", {"batch": 64})
    assert ideal.total_us == evaluate_module(module(), "core", {"batch": 64}).total_us
