"""Presets load; every kind of bad configuration is one line that says what to change."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from pmc.compiler.config import (
    ConfigError,
    list_presets,
    load_chip,
    load_deployment,
    load_model_config,
    load_system,
    load_topology,
)
from pmc.dialects.arch import Chip
from pmc.dialects.errors import PmcError
from pmc.dialects.schema import Schema, models_in

CONFIGS = resources.files("pmc.configs")


def chip_text() -> str:
    return (CONFIGS / "chips" / "sg2262.yaml").read_text()


def refused(call: Any, *arguments: object) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    message = str(error.value)
    assert isinstance(error.value, PmcError)
    assert "\n" not in message and len(message) < 600
    return message


def test_presets() -> None:
    presets = list_presets()
    assert presets["model"] == ["deepseek-v3", "deepseek-v3.2", "llama-3.1-70b", "llama-3.1-8b"]
    assert {"h100-sxm", "sg2262", "sg2262-tpuperf"} < set(presets["chip"]) and "_template" not in presets["chip"]
    assert {"nvlink-8", "nvlink-8-ib-4", "p1-r1-b1-c8", "p1-r1-b4-c32"} < set(presets["topology"])
    assert "h200-sxm" in presets["system"]
    assert {"dsv3-decode-ep32", "dsv3-prefill-ep32", "llama-8b-decode"} < set(presets["deployment"])
    for name in presets["chip"]:
        assert load_chip(name).name == name
    for name in presets["topology"]:
        assert load_topology(name).name == name
    for name in presets["deployment"]:
        assert load_deployment(name).phase in name
    for name in presets["system"]:
        assert load_system(name).chip in presets["chip"] and load_system(name).topology in presets["topology"]


def test_the_two_sg2262_presets_differ_in_one_field() -> None:
    base, other = load_chip("sg2262").model_dump(), load_chip("sg2262-tpuperf").model_dump()
    other["name"] = "sg2262"
    other["command_level"]["gdma"]["gb_per_s"] = 149.4
    assert other == base


def test_model_presets_are_hugging_face_configs() -> None:
    config, source = load_model_config("deepseek-v3")
    assert source == "deepseek-v3"
    assert (config["model_type"], config["num_hidden_layers"], config["kv_lora_rank"]) == (
        "deepseek_v3",
        61,
        512,
    )
    assert config["quantization_config"]["weight_block_size"] == [128, 128]
    assert load_model_config("llama-3.1-8b")[0]["rope_scaling"]["rope_type"] == "llama3"
    assert load_model_config("llama-3.1-70b")[0]["num_hidden_layers"] == 80


def test_a_model_is_a_preset_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "rms_norm_eps": 1e-05}')
    (tmp_path / "m.yaml").write_text("model_type: llama\nrms_norm_eps: 1.0e-05\n")
    content = {"model_type": "llama", "rms_norm_eps": 1e-05}
    for path in (tmp_path, tmp_path / "config.json", tmp_path / "m.yaml"):
        assert load_model_config(path) == (content, str(path))


def test_a_file_loads_like_the_preset(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(chip_text())
    (tmp_path / "c.json").write_text(json.dumps(load_chip("sg2262").model_dump()))
    assert load_chip(tmp_path / "c.yaml") == load_chip(str(tmp_path / "c.json")) == load_chip("sg2262")


def test_overrides_replace_fields() -> None:
    given = {
        "tp": 8,
        "dp": 4,
        "kv-len": 8192,
        "quantization.keep": ("*.router",),
        "routing": {"zipf": 1.1},
        "pp": None,
    }
    deployment = load_deployment("dsv3-decode-ep32", given)
    assert (deployment.tp, deployment.dp, deployment.pp, deployment.kv_len) == (8, 4, 1, 8192)
    assert deployment.quantization.keep == ("*.router",)
    assert deployment.quantization.weights == "f8E4M3FN"
    assert deployment.model_dump()["routing"] == {"zipf": 1.1}
    assert deployment.ranks == 32
    assert load_deployment(None, load_deployment("llama-8b-decode").model_dump()) == load_deployment("llama-8b-decode")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"tp": "8"}, ["option: tp: expected integer > 0 (Tensor parallelism)", "found '8' (text)"]),
        ({"tp": True}, ["option: tp: expected integer > 0", "found True (true or false)"]),
        ({"batch": 0}, ["option: batch: expected integer > 0 in sequences", "found 0 (integer)"]),
        ({"batch_size": 4}, ["option: unknown field batch_size", "did you mean 'batch'?"]),
        (
            {"quantization.weights": "fp88"},
            ["option: quantization.weights: 'fp88' is no element type, must be one of i4, ", "did you mean 'fp8'?"],
        ),
        ({"tp.x": 1}, ["option: tp.x: tp is 1 (integer), not a block of fields"]),
        (
            {"routing": "zipf"},
            ["option: routing: expected 'uniform' or mapping with the fields zipf", "'zipf'"],
        ),
        ({"routing": {"zip": 1.0}}, ["option: unknown field routing.zip", "did you mean 'zipf'?"]),
        (
            {"routing": {"histogram": [1, -1]}},
            ["option: routing.histogram[1]: expected number >= 0", "found -1"],
        ),
        ({"routing": {"histogram": [0.0, 0.0]}}, ["option: routing: a histogram needs rows: all of its entries are 0"]),
        ({"routing": {"zipf": -1.0}}, ["option: routing.zipf: expected number >= 0", "found -1.0"]),
        (
            {"kv_len": 1, "q_len": 2},
            ["dsv3-decode-ep32 with kv_len, q_len given", "q_len (2) must not exceed kv_len (1)"],
        ),
        ({"sp": True}, ["sp needs tp > 1"]),
    ],
)
def test_bad_overrides(overrides: dict[str, object], parts: list[str]) -> None:
    message = refused(load_deployment, "dsv3-decode-ep32", overrides)
    for part in parts:
        assert part in message


def test_a_deployment_without_preset_needs_every_field() -> None:
    message = refused(load_deployment, None, {"tp": 8})
    assert message.startswith("deployment: missing field phase: expected 'prefill' or 'decode'")
    assert message.endswith("28 more fields are missing")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (
            "bandwidth_gb_per_s: 8601.6",
            "bandwidth_gb_per_s: fast",
            ["dram.bandwidth_gb_per_s: ", "GB/s", "'fast' (text)"],
        ),
        (
            "bandwidth_gb_per_s: 8601.6",
            "bandwith_gb_per_s: 8601.6",
            ["dram.bandwith_gb_per_s", "'bandwidth_gb_per_s'?"],
        ),
        (
            "  bandwidth_gb_per_s: 8601.6",
            "",
            ["missing field dram.bandwidth_gb_per_s: expected number > 0 in GB/s"],
        ),
        ("cores: 64", "cores: 64\nquux: 1", ["unknown field quux; known fields: name, unvalidated"]),
        ("cores: 64", "cores: 64.0", ["cores: expected integer > 0", "found 64.0 (number)"]),
        ("cores: 64", "cores: null", ["cores: expected integer > 0", "found null"]),
        ("cores: 64", "cores: [64]", ["cores: expected integer > 0", "found a list"]),
        ("cores: 64", "cores: 63", ["cores (63) must be a multiple of dies (2)"]),
        ("cores: 64", "cores: 2024-01-01", ["cores: expected text, a number, true, false or null"]),
        ("cores: 64", "1: 64", ["top level: field names are text, found 1 (integer)"]),
        ("cores: 64", "cores: .nan", ["cores: expected a finite number, found nan"]),
        (
            "capacity_gib: 128.0",
            "capacity_gib: -.inf",
            ["dram.capacity_gib: expected a finite number, found -inf"],
        ),
        (
            "gdma_multicast: true",
            "gdma_multicast: 1",
            ["gdma_multicast: expected true or false", "1 (integer)"],
        ),
        (
            "efficiency: 0.9 ",
            "efficiency: 1.5 ",
            ["command_level.gdma.efficiency: expected number > 0 <= 1", "1.5"],
        ),
        ("command_level:", "command_level: 3\nx:", ["unknown field x"]),
        (
            "cores: 64",
            "cores: !!python/object/apply:os.getpid []",
            ["line 10 column 8: tag ", "is not allowed"],
        ),
        ("cores: 64", "cores: &a 64", ["line 10 column 8: anchors and aliases are not allowed"]),
        ("cores: 64", "cores: 64\ncores: 32", ["line 11 column 1: field 'cores' is given twice"]),
        ("cores: 64", "cores: [64", ["line 11 column "]),
        ("cores: 64", "cores: " + "[" * 200 + "]" * 200, ["nested deeper than 64 levels"]),
        ("cores: 64", "cores: " + "9" * 5000, ["not YAML that can be read"]),
        ("cores: 64", "cores: \x07", ["not YAML that can be read"]),
    ],
)
def test_bad_chip_files(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    text = chip_text()
    assert old in text
    path = tmp_path / "chip.yaml"
    path.write_text(text.replace(old, new, 1))
    message = refused(load_chip, path)
    assert message.startswith(f"{path}: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("m.json", b'{"hidden_size": 4096,', "line 1 column 22: not JSON"),
        ("m.json", b'{\n"a": 1\n"b": 2}', "line 3 column 1: not JSON: Expecting ',' delimiter"),
        ("m.json", b'{"a": 1, "a": 2}', "field 'a' is given twice"),
        ("m.json", b'{"a": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
        ("m.json", b"[" * 100_000, "nested deeper than 64 levels"),
        ("m.json", b'{"a":' * 70 + b"1" + b"}" * 70, "nested deeper than 64 levels"),
        ("m.json", b"[]", "expected a mapping of fields, found a list"),
        ("m.json", b"", "line 1 column 1: not JSON"),
        ("m.json", b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
        ("m.json", b'{"a": "' + b"x" * 2**22 + b'"}', "larger than 4 MiB"),
        ("m.yaml", b"", "expected a mapping of fields, found null"),
        ("m.yaml", b"a: {b: 1", "line 1 column 9: "),
        ("m.yaml", b"a: *b", "line 1 column 4: anchors and aliases are not allowed"),
        ("m.yaml", b"- " * 5000, "nested deeper than 64 levels"),
        ("m.yaml", b"a: 1\n---\nb: 2", "line 2 column 1: "),
    ],
)
def test_bad_model_files(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = refused(load_model_config, path)
    assert message.startswith(f"{path}: {part}")


def test_unknown_names() -> None:
    assert refused(load_chip, "sg2226") == "chip 'sg2226': neither a preset nor a file; did you mean 'sg2262'?"
    assert "did you mean 'deepseek-v3'?" in refused(load_model_config, "deepsek-v3")
    assert refused(load_topology, "ring").endswith(f"presets: {', '.join(list_presets()['topology'])}")
    assert refused(load_chip, "no/such.yaml") == "no/such.yaml: no such chip file"
    assert "neither a preset nor a file" in refused(load_chip, "")
    assert "neither a preset nor a file" in refused(load_chip, "x" * 100_000)
    assert "neither a preset nor a file" in refused(load_chip, "a\0b")


def test_folders_and_unreadable_things(tmp_path: Path) -> None:
    assert refused(load_model_config, tmp_path) == f"{tmp_path / 'config.json'}: no such model file"
    assert "not a regular file" in refused(load_chip, tmp_path)
    assert "not a regular file" in refused(load_chip, "/dev/zero")


def field_paths(schema: type[Schema], prefix: str = "") -> set[str]:
    paths = set[str]()
    for name, field in schema.model_fields.items():
        blocks = models_in(field)
        paths |= {f"{prefix}{name}"}
        for block in blocks:
            assert issubclass(block, Schema)
            paths |= field_paths(block, f"{prefix}{name}.")
    return paths


def given_paths(content: dict[str, Any], prefix: str = "") -> set[str]:
    paths = {f"{prefix}{name}" for name in content}
    blocks = {n: cast(dict[str, Any], v) for n, v in content.items() if isinstance(v, dict)}
    return paths.union(*(given_paths(block, f"{prefix}{name}.") for name, block in blocks.items()))


def test_the_template_documents_exactly_the_fields_of_the_schema() -> None:
    text = (CONFIGS / "chips" / "_template.yaml").read_text()
    assert given_paths(yaml.safe_load(text)) == field_paths(Chip)
    assert Chip.model_validate(yaml.safe_load(text)).name == "template"
    for line in text.splitlines():
        if match := re.match(r" *\w+_(gb_per_s|ghz|ns|us|gib|cycles|bytes)\w*:", line):
            unit = {"gb_per_s": "GB/s", "ghz": "GHz", "gib": "GiB"}.get(match[1], match[1])
            assert f"in {unit}" in line, line


def test_every_number_of_a_preset_has_a_comment_on_its_source() -> None:
    for folder in ("chips", "topologies", "deployments"):
        for file in (CONFIGS / folder).iterdir():
            for number, line in enumerate(file.read_text().splitlines(), 1):
                value, _, comment = line.partition("#")
                if re.search(r"[:{,\[] *-?\d", value):
                    assert len(comment) > 4, f"{file.name}:{number}: {line}"


def extending(folder: Path, text: str, base: str | None = None) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    if base is not None:
        (folder / "base.yaml").write_text(base)
    return path


def test_a_deployment_takes_the_rest_of_its_fields_from_another_file(tmp_path: Path) -> None:
    text = (CONFIGS / "deployments" / "llama-8b-decode.yaml").read_text()
    assert "extends: _common.yaml" in text and "routing" not in text
    copy = extending(tmp_path, text)  # finds the file of the presets
    assert load_deployment(copy) == load_deployment("llama-8b-decode")
    whole = json.loads(load_deployment("llama-8b-decode").model_dump_json())
    mine = "extends: base.yaml\nbatch: 7\nquantization: {weights: i8}\n"
    changed = load_deployment(extending(tmp_path, mine, json.dumps(whole)))
    assert changed.batch == 7 and changed.quantization.weights == "i8"
    assert changed.quantization.activations == "bf16" and changed.kv_len == whole["kv_len"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nothing.yaml\n", "extends: no file 'nothing.yaml' beside this one and no such preset"),
        ("extends: decod\n", "extends: no file 'decod' beside this one and no such preset; did you mean 'decode'?"),
        ("extends: ../base.yaml\n", "expected a preset or the name of a file beside this one, found '../base.yaml'"),
        ("extends: 3\n", "expected a preset or the name of a file beside this one, found 3 (integer)"),
        ("extends: base.yaml\n", "mine.yaml extends itself in the end"),
        ("extends: _common.yaml\nphase: decode\n", "missing field tp: expected integer > 0 (Tensor parallelism)"),
    ],
)
def test_what_a_deployment_cannot_extend(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(load_deployment, extending(tmp_path, text, "extends: mine.yaml\n"))
