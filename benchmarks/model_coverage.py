"""Which models are read and how far they compile: every config of a wheel or a folder, as tables in Markdown.

    python benchmarks/model_coverage.py (--wheel WHEEL | --folder FOLDER) [--compile] [--into docs/models.md]

A wheel of aiconfigurator-core (PyPI) holds configs as `model_configs/ORG--NAME_config.json`; in a folder they are
`NAME/config.json`, or files whose names end in `config.json`.  What NVIDIA ModelOpt wrote beside a config belongs to
it.  Parameters stand beside the published figures of `tests/reference/published.py`, and what `tests/reference`
compares with `transformers` is marked.

With `--compile` every model is compiled to commands for sg2262 and to dist for h100-sxm, for the first deployment of
DEPLOYMENTS that it can have; this takes some seconds each.  Times are seconds of the processor, as a ratio to
DeepSeek-V3.  With `--into` the tables replace what stands in a file behind MARK.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any
from zipfile import ZipFile

from pmc.compiler.config import MODELOPT_FILE, ConfigError, load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import architectures, import_hf
from pmc.dialects.deployment import Deployment
from pmc.dialects.errors import PmcError
from pmc.dialects.levels import Level
from pmc.dialects.model import active_parameter_count, parameter_count

MARK = "<!-- From here on: benchmarks/model_coverage.py -->\n"
CONFIG = "config.json"
ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "tests" / "reference"

FP8 = {f"quantization.{name}": "f8E4M3FN" for name in ("weights", "activations", "kv_cache")}
DEPLOYMENTS: Mapping[str, Deployment] = {
    "1 chip": load_deployment("decode"),
    "tp 8": load_deployment("decode", {"tp": 8}),
    "dp 8": load_deployment("decode", {"dp": 8}),
    "ep 8": load_deployment("decode-moe"),
    "tp 8, pp 4": load_deployment("decode", {"tp": 8, "pp": 4}),
    "ep 32, FP8": load_deployment("decode-moe", {"dp": 32, "ep": 32, **FP8}),
}
"""Decode steps of 4096 tokens, the smallest targets first; SG2262 has no rate for FP8 with a wider type."""

Target = tuple[str, str, Level]
"""Chip, topology, and the lowest level that there is for the chip."""

SG2262: Target = ("sg2262", "p1-r1-b4-c32", "commands")
H100: Target = ("h100-sxm", "nvlink-8-ib-4", "dist")


@dataclass(frozen=True)
class Compiled:
    """How far a model comes for one chip."""

    deployment: str | None
    reason: str
    """Why the first deployment is none, where no other is one either."""
    seconds: float


def wheel_configs(wheel: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every config in a wheel."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/model_configs/" in name and name.endswith(".json")]
        yield from _configs({name: json.loads(archive.read(name)) for name in names})


def folder_configs(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every config below a folder."""
    files = folder.rglob("*.json")
    yield from _configs({path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in files})


def _configs(files: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, config in sorted(files.items()):
        if path.endswith(CONFIG) and not path.endswith(MODELOPT_FILE):
            beginning = path.removesuffix(CONFIG)
            beside = files.get(beginning + MODELOPT_FILE)
            name = beginning.rstrip("/_").rpartition("/")[2].replace("--", "/")
            yield name, config if beside is None else {**config, MODELOPT_FILE: beside}


def compiled(name: str, config: Mapping[str, Any], target: Target, deployments: Iterable[str]) -> Compiled:
    """The first of some deployments that the model compiles for, and the time that it took."""
    chip, topology, level = target
    reasons: list[str] = []
    for words in deployments:
        start = process_time()
        try:
            module = import_hf(config, name, "model")
            compile_model(module, load_chip(chip), load_topology(topology), DEPLOYMENTS[words], level)
        except PmcError as error:
            reasons.append(str(error))
            continue
        return Compiled(words, "", process_time() - start)
    return Compiled(None, reasons[0], 0.0)


class Coverage:
    """One row for every config, and what is left out."""

    def __init__(self, compile_too: bool) -> None:
        self.compile = compile_too
        self.published: Mapping[str, Any] = runpy.run_path(str(REFERENCE / "published.py"))["PUBLISHED"]
        sys.path.append(str(ROOT))  # the tiny configs stand in several files
        tiny = runpy.run_path(str(REFERENCE / "configs.py"))["CONFIGS"]
        self.compared = {name for config in tiny.values() for name in config["architectures"]}
        self.rows: list[list[str]] = []
        self.refused: list[list[str]] = []
        self.reached = Counter[str]()
        self.slowest = 0.0
        self.unit = self.baseline() if compile_too else 0.0

    def baseline(self) -> float:
        """Seconds of DeepSeek-V3 to commands, with no plan remembered; another model is for what is loaded."""
        seconds = 0.0
        for name in ("llama-3.1-8b", "deepseek-v3"):
            config, source = load_model_config(name)
            seconds = compiled(source, config, SG2262, DEPLOYMENTS).seconds
        return seconds

    def add(self, name: str, config: Mapping[str, Any]) -> None:
        """Read one config, and compile it."""
        families = config.get("architectures")
        family = str(families[0]) if isinstance(families, list) and families else "none"
        try:
            module = import_hf(config, name, "model")
        except ConfigError as error:
            self.refused.append([name, family, str(error).removeprefix(f"{name}: ")])
            return
        counts = parameter_count(module), active_parameter_count(module)
        published = self.published.get(name)
        figures = ("", "") if published is None else (published.total, published.active or "")
        cells = [name, family]
        for count, figure in zip(counts, figures, strict=True):
            cells.append(f"{count / 1e9:.2f}")
            cells.append(figure)
        if self.compile:
            low = compiled(name, config, SG2262, DEPLOYMENTS)
            # The dist level needs no memory: a GPU gets the deployment that has been found.
            high = compiled(name, config, H100, [low.deployment] if low.deployment else DEPLOYMENTS)
            for found, (chip, _, level) in ((low, SG2262), (high, H100)):
                self.reached[chip] += found.deployment is not None
                cells.append(f"{level} ({found.deployment})" if found.deployment else f"no: {found.reason}")
            cells.append(f"{low.seconds / self.unit:.2f}" if low.deployment else "")
            self.slowest = max(self.slowest, low.seconds / self.unit)
        self.rows.append(cells)

    def text(self) -> Iterator[str]:
        """The tables."""
        known = architectures()
        yield f"## Architectures\n\n{len(known)} are known:\n"
        families = [
            [f"`{name}`", blocks, "yes" if name in self.compared else ""] for name, blocks in sorted(known.items())
        ]
        yield from table(["architecture", "kinds of layers: their blocks", "compared with `transformers`"], families)
        total = len(self.rows) + len(self.refused)
        yield f"\n## Configs\n\n{len(self.rows)} of {total} are accepted. Parameters are in billions.\n"
        if self.compile:
            reached = ", ".join(f"{self.reached[chip]} to {level} for {chip}" for chip, _, level in (SG2262, H100))
            yield (
                f"They compile: {reached}. The slowest takes {self.slowest:.2f} times as long as DeepSeek-V3, "
                f"which takes {self.unit:.1f} s of the processor.\n"
            )
        titles = ["model", "architecture", "parameters", "published", "active", "published"]
        if self.compile:
            titles += [SG2262[0], H100[0], "time"]
        yield from table(titles, self.rows)
        if self.refused:
            yield "\n## Refused\n"
            yield from table(["model", "architecture", "why"], self.refused)


def table(titles: list[str], rows: list[list[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for row in (titles, ["---"] * len(titles), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def main() -> None:
    """Read, compile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheel", type=Path, help="a wheel of aiconfigurator-core")
    source.add_argument("--folder", type=Path, help="a folder with config.json files")
    parser.add_argument("--compile", action="store_true", help="compile them too")
    parser.add_argument("--into", type=Path, help="a file to write the tables into")
    given = parser.parse_args()
    coverage = Coverage(given.compile)
    for name, config in folder_configs(given.folder) if given.wheel is None else wheel_configs(given.wheel):
        coverage.add(name, config)
    text = "".join(f"{line}\n" for line in coverage.text())
    if given.into is None:
        print(text, end="")
        return
    head, mark, _ = given.into.read_text().partition(MARK)
    if not mark:
        parser.error(f"{given.into}: has no line {MARK.strip()}")
    given.into.write_text(f"{head}{mark}\n{text}")


if __name__ == "__main__":
    main()
