"""A service reads back as it was printed, and a wrong one is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest

from pmc.compiler.driver import parse_module
from pmc.compiler.module_text import module_text
from pmc.dialects.errors import PmcError
from pmc.dialects.serve import service_of
from pmc.dialects.traffic import Traffic, parse_lengths

TRAFFIC = (
    "{rate = 2.5, concurrency = none, input_length = {uniform = [10, 90]}, "
    "output_length = {histogram = [{tokens = 4, weight = 1.0}, {tokens = 8, weight = 3.0}]}, prefix_share = 0.25}"
)
SCHEDULER = '{policy = "mixed", largest_batch = 8, token_budget = 64, headroom = 0.1, kv_block_tokens = 16}'


def program(phase: str, named: str | None = None) -> str:
    return f"""
    builtin.module @{named or phase} {{
      layer.program() {{sym_name = "m", phase = "{phase}"}} at "m" {{
      ^bb0(%0: !layer.tensor<[batch*q_len], i32>):
        layer.return([%0]) at "m"
      }}
    }}"""


def service(*programs: str, traffic: str = TRAFFIC, scheduler: str = SCHEDULER) -> str:
    attributes = f"traffic = #serve.traffic<{traffic}>, scheduler = #serve.scheduler<{scheduler}>"
    return f'serve.service() {{{attributes}}} at "m" {{{"".join(programs)}\n}}'


GOOD = service(program("prefill"), program("decode"))


@pytest.mark.parametrize("generic", [False, True])
def test_a_service_reads_back(generic: bool) -> None:
    module = parse_module(GOOD, "given")
    text = module_text(module, generic)
    again = parse_module(text, "again")
    assert module_text(again, generic) == text
    assert again.is_structurally_equivalent(module)
    found = service_of(again)
    assert found.traffic.data.rate == 2.5
    assert found.scheduler.data.token_budget == 64
    assert found.program("decode").sym_name is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (service(program("prefill")), "module 'decode' is missing"),
        (service(program("prefill"), program("prefill")), "module 'prefill' stands there twice"),
        (service(program("prefill"), program("prefill", "decode")), "'decode' holds a program of phase prefill"),
        (service(program("prefill"), program("decode", "draft")), "named prefill and decode, found 'draft'"),
        (service(program("prefill"), "\nbuiltin.module @decode {}"), "module 'decode' holds 0 programs, must hold one"),
        (service(program("prefill"), GOOD), "holds modules with a program each, found serve.service"),
        (
            service(
                program("prefill"), program("decode").replace("@decode {", '@decode attributes {arch.chip = "x"} {')
            ),
            "prefill and decode have another arch.chip: they run on the same chips",
        ),
        (GOOD.replace("concurrency = none", "concurrency = 4"), "traffic has a rate or a concurrency, found both"),
        (GOOD.replace("rate = 2.5", "rate = none"), "traffic has a rate or a concurrency, found neither"),
        (GOOD.replace("token_budget = 64", "token_budget = 7"), "token_budget must be at least largest_batch"),
        (GOOD.replace("prefix_share = 0.25", "prefix_share = 1.0"), "prefix_share"),
        (GOOD.replace("[10, 90]", "[90, 10]"), "90 is more than 10"),
        (GOOD.replace("tokens = 4,", "tokens = 9,"), "the lengths of a histogram ascend"),
    ],
)
def test_a_wrong_service_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(PmcError) as error:
        parse_module(text, "given")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "mean", "longest"),
    [
        ("100", 100.0, 100),
        ("uniform:10-30", 20.0, 30),
        ("uniform:1-100001", 50001.0, 100001),  # in parts, whose middles have the same mean
        ("histogram:8=3,4=1", 7.0, 8),
        # exp(sigma**2 / 2) times the median, where the end does not matter
        ("lognormal:1000,0.5,1000000", 1000 * np.exp(0.125), 1000000),
    ],
)
def test_lengths_are_sampled_as_their_masses_say(text: str, mean: float, longest: int) -> None:
    lengths = parse_lengths(text, "--isl")
    assert lengths.mean == pytest.approx(mean, rel=2e-3)
    assert lengths.longest == longest
    drawn = lengths.sample(np.random.default_rng(1), 40_000)
    assert drawn.max() <= longest and drawn.min() >= 1
    assert drawn.mean() == pytest.approx(mean, rel=0.015)


@pytest.mark.parametrize(
    "text", ["", "0", "ten", "uniform:5", "uniform:9-3", "lognormal:10,0.5", "zipf:3", "histogram:3"]
)
def test_lengths_in_no_known_form_are_refused(text: str) -> None:
    with pytest.raises(PmcError, match="--isl: expected TOKENS, uniform"):
        parse_lengths(text, "--isl")


def test_what_is_in_the_cache_is_not_prefilled_but_for_a_token() -> None:
    fields = {"rate": 1.0, "concurrency": None, "prefix_share": 0.75}
    lengths = {"input_length": parse_lengths("100", "isl"), "output_length": parse_lengths("10", "osl")}
    traffic = Traffic.model_validate({**fields, **lengths})
    assert traffic.new_tokens(np.asarray([1, 2, 100])).tolist() == [1, 1, 25]
    assert traffic.longest_context == 109
