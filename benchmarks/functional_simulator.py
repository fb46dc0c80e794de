"""How fast the levels execute: `pmc check` on 8 ranks, and the commands that the functional simulator runs a second.

    python benchmarks/functional_simulator.py [--repeats N]

The model is DeepSeek-V3 shrunk to 4 layers (MLA and MoE), tp2 dp4 ep8.  Rates count every command of every core and
rank, with the check of all waits on; times are the smallest of the repeats.
"""

from __future__ import annotations

import argparse
from time import perf_counter

from pmc.backends.numeric.model import seeded_model_environment
from pmc.backends.numeric.rank_programs import stream_inputs
from pmc.backends.numeric.streams import run_stream
from pmc.compiler.check import FP32, check_small
from pmc.compiler.config import load_chip, load_deployment, load_model_config, load_topology
from pmc.compiler.driver import compile_model
from pmc.compiler.frontend import import_hf
from pmc.compiler.shrink import shrink_chip, shrink_deployment, shrink_model

ROW = "{:58} {:>10} {:>10}  {}"
CHECK_LIMIT_S, RATE_LIMIT = 60.0, 50_000


def commands_per_second(phase: str, batch: int, kv_len: int, repeats: int) -> float:
    """The rate of one step of all 8 ranks."""
    changes = {"phase": phase, "tp": 2, "dp": 4, "ep": 8}
    wanted = load_deployment("dsv3-decode-ep32", changes)
    q_len = kv_len if phase == "prefill" else 1
    small = shrink_deployment(wanted, quantization=FP32, batch=batch, q_len=q_len, kv_len=kv_len)
    config, source = load_model_config("deepseek-v3")
    module = shrink_model(import_hf(config, source, "small"), small, 4)
    bindings = {"batch": small.batch, "q_len": small.q_len, "kv_len": small.kv_len}
    environment = seeded_model_environment(module, bindings, 0)
    chip = shrink_chip(load_chip("sg2262"))
    compile_model(module, chip, load_topology("p1-r1-b4-c32"), small, "commands")
    stream, arrays, lmem_bytes, mesh = stream_inputs(module, environment)
    rates: list[float] = []
    for _ in range(repeats):
        start = perf_counter()
        result = run_stream(stream, arrays, lmem_bytes, mesh)
        rates.append(result.commands / (perf_counter() - start))
    return max(rates)


def check_seconds() -> float:
    """The whole check: prefill, decode and a sequence, after every pass."""
    config, source = load_model_config("deepseek-v3")
    deployment = load_deployment("dsv3-decode-ep32", {"tp": 2, "dp": 4, "ep": 8})
    start = perf_counter()
    results = check_small(config, source, load_chip("sg2262"), load_topology("p1-r1-b4-c32"), deployment)
    assert all(result.passed for result in results)
    return perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats: int = parser.parse_args().repeats
    print(ROW.format("4-layer MLA + MoE on 8 ranks", "measured", "limit", "reached"))
    seconds = min(check_seconds() for _ in range(repeats))
    reached = "yes" if seconds < CHECK_LIMIT_S else "NO"
    print(ROW.format("pmc check, all levels, both phases (s)", f"{seconds:.1f}", CHECK_LIMIT_S, reached))
    for phase, batch, kv_len in (("prefill", 5, 5), ("prefill", 16, 24), ("decode", 5, 11), ("decode", 64, 100)):
        rate = commands_per_second(phase, batch, kv_len, repeats)
        label = f"commands/s, {phase} of batch {batch}, kv_len {kv_len}"
        print(ROW.format(label, f"{rate:.0f}", RATE_LIMIT, "yes" if rate >= RATE_LIMIT else "NO"))


if __name__ == "__main__":
    main()
