"""The list of passes, the default pipeline, and what is left of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.universe import Universe
from xdsl.utils.arg_spec import ArgSpec, parse_pipeline

from pmc.compiler import pipelines
from pmc.compiler.config import load_deployment
from pmc.compiler.pipelines import (
    build_pass,
    default_pipeline,
    pass_factories,
    pass_names,
    pass_options,
    remaining_pipeline,
)
from pmc.dialects.arch import DeploymentAttr
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import LEVELS
from pmc.passes.base import HISTORY, PmcPass

DEPLOYMENT = load_deployment("dsv3-decode-ep32")


def test_names_lead_to_classes_of_that_name() -> None:
    for name, factory in pass_factories().items():
        pass_class = factory()
        assert pass_class.name == name
        assert issubclass(pass_class, PmcPass)
        assert pass_class.__doc__


def test_every_pass_file_is_registered() -> None:
    folder = Path(pipelines.__file__).parents[1] / "passes"
    defined = {
        match
        for file in folder.rglob("*.py")
        for match in re.findall(r'^    name(?:: ClassVar\[str\])? = "([a-z0-9-]+)"$', file.read_text(), re.M)
    }
    assert defined == set(pass_names())


def test_options_belong_to_passes() -> None:
    assert set(pass_options(DEPLOYMENT)) <= set(pass_names())


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_ends_where_the_next_goes_on(level: str) -> None:
    specs = default_pipeline(DEPLOYMENT, LEVELS[-1])
    shorter = default_pipeline(DEPLOYMENT, next(known for known in LEVELS if known == level))
    assert specs[: len(shorter)] == shorter


def test_the_deployment_fills_the_options() -> None:
    text = ",".join(str(build_pass(spec).spec()) for spec in default_pipeline(DEPLOYMENT, "dist"))
    assert text == (
        'expand-blocks{phase="decode"},'
        'quantize{weights="f8E4M3FN" activations="f8E4M3FN" kv_cache="f8E4M3FN" attention="f8E4M3FN"},'
        'annotate-shardings{dp=32 ep=32},insert-collectives{ring_exchange="smallest"},localize,'
        "combine-collectives,fuse-rows{enabled=false},fuse-gates{enabled=false},partition-stages"
    )


def test_the_text_of_a_pipeline_parses_back() -> None:
    specs = default_pipeline(DEPLOYMENT, "commands")
    assert list(parse_pipeline(",".join(map(str, specs)))) == specs


def module_after(*passes: str, deployment: bool = True) -> ModuleOp:
    module = ModuleOp([])
    if deployment:
        module.attributes["arch.deployment"] = DeploymentAttr(DEPLOYMENT)
    module.attributes[HISTORY] = ArrayAttr([StringAttr(text) for text in passes])
    return module


def test_remaining_pipeline() -> None:
    done = [str(build_pass(spec)) for spec in default_pipeline(DEPLOYMENT, "dist")]
    for count in range(len(done) + 1):
        rest = remaining_pipeline(module_after(*done[:count]), "dist")
        assert rest == default_pipeline(DEPLOYMENT, "dist")[count:]


def test_no_remaining_pipeline() -> None:
    with pytest.raises(PmcError, match=r"no attribute arch\.deployment"):
        remaining_pipeline(module_after(deployment=False), "dist")
    with pytest.raises(PmcError, match=r'pass 1 of the module was expand-blocks\{phase="prefill"\}, .* has .*decode'):
        remaining_pipeline(module_after('expand-blocks{phase="prefill"}'), "dist")
    with pytest.raises(PmcError) as quoted:  # found by fuzzing: the message took ten lines of the terminal
        remaining_pipeline(module_after("expand-blocks{phase=" + "1" * 5000 + "}"), "dist")
    assert len(str(quoted.value)) < 600
    done = [str(build_pass(spec)) for spec in default_pipeline(DEPLOYMENT, "dist")]
    with pytest.raises(PmcError, match="past the layer level: its last pass was partition-stages"):
        remaining_pipeline(module_after(*done), "layer")


def test_unknown_pass_and_option() -> None:
    with pytest.raises(PmcError, match="unknown pass 'localise'; did you mean 'localize'"):
        build_pass(ArgSpec("localise", {}))
    with pytest.raises(PmcError, match=r'bind-symbols: .*"batsch"'):
        build_pass(ArgSpec("bind-symbols", {"batsch": (1,)}))
    with pytest.raises(PmcError, match='expand-blocks: expand-blocks requires argument "phase"'):
        build_pass(ArgSpec("expand-blocks", {}))


def test_xdsl_tools_find_the_passes_and_dialects() -> None:
    universe = Universe.get_multiverse()
    assert set(pass_names()) <= set(universe.all_passes)
    assert universe.all_passes["localize"]().name == "localize"
    for name in ("arch", "model", "layer", "dist", "tile", "g5"):
        assert universe.all_dialects[name]().name == name
