"""Findings about the command line: settings, base deployments, tables, help, speed of the start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pmc.compiler.cli.text_table import Column, text_table
from pmc.compiler.config import ConfigError, changed, load_chip, load_deployment
from pmc.compiler.driver import load_module, module_text
from pmc.compiler.main import main
from pmc.compiler.overrides import PARTS, all_names, parse_setting, parse_settings
from pmc.dialects.arch import Chip

MODEL = ("llama-3.1-8b",)
TARGET = ("--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode")


def ok(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    return shown.err


# -- --set (item 8, hands-on 17) ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("chip.lmem_bytes=4MiB", "chip.command_level.lmem.bytes_per_core", 4 * 2**20),
        ("chip.cores=128", "chip.cores", 128),
        ("chip.bandwidth_gb_per_s=8.6TB/s", "chip.dram.bandwidth_gb_per_s", 8600.0),
        ("chip.dram.capacity_gib=1.5TiB", "chip.dram.capacity_gib", 1536.0),
        ("chip.clocks.tiu_ghz=1500MHz", "chip.clocks.tiu_ghz", 1.5),
        ("chip.gdma.startup_ns=0.5us", "chip.command_level.gdma.startup_ns", 500.0),
        ("chip.gdma-multicast=false", "chip.gdma_multicast", False),
        ("chip.command_level=null", "chip.command_level", None),
        ("topology.links.b2b={gb_per_s: 50, latency_us: 2}", "topology.links.b2b", {"gb_per_s": 50, "latency_us": 2}),
        ("deployment.keep=[*.o_proj.weight, *.x]", "deployment.quantization.keep", ["*.o_proj.weight", "*.x"]),
        ("deployment.routing=zipf:1.2", "deployment.routing", {"zipf": 1.2}),
        ("deployment.batch=1e3", "deployment.batch", 1000),
        ("accounting.core_receive=free", "accounting.core_receive", "free"),
    ],
)  # fmt: skip
def test_issue9_8_a_setting_names_a_field_and_converts_its_unit(text: str, name: str, value: object) -> None:
    setting = parse_setting(text)
    assert (setting.name, setting.value) == (name, value)
    assert type(setting.value) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cores=1", "--set: expected PART.FIELD=VALUE, as chip.cores=128, found 'cores=1'"),
        ("chip.cores", "--set: expected PART.FIELD=VALUE, as chip.cores=128, found 'chip.cores'"),
        ("chp.cores=1", "--set: unknown part 'chp'; did you mean 'chip'?"),
        ("chip.core=1", "--set: unknown field chip.core; did you mean 'chip.cores'?"),
        ("chip.lmem_byte=1", "--set: unknown field chip.lmem_byte; did you mean 'chip.lmem_bytes'?"),
        ("chip.lmem.byte_per_core=1", "did you mean 'chip.command_level.lmem.bytes_per_core'?"),
        ("chip.zzz=1", "--set: unknown field chip.zzz; known fields: name, unvalidated, dies, cores,"),
        ("chip.efficiency=1", "may be chip.command_level.gdma.efficiency or chip.command_level.sdma.efficiency"),
        ("chip.capacity_gib=80GHz", "chip.dram.capacity_gib: unknown unit 'GHz': the field takes B, kB, MB, GB, TB,"),
        ("chip.cores=4MiB", "--set: chip.cores: unknown unit 'MiB': the field has no unit"),
        ("deployment.routing=zipf:x", "deployment.routing: expected uniform, zipf:EXPONENT or histogram:ROWS,ROWS,.."),
    ],
)  # fmt: skip
def test_issue9_8_a_setting_that_names_no_field_says_which_is_near(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_setting(text)
    assert message in str(error.value)


def test_issue9_8_every_leaf_of_every_part_can_be_set_to_its_own_value() -> None:
    chip = load_chip("sg2262")
    names = [name.removeprefix("chip.") for name in all_names() if name.startswith("chip.")]
    for path in names:
        value: object = chip
        for part in path.split("."):
            value = getattr(value, part)
        text = "[" + ",".join(value) + "]" if isinstance(value, tuple) else json.dumps(value).strip('"')  # pyright: ignore
        assert changed(chip, parse_settings([f"chip.{path}={text}"])["chip"]) == chip, path
    assert {name.partition(".")[0] for name in all_names()} == set(PARTS)


def test_issue9_8_a_changed_field_is_validated_and_marked_as_never_validated_on_silicon() -> None:
    chip = load_chip("sg2262", {"dram.bandwidth_gb_per_s": 4300.8})
    assert chip.dram.bandwidth_gb_per_s == 4300.8
    assert chip.is_unvalidated("dram.bandwidth_gb_per_s")
    assert isinstance(chip, Chip) and load_chip("sg2262", {"dram.bandwidth_gb_per_s": 8601.6}) == load_chip("sg2262")
    with pytest.raises(ConfigError, match=r"chip preset sg2262 with cores given: command_level.noc: 8 x 8 is not 128"):
        load_chip("sg2262", {"cores": 128})
    with pytest.raises(ConfigError, match="option: cores: expected integer > 0"):
        changed(chip, {"cores": -5})


def test_hands_on_17_set_changes_the_result_as_a_changed_file_does(capsys: pytest.CaptureFixture[str]) -> None:
    """A decode step of a dense 8B model is bound by DRAM: at half the bandwidth it takes twice the time."""
    base = json.loads(ok(capsys, "evaluate", *MODEL, *TARGET, "--format", "json"))
    half = json.loads(
        ok(capsys, "evaluate", *MODEL, *TARGET, "--set", "chip.bandwidth_gb_per_s=4300.8GB/s", "--format", "json")
    )
    assert base["bottlenecks_us"].keys() == half["bottlenecks_us"].keys() and len(base["bottlenecks_us"]) == 1
    assert half["total_us"] == pytest.approx(2 * base["total_us"], rel=1e-12)
    assert half["unvalidated"] == ["chip.dram.bandwidth_gb_per_s"]
    batch = ok(capsys, "evaluate", *MODEL, *TARGET, "--set", "deployment.batch=64", "--format", "csv")
    assert batch == ok(capsys, "evaluate", *MODEL, *TARGET, "--batch", "64", "--format", "csv")


@pytest.mark.parametrize(
    "command",
    [
        ("compile", *MODEL, *TARGET, "--emit", "dist"),
        ("evaluate", *MODEL, *TARGET),
        ("analyze", *MODEL, *TARGET, "--what", "comm"),
        ("compare", "sg2262", "h100-sxm", "--model", *MODEL, *TARGET[2:]),
        ("check", *MODEL, *TARGET),
        ("opt", "none.mlir", "--chip", "sg2262"),
    ],
)
def test_hands_on_17_every_command_with_a_target_takes_settings(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    error = refused(capsys, *command, "--set", "chip.dram.bandwidth_gb_per_s=-1")
    assert "option: dram.bandwidth_gb_per_s: expected number > 0 in GB/s (Peak DRAM bandwidth of the chip" in error


def test_issue9_8_settings_that_cannot_hold_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    step = ("evaluate", *MODEL, *TARGET)
    error = refused(capsys, *step, "--tp", "2", "--set", "deployment.tp=4")
    assert error == "pmc: error: --set deployment.tp: also given as --tp\n"
    error = refused(capsys, *step, "--set", "chip.cores=64", "--set", "chip.cores=32")
    assert error == "pmc: error: --set: chip.cores is given twice\n"
    dump = tmp_path / "step.mlir"
    ok(capsys, "compile", *MODEL, *TARGET, "--emit", "dist", "-o", str(dump))
    error = refused(capsys, "evaluate", str(dump), "--set", "chip.cores=32")
    assert "holds its own target: --set chip.cores cannot be changed any more" in error
    shorter = ok(capsys, "evaluate", str(dump), "--set", "deployment.kv_len=1024", "--format", "csv")
    assert shorter == ok(capsys, "evaluate", *MODEL, *TARGET, "--kv-len", "1024", "--format", "csv")
    assert refused(capsys, "opt", str(dump), "--set", "chip.cores=32") == (
        "pmc: error: --set chip.cores: --chip is not given\n"
    )


# -- base deployments (item 8, hands-on 4) --------------------------------------------------------------------------

QWEN = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36,
    "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu", "attention_bias": False,
}  # fmt: skip
GPU = ("--chip", "h100-sxm", "--topology", "nvlink-8")


def test_issue9_8_a_base_deployment_and_four_options_are_enough(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "qwen.json"
    model.write_text(json.dumps(QWEN))
    command = ("evaluate", str(model), *GPU, "--deployment", "decode", "--tp", "8", "--batch", "64", "--kv-len", "4096")
    result = json.loads(ok(capsys, *command, "--format", "json"))
    assert result["ranks"] == 8 and result["bindings"] == {"batch": 64, "q_len": 1, "kv_len": 4096}
    assert result["deployment"] == load_deployment("decode", {"tp": 8}).model_dump(mode="json")
    shown = ok(capsys, *command, "--show-deployment")
    assert shown.startswith(ok(capsys, *command))
    block = shown[shown.index("deployment:\n") :]
    mine = tmp_path / "mine.yaml"
    mine.write_text("\n".join(line[2:] for line in block.splitlines()[1:]))
    assert load_deployment(mine) == load_deployment("decode", {"tp": 8})


def test_hands_on_04_the_moe_bases_run_on_one_board_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek-V3 has 671e9 weights: in BF16 1.34 TB, of 8 x 80 GiB, so that the answer is no and not an error."""
    for phase in ("decode", "prefill"):
        assert main(["evaluate", "deepseek-v3", *GPU, "--deployment", f"{phase}-moe"]) == 1
        assert "does not fit" in capsys.readouterr().out


def test_issue9_8_a_deployment_extends_a_preset_that_extends_another(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: decode\ntp: 8\nquantization: {kv_cache: f8E4M3FN}\n")
    assert load_deployment(mine) == load_deployment("decode", {"tp": 8, "quantization.kv_cache": "f8E4M3FN"})


@pytest.mark.parametrize(
    ("deployment", "options", "hint"),
    [
        ("dsv3-decode-ep32", ("--no-absorb-mla",), "absorb_mla is false in decode: every step expands the keys"),
        ("dsv3-decode-ep32", (), None),
        ("dsv3-prefill-ep32", ("--absorb-mla",), "absorb_mla is true in prefill: with as many queries as keys,"),
        ("dsv3-prefill-ep32", (), None),
    ],
)  # fmt: skip
def test_hands_on_04_a_costly_choice_gets_a_hint(
    capsys: pytest.CaptureFixture[str], deployment: str, options: tuple[str, ...], hint: str | None
) -> None:
    command = ["evaluate", "deepseek-v3", "--chip", "sg2262", "--topology", "p1-r1-b4-c32", "--deployment", deployment]
    main([*command, *options, "--format", "json"])
    said = json.loads(capsys.readouterr().out)["hints"]
    main([*command, *options])
    text = capsys.readouterr().out
    if hint is None:
        assert said == [] and "hint:" not in text
    else:
        assert len(said) == 1 and said[0].startswith(hint) and f"hint: {said[0]}\n" in text


# -- the start of the process (Must reach, hands-on 18) -------------------------------------------------------------


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a process of `pmc` with these arguments has imported at its end."""
    code = (
        f"import sys\nfrom pmc.compiler.main import main\nmain({list(arguments)!r})\nprint('\\nMODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES ")[2].split())


def test_hands_on_18_help_loads_neither_ir_nor_schemas() -> None:
    assert not loaded_by("--help") & {"xdsl", "numpy", "pydantic", "yaml", "pmc.compiler.config"}


def test_hands_on_18_a_command_loads_what_it_needs() -> None:
    """The chip roofline of a program at the dist level needs no tiles, no commands and no search for plans."""
    loaded = loaded_by("evaluate", *MODEL, *TARGET)
    needless = ("pmc.dialects.tile", "pmc.dialects.g5", "pmc.backends.cost.tile", "pmc.backends.cost.plan_search")
    assert not loaded & {*needless, "pmc.compiler.cli.check", "pmc.compiler.cli.opt", "xdsl.universe"}
    assert "pmc.backends.cost.chip" in loaded


@pytest.mark.parametrize("module", ["pmc", "pmc.compiler"])
def test_issue9_11_python_m_runs_the_command_line(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "list", "chips"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "sg2262" in done.stdout
    bad = subprocess.run([sys.executable, "-m", module, "list", "chip"], capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.startswith("pmc: error: ")


# -- tables (item 12, hands-on 9) -----------------------------------------------------------------------------------

TABLES: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", *MODEL, *TARGET),
    "request": ("evaluate", *MODEL, *TARGET, "--isl", "256", "--osl", "8"),
    "ops": ("analyze", *MODEL, *TARGET, "--what", "ops"),
    "memory": ("analyze", *MODEL, *TARGET, "--what", "memory", "--reserve-fraction", "0.05"),
    "comm": ("analyze", *MODEL, *TARGET, "--what", "comm", "--tp", "2"),
    "cost": ("analyze", *MODEL, *TARGET, "--what", "cost", "--dollars-per-chip-hour", "2"),
    "compare": ("compare", "sg2262", "h100-sxm", "--model", *MODEL, *TARGET[2:]),
    "sweep": ("sweep", *MODEL, *TARGET, "--set", "deployment.batch=1,2"),
}


@pytest.mark.parametrize("name", TABLES)
def test_hands_on_09_every_table_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = ok(capsys, *TABLES[name])
    monkeypatch.setenv("COLUMNS", "80")
    narrow = ok(capsys, *TABLES[name])
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow.count("\n") >= whole.count("\n")
    assert ("─" * 20 in narrow) == ("─" * 20 in whole)
    monkeypatch.setenv("COLUMNS", "1000")
    assert ok(capsys, *TABLES[name]) == whole


def test_hands_on_09_a_file_and_a_pipe_have_full_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = ok(capsys, *TABLES["evaluate"])
    monkeypatch.setenv("COLUMNS", "60")
    ok(capsys, *TABLES["evaluate"], "-o", str(tmp_path / "table.txt"))
    assert (tmp_path / "table.txt").read_text() == whole
    monkeypatch.delenv("COLUMNS")
    piped = subprocess.run(
        [sys.executable, "-m", "pmc", *TABLES["evaluate"]], capture_output=True, text=True, check=True
    )
    assert piped.stdout == whole


def test_hands_on_09_columns_that_do_not_fit_are_named_and_text_is_cut_at_its_beginning() -> None:
    columns = [
        Column("path", ["blocks.dense.ffn.gate_proj", "lm_head"], "total", left=True),
        Column("count", ["32", "1"], optional=1),
        Column("GFLOP", ["1.5", "0.25"], "1.75", optional=2),
        Column("us", ["10", "2"], "12"),
    ]
    assert text_table(columns, None) == [
        "path                        count  GFLOP  us",
        "────────────────────────────────────────────",
        "blocks.dense.ffn.gate_proj     32    1.5  10",
        "lm_head                         1   0.25   2",
        "────────────────────────────────────────────",
        "total                               1.75  12",
    ]
    assert text_table(columns, 44) == text_table(columns, None)
    assert text_table(columns, 43)[2] == "blocks.dense.ffn.gate_proj     32  10"
    narrow = text_table(columns, 24)
    assert narrow[2] == "..nse.ffn.gate_proj   10" or narrow[2] == "..ense.ffn.gate_proj  10"
    assert narrow[-2:] == ["not shown in 24 columns:", "  count, GFLOP"]


def test_hands_on_09_a_bottleneck_has_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    step = json.loads(ok(capsys, *TABLES["evaluate"], "--format", "json"))
    assert set(step["bottlenecks_us"]) == {row["bottleneck"] for row in step["steps"]} == {"bandwidth"}
    assert "by bottleneck: bandwidth " in ok(capsys, *TABLES["evaluate"])
    request = json.loads(ok(capsys, *TABLES["request"], "--format", "json"))
    assert set(request["prefill"]["bottlenecks_us"]) == {"bandwidth", "compute"}
    assert "bottleneck_bandwidth_us" in ok(capsys, *TABLES["request"], "--format", "csv")


def test_hands_on_11_evaluate_counts_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """Llama 3.1 8B has 8,030,261,248 parameters; of the embedding, 128256 x 4096, a token uses one row."""
    assert "parameters 8.03 billion, a token uses 7.50 billion of them\n" in ok(capsys, *TABLES["evaluate"])
    step = json.loads(ok(capsys, *TABLES["evaluate"], "--format", "json"))
    assert step["parameters"] == {"total": 8030261248, "active": 8030261248 - 128255 * 4096}


# -- dumps (item 12, hands-on 15) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["model", "layer", "dist", "tile", "commands"])
def test_hands_on_15_the_first_line_of_a_dump_reads_and_its_target_stands_at_the_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, level: str
) -> None:
    out = tmp_path / "out.mlir"
    ok(capsys, "compile", *MODEL, *TARGET, "--emit", level, "-o", str(out))
    text = out.read_text()
    lines = text.splitlines()
    assert lines[0] == '"builtin.module"() ({'
    names = [line.split()[0] for line in lines[lines.index("}) {") + 1 : -1]]
    assert {"arch.chip", "arch.topology", "arch.deployment", "arch.accounting"} <= set(names)
    assert lines[-1] == "} : () -> ()"
    assert module_text(load_module(out)) == text
    assert ok(capsys, "opt", str(out)) == text
