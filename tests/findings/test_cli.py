"""Findings about the command line: settings, base deployments, tables, help, speed of the start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

from pmc.compiler.cli.text_table import Column, text_table
from pmc.compiler.config import ConfigError, changed, load_chip, load_deployment, load_topology
from pmc.compiler.driver import load_module, module_text
from pmc.compiler.main import COMMANDS, main
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


def test_issue9_9_cores_bring_their_rows_of_the_mesh_along() -> None:
    """8 columns in clusters of 2 rows: multiples of 16; a chip without a mesh has any number."""
    for cores in range(16, 144, 16):
        chip = load_chip("sg2262", {"cores": cores})
        noc = chip.commands.noc
        assert (noc.mesh_columns, noc.mesh_rows) == (8, cores // 8)
        assert ("command_level.noc.mesh_rows" in chip.unvalidated) == (cores != 64)
    with pytest.raises(ConfigError, match=r"chip preset sg2262 with cores given: .* 8 x 8 is not 24 cores"):
        load_chip("sg2262", {"cores": 24})
    with pytest.raises(ConfigError, match="8 x 8 is not 128 cores"):
        load_chip("sg2262", {"cores": 128, "command_level.noc.mesh_rows": 8})
    assert load_chip("h100-sxm", {"cores": 24}).cores == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cores=1", "--set: expected PART.FIELD=VALUE, as chip.cores=128, found 'cores=1'"),
        ("chip.cores", "--set: expected PART.FIELD=VALUE, as chip.cores=128, found 'chip.cores'"),
        ("chp.cores=1", "--set: unknown part 'chp'; did you mean 'chip'?"),
        ("chip.core=1", "--set: unknown field chip.core; did you mean 'chip.cores'?"),
        ("chip.lmem_byte=1", "--set: unknown field chip.lmem_byte; did you mean 'chip.lmem_bytes'?"),
        ("chip.lmem.byte_per_core=1", "did you mean 'chip.command_level.lmem.bytes_per_core'?"),
        ("chip.zzz=1", "--set: unknown field chip.zzz; known fields: name, unvalidated, compared_with_silicon, dies,"),
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
            value = None if value is None else getattr(value, part)
        if value is None and ".energy." in path:  # shipped chips say nothing of energy
            with pytest.raises(ConfigError, match="energy is null, not a block of fields"):
                changed(chip, parse_settings([f"chip.{path}=1.0"])["chip"])
            continue
        text = "[" + ",".join(value) + "]" if isinstance(value, tuple) else json.dumps(value).strip('"')  # pyright: ignore
        assert changed(chip, parse_settings([f"chip.{path}={text}"])["chip"]) == chip, path
    assert {name.partition(".")[0] for name in all_names()} == set(PARTS)


def test_issue9_8_a_changed_field_is_validated_and_marked_as_never_validated_on_silicon() -> None:
    chip = load_chip("sg2262", {"dram.bandwidth_gb_per_s": 4300.8})
    assert chip.dram.bandwidth_gb_per_s == 4300.8
    assert chip.is_unvalidated("dram.bandwidth_gb_per_s")
    assert isinstance(chip, Chip) and load_chip("sg2262", {"dram.bandwidth_gb_per_s": 8601.6}) == load_chip("sg2262")
    with pytest.raises(
        ConfigError, match=r"chip preset sg2262 with cores given: command_level.noc: 8 x 8 is not 72 cores"
    ):
        load_chip("sg2262", {"cores": 72})
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
    assert set(half["unvalidated"]) - set(base["unvalidated"]) == {"chip.dram.bandwidth_gb_per_s"}
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


# -- help, lists, show, init (item 12, hands-on 10, 11, 12) ---------------------------------------------------------


def test_hands_on_11_help_reads_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in COMMANDS:
        lines = ok(capsys, command, "--help").splitlines()
        assert max(map(len, lines)) <= 80
        prose = lines[: next(i for i, line in enumerate(lines) if "Examples:" in line)]
        assert not [line for line in prose if line.strip() and line.startswith("    ")], (
            "no indent of a docstring leaks"
        )
        assert any(line.startswith(f"   pmc {command}") for line in lines)


def test_hands_on_11_pmc_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(capsys) == ok(capsys, "--help")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pmc evaluate --chip sg", ["sg2262", "sg2262-tpuperf"]),
        ("pmc evaluate ll", ["llama-3.1-70b", "llama-3.1-8b"]),
        ("pmc evaluate --topology nvlink-8", ["nvlink-8", "nvlink-8-ib-4"]),
        ("pmc evaluate --deployment decode", ["decode", "decode-moe"]),
        ("pmc evaluate --set chip.lm", ["chip.lmem_bytes="]),
        ("pmc opt -p localize,bind", ["localize,bind-symbols"]),
        ("pmc show dee", ["deepseek-v3", "deepseek-v3.2"]),
    ],
)
def test_hands_on_11_the_shell_completes_names(words: str, expected: list[str]) -> None:
    environment = {**os.environ, "_PMC_COMPLETE": "complete_bash", "COMP_WORDS": words,
                   "COMP_CWORD": str(len(words.split()) - 1)}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "pmc"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_hands_on_11_show_says_all_of_one_thing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """DeepSeek-V3 has 671.03e9 parameters without its MTP layer (11.61e9 of its own), 36.63e9 of them active."""
    model = json.loads(ok(capsys, "show", "deepseek-v3", "--format", "json"))
    assert model["parameters"] == {"total": 671026419200, "active": 36625625600, "of_draft_layer": 11610068224}
    assert sum(block["parameters"] for block in model["blocks"]) == 671026419200
    assert "671.03 billion" in ok(capsys, "show", "deepseek-v3")
    assert ok(capsys, "show", "sg2262").startswith("# SG2262 accelerator.")
    mine = tmp_path / "mine.yaml"
    mine.write_text(ok(capsys, "show", "decode-moe"))
    assert load_deployment(mine) == load_deployment("decode-moe")
    assert "batch=none (int | None)  Sequences in flight over all ranks" in ok(capsys, "show", "bind-symbols")
    assert "did you mean 'sg2262'?" in refused(capsys, "show", "sg226")


@pytest.mark.parametrize("base", [(), ("--from", "sg2262")])
def test_hands_on_11_init_writes_files_that_load(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, base: tuple[str, ...]
) -> None:
    chip, deployment = tmp_path / "mine.yaml", tmp_path / "how.yaml"
    ok(capsys, "init", "chip", str(chip), *base)
    assert load_chip(chip).name == "mine"
    assert not base or changed(load_chip(chip), {"name": "sg2262"}) == load_chip("sg2262")
    ok(capsys, "init", "deployment", str(deployment))
    assert load_deployment(deployment) == load_deployment("decode")
    assert all("  # " in line or line == "quantization:" for line in deployment.read_text().splitlines())
    ok(capsys, "init", "topology", str(tmp_path / "rack.yaml"))
    assert load_topology(tmp_path / "rack.yaml").name == "rack"
    assert "exists already" in refused(capsys, "init", "chip", str(chip))
    assert "no chip preset 'sg1'" in refused(capsys, "init", "chip", str(tmp_path / "x.yaml"), "--from", "sg1")


def test_issue9_12_passes_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    listed = ok(capsys, "opt", "--list")
    assert "      absorb-mla=true (bool)\n          Fold the key and value up-projections of MLA into" in listed
    assert "      full=false (bool)\n" in listed


def test_issue9_12_each_pass_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("compile", *MODEL, *TARGET, "--emit", "dist", "--timing")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("01 expand-blocks ") and lines[-1].startswith("total ")
    parts = [float(line.split()[-3]) for line in lines]
    assert sum(parts[:-1]) == pytest.approx(parts[-1], abs=0.1 * len(lines))


def test_hands_on_12_unroll_says_which_rows_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compile", *MODEL, *TARGET, "--emit", "commands", "--format", "json")
    assert main((*command, "--unroll")) == 0
    short = capsys.readouterr()
    assert re.search(r"pmc: \d+ of \d+ tables have only their first and last 4 rows, \d+ of \d+; --all-rows", short.err)
    assert main((*command, "--all-rows")) == 0
    whole = capsys.readouterr()
    assert whole.err == ""
    reduced, full = (_tables(json.loads(shown.out)) for shown in (short, whole))
    assert [table["row_count"] for table in reduced] == [table["row_count"] for table in full]
    assert all(table["whole"] and len(table["rows"]) == table["row_count"] for table in full)
    assert any(not table["whole"] and len(table["rows"]) == 8 for table in reduced)


def _tables(node: object) -> list[dict[str, Any]]:
    """Every table in the JSON of a module."""
    if isinstance(node, list):
        return [table for item in cast(list[object], node) for table in _tables(item)]
    if not isinstance(node, dict):
        return []
    fields = cast(dict[str, Any], node)
    return [fields] if "row_count" in fields else [table for item in fields.values() for table in _tables(item)]


def test_hands_on_10_an_analysis_of_memory_needs_no_second_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("analyze", *MODEL, *TARGET, "--what", "memory")
    assert "reserve 0 + 0 bytes" in ok(capsys, *command)
    assert ok(capsys, *command) == ok(capsys, *command, "--reserve-fraction", "0")
    ok(capsys, "analyze", *MODEL, *TARGET, "--tp", "2", "--what", "links")
    error = refused(capsys, "analyze", *MODEL, *TARGET, "--what", "cost")
    assert "--what cost needs --dollars-per-chip-hour, as --dollars-per-chip-hour 2.5" in error


def test_hands_on_10_compare_varies_one_field_of_one_side(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("compare", "decode", "decode", "--model", *MODEL, *GPU)
    data = json.loads(ok(capsys, *command, "--tp", "2", "--b-set", "tp=4", "--format", "json"))
    assert (data["a"]["ranks"], data["b"]["ranks"]) == (2, 4)
    assert data["b"]["name"] == "decode with tp=4"
    same = json.loads(ok(capsys, *command, "--tp", "4", "--format", "json"))
    assert same["ratio"] == 1.0 and same["a"]["ranks"] == 4 and same["a"]["total_us"] == data["b"]["total_us"]


def test_hands_on_14_tests_use_all_cores_and_the_first_command_leaves_nothing() -> None:
    """README says how long the tests take; the file of its first command is ignored."""
    root = Path(__file__).parents[2]
    options = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    assert options[-2:] == ["-n", "auto"]
    readme = (root / "README.md").read_text()
    assert re.search(r"about \d+ minutes on two", readme)
    first = re.search(r"^pmc .*-o (\S+)", readme, re.MULTILINE)
    assert first is not None and f"/{first[1]}" in (root / ".gitignore").read_text().splitlines()
