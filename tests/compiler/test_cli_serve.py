"""`pmc serve` and `pmc.serve`: the same figures, also from a dump; what is wrong is one line."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import pmc
from pmc.compiler.api import serve
from pmc.compiler.cli.serve import DEFAULTS
from pmc.compiler.main import main

TARGET = ("--chip", "h100-sxm", "--topology", "nvlink-8", "--deployment", "llama-8b-decode")
TRAFFIC = ("--rate", "8", "--isl", "uniform:500-1500", "--osl", "40")
TRACE = "arrival_s,input_tokens,output_tokens\n0.0,1000,20\n0.05,500,1\n0.5,2000,10\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["serve", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_figures_of_a_service_are_those_of_its_dump(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dump = str(tmp_path / "service.mlir")
    few = ("--requests", "300", "--format", "json")
    code, out, _ = run(capsys, "llama-3.1-8b", *TARGET, *TRAFFIC, *few, "--dump", dump)
    assert code == 0
    found = json.loads(out)
    again = json.loads(run(capsys, dump, *few)[1])
    assert again == found
    from_python = pmc.serve(
        "llama-3.1-8b", "h100-sxm", "nvlink-8", "llama-8b-decode", rate=8.0, isl="uniform:500-1500", osl=40,
        requests=300,
    )  # fmt: skip
    assert json.loads(from_python.to_json()) == found
    assert found["ttft"]["p50_us"] <= found["ttft"]["p90_us"] <= found["ttft"]["p99_us"]
    # Little's law, over the means of the same requests.
    there = found["running"] + found["queue"]
    assert there == pytest.approx(found["requests_per_s"] * found["e2e"]["mean_us"] / 1e6, rel=1e-9)
    text = run(capsys, dump, "--engine", "closed-form")[1]
    assert "closed form" in text and "p99" not in text and "load" in text
    for arguments, said in (
        ((dump, "--rate", "3"), "--rate cannot be changed"),
        ((dump, "--chip", "sg2262"), "--chip cannot be changed"),
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and said in err
    assert main(["evaluate", dump]) == 2
    assert f"holds a service of two programs: pmc serve {dump}" in capsys.readouterr().err


def test_a_trace_is_replayed_request_by_request(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)
    found = json.loads(run(capsys, "llama-3.1-8b", *TARGET, "--trace", str(trace), "--format", "json")[1])
    assert found["simulated_requests"] == 3
    assert found["largest_requests_per_s"] is None and found["load"] is None
    # 31 tokens from the first arrival to the last end, which is that of the last request.
    assert found["tokens_per_s"] == pytest.approx(31 / 3 * found["requests_per_s"])
    assert found["traffic"]["rate"] == pytest.approx(2 / 0.5)
    # The other ways to say what arrives, and the closed form, do not go with a trace.
    for more, said in (
        (("--rate", "3"), "leave out rate"),
        (("--engine", "closed-form"), "replayed by the engine events"),
    ):
        code, _, err = run(capsys, "llama-3.1-8b", *TARGET, "--trace", str(trace), *more)
        assert code == 2 and said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": the trace is empty"),
        ("arrival_s,input_tokens,output_tokens\n", ": the trace is empty"),
        ("0.0,10,10\n1.0,10\n", ":2: expected 3 fields (arrival_s, input_tokens, output_tokens), found 2"),
        ("0.0,10,ten\n", ":1: expected a time in seconds and two counts of tokens, found '0.0,10,ten'"),
        ("0.0,10,10\n\n2.0,10,10\n1.0,10,10\n", ":4: arrival_s is 1, less than 2 in the line before: must ascend"),
        ("0.0,0,10\n", ":1: input_tokens is 0, must be at least 1"),
        ("nan,5,10\n", ":1: arrival_s is nan, must be a time in seconds, 0 or more"),
    ],
)
def test_a_wrong_trace_is_an_error_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    code, out, err = run(capsys, "llama-3.1-8b", *TARGET, "--trace", str(trace))
    assert (code, out) == (2, "")
    assert f"{trace}{said}" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("--rate", "100", "--isl", "1000", "--osl", "200"),
            2,
            "overload: 100 requests/s arrive, the largest sustainable",
        ),
        (("--rate", "1", "--isl", "1000"), 2, "missing osl"),
        (("--isl", "1000", "--osl", "10"), 2, "a rate (requests per second) or a concurrency (users), found neither"),
        ((*TRAFFIC, "--concurrency", "3"), 2, "found both"),
        ((*TRAFFIC, "--token-budget", "3"), 2, "token_budget must be at least largest_batch"),
        ((*TRAFFIC, "--policy", "fair"), 2, "policy"),
        ((*TRAFFIC, "--engine", "guess"), 2, "unknown engine 'guess'; must be one of closed-form, events"),
        ((*TRAFFIC, "--seed", "-1"), 2, "seed is -1, must be at least 0"),
        ((*TRAFFIC, "--requests", "0"), 2, "requests is 0, must be at least 1"),
        ((*TRAFFIC, "--batch", "3"), 2, "--batch does not go with pmc serve: --largest-batch says it"),
        ((*TRAFFIC, "--headroom", "0.95"), 1, "not a single request: does not fit"),
        (
            ("--rate", "1", "--isl", "200000", "--osl", "10"),
            2,
            "more than the 131072 tokens that the model is made for",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = run(capsys, "llama-3.1-8b", *TARGET, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_the_defaults_of_python_are_those_of_the_command_line() -> None:
    parameters = inspect.signature(serve).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == dict(DEFAULTS)


def test_the_example_of_the_guide_prints_what_the_guide_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers agree to a percent: other versions of numpy may draw other arrivals."""
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (command,) = re.findall(r"```sh\npmc serve (.*?)\n```", text, re.DOTALL)
    shown = text.split("```sh")[1].split("```\n\n```\n")[1].split("```")[0].splitlines()
    code, out, _ = run(capsys, *command.split())
    printed = out.splitlines()
    assert code == 0 and len(shown) > 8
    assert [re.sub(r"[\d.]+ *", "#", line) for line in shown] == [
        re.sub(r"[\d.]+ *", "#", line) for line in printed[: len(shown)]
    ]
    for expected, found in zip(shown, printed, strict=False):
        numbers = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", line)] for line in (expected, found)]
        assert numbers[1] == pytest.approx(numbers[0], rel=0.01)
