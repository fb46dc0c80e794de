"""Commands do what README and guides say, and tell a mistake from a fault (hands-on 2 and 6, item 13 of issue 9)."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from pmc.compiler.main import main

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("plugins.md",)
"""Guides whose commands need a package that the reader writes."""

GUIDES = ("README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")) if p.name not in ELSEWHERE))

SG = ["--chip", "sg2262", "--topology", "p1-r1-b1-c8", "--deployment", "llama-8b-decode"]
H100 = ["--chip", "h100-sxm", "--topology", "nvlink-8", "--deployment", "llama-8b-decode"]

MIXTRAL: dict[str, object] = {
    # Mixtral-8x7B-v0.1
    "architectures": ["MixtralForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}


# -- a mistake of the user, or a fault of the compiler ----------------------------------------------------------


def mistake(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that finds a mistake."""
    assert main([command, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def mixtral(tmp_path: Path) -> str:
    path = tmp_path / "mixtral.json"
    path.write_text(json.dumps(MIXTRAL))
    return str(path)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--tp", "2", "--dp", "2"],
            "annotate-shardings: dp*cp*tp = 2*1*2 = 4 must equal moe_tp*ep",
        ),
        (
            ["--tp", "3", "--moe-tp", "3"],
            "annotate-shardings: the 32 heads of 'blocks.moe.gqa.attention' are not divisible by tp = 3",
        ),
        (
            ["--dp", "3", "--ep", "3"],
            "annotate-shardings: the expert dim of 'blocks.moe.moe.dispatch' has 8",
        ),
        (["--kv-len", "40000"], "kv_len 40000 is more than the 32768 tokens that the model is made for"),
        (["--tp", "16"], "the deployment needs tp*cp*dp*pp = 16*1*1*1 = 16 chips, topology p1-r1-b1-c8 has 8"),
    ],
)
def test_hands_on_02_check_tells_a_mistake_of_the_user_as_compile_does(
    options: list[str], line: str, mixtral: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = mistake("check", [mixtral, *SG, *options], capsys)
    assert checked.startswith(f"pmc: error: {line}")
    assert checked == mistake("compile", [mixtral, *SG, *options, "--emit", "dist"], capsys)
    assert checked == mistake("run", [mixtral, *SG, *options, "--shrink"], capsys)


def test_hands_on_02_the_shrunk_heads_keep_the_verdict_of_the_32(capsys: pytest.CaptureFixture[str]) -> None:
    line = "pmc: error: annotate-shardings: the 32 heads of 'blocks.dense.gqa.attention' are not divisible by tp = 3\n"
    assert mistake("check", ["llama-3.1-8b", *SG, "--tp", "3"], capsys) == line


def test_hands_on_02_a_chip_without_commands_is_checked_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "llama-3.1-8b", *H100, "--tp", "2"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("every pass keeps the meaning down to the dist level: the chip has no command level\n")
    assert "select-tiles" not in out


# -- running a shipped model ------------------------------------------------------------------------------------


def summary(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main([*arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)["results"]


def test_hands_on_06_run_shrinks_a_shipped_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ["llama-3.1-8b", *SG, "--tp", "2", "--batch", "2", "--kv-len", "9"]
    one_go = summary(["run", *target, "--shrink", "--emit", "dist"], capsys)
    # vocab_size of a small model is 19 * tp; a decode step has the logits of one token of each of the two sequences.
    assert one_go["logits"] == {**one_go["logits"], "shape": [2, 38]}  # type: ignore[dict-item]
    folder = tmp_path / "dumps"
    dumped = [
        "compile",
        *target,
        "--shrink",
        "--emit",
        "commands",
        "--dump-dir",
        str(folder),
        "-o",
        str(tmp_path / "o"),
    ]
    assert main(dumped) == 0
    assert summary(["run", str(folder / "05-localize.mlir")], capsys) == one_go
    commands = next(iter(folder.glob("*-emit-g5.mlir")))
    assert summary(["run", str(commands)], capsys) == summary(["run", *target, "--shrink"], capsys)


def test_hands_on_06_run_says_what_is_wrong_with_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = tmp_path / "model.mlir"
    assert main(["compile", "llama-3.1-8b", *SG, "--emit", "dist", "-o", str(dump)]) == 0
    for arguments, line in (
        ([str(dump)], "the inputs have 16620195840 elements, at most 268435456 are run; --shrink of `pmc run`"),
        ([str(dump), "--shrink", *SG], f"{dump}: the sizes in a dump are fixed; --shrink takes a model"),
        ([str(dump), "--tp", "2"], "--tp: only with --shrink, which compiles; a module runs as it is"),
        (["llama-3.1-8b", "--emit", "dist"], "--emit: only with --shrink"),
        (["llama-3.1-8b", *SG, "--shrink", "--q-len", "100"], "deployment with q_len given: q_len (100) must not"),
    ):
        assert mistake("run", arguments, capsys).startswith(f"pmc: error: {line}")


# -- README and guides ------------------------------------------------------------------------------------------


def blocks(guide: str) -> Iterator[list[str]]:
    """The lines of the code blocks that are shell, or that show commands; a continued line is one."""
    text = (ROOT / guide).read_text()
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        joined = re.sub(r"(\\|&&)\n *", lambda m: "&& " if m[1] == "&&" else " ", body)
        if language == "sh" or (language == "" and re.match(r"(\$ )?pmc ", body)):
            yield joined.splitlines()


def commands(line: str, variables: dict[str, str]) -> Iterator[list[str]]:
    """The calls of pmc in a line of shell, without what stands for the shell: comments, variables, `&&`."""
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    for part in line.removeprefix("$ ").split("&&"):
        words = shlex.split(part, comments=True)
        if words and Path(words[0]).name == "pmc":
            # The number of a pass in a pipeline changes; guides leave it to the shell.
            yield [found for word in words[1:] for found in (sorted(glob(word)) or [word])]


def without_errors(line: str) -> str:
    """A line of output without its numerical errors, which depend on the machine."""
    return re.sub(r"max error .*", "", line).rstrip()


@pytest.mark.parametrize("guide", GUIDES)
def test_issue9_13_every_command_of_readme_and_guides_does_what_is_shown(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text((ROOT / "configs" / "models" / "llama-3.1-8b.json").read_text())
    for lines in blocks(guide):
        variables: dict[str, str] = {}
        printed: list[str] = []
        for line in lines:
            if match := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[match[1]] = match[2]
                continue
            shown = lines[0].startswith("$ ") and not line.startswith("$ ")
            if shown:
                if line.strip() != "..":
                    assert without_errors(line) in printed, f"{guide} shows a line that is not printed: {line}"
                continue
            for arguments in commands(line, variables):
                assert ".." not in arguments, f"{guide}: give the whole command: {line}"
                code = main(arguments)
                captured = capsys.readouterr()
                answers = [shown_line for shown_line in lines if shown_line.startswith("pmc: error:")]
                assert (code, captured.err) == ((2, f"{answers[0]}\n") if answers else (0, "")), f"{guide}: {line}"
                printed = [without_errors(text) for text in (captured.out + captured.err).splitlines()]


def test_issue9_13_the_guides_have_commands() -> None:
    found = {guide: sum(len(list(commands(line, {}))) for lines in blocks(guide) for line in lines) for guide in GUIDES}
    assert found["README.md"] >= 15 and found["docs/evaluate.md"] >= 3 and found["docs/architecture.md"] >= 4
