"""How fast and how large the compiler is: DeepSeek-V3 to commands for 32 SG2262 (tp1, dp32, ep32, FP8).

    python benchmarks/compile_speed.py [--repeats N]

Prints one row per requirement with what was measured.  Times are the smallest of the repeats, in seconds of the
processor, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any

DECODE, PREFILL = "dsv3-decode-ep32", "dsv3-prefill-ep32"
ROW = "{:52} {:>10} {:>10}  {}"


def process_seconds(model: str, chip: str, deployment: str, out: Path) -> float:
    """Processor seconds of one whole process of `pmc compile --emit=commands`.

    Bytecode is found and written beside `out`: the first process is for that.
    """
    target = ["--chip", chip, "--topology", "p1-r1-b4-c32", "--deployment", deployment]
    command = [sys.executable, "-m", "pmc.compiler", "compile", model, *target]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(out.parent / "bytecode")}
    subprocess.run([*command, "--emit", "commands", "-o", str(out)], check=True, env={**os.environ, **bytecode})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def process_memory_mb() -> float:
    """The largest resident size of any process that was waited for."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def in_process(model_layers: int | None, deployment_name: str, **changes: int) -> tuple[float, int]:
    """Seconds of import and compilation to commands, and the ops of the largest stage on the way.

    `changes` are fields of the deployment.
    """
    from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
    from pmc.compiler.driver import Observer, compile_model
    from pmc.compiler.frontend import import_hf

    class Sizes(Observer):
        largest = 0

        def after(self, step: int, name: str, module: Any) -> None:
            self.largest = max(self.largest, sum(1 for _ in module.walk()))

    config, source = load_model_config("deepseek-v3")
    if model_layers is not None:
        config["num_hidden_layers"] = model_layers
    with tempfile.TemporaryDirectory() as name:
        chip = load_chip(roomy_chip(Path(name)))
    target = chip, load_topology("p1-r1-b4-c32"), load_deployment(deployment_name, changes)
    sizes = Sizes()
    compile_model(import_hf(config, source, "deepseek-v3"), *target, "commands", observers=[sizes])
    gc.collect()
    start = process_time()
    compile_model(import_hf(config, source, "deepseek-v3"), *target, "commands")
    return process_time() - start, sizes.largest


def best(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """The smallest of several measurements of each.

    They take turns: what slows this process down as it ages would otherwise look like a property of the last one.
    """
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def deeper_config(folder: Path, layers: int) -> Path:
    """A config.json of DeepSeek-V3 with another number of layers."""
    from pmc.compiler.config import load_model_config

    config: Mapping[str, Any] = {**load_model_config("deepseek-v3")[0], "num_hidden_layers": layers}
    path = folder / f"layers{layers}.json"
    path.write_text(json.dumps(config))
    return path


def roomy_chip(folder: Path) -> Path:
    """The SG2262 with DRAM for 610 layers."""
    from pmc.compiler.config import load_chip

    data = load_chip("sg2262").model_dump()
    data["dram"]["capacity_gib"] = 1024.0
    path = folder / "roomy.yaml"
    path.write_text(json.dumps(data))  # JSON is YAML
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats: int = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out.mlir"
        chip = roomy_chip(folder)
        process_seconds("deepseek-v3", str(chip), DECODE, out)
        memory = process_memory_mb()
        deep = deeper_config(folder, 610)
        whole, deep_seconds = best(
            repeats,
            *(lambda model=m: process_seconds(model, str(chip), DECODE, out) for m in ("deepseek-v3", str(deep))),
        )
    decode, layers, prefill, short_ring, long_ring = best(
        repeats,
        lambda: in_process(None, DECODE)[0],
        lambda: in_process(610, DECODE)[0],
        lambda: in_process(None, PREFILL)[0],
        lambda: in_process(None, PREFILL, cp=2, dp=16)[0],
        lambda: in_process(None, PREFILL, cp=32, dp=1)[0],
    )
    ops = max(in_process(None, DECODE)[1], in_process(None, PREFILL)[1])
    rows = [
        ("whole process, decode to commands (s)", whole, 6.0, whole < 6.0),
        ("in-process, decode to commands (s)", decode, 2.5, decode < 2.5),
        ("resident memory of the process (MB)", memory, 300.0, memory < 300.0),
        ("ops of the largest stage", ops, 10_000, ops < 10_000),
        ("610 layers / 61 layers, in-process", layers / decode, 1.1, layers <= 1.1 * decode),
        ("610 layers / 61 layers, whole process", deep_seconds / whole, 1.1, deep_seconds <= 1.1 * whole),
        ("prefill of 4096 tokens / decode, in-process", prefill / decode, 2.0, prefill <= 2.0 * decode),
        ("ring of 32 ranks / of 2 ranks, in-process", long_ring / short_ring, 1.1, long_ring <= 1.1 * short_ring),
    ]
    print(ROW.format("DeepSeek-V3 on 32 x sg2262, --emit=commands", "measured", "limit", "reached"))
    for label, measured, limit, reached in rows:
        print(ROW.format(label, f"{measured:.2f}", f"{limit:g}", "yes" if reached else "NO"))


if __name__ == "__main__":
    main()
