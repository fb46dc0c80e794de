"""The pass `select-algorithms`: what is open gets the fastest algorithm, or one of those that the links allow."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import ModuleOp

from pmc.compiler.config import load_chip, load_deployment, load_topology
from pmc.compiler.context import make_context
from pmc.compiler.driver import compile_model, load_model, run_pipeline
from pmc.compiler.pipelines import default_pipeline
from pmc.dialects import dist
from pmc.dialects.collective import Exchange
from pmc.passes.base import PassError
from pmc.passes.select_algorithms import SelectAlgorithmsPass

DEPLOYMENT = load_deployment("llama-70b-decode-tp8", {"tp": 32})
TOPOLOGY = load_topology("p1-r1-b4-c32")


def program(bound: bool = True) -> ModuleOp:
    module = compile_model(load_model("llama-3.1-70b"), load_chip("sg2262"), TOPOLOGY, DEPLOYMENT, "dist")
    if bound:
        run_pipeline(module, [s for s in default_pipeline(DEPLOYMENT, "tile") if s.name == "bind-symbols"])
    return module


def exchanges(module: ModuleOp) -> list[Exchange]:
    return [op.exchange() for op in module.walk() if isinstance(op, dist.DistExchangeOp)]


def test_every_open_collective_gets_one() -> None:
    module = program()
    before = exchanges(module)
    assert before and all(exchange.is_open for exchange in before)
    SelectAlgorithmsPass().apply(make_context(), module)
    module.verify()
    after = exchanges(module)
    assert not any(exchange.is_open for exchange in after)
    assert [e.collective for e in after] == [e.collective for e in before]
    SelectAlgorithmsPass(choose="random").apply(make_context(), module)
    assert exchanges(module) == after, "what is named stays"


def test_random_algorithms_are_those_that_fit_and_follow_the_seed() -> None:
    found: set[str] = set()
    for seed in range(12):
        module, again = program(), program()
        for each in (module, again):
            SelectAlgorithmsPass(choose="random", seed=seed).apply(make_context(), each)
        module.verify()
        assert exchanges(module) == exchanges(again)
        found |= {str(exchange.algorithm) for exchange in exchanges(module)}
    two = [
        f"#dist.two_level<inner = 8{more}>" for more in ("", *(f", direct = {d}" for d in ("inside", "across", "both")))
    ]
    assert found == {"#dist.flat_ring", "#dist.direct", "#dist.one_shot", *two}


def test_sizes_must_be_known() -> None:
    with pytest.raises(PassError, match=r"^select-algorithms: dist.all_reduce at 'embed': .*run bind-symbols before"):
        SelectAlgorithmsPass().apply(make_context(), program(bound=False))


def test_another_way_to_choose_is_refused() -> None:
    with pytest.raises(PassError, match="choose is 'worst', must be best or random"):
        SelectAlgorithmsPass(choose="worst")
