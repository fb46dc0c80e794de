"""The commands: what they print, where, their exit codes, and one line for everything that is wrong."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from pmc.compiler.main import main
from pmc.compiler.pipelines import pass_names

from .tiny import LLAMA, MIXTRAL, SMALL, TARGET, write_config

EMBEDDING = """builtin.module {
  layer.program() {sym_name = "m", phase = "decode"} at "m" {
  ^bb0(%x: !layer.tensor<[batch*q_len, 64], bf16>):
    layer.return([%x]) at "m"
  }
}
"""


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Pmc:
    """Runs `pmc` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Result(code, captured.out, captured.err)

    def ok(self, *arguments: object) -> str:
        """The stdout of a run that must succeed without a word on stderr."""
        result = self(*arguments)
        assert (result.code, result.err) == (0, "")
        return result.out

    def error(self, *arguments: object) -> str:
        """The one line of a run that must fail as bad input."""
        result = self(*arguments)
        assert result.code == 2, result.out
        assert result.out == ""
        assert result.err.count("\n") == 1 and result.err.startswith("pmc: error: "), result.err
        return result.err


@pytest.fixture
def pmc(capsys: pytest.CaptureFixture[str]) -> Pmc:
    return Pmc(capsys)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_config(tmp_path, LLAMA)


# -- compile ----------------------------------------------------------------------------------------------------


def test_compile_prints_each_level(pmc: Pmc, tiny: Path) -> None:
    marks = {
        "model": "model.gqa",
        "layer": "layer.attention",
        "dist": "dist.all_reduce",
        "tile": "tile.mma",
        "commands": "g5.tiu",
    }
    for level, mark in marks.items():
        command = ("compile", tiny, *TARGET, *SMALL, "--tp", 2, "--emit", level)
        assert mark in pmc.ok(*command)
        assert json.loads(pmc.ok(*command, "--format", "json"))["level"] == level


def test_compile_writes_the_same_bytes_to_a_file(pmc: Pmc, tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mlir"
    command = ("compile", tiny, *TARGET, "--emit", "dist")
    assert pmc.ok(*command, "-o", output) == ""
    assert output.read_text() == pmc.ok(*command)
    assert output.stat().st_mode & 0o777 == tiny.stat().st_mode & 0o777
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out.mlir", "tiny.json"]


def test_dumps_name_the_command_that_resumes_them(
    pmc: Pmc, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "dumps"
    straight = pmc.ok("compile", tiny, *TARGET, *SMALL, "--emit", "dist", "--dump-dir", folder)
    dumps = sorted(folder.iterdir())
    assert [f.name for f in dumps] == [
        "00-import.mlir",
        "01-expand-blocks.mlir",
        "02-quantize.mlir",
        "03-annotate-shardings.mlir",
        "04-insert-collectives.mlir",
        "05-localize.mlir",
        "06-combine-collectives.mlir",
        "07-fuse-rows.mlir",
        "08-fuse-gates.mlir",
        "09-partition-stages.mlir",
    ]
    monkeypatch.chdir(folder)
    for dump in dumps:
        comment = dump.read_text().partition("\n")[0]
        assert comment.startswith("// pmc opt ")
        assert pmc.ok(*comment.removeprefix("// pmc ").split()) == straight


def test_dumps_of_an_earlier_run_go_and_other_files_stay(pmc: Pmc, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dumps"
    folder.mkdir()
    for name in ("08-bind-symbols.mlir", "notes.txt", "99-mine.mlir"):
        (folder / name).write_text("")
    pmc.ok("compile", tiny, *TARGET, "--emit", "model", "--dump-dir", folder)
    assert sorted(f.name for f in folder.iterdir()) == ["00-import.mlir", "99-mine.mlir", "notes.txt"]


def test_print_ir_after_goes_to_stderr(pmc: Pmc, tiny: Path) -> None:
    command = ("compile", tiny, *TARGET, "--emit", "dist")
    result = pmc(*command, "--print-ir-after", "quantize", "--print-ir-after", "localize")
    assert result.code == 0
    assert result.out == pmc.ok(*command)
    assert [line for line in result.err.splitlines() if line.startswith("//")] == [
        "// ----- after 02 quantize",
        "// ----- after 05 localize",
    ]


def test_generic_form_and_json(pmc: Pmc, tiny: Path) -> None:
    assert '"layer.matmul"(' in pmc.ok("compile", tiny, *TARGET, "--emit", "layer", "--print-op-generic")
    document = json.loads(pmc.ok("compile", tiny, *TARGET, "--emit", "layer", "--format", "json"))
    assert document["level"] == "layer"
    assert [p.partition("{")[0] for p in document["passes"]] == ["expand-blocks", "quantize"]
    (program,) = document["ops"]
    assert (program["op"], program["path"]) == ("layer.program", "tiny")
    assert program["attributes"] == {"sym_name": "tiny", "phase": "decode"}
    (block,) = program["regions"]
    weight, embedding = block["ops"][:2]
    assert weight["op"] == "layer.weight" and weight["attributes"] == {"axes": ["vocab", ""]}
    assert embedding["operands"] == [*block["arguments"], *weight["results"]]
    (repeat,) = (op for op in block["ops"] if op["op"] == "layer.repeat")
    assert repeat["attributes"]["count"] == 4


def test_unroll_and_core(pmc: Pmc, tiny: Path) -> None:
    command = ("compile", tiny, *TARGET, *SMALL, "--emit", "commands")
    looped, first, third = pmc.ok(*command), pmc.ok(*command, "--unroll"), pmc.ok(*command, "--core", 3)
    assert "g5.queue" not in looped
    assert "core = 0," in first and "core = 3," not in first
    assert "core = 3," in third and "core = 0," not in third
    assert "--emit is dist, must be commands" in pmc.error("compile", tiny, *TARGET, "--emit", "dist", "--core", 1)


def test_options_alone_make_a_deployment(pmc: Pmc, tiny: Path) -> None:
    text = """--tp 2 --pp 1 --pp-layers balanced --dp 1 --ep 1 --moe-tp 1 --moe-dp 1 --cp 1
        --embedding tp --lm-head tp --sp --phase decode --batch 8 --q-len 1 --kv-len 64
        --weights bf16 --activations bf16 --kv-cache bf16 --attention bf16 --expert-capacity balanced
        --dispatch direct --prefill-chunk 8192 --no-fuse-rows --no-fuse-gates --no-pipeline-loops
        --no-prefetch-weights --late-stores --routing zipf:0.8 --ring-exchange expanded --no-absorb-mla
        --draft-tokens 0 --accepted-length none --no-longer-context"""
    options = text.split()
    out = pmc.ok("compile", tiny, *TARGET[:4], *options, "--emit", "dist")
    assert "sp = true" in out and "routing = {zipf = 0.8}" in out and "dist.reduce_scatter" in out
    error = pmc.error("compile", tiny, *TARGET[:4], *options[2:-1], "--emit", "dist")
    assert error == (
        "pmc: error: missing options: --tp, --longer-context; "
        "--deployment decode (or prefill, decode-moe, prefill-moe) gives all but --chip and --topology\n"
    )
    assert "missing options: --chip, --topology\n" in pmc.error("compile", tiny, *TARGET[4:], "--emit", "dist")


def test_options_replace_the_deployment(pmc: Pmc, tiny: Path) -> None:
    out = pmc.ok("compile", tiny, *TARGET, "--weights", "f8E4M3FN", "--keep", "*.o_proj.weight", "--emit", "layer")
    assert 'keep = ["*.o_proj.weight"]' in out
    assert "[64, 32], f8E4M3FN>" in out and 'o_proj.weight" : !layer.tensor<[64, 64], bf16>' in out


# -- bad input --------------------------------------------------------------------------------------------------

DEEP = "[" * 100_000

BAD_COMPILES: dict[str, tuple[list[str], dict[str, object] | str, list[str]]] = {
    "heads-by-tp": (["--tp", "3"], LLAMA, ["tp", "3", "heads"]),
    "experts-by-ep": (["--dp", "3", "--ep", "3"], MIXTRAL, ["8", "3", "ep"]),
    "dp-tp-is-moe-tp-ep": (
        ["--dp", "4", "--ep", "2"],
        MIXTRAL,
        ["dp*cp*tp = 4*1*1 = 4", "moe_tp*ep*moe_dp = 1*2*1 = 2"],
    ),
    "ranks": (["--tp", "2", "--dp", "8"], LLAMA, ["tp*cp*dp*pp = 2*1*8*1 = 16 chips", "has 8"]),
    "stages": (["--pp", "5"], LLAMA, ["pp = 5 stages for 4 layers"]),
    "architecture": (
        [],
        {**LLAMA, "architectures": ["GPTJForCausalLM"]},
        ["GPTJForCausalLM", "pmc list architectures"],
    ),
    "missing-field": ([], {k: v for k, v in LLAMA.items() if k != "vocab_size"}, ["tiny.json", "vocab_size"]),
    "mistyped-field": ([], {**LLAMA, "hidden_size": "64"}, ["tiny.json", "hidden_size", "integer"]),
    "truncated": ([], json.dumps(LLAMA)[:40], ["tiny.json", "line 1 column", "not JSON"]),
    "nested": ([], DEEP, ["tiny.json", "nested deeper than 64 levels"]),
    "huge": ([], " " * (4 * 2**20 + 1), ["tiny.json", "larger than 4 MiB"]),
    "dtype": (["--weights", "fp7"], LLAMA, ["quantization.weights", "fp7", "fp8"]),
    "number": (["--batch", "many"], LLAMA, ["--batch", "integer"]),
    "zero": (["--tp", "0"], LLAMA, ["tp", "0"]),
    "routing": (["--routing", "zipf:much"], LLAMA, ["--routing", "zipf:EXPONENT", "zipf:much"]),
    "histogram": (["--routing", "histogram:1,x"], LLAMA, ["--routing", "histogram:ROWS,ROWS,..", "histogram:1,x"]),
    "chip": (["--chip", "sg2263"], LLAMA, ["sg2263", "did you mean 'sg2262'"]),
    "option": (["--tq", "2"], LLAMA, ["--tq"]),
    "print-ir-after": (["--print-ir-after", "localise"], LLAMA, ["localise", "did you mean 'localize'"]),
}


@pytest.mark.parametrize("case", BAD_COMPILES)
def test_bad_compile(case: str, pmc: Pmc, tmp_path: Path) -> None:
    options, config, parts = BAD_COMPILES[case]
    model = tmp_path / "tiny.json"
    model.write_text(config if isinstance(config, str) else json.dumps(config))
    error = pmc.error("compile", model, *TARGET, *options, "--emit", "dist", "-o", tmp_path / "out.mlir")
    for part in parts:
        assert part in error
    assert [f.name for f in tmp_path.iterdir()] == ["tiny.json"], "nothing is half-written"


def test_unknown_model(pmc: Pmc) -> None:
    error = pmc.error("compile", "lama-3.1-8b", *TARGET, "--emit", "dist")
    assert "lama-3.1-8b" in error and "did you mean 'llama-3.1-8b'" in error


def test_yaml_tags_are_refused(pmc: Pmc, tmp_path: Path) -> None:
    model = tmp_path / "model.yaml"
    model.write_text("architectures: !!python/object/apply:os.system [echo]\n")
    error = pmc.error("compile", model, *TARGET, "--emit", "dist")
    assert "model.yaml" in error and "line 1 column" in error and "tag" in error


def test_a_tile_that_cannot_fit(pmc: Pmc, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "configs" / "chips" / "sg2262.yaml"
    lines = source.read_text().splitlines(keepends=True)
    (index,) = (i for i, line in enumerate(lines) if line.lstrip().startswith("bytes_per_core:"))
    lines[index] = lines[index].partition(":")[0] + ": 4096\n"
    chip = tmp_path / "small.yaml"
    chip.write_text("".join(lines))
    model = write_config(tmp_path, LLAMA)
    error = pmc.error("compile", model, *TARGET, *SMALL, "--chip", chip, "--emit", "tile")
    assert "blocks.dense.gqa." in error
    assert "budget of a core is 1843" in error, "45% of 4096 bytes"


@pytest.mark.parametrize("option", ["-o", "--dump-dir"])
def test_output_that_cannot_be_written(pmc: Pmc, tiny: Path, option: str) -> None:
    below_a_file = tiny / "out"
    error = pmc.error("compile", tiny, *TARGET, "--emit", "dist", option, below_a_file)
    assert str(below_a_file) in error and "cannot be" in error
    missing = tiny.parent / "no" / "such" / "folder.mlir"
    if option == "-o":
        assert "No such file or directory" in pmc.error("compile", tiny, *TARGET, "--emit", "dist", option, missing)


def test_a_dump_folder_is_tried_before_any_work(pmc: Pmc, tmp_path: Path) -> None:
    model = tmp_path / "tiny.json"
    model.write_text("{}")
    assert "nothing" not in pmc.error("compile", model, *TARGET, "--emit", "dist", "--dump-dir", model / "x")


# -- opt --------------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    path = folder / "m.mlir"
    path.write_text(text)
    return path


def test_opt_without_passes_prints_what_it_read(pmc: Pmc, tmp_path: Path) -> None:
    assert pmc.ok("opt", write(tmp_path, EMBEDDING)) == EMBEDDING


def test_opt_reads_stdin(pmc: Pmc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(EMBEDDING.encode())))
    assert pmc.ok("opt", "-") == EMBEDDING
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"builtin.module {")))
    assert "stdin:1:" in pmc.error("opt")


def test_opt_splits_its_input(pmc: Pmc, tmp_path: Path) -> None:
    file = write(tmp_path, f"{EMBEDDING}// -----\n{EMBEDDING}")
    out = pmc.ok("opt", file, "--split-input-file", "-p", "bind-symbols{batch=2 q-len=1}")
    first, second = out.split("// -----\n")
    assert first == second and "!layer.tensor<[2, 64], bf16>" in first


def test_opt_errors_say_where_in_a_split_file(pmc: Pmc, tmp_path: Path) -> None:
    file = write(tmp_path, f"{EMBEDDING}// -----\nbuiltin.module {{\n  = oops\n}}\n")
    lines = EMBEDDING.count("\n") + 1
    assert f"m.mlir:{lines + 2}:" in pmc.error("opt", file, "--split-input-file")


def test_opt_verify_diagnostics(pmc: Pmc, tmp_path: Path) -> None:
    file = write(tmp_path, EMBEDDING)
    message = "localize: the module is at the layer level, this pass reads the dist level"
    assert message in pmc.ok("opt", file, "-p", "localize", "--verify-diagnostics")
    assert message in pmc.error("opt", file, "-p", "localize")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["-p", "localise"], ["-p: unknown pass 'localise'", "did you mean 'localize'"]),
        (["-p", "bind-symbols{batsch=1}"], ["-p:", "batsch", "batch"]),
        (["-p", "bind-symbols{batch=0}"], ["batch is 0, must be at least 1"]),
        (["-p", "bind-symbols{batch="], ["-p:"]),
        (["-p", "expand-blocks{phase=decode}"], ["m.mlir", "at the layer level", "reads the model level"]),
        (["-p", "emit-g5"], ["at the layer level", "reads the tile level"]),
        (["--resume"], ["m.mlir", "no attribute arch.deployment", "-p"]),
        (["--emit", "dist"], ["--emit needs --resume"]),
        (["--chip", "nope"], ["nope", "sg2262"]),
    ],
)
def test_bad_opt(pmc: Pmc, tmp_path: Path, options: list[str], parts: list[str]) -> None:
    file = write(tmp_path, EMBEDDING)
    output = tmp_path / "out.mlir"
    error = pmc.error("opt", file, *options, "-o", output)
    for part in parts:
        assert part in error
    assert not output.exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("builtin.module {\n  %0 = layer.nothing()\n}", ["m.mlir:2:", "layer.nothing"]),
        (EMBEDDING.replace("bf16>", "bf16"), ["m.mlir:3:"]),
        (EMBEDDING[:60], ["m.mlir:2:"]),
        (EMBEDDING.replace("return([%x])", "return([%y])"), ["m.mlir:4:", "%y"]),
    ],
)
def test_malformed_ir(pmc: Pmc, tmp_path: Path, text: str, parts: list[str]) -> None:
    error = pmc.error("opt", write(tmp_path, text))
    for part in parts:
        assert part in error


def test_opt_files_that_cannot_be_read(pmc: Pmc, tmp_path: Path) -> None:
    assert "No such file" in pmc.error("opt", tmp_path / "nothing.mlir")
    assert "directory" in pmc.error("opt", tmp_path)
    binary = tmp_path / "b.mlir"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "b.mlir" in pmc.error("opt", binary)


def test_opt_keeps_the_target_of_a_dump(pmc: Pmc, tiny: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dist.mlir"
    pmc.ok("compile", tiny, *TARGET, "--emit", "dist", "-o", dump)
    assert "the module has its own arch.chip" in pmc.error("opt", dump, "--chip", "h100-sxm")


def test_opt_lists_passes(pmc: Pmc) -> None:
    out = pmc.ok("opt", "--list")
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(pass_names())
    assert "kv-cache=none (str)" in out


# -- evaluate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_evaluation_adds_up(pmc: Pmc, tiny: Path, phase: str) -> None:
    command = ("evaluate", tiny, *TARGET, *SMALL, "--tp", 2, "--phase", phase)
    document = json.loads(pmc.ok(*command, "--format", "json"))
    assert document["phase"] == phase
    steps = document["steps"]
    assert math.isclose(sum(step["time_us"] for step in steps), document["total_us"], rel_tol=1e-12)
    assert math.isclose(sum(step["share"] for step in steps), 1.0, rel_tol=1e-12)
    assert math.isclose(sum(document["bottlenecks_us"].values()), document["total_us"], rel_tol=1e-12)
    rows = list(csv.DictReader(io.StringIO(pmc.ok(*command, "--format", "csv"))))
    assert [(r["path"], r["op"], float(r["time_us"])) for r in rows] == [
        (s["path"], s["op"], s["time_us"]) for s in steps
    ]
    table = pmc.ok(*command)
    assert all(step["path"] in table for step in steps)
    assert f"{document['total_us']:.3f}" in table and "100.0%" in table


def test_evaluation_of_a_dump(pmc: Pmc, tiny: Path, tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    pmc.ok("compile", tiny, *TARGET, *SMALL, "--emit", "dist", "--dump-dir", dumps)
    straight = pmc.ok("evaluate", tiny, *TARGET, *SMALL, "--format", "csv")
    for dump in dumps.iterdir():
        assert pmc.ok("evaluate", dump, "--format", "csv") == straight
    longer = ("--kv-len", 4096, "--format", "csv")
    assert pmc.ok("evaluate", dumps / "09-partition-stages.mlir", *longer) == pmc.ok(
        "evaluate", tiny, *TARGET, *SMALL, *longer
    )


def test_bad_evaluations(pmc: Pmc, tiny: Path, tmp_path: Path) -> None:
    dump = tmp_path / "dist.mlir"
    pmc.ok("compile", tiny, *TARGET, "--emit", "dist", "-o", dump)
    assert "--tp cannot be changed" in pmc.error("evaluate", dump, "--tp", 2)
    assert "unknown granularity 'chips'" in pmc.error("evaluate", tiny, *TARGET, "--granularity", "chips")
    assert "missing options: --chip" in pmc.error("evaluate", tiny)
    assert "kv_len" in pmc.error("evaluate", dump, "--kv-len", 0)


# -- list, help, the process ------------------------------------------------------------------------------------


def test_list(pmc: Pmc) -> None:
    assert [line.split()[0] for line in pmc.ok("list", "models").splitlines()] == [
        "deepseek-v3", "deepseek-v3.2", "llama-3.1-70b", "llama-3.1-8b",
    ]  # fmt: skip
    assert [line.split()[0] for line in pmc.ok("list", "passes").splitlines()] == list(pass_names())
    everything = json.loads(pmc.ok("list", "--format", "json"))
    presets = (
        "models",
        "chips",
        "topologies",
        "deployments",
        "accounting",
        "calibrations",
        "stacks",
        "workloads",
        "tas",
        "systems",
    )
    assert tuple(everything) == (*presets, "architectures", "passes", "pipelines")
    for kind in presets:
        first = everything[kind][0]
        assert len(first["description"]) > 10
        assert f"{kind}:\n  {first['name']}  " in pmc.ok("list")
    dist = (
        "dist      annotate-shardings, insert-collectives, localize, combine-collectives, fuse-rows, fuse-gates, "
        "partition-stages\n"
    )
    assert dist in pmc.ok("list", "pipelines")


@pytest.mark.parametrize("command", ["compile", "opt", "evaluate", "list"])
def test_every_help_has_examples(pmc: Pmc, command: str) -> None:
    out = pmc.ok(command, "--help")
    assert "Examples:" in out and f"pmc {command} " in out


def test_usage_errors(pmc: Pmc) -> None:
    assert pmc.ok() == pmc.ok("--help")
    assert "No such command 'comple'" in pmc.error("comple")
    assert "--emit" in pmc.error("compile", "llama-3.1-8b")
    assert "'disk'" in pmc.error("compile", "llama-3.1-8b", "--emit", "disk")


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error::DeprecationWarning", "-m", "pmc.compiler", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120, check=False)


def test_the_process(tmp_path: Path) -> None:
    model = write_config(tmp_path, LLAMA)
    good = run("compile", str(model), *TARGET, "--emit", "dist")
    assert (good.returncode, good.stderr) == (0, "")
    piped = run("opt", "-", "--print-op-generic", stdin=good.stdout)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert '"layer.program"' in piped.stdout
    bad = run("compile", str(model), *TARGET, "--tp", "3", "--emit", "dist")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1


def test_the_console_script() -> None:
    script = Path(sys.executable).with_name("pmc")
    if not script.exists():
        pytest.skip("pmc is not installed beside this interpreter")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("pmc 0.")


def test_listing_imports_no_ir() -> None:
    """`pmc list` starts fast because it needs neither xDSL nor numpy nor the schemas."""
    code = (
        "import sys\nfrom pmc.compiler.main import main\nassert main(['list']) == 0\n"
        "print([m for m in ('xdsl', 'numpy', 'yaml', 'pmc.dialects.arch') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr == "[]\n"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    model = write_config(tmp_path, LLAMA)
    command = [sys.executable, "-m", "pmc.compiler", "compile", str(model), *TARGET, *SMALL, "--emit", "commands"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == 0
