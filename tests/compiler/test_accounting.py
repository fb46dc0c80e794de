"""The accounting of a module: who sets it, who reads it, and when another one may take its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmc.compiler.config import load_accounting
from pmc.compiler.driver import load_module, module_text, parse_module
from pmc.compiler.main import main
from pmc.compiler.universe import PMC_UNIVERSE
from pmc.dialects.accounting import ACCOUNTING, AccountingAttr, accounting_of
from pmc.passes.select_tiles import SelectTilesPass

from .tiny import LLAMA, SMALL, TARGET, write_config

CORE = ("--granularity", "core", "--format", "json")


class Run:
    """Runs `pmc` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 0
        return self.capsys.readouterr().out

    def error(self, *arguments: object) -> str:
        assert main([str(a) for a in arguments]) == 2
        return self.capsys.readouterr().err

    def time(self, *arguments: object) -> float:
        found: float = json.loads(self("evaluate", *arguments, *CORE))["total_us"]
        return found


@pytest.fixture
def pmc(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def dumps(tmp_path: Path, pmc: Run) -> Path:
    """Every stage of a small Llama that was compiled under `ds-tpu`."""
    model, folder = write_config(tmp_path, LLAMA), tmp_path / "dumps"
    pmc("compile", model, *TARGET, *SMALL, "--accounting", "ds-tpu", "--emit", "commands", "--dump-dir", folder)
    return folder


def test_every_dump_keeps_the_accounting_it_was_compiled_under(dumps: Path) -> None:
    files = sorted(dumps.iterdir())
    assert len(files) > 10
    for file in files:
        assert accounting_of(load_module(file), "test") == load_accounting("ds-tpu"), file.name


def after(dumps: Path, step: str) -> Path:
    """The dump that a pass has written; its number changes with the pipeline."""
    (path,) = dumps.glob(f"*-{step}.mlir")
    return path


def test_the_text_of_an_accounting_reads_back(dumps: Path) -> None:
    text = module_text(load_module(dumps / "00-import.mlir"))
    assert '#arch.accounting<{name = "ds-tpu", waves = "fractional", ' in text
    assert module_text(parse_module(text, "m")) == text


def test_a_dump_is_charged_by_its_own_accounting(dumps: Path, tmp_path: Path, pmc: Run) -> None:
    model, dump = tmp_path / "tiny.json", after(dumps, "partition-stages")
    physical, other = (pmc.time(model, *TARGET, *SMALL, "--accounting", name) for name in ("physical", "ds-tpu"))
    assert other < physical == pmc.time(model, *TARGET, *SMALL)
    assert pmc.time(dump) == other
    assert pmc.time(dump, "--accounting", "physical") == physical
    ops = json.loads(pmc("analyze", dump, "--what", "ops", *CORE))
    assert ops["total_us"] == other
    sides = json.loads(pmc("compare", dump, dump, *CORE))
    assert sides["a"]["total_us"] == other


def test_plans_are_not_priced_under_an_accounting_that_did_not_choose_them(dumps: Path, pmc: Run) -> None:
    planned = after(dumps, "select-tiles")
    assert pmc.error("evaluate", planned, "--accounting", "physical") == (
        "pmc: error: the plans of the module were chosen under the accounting 'ds-tpu': to evaluate it under "
        "'physical', take a dump before select-tiles or compile with --accounting\n"
    )
    assert pmc.time(planned, "--accounting", "ds-tpu") == pmc.time(planned)


def programs(text: str) -> str:
    """The programs of a dump, without the attributes of the module that follow them."""
    return text[text.index("layer.program") :].rpartition("\n}) {")[0]


def test_a_module_without_an_accounting_is_told_how_to_get_one(dumps: Path, tmp_path: Path, pmc: Run) -> None:
    module = load_module(after(dumps, "partition-stages"))
    accounting = module.attributes.pop(ACCOUNTING)
    assert isinstance(accounting, AccountingAttr)
    bare = tmp_path / "bare.mlir"
    bare.write_text(module_text(module))
    said = "the module has no attribute 'arch.accounting', which says what cost models charge; --accounting sets it"
    assert f"error: evaluate: {said}" in pmc.error("evaluate", bare)
    bind = "bind-symbols{batch=8 q-len=1 kv-len=64},select-algorithms,select-tiles"
    assert f"bare.mlir: select-tiles: {said}" in pmc.error("opt", bare, "-p", bind)
    assert pmc.time(bare, "--accounting", "ds-tpu") == pmc.time(after(dumps, "partition-stages"))
    planned = pmc("opt", bare, "--accounting", "ds-tpu", "-p", bind)
    straight = after(dumps, "select-tiles").read_text()
    assert programs(planned) == programs(straight)


def test_opt_keeps_the_accounting_of_a_dump(dumps: Path, pmc: Run) -> None:
    error = pmc.error("opt", dumps / "00-import.mlir", "--accounting", "physical")
    assert "the module has its own arch.accounting" in error


def test_tools_of_xdsl_run_the_same_select_tiles() -> None:
    assert PMC_UNIVERSE.all_passes["select-tiles"]() is SelectTilesPass
