"""`import pmc` gives the Python API, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import pmc


def test_every_name_of_the_api_exists() -> None:
    assert dir(pmc) == pmc.__all__ == sorted(pmc.__all__)
    for name in pmc.__all__:
        found = getattr(pmc, name)
        assert found.__name__ == name or isinstance(found, ModuleType)


def test_the_study_without_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        assert name == "scipy"

    monkeypatch.setattr("pmc.compiler.core_heat.find_spec", none)
    with pytest.raises(pmc.PmcError, match=r"temperatures need SciPy: pip install 'pmc\[thermal\]'"):
        assert pmc.thermal_study


def test_a_name_that_is_not_in_the_api_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pmc' has no attribute 'compute'"):
        pmc.compute  # type: ignore[attr-defined]  # noqa: B018  # pyright: ignore


def test_importing_pmc_loads_no_part_of_it() -> None:
    code = "import sys, pmc; print([m for m in sys.modules if m.startswith(('pmc.', 'xdsl', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in eval(done.stdout) if not name.startswith("pmc.configs")]
    assert loaded == []


def test_the_example_of_the_docstring_runs() -> None:
    found = pmc.evaluate("deepseek-v3", "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32", granularity="core")
    assert found.total_us > 0 and 0 < found.figures.mfu < 1
