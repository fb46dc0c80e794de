"""The house: who imports whom, how long a module may be, what every pass comes with, and words that must not appear."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from pmc.compiler.context import DIALECTS
from pmc.compiler.pipelines import pass_factories, pass_names

ROOT = Path(__file__).parents[1]
PACKAGES = ("compiler", "dialects", "passes", "backends")
MAX_LINES, MAX_DIALECT_LINES = 650, 850
"""A module is about one thing.  A dialect is one file by rule, so its file may be longer."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_imports_run_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    """compiler -> {passes, backends} -> dialects, as pyproject.toml says it to import-linter."""
    config = ROOT / "pyproject.toml"
    contracts = tomllib.loads(config.read_text())["tool"]["importlinter"]["contracts"]
    assert [c["layers"] for c in contracts] == [["pmc.compiler", "pmc.passes | pmc.backends", "pmc.dialects"]]
    code = lint_imports(config_filename=str(config), no_cache=True)
    assert code == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (MAX_DIALECT_LINES if path.parent.name == "dialects" else MAX_LINES)


@pytest.mark.parametrize("name", pass_names())
def test_every_pass_is_a_file_with_a_filecheck_file_and_a_test(name: str) -> None:
    stem = name.replace("-", "_")
    assert (ROOT / "passes" / f"{stem}.py").exists() or (ROOT / "passes" / stem / "__init__.py").exists()
    assert pass_factories()[name]().name == name
    assert (ROOT / "tests" / "filecheck" / "passes" / f"{stem}.mlir").exists()
    assert (ROOT / "tests" / "passes" / f"test_{stem}.py").exists()
    docstring = pass_factories()[name]().__doc__ or ""
    assert len(docstring.strip().splitlines()) >= 1


def test_the_guide_names_every_dialect_pass_and_backend_and_nothing_else() -> None:
    guide = (ROOT / "docs" / "architecture.md").read_text()
    folders = [p.name for p in sorted((ROOT / "backends").iterdir()) if (p / "__init__.py").exists()]
    for name in (*(f"{d}.py" for d in DIALECTS), *folders, *pass_names()):
        assert f"`{name}`" in guide, f"docs/architecture.md does not name {name}"
    for name in re.findall(r"`((?:analyses/)?\w+\.py)`", guide):
        assert (ROOT / "dialects" / name).exists(), f"docs/architecture.md names dialects/{name}"


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.splitlines()]


FORBIDDEN = [
    re.compile(pattern)
    for pattern in (
        r"(?<![\w.])/(work|home|root|Users)/\w",  # paths of a machine
        r"(?i)\btodo\b|\bfixme\b|\bxxx\b",
        r"(?i)\bas an ai\b|language model, i",
        r"[ \t]+$",
    )
]


def test_no_machine_paths_or_leftovers() -> None:
    found: list[str] = []
    for path in tracked():
        if path.suffix not in (".py", ".md", ".yaml", ".toml", ".mlir", ".sh", "") or not path.is_file():
            continue
        if path == Path(__file__) or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for f in FORBIDDEN if f.search(line)]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md", "docs/add-an-op.md", "docs/add-a-model.md"])
def test_links_and_files_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    folder = (ROOT / document).parent
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (folder / link).exists(), f"{document} links to {link}"
    for name in re.findall(r"`((?:compiler|dialects|passes|backends|configs|tests|docs|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{document} names {name}"


def test_no_import_circle_in_dialects() -> None:
    """Neither at the top of a module nor inside a function."""
    modules = {f"pmc.dialects.{'.'.join(p.relative_to(ROOT / 'dialects').with_suffix('').parts)}": p
               for p in sources("dialects")}  # fmt: skip
    imports: dict[str, set[str]] = {}
    for name, path in modules.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
        named = {m for n in nodes for m in (n.module or "", *(f"{n.module}.{a.name}" for a in n.names))}
        imports[name] = named & modules.keys()
    TopologicalSorter(imports).prepare()  # raises CycleError naming the circle
