"""Why a step takes what it takes: hands-on 5 and item 10 of the issue."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.backends.cost.breakdown import Breakdown, Engine, Load, Part
from pmc.backends.evaluate.explain.bound import bound_of
from pmc.backends.evaluate.explain.difference import difference
from pmc.backends.evaluate.explain.explanation import Explanation
from pmc.backends.evaluate.explain.levers import HardwareResult, least_factor
from pmc.backends.evaluate.explain.roofline_picture import roofline_page, roofline_svg, roofline_text
from pmc.backends.evaluate.overlap import Overlap, evaluate_step
from pmc.compiler.config import load_accounting, load_calibration, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model, module_text
from pmc.compiler.explain import explain
from pmc.compiler.main import main
from pmc.dialects.errors import PmcError

LLAMA = ("llama-3.1-8b", "--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode")
DEEPSEEK = ("deepseek-v3", "--chip", "sg2262", "--topology", "p1-r1-b4-c32", "--deployment", "dsv3-decode-ep32")
H100 = ("llama-3.1-8b", "--chip", "h100-sxm", "--topology", "nvlink-8", "--deployment", "llama-8b-decode")


@cache
def explained(target: tuple[str, ...] = LLAMA, **options: Any) -> Explanation:
    name, _, chip, _, topology, _, deployment = target
    return explain(load_model(name), load_chip(chip), load_topology(topology), load_deployment(deployment), **options)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    return out


# -- where the time goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["chip", "core", "tile"])
@pytest.mark.parametrize("overlap", ["none", "streams", "two-batch"])
@pytest.mark.parametrize("accounting", ["physical", "ds-tpu"])
def test_issue9_10_the_parts_add_up_to_what_evaluate_says(granularity: str, overlap: str, accounting: str) -> None:
    name, _, chip, _, topology, _, deployment = DEEPSEEK
    charged, calibration = load_accounting(accounting), load_calibration("assumed-losses")
    target = load_chip(chip), load_topology(topology), load_deployment(deployment)
    found = explain(
        load_model(name), *target, granularity=granularity, overlap=overlap, faster=None, accounting=charged,
        calibration=calibration,
    )  # fmt: skip
    for op in found.ops:
        assert sum(op.parts_us.values()) == pytest.approx(op.step.time_us, rel=1e-12), op.step.path
        assert min(op.parts_us.values(), default=0.0) >= -1e-12 * op.step.time_us
    hidden = found.hidden_us
    assert hidden is not None
    assert sum(found.parts_us.values()) - hidden == pytest.approx(found.step.total_us, rel=1e-12)
    module = compile_model(load_model(name), *target, "dist", accounting=charged)
    module.attributes["arch.calibration"] = found_calibration(found)
    evaluated = evaluate_step(module, granularity, overlap=Overlap(overlap))
    assert evaluated.ops == found.step.ops and evaluated.total_us == found.step.total_us


def found_calibration(found: Explanation) -> Any:
    from pmc.dialects.calibration import CalibrationAttr

    assert found.target.calibration is not None
    return CalibrationAttr(found.target.calibration)


def test_hands_on_05_four_rows_on_a_cube_of_sixteen_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Llama-3.1-8B has 4 heads per key head: 4 of 16 rows of the cube hold data, padding is 3 times the products."""
    out = run(capsys, "explain", *LLAMA, "--op", "blocks.dense.gqa.attention", "--no-levers")
    assert "cube 16 x 8 x 16: rows 4 of 16, columns 4096 of 4096, depth 128 of 128; 25.0% of it is data" in out
    assert "plan: #tile.plan<" in out and "gdma binds (" in out
    (op,) = explained(path="blocks.dense.gqa.attention", faster=None).ops
    assert op.parts_us[Part.PADDING] == pytest.approx(3 * op.parts_us[Part.MATRIX], rel=1e-12)
    # 2 FLOPs x 32 sequences x 32 heads x 4096 keys x (128 + 128) at the BF16 peak, in 32 layers.
    products_us = 2 * 32 * 32 * 4096 * 256 / 393.216e12 * 1e6 * 32
    assert op.parts_us[Part.MATRIX] == pytest.approx(products_us, rel=1e-9)


def test_issue9_10_every_load_says_its_fields() -> None:
    """Amount over the rate that the fields give is the time: DRAM, GDMA and LMEM of one op, by hand."""
    (op,) = explained(path="blocks.dense.ffn.down_proj", faster=None).ops
    rates = {
        ("dram", "bytes"): 8601.6e9,
        ("gdma", "bytes"): 149.4e9 * 0.9,
        ("gdma", "starts"): 1 / 100e-9,
        ("lmem", "bytes"): 128 * 1.5e9,
        ("matrix", "starts"): 1.5e9 / 44,
        ("matrix", "bf16 cubes"): 128 * 16 * 1.5e9 / (16 * 8 * 16),
    }
    main_loads = [load for load in op.one.loads if load.phase == "main"]
    assert {(load.engine, load.unit) for load in main_loads} == set(rates)
    for load in main_loads:
        assert load.time_s == pytest.approx(load.amount / rates[load.engine, load.unit], rel=1e-9)
        assert load.fields and all(path.startswith("chip.") for path in load.fields)
    shown = op.to_dict(explained().target)
    loads: Any = shown["loads"]
    assert {"chip.dram.bandwidth_gb_per_s": 8601.6} in [load["fields"] for load in loads]


def test_issue9_10_the_commands_of_an_op_ask_for_what_its_plan_says() -> None:
    (op,) = explained(path="blocks.dense.ffn.down_proj", faster=None, commands=True).ops
    assert op.commands is not None
    for engine in ("matrix", "vector", "gdma", "sdma"):
        rows = sum(row.us for row in op.commands.rows if row.engine == engine)
        assert rows == pytest.approx(op.commands.engines_us[engine], rel=1e-9)
        assert rows == pytest.approx(op.one.engines_s.get(engine, 0.0) * 1e6, rel=0.03)  # type: ignore[call-overload]
    assert op.commands.engines_us["dram"] == pytest.approx(op.one.engines_s["dram"] * 1e6, rel=1e-12)
    assert [row.command for row in op.commands.rows if row.engine == "gdma"][:2] == ["load", "load"]


def test_issue9_10_json_has_the_numbers_of_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "explain", *LLAMA, "--no-levers", "--format", "json"))
    evaluated = json.loads(run(capsys, "evaluate", *LLAMA, "--granularity", "tile", "--format", "json"))
    assert document["step_us"] == evaluated["schedule"]["total_us"]
    assert [op["time_us"] for op in document["ops"]] == [row["time_us"] for row in evaluated["steps"]]
    for op in document["ops"]:
        assert sum(op["parts_us"].values()) == pytest.approx(op["time_us"], rel=1e-12)
    assert document["granularity"] == "tile" and document["relative_only"] is True


def test_issue9_10_a_dump_of_every_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From dist on every dump explains itself; with plans as at the model, below them at granularity chip."""
    assert main(["compile", *LLAMA, "--emit", "commands", "--dump-dir", str(tmp_path), "-o", "/dev/null"]) == 0
    capsys.readouterr()
    dumps = sorted(tmp_path.glob("*.mlir"))
    whole = explained(faster=None)
    for dump in dumps[1:]:
        document = json.loads(run(capsys, "explain", str(dump), "--no-levers", "--format", "json"))
        assert sum(document["parts_us"].values()) == pytest.approx(document["step_us"], rel=1e-12)
        if document["granularity"] == "tile":
            assert document["step_us"] == pytest.approx(whole.step.total_us, rel=1e-12)
    out = run(capsys, "explain", str(dumps[-1]), "--op", "lm_head.proj", "--no-levers")
    assert "mm2" in out and "lm_head.proj takes" in out and "granularity chip" in out


def test_issue9_10_experts_of_the_busiest_rank_have_a_mixture_of_plans() -> None:
    found = explained(DEEPSEEK, path="blocks.moe.moe.experts", faster=None)
    for op in found.ops:
        assert op.one.note.startswith("the time is that of the busiest rank")
        assert sum(shape.weight for shape in op.one.shapes) == pytest.approx(1.0)


def test_issue9_10_an_unknown_path_is_one_line() -> None:
    with pytest.raises(PmcError, match=r"no op .* 'blocks.dense.gqa.atention'; did you mean 'blocks.dense.gqa.attent"):
        explained(path="blocks.dense.gqa.atention", faster=None)
    with pytest.raises(PmcError, match=r"'x'; the blocks are embed, blocks, lm_head"):
        explained(path="x", faster=None)


def test_issue9_10_explaining_changes_no_argument() -> None:
    model = load_model("llama-3.1-8b")
    before = module_text(model)
    target = load_chip("sg2262"), load_topology("p1-r1-b1-c8"), load_deployment("llama-8b-decode")
    explain(model, *target, path="lm_head.proj", commands=True)
    assert module_text(model) == before
    dump = compile_model(load_model("llama-3.1-8b"), *target, "dist")
    before = module_text(dump)
    explain(dump, path="lm_head.proj", commands=True, bindings={"batch": 8})
    assert module_text(dump) == before


# -- what binds -------------------------------------------------------------------------------------------------


def asking(**seconds: float) -> Breakdown:
    loads = [Load(cast(Engine, engine), "main", 1.0, "bytes", s, ()) for engine, s in seconds.items()]
    return Breakdown({Part.DATA: 1.0}, tuple(loads))


def test_issue9_10_the_bound_and_the_next_one() -> None:
    moves = bound_of(asking(matrix=3e-6, vector=1e-6, gdma=6e-6, dram=5e-6))
    assert moves is not None and (moves.by, moves.next) == ("gdma", "dram")
    assert (moves.us, moves.next_us, moves.factor) == pytest.approx((6.0, 5.0, 1.2))
    computes = bound_of(asking(matrix=3e-6, vector=4e-6, gdma=6e-6))
    assert computes is not None and (computes.by, computes.next) == ("matrix + vector", "gdma")
    assert (computes.us, computes.next_us) == pytest.approx((7.0, 6.0))
    alone = bound_of(asking(dram=2e-6))
    assert alone is not None and alone.factor is None and alone.by == "dram"
    assert bound_of(Breakdown({})) is None


# -- levers -----------------------------------------------------------------------------------------------------


def hardware(found: Explanation, name: str) -> HardwareResult:
    assert found.levers is not None
    return next(lever for lever in found.levers.hardware if lever.name == name)


def test_issue9_10_twice_as_fast_by_dram_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A roofline bound by DRAM takes half with twice the bandwidth; `evaluate --set` says the same."""
    path = "blocks.dense.ffn.down_proj"
    found = explained(H100, path=path, granularity="chip")
    lever = hardware(found, "DRAM bandwidth")
    assert lever.factor == 2.0
    before = lever.fields["chip.dram.bandwidth_gb_per_s"]
    assert lever.after == {"chip.dram.bandwidth_gb_per_s": 2 * before}
    assert lever.reached_us == pytest.approx(found.time_us / 2, rel=1e-12)
    out = run(
        capsys, "evaluate", *H100, "--set", f"chip.dram.bandwidth_gb_per_s={2 * before}", "--format", "json"
    )  # fmt: skip
    faster = next(row["time_us"] for row in json.loads(out)["steps"] if row["path"] == path)
    assert faster == pytest.approx(found.time_us / 2, rel=1e-12)


@pytest.mark.parametrize("factor", [1.1, 1.5, 3.0])
def test_issue9_10_every_factor_is_the_least_that_reaches_the_target(factor: float) -> None:
    found = explained(path="blocks.dense.ffn.down_proj", faster=factor)
    levers = found.levers
    assert levers is not None and levers.target_us == pytest.approx(levers.base_us / factor)
    for lever in levers.hardware:
        assert lever.limit_us < levers.base_us
        if lever.factor is None:
            assert lever.limit_us > levers.target_us and lever.reached_us is None and not lever.after
            continue
        assert lever.reached_us is not None and lever.limit_us <= lever.reached_us <= levers.target_us
        assert lever.reached_us > levers.target_us * 0.97, "three digits of a factor are less than a percent"
    assert [lever.limit_us for lever in levers.hardware] == sorted(lever.limit_us for lever in levers.hardware)
    assert levers.floor_us <= levers.base_us


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=5),
    st.floats(1.01, 20),
)
def test_issue9_10_the_least_factor_of_any_sum_of_overlapped_ops(
    ops: list[tuple[float, float, float]], faster: float
) -> None:
    """time(f) = sum of max + (1 - o) min of a / f and b: the factor is the least one, to three digits."""

    def us(factor: float) -> float:
        return sum(max(a / factor, b) + (1 - o) * min(a / factor, b) for a, b, o in ops)

    base, limit = us(1.0), us(1e6)
    target = base / faster
    if limit > target:
        return
    found = least_factor(us, base, limit, target)
    assert us(found) <= target * (1 + 1e-12)
    assert us(found * 0.985) > target, "a factor that is 1.5% less does not reach it"


def test_issue9_10_levers_are_the_same_step_evaluated_again() -> None:
    """The limit of a lever is the step on a chip with that field a million times as large, plans searched again."""
    found = explained()
    lever = hardware(found, "matrix unit")
    assert lever.factor is None and lever.then == "data"
    chip = load_chip("sg2262")
    macs = chip.macs_per_lane_per_cycle
    more = macs.model_copy(update={name: value * 10**6 for name, value in macs if value is not None})
    module = compile_model(
        load_model("llama-3.1-8b"), chip.model_copy(update={"macs_per_lane_per_cycle": more}),
        load_topology("p1-r1-b1-c8"), load_deployment("llama-8b-decode"), "dist",
    )  # fmt: skip
    again_us = evaluate_step(module, "tile").total_us
    assert again_us <= lever.limit_us * (1 + 1e-9), "plans of today are no better than those searched again"
    assert again_us > lever.limit_us * 0.97


def test_issue9_10_batches_are_tried_and_must_fit() -> None:
    levers = explained().levers
    assert levers is not None
    tried = {trial.after: trial for trial in levers.trials if trial.name == "batch"}
    assert set(tried) == {8, 16, 64, 128}
    for batch, trial in tried.items():
        again = explained(faster=None, bindings=None) if batch == 32 else None
        assert again is None
        per = 1.0 if trial.measure == "time" else batch / 32
        assert trial.speedup == pytest.approx(levers.base_us / trial.us * per, rel=1e-12)
    cube = next(trial for trial in levers.trials if trial.field == "chip.cube.m")
    assert (cube.before, cube.after) == (16, 4) and cube.speedup > 1


def test_issue9_10_levers_must_make_it_faster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *LLAMA, "--faster", "1"]) == 2
    assert "the factor is 1, must be above 1" in capsys.readouterr().err


# -- the roofline -----------------------------------------------------------------------------------------------


def test_issue9_10_no_op_is_above_its_roof() -> None:
    for granularity in ("chip", "core", "tile"):
        roofline = explained(DEEPSEEK, faster=None, granularity=granularity).roofline
        peaks = {roof.name: roof.flops_per_s for roof in roofline.roofs}
        assert roofline.points
        for point in roofline.points:
            roof = min(peaks[point.roof], point.flops_per_byte * roofline.bytes_per_s)
            assert point.flops_per_s <= roof * (1 + 1e-9), point


def test_issue9_10_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roofline = explained(faster=None).roofline
    svg = roofline_svg(roofline, "a < b")
    root = ElementTree.fromstring(svg)
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert sum(circle.find("{http://www.w3.org/2000/svg}title") is not None for circle in circles) == len(
        roofline.points
    )
    page = roofline_page(roofline, "a < b")
    assert "a &lt; b" in page and "http" not in page.replace("http://www.w3.org/2000/svg", ""), "one file, no network"
    lines = roofline_text(roofline)
    assert max(map(len, lines)) <= 100 and any(" A blocks.dense.gqa.attention" in line for line in lines)
    for name in ("r.svg", "r.html"):
        run(capsys, "explain", *LLAMA, "--no-levers", "--roofline", str(tmp_path / name))
        assert (tmp_path / name).read_text().count("<circle") >= len(roofline.points)
    assert main(["explain", *LLAMA, "--roofline", str(tmp_path / "r.pdf")]) == 2
    assert "the picture is .svg or .html" in capsys.readouterr().err


# -- two targets ------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([1, 2, 4]), st.sampled_from([1, 7, 64]), st.sampled_from(["sg2262", "h100-sxm"]),
    st.sampled_from(["chip", "core"]), st.sampled_from(["none", "streams"]),
)  # fmt: skip
def test_issue9_10_the_parts_of_a_difference_add_up(tp: int, batch: int, chip: str, closely: str, overlap: str) -> None:
    target = load_topology("p1-r1-b1-c8" if chip == "sg2262" else "nvlink-8")
    other = load_deployment("llama-8b-decode", {"tp": tp, "batch": batch})
    a = explained(granularity=closely, overlap=overlap, faster=None)
    b = explain(
        load_model("llama-3.1-8b"), load_chip(chip), target, other, granularity=closely, overlap=overlap, faster=None
    )
    found = difference(a, b)
    for op in found.ops:
        assert sum(op.parts_us.values()) == pytest.approx(op.delta_us, rel=1e-9, abs=1e-9 * a.time_us)
    assert sum(op.delta_us for op in found.ops) == pytest.approx(found.delta_us, rel=1e-9, abs=1e-9 * a.time_us)
    assert sum(found.parts_us.values()) == pytest.approx(found.delta_us, rel=1e-9, abs=1e-9 * a.time_us)
    assert found.hidden_us is not None
    whole = b.step.total_us - a.step.total_us
    assert found.delta_us - found.hidden_us == pytest.approx(whole, rel=1e-9, abs=1e-9 * a.time_us)


def test_issue9_10_half_the_dram_is_half_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """One field differs, for which the search does not prefer another plan: the same bytes at half the rate."""
    change = ("--against", "chip.dram.bandwidth_gb_per_s=4300.8", "--op", "blocks.dense.gqa.attention")
    document = json.loads(run(capsys, "explain", *LLAMA, *change, "--format", "json"))
    (op,) = document["ops"]
    dram = next(load for load in op["loads"] if load["engine"] == "dram")
    assert (dram["amount_ratio"], dram["rate_ratio"]) == pytest.approx((1.0, 0.5))
    assert document["fields"] == {"chip.dram.bandwidth_gb_per_s": [8601.6, 4300.8]}
    assert op["parts_us"]["data"] == pytest.approx(op["delta_us"]), "no more computation, only more data"


def test_issue9_10_against_takes_names_fields_and_dumps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "explain", *LLAMA, "--against", "chip=h100-sxm", "--against", "topology=nvlink-8")
    assert out.count(", granularity core\n") == 2, "both as closely as the GPU allows"
    assert "chip.cores                         64 -> 132" in out
    out = run(capsys, "explain", *LLAMA, "--against", "tp=4", "--granularity", "chip")
    assert "dist.all_reduce, only in b: transfer" in out
    for tp in (1, 2):
        folder = str(tmp_path / str(tp))
        assert (
            main(["compile", *LLAMA, "--tp", str(tp), "--dump-dir", folder, "--emit", "dist", "-o", "/dev/null"]) == 0
        )
    one, two = (str(next((tmp_path / tp).glob("*-localize.mlir"))) for tp in "12")
    capsys.readouterr()
    from_dumps = json.loads(run(capsys, "explain", one, "--against", two, "--format", "json"))
    from_model = json.loads(run(capsys, "explain", *LLAMA, "--against", "tp=2", "--format", "json"))
    assert from_dumps["parts_us"] == pytest.approx(from_model["parts_us"])
    for wrong, said in (
        ((one, "--against", "tp=2"), "holds its own target, compare it with another dump"),
        ((*LLAMA, "--against", two, "--against", "tp=2"), "the only thing to compare with"),
        ((*LLAMA, "--against", "chips=x"), "unknown field deployment.chips"),
        ((*LLAMA, "--against", "tp=2", "--roofline", str(tmp_path / "r.svg")), "it does not go with --against"),
    ):
        assert main(["explain", *wrong]) == 2
        assert said in capsys.readouterr().err


# -- the plan in the table of evaluate --------------------------------------------------------------------------


def test_hands_on_05_evaluate_has_the_plan_in_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    at_tile = (*LLAMA, "--granularity", "tile")
    document = json.loads(run(capsys, "evaluate", *at_tile, "--plans", "--format", "json"))
    explained_ops = explained(faster=None).ops
    assert [row["plan"] for row in document["steps"]] == [str(op.one.shapes[0].plan) for op in explained_ops]
    csv = run(capsys, "evaluate", *at_tile, "--plans", "--format", "csv").splitlines()
    assert csv[0].endswith(",relative_only,plan") and '"#tile.plan<cores' in csv[1]
    text = run(capsys, "evaluate", *at_tile, "--plans")
    assert '<cores [64, 1, 1], tile [1, 4, 688], order "pus", slots 2, multicast [q, kv]>' in text
    assert "plan" not in run(capsys, "evaluate", *at_tile, "--format", "csv").splitlines()[0]
    assert main(["evaluate", *LLAMA, "--plans"]) == 2
    assert "plans are priced at granularity tile, this is granularity chip" in capsys.readouterr().err


def test_hands_on_05_a_plan_that_is_not_the_best_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One slot instead of two: nothing overlaps, and the search finds the plan that was there."""
    assert main(["compile", *LLAMA, "--emit", "commands", "--dump-dir", str(tmp_path), "-o", "/dev/null"]) == 0
    capsys.readouterr()
    (planned,) = tmp_path.glob("*-select-tiles.mlir")
    path = "blocks.dense.gqa.attention"
    best = run(capsys, "explain", str(planned), "--op", path, "--no-levers")
    assert "a search finds" not in best
    text = planned.read_text()
    plan = '#tile.plan<cores [64, 1, 1], tile [1, 4, 688], order "pus", slots 2, multicast [q, kv]>'
    assert text.count(plan) == 1
    worse = tmp_path / "worse.mlir"
    worse.write_text(text.replace(plan, plan.replace("slots 2", "slots 1")))
    said = run(capsys, "explain", str(worse), "--op", path, "--no-levers")
    once_us = explained(path=path, faster=None).ops[0].one.time_s * 1e6
    assert f"a search finds {once_us:.3f} us: {plan}" in said


def test_n24_a_step_that_does_not_fit_is_explained_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *LLAMA, "--batch", "4096", "--no-levers", "--granularity", "chip"]) == 1
    out = capsys.readouterr().out
    assert "does not fit: " in out.splitlines()[-1] and "the step takes" in out
    assert main(["explain", *LLAMA, "--against", "batch=4096", "--granularity", "chip", "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["a"]["memory"]["fits"] is True and document["b"]["memory"]["fits"] is False
