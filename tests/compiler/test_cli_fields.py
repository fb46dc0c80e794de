"""`pmc list --fields`, and chips that do not go with a topology."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from pmc.compiler.main import main

from .tiny import LLAMA, TARGET, write_config

CONFIGS = resources.files("pmc.configs")
FIELDS = ("list", "chips", "--fields")


class Pmc:
    """Runs `pmc` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def ok(self, *arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        return self.capsys.readouterr().out

    def error(self, *arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        return self.capsys.readouterr().err


@pytest.fixture
def pmc(capsys: pytest.CaptureFixture[str]) -> Pmc:
    return Pmc(capsys)


def test_fields_say_what_reads_them(pmc: Pmc) -> None:
    text = {path: readers for path, readers in (line.split(maxsplit=1) for line in pmc.ok(*FIELDS).splitlines())}
    assert text["dram.capacity_gib"] == "analyze --what memory, allocate-dram, emit-g5, simulate"
    assert text["c2c.max_chips"] == "check of chip against topology"
    assert text["command_level.hau.sort_width"] == "simulate"
    uses = json.loads(pmc.ok(*FIELDS, "--format", "json"))["chips"]
    assert [use["path"] for use in uses] == list(text)
    assert {use["path"]: use["planned"] or ", ".join(use["readers"]) for use in uses} == text
    assert next(use for use in uses if use["path"] == "clocks.tiu_ghz")["expects"].startswith("number > 0 in GHz (")


def test_fields_of_a_topology(pmc: Pmc) -> None:
    lines = pmc.ok("list", "topologies", "--fields").splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["name", "unvalidated", "pods"]
    assert not [line for line in lines if len(line.split()) < 2]


@pytest.mark.parametrize("kind", [[], ["passes"], ["deployments"]])
def test_fields_of_something_else(pmc: Pmc, kind: list[str]) -> None:
    assert "--fields is about chips and topologies" in pmc.error("list", *kind, "--fields")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "links.c2c.gb_per_s", 455.0,
            "topology wide: links.c2c.gb_per_s is 455, the ports of chip sg2262 reach 448 "
            "(c2c: 8 ports x 4 lanes x 112 Gbit/s)",
        ),
        ("pods", 129, "topology wide has 1032 chips, chip sg2262 allows 1024 (c2c.max_chips)"),
        ("chips_per_board", 33, "topology wide has 33 chips on a board, chip sg2262 allows 32 (c2c.max_cluster_chips)"),
    ],
)  # fmt: skip
def test_a_chip_that_cannot_be_wired_so(pmc: Pmc, tmp_path: Path, field: str, value: object, message: str) -> None:
    content: dict[str, Any] = yaml.safe_load((CONFIGS / "topologies" / "p1-r1-b1-c8.yaml").read_text())
    content.update(name="wide", unvalidated=[])
    content["links"]["p2p"] = {"gb_per_s": 100.0, "latency_us": 5.0}
    *blocks, last = field.split(".")
    block = content
    for name in blocks:
        block = block[name]
    block[last] = value
    tiny, topology = write_config(tmp_path, LLAMA), tmp_path / "wide.yaml"
    topology.write_text(yaml.safe_dump(content))
    wired = ("--chip", "sg2262", "--topology", topology, *TARGET[4:])
    for command in (("compile", tiny, *wired, "--emit", "layer"), ("evaluate", tiny, *wired), ("check", tiny, *wired)):
        assert pmc.error(*command) == f"pmc: error: {message}\n"
