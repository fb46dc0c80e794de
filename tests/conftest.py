"""Options and fixtures of all tests."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same commit gives the same verdict in CI; elsewhere every run looks at new examples.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Text is compared at full width, whatever the terminal that the tests are started from.
os.environ.pop("COLUMNS", None)

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("model/level.mlir", text)`: the text must be that of the file, or becomes it with --update-golden."""
    update = bool(request.config.getoption("--update-golden"))

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        assert path.exists(), f"{name} is missing; write it with pytest --update-golden and read it"
        expected = path.read_text()
        if text != expected:
            diff = difflib.unified_diff(expected.splitlines(), text.splitlines(), name, "now", lineterm="", n=1)
            pytest.fail("\n".join([*list(diff)[:40], "if this is right: pytest --update-golden"]), pytrace=False)

    return check
