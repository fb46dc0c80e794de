"""The Python API as a user of notebooks meets it, and its guide, block by block."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pmc

GUIDE = Path(__file__).parents[2] / "docs" / "python-api.md"
TARGET = ("sg2262", "p1-r1-b1-c8", "llama-8b-decode")
MODEL = "llama-3.1-8b"


def test_issue9_11_every_block_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)


def test_issue9_11_the_guide_names_the_functions() -> None:
    text = GUIDE.read_text()
    for name in pmc.__all__:
        assert f"`{name}`" in text or f"`pmc.{name}`" in text, name


def test_hands_on_13_no_function_changes_its_arguments() -> None:
    model = pmc.load_model(MODEL)
    before = str(model)
    first = pmc.evaluate(model, *TARGET)
    assert pmc.evaluate(model, *TARGET) == first
    dump = pmc.compile(model, *TARGET, emit="layer")
    lowered = str(dump)
    pmc.evaluate(model, *TARGET, isl=16, osl=4)
    pmc.sweep(model, *TARGET, axes={"deployment.tp": [1, 2]})
    assert pmc.compile(dump, emit="tile").level == "tile"
    assert pmc.evaluate(dump, granularity="core", calibration="assumed-losses", accounting="ds-tpu").total_us > 0
    assert str(model) == before and str(dump) == lowered


def test_hands_on_13_names_stand_for_presets() -> None:
    loaded = pmc.load_chip("sg2262"), pmc.load_topology("p1-r1-b1-c8"), pmc.load_deployment("llama-8b-decode")
    accounting = pmc.load_accounting("physical")
    assert pmc.evaluate(MODEL, *TARGET) == pmc.evaluate(pmc.load_model(MODEL).op, *loaded, accounting=accounting)


wrong: Any = pmc
"""For arguments that a type checker refuses too."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wrong.evaluate(MODEL, "sg2262"), "missing topology, deployment"),
        (lambda: wrong.evaluate(MODEL, 5, *TARGET[1:]), "expected a chip, or the name of a preset or a file"),
        (lambda: wrong.evaluate(5), "expected a model, or the name of a preset or a file, found int"),
        (lambda: wrong.evaluate(MODEL, *TARGET, isl=5), "a request needs both lengths: osl is missing"),
        (lambda: wrong.evaluate(MODEL, *TARGET, micro_batches=2), "micro_batches is about requests"),
        (lambda: wrong.evaluate(MODEL, *TARGET, bindings={"batch": 1}), "bindings replace symbols of a dump"),
        (lambda: wrong.evaluate(MODEL, *TARGET, granularity="chips"), "unknown granularity 'chips'"),
        (lambda: wrong.evaluate(MODEL, *TARGET, overrides={"chip.coers": 1}), "did you mean 'chip.cores'?"),
        (lambda: wrong.evaluate(MODEL, *TARGET, overrides={"cores": 1}), "expected PART.FIELD, as chip.cores"),
        (lambda: wrong.compile(MODEL, *TARGET, emit="dst"), "found 'dst'; did you mean 'dist'?"),
        (lambda: wrong.compile(pmc.compile(MODEL, *TARGET), *TARGET), "holds its own target"),
        (lambda: wrong.evaluate(pmc.compile(MODEL, *TARGET), isl=1, osl=1), "is a dump of one phase"),
        (lambda: wrong.sweep(MODEL, *TARGET, axes={}), "nothing varies"),
        (lambda: wrong.sweep(pmc.compile(MODEL, *TARGET), *TARGET, axes={"chip": "sg2262"}), "is a dump of one target"),
        (lambda: wrong.check(pmc.load_model(MODEL), *TARGET), "give the name of a preset or a file, not Module"),
        (lambda: wrong.load_chip("sg2262", {"cores": "x"}), "cores: expected integer > 0"),
        (lambda: wrong.load_chip("sg2262", {"coers": 1}), "did you mean 'cores'?"),
        (lambda: wrong.load_chip("sg2262").model_copy(update={"cores": -5}), "chip: cores: expected integer > 0"),
        (lambda: wrong.load_deployment("llama-8b-decode").model_copy(update={"q_len": 9999}), "must not exceed kv_len"),
    ],
)  # fmt: skip
def test_hands_on_13_a_mistake_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(pmc.PmcError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def results() -> list[Any]:
    step = pmc.evaluate(MODEL, *TARGET)
    request = pmc.evaluate(MODEL, *TARGET, isl=16, osl=4)
    swept = pmc.sweep(MODEL, *TARGET, axes={"deployment.tp": [1, 2, 3]})
    why = pmc.explain(MODEL, *TARGET, granularity="core", faster=None)
    return [
        step,
        step.step.ops,
        why,
        request,
        swept,
        pmc.check(MODEL, "h100-sxm", "nvlink-8", "llama-8b-decode", layers=1),
    ]


def counted(rows: list[object]) -> int:
    return len(rows)


def test_hands_on_13_results_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    for result in results():
        assert len(repr(result)) < 200 and "\n" not in repr(result)
        json.dumps(result.to_dict(), default=str)
        rows = result.to_rows()
        page = result._repr_html_()
        assert page.count("<tr>") == len(rows) + 1 and page.count("<th>") == len(rows[0])
        monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=counted))
        assert result.to_pandas() == len(rows)
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(pmc.PmcError, match="pip install pandas"):
            result.to_pandas()
    for shown in (pmc.load_model(MODEL), pmc.load_chip("sg2262"), pmc.load_deployment("llama-8b-decode")):
        assert len(repr(shown)) < 400
