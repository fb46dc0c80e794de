"""The evaluation engine on the calibration case: DeepSeek-V3 decode, 32 SG2262, dp32 ep32, batch 2048, kv 4096, FP8.

    python benchmarks/calibration.py [--tables-only]

Prints the times of every listed op beside the published target (CHIPMathica / DS_TPU) and its predecessor's run
(Tier6-Model) under both accountings; every difference between the accountings, option by option; and how fast the
engine is.  `docs/accuracy.md` explains the tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from time import perf_counter

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from pmc.backends.cost.model import Target
from pmc.backends.cost.tile import TileCostModel
from pmc.backends.evaluate import EngineResult, sweep_module
from pmc.backends.evaluate.attribution import Attribution, attribute_difference
from pmc.backends.evaluate.engine import program_of, sites, symbol_values
from pmc.compiler.config import load_accounting, load_chip, load_deployment, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.dialects.layer import MatrixOp

CHIP, TOPOLOGY, DECODE, PREFILL = "sg2262", "p1-r1-b4-c32", "dsv3-decode-ep32", "dsv3-prefill-ep32"

OPS: list[tuple[str, str, float | None, float]] = [
    # label, path, target (us), predecessor (us)
    ("q_a", "blocks.moe.mla.q_a_proj", None, 2.063),
    ("q_b", "blocks.moe.mla.q_b_proj", None, 7.097),
    ("kv_a", "blocks.moe.mla.kv_a_proj", None, 1.201),
    ("k_absorb", "blocks.moe.mla.k_absorb", None, 2.345),
    ("attention", "blocks.moe.mla.attention", 112.4, 112.52),
    ("v_absorb", "blocks.moe.mla.v_absorb", None, 2.345),
    ("o_proj", "blocks.moe.mla.o_proj", None, 22.24),
    ("dense gate or up", "blocks.dense.ffn.gate_proj", None, 25.74),
    ("router", "blocks.moe.moe.router", None, 0.544),
    ("shared gate or up", "blocks.moe.moe.shared.gate_proj", None, 2.747),
    ("shared down", "blocks.moe.moe.shared.down_proj", None, 2.755),
    ("dispatch", "blocks.moe.moe.dispatch", 11.36, 11.325),
    ("expert gate or up", "blocks.moe.moe.experts.gate_proj", None, 22.87),
    ("expert down", "blocks.moe.moe.experts.down_proj", None, 22.92),
    ("combine", "blocks.moe.moe.combine", 19.99, 19.91),
    ("LM head", "lm_head.proj", None, 174.35),
]
TOTAL_US, COMM_US, PREDECESSOR_US, PREDECESSOR_COMM_US = 15743.0, 1818.0, 15849.0, 1812.0


def print_ops(ds_tpu: EngineResult, physical: EngineResult) -> None:
    """One row per op of section "per op", times of one execution in us."""
    print("| op (us) | target | Tier6-Model | ds-tpu | to target | to Tier6-Model | physical |")
    print("|---|---|---|---|---|---|---|")
    times = [{s.path: s.time_us / s.count for s in result.steps} for result in (ds_tpu, physical)]
    for label, path, target, before in OPS:
        print_row(label, target, before, times[0][path], times[1][path])
    comm = [sum(s.comm_us for s in result.steps) for result in (ds_tpu, physical)]
    print_row("communication, whole step", COMM_US, PREDECESSOR_COMM_US, *comm)
    print_row("total, whole step", TOTAL_US, PREDECESSOR_US, ds_tpu.total_us, physical.total_us)


def print_row(label: str, target: float | None, before: float, ours: float, physical: float) -> None:
    """One row of the table."""
    reference = f"{target:g} | {before:g}" if target is not None else f"- | {before:g}"
    error = f"{ours / target - 1:+.2%}" if target is not None else "-"
    print(f"| {label} | {reference} | {ours:.3f} | {error} | {ours / before - 1:+.2%} | {physical:.3f} |")


def print_differences(found: Attribution) -> None:
    """One row per option: its effect on the total when it alone is switched, and the ops it changes most."""
    print("| option | ds-tpu | physical | total (us) | largest changes of one execution (us) |")
    print("|---|---|---|---|---|")
    print(f"| total under ds-tpu | | | {found.base.total_us:.1f} | |")
    for effect in found.effects:
        largest = sorted(effect.ops_us.items(), key=lambda item: -abs(item[1]))
        moe = [(path.removeprefix("blocks.moe."), us) for path, us in largest if not path.startswith("blocks.dense.")]
        shown = ", ".join(f"{path} {us:+.3f}" for path, us in moe[:3])
        print(f"| {effect.option} | {effect.base} | {effect.other} | {effect.total_us:+.1f} | {shown} |")
    print(f"| options that act on the same op | | | {found.together_us:+.1f} | |")
    print(f"| total under physical | | | {found.other.total_us:.1f} | |")


def cli_seconds(deployment: str) -> float:
    """One cold process of `pmc evaluate --granularity tile`."""
    target = ["--chip", CHIP, "--topology", TOPOLOGY, "--deployment", deployment, "--granularity", "tile"]
    start = perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pmc.compiler", "evaluate", "deepseek-v3", *target, "--format", "csv"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return perf_counter() - start


def search_seconds(module: ModuleOp) -> float:
    """Finding the tiles of every op that has any, each shape once, before anything is cached."""
    model = TileCostModel(Target.of(module), load_accounting("physical"))
    values = symbol_values(module, {})
    ops = [site.op for site in sites(program_of(module)) if isinstance(site.op, MatrixOp)]
    start = perf_counter()
    for op in ops:
        model.cost(op, values)
    return perf_counter() - start


def print_speed() -> None:
    """The requirements on time."""
    target = (load_chip(CHIP), load_topology(TOPOLOGY))
    module = compile_model(load_model("deepseek-v3"), *target, load_deployment(DECODE), "dist")
    search = search_seconds(module)
    rng = np.random.default_rng(0)
    points = 200_000
    batch, kv_len = rng.integers(1, 8192, points), rng.integers(1, 65536, points)
    rates: list[float] = []
    for _ in range(2):  # the first run also draws the expected expert loads, which are then kept
        start = perf_counter()
        sweep_module(module, {"batch": batch, "kv_len": kv_len}, "core")
        rates.append(points / (perf_counter() - start))
    rows = [
        ("decode from the command line, cold (s)", cli_seconds(DECODE), 3.0, True),
        ("prefill of 32 x 4096 tokens, cold (s)", cli_seconds(PREFILL), 4.0, True),
        ("search of all shapes of the decode case (s)", search, 0.5, True),
        ("points (batch, kv_len) a second, granularity core, first sweep", rates[0], 50_000.0, False),
        ("points (batch, kv_len) a second, granularity core, next sweep", rates[1], 50_000.0, False),
    ]
    print("| speed | measured | limit | reached |")
    print("|---|---|---|---|")
    for label, measured, limit, at_most in rows:
        reached = measured <= limit if at_most else measured >= limit
        print(f"| {label} | {measured:.3g} | {limit:g} | {'yes' if reached else 'NO'} |")


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables-only", action="store_true", help="leave out the measurements of time")
    tables_only: bool = parser.parse_args().tables_only
    target = (load_chip(CHIP), load_topology(TOPOLOGY), load_deployment(DECODE))
    module = compile_model(load_model("deepseek-v3"), *target, "dist")
    if not tables_only:
        print_speed()
        print()
    found = attribute_difference(module, load_accounting("ds-tpu"), load_accounting("physical"))
    print_ops(found.base, found.other)
    print()
    print_differences(found)


if __name__ == "__main__":
    main()
