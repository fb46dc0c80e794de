"""The command simulator: how long whole steps take, and how many commands a second its event loop runs.

    python benchmarks/simulator.py [--kernel-only]

Steps are run by the command line in a process of their own, cold: the CPU time and the memory are those of that
process, imports and compilation included.  The first ever run, which builds the event loop, is measured with an empty
cache folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from time import process_time

import numpy as np
from xdsl.parser import Parser

from pmc.backends.g5 import kernel
from pmc.backends.g5.program import Commands, lower
from pmc.compiler.config import load_chip
from pmc.compiler.context import make_context
from pmc.dialects.g5 import ProgramOp

CHIP, TOPOLOGY = "sg2262", "p1-r1-b4-c32"

STEPS = [
    # what, model, deployment with options, most CPU seconds
    ("DeepSeek-V3 decode, batch 2048, kv 4096", "deepseek-v3", ("dsv3-decode-ep32",), 3.0),
    ("DeepSeek-V3 prefill, 4096 tokens x 32", "deepseek-v3", ("dsv3-prefill-ep32",), 6.0),
    (
        "DeepSeek-V3.2 decode, batch 64, kv 131072",
        "deepseek-v3.2",
        ("dsv32-decode-ep32", "--kv-len", "131072", "--batch", "64"),
        6.0,
    ),
]

TURN = 512 * 64 * 64
"""Bytes after which an address lies at the same place of the same channel again."""


def run_step(
    model: str, deployment: tuple[str, ...], environment: dict[str, str]
) -> tuple[float, float, dict[str, object]]:
    """CPU seconds, MiB and the summary of one run from the command line."""
    target = ["--chip", CHIP, "--topology", TOPOLOGY, "--deployment", *deployment]
    command = [sys.executable, "-m", "pmc", "simulate", model, *target, "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"pmc simulate ended with {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, json.loads(text)


def print_steps() -> None:
    """Whole steps of models."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, _, _ = run_step(STEPS[0][1], STEPS[0][2], {**os.environ, "XDG_CACHE_HOME": folder})
        print(f"first ever run of a decode step, event loop built: {seconds:.2f} s CPU (must be under 15)")
    for what, model, deployment, most in STEPS:
        runs = [run_step(model, deployment, dict(os.environ)) for _ in range(3)]
        seconds, memory, found = min(runs, key=lambda run: run[0])
        spread = ", ".join(f"{run[0]:.2f}" for run in runs)
        print(
            f"{what}: {seconds:.2f} s CPU cold (must be under {most:.0f}; runs {spread}), {memory:.0f} MiB "
            f"(must be under 1024), {found['commands']} commands unrolled, {found['total_us']:.3f} us simulated"
        )


def program(text: str, cores: int) -> ProgramOp:
    """The program with these commands."""
    module = Parser(
        make_context(),
        f"""builtin.module {{ g5.stream() {{sym_name = "s", phase = "decode"}} at "" {{
        g5.program() {{cores = {cores}, op_name = "layer.matmul"}} at "k" {{ {text} g5.barrier() at "k" }} }} }}""",
    ).parse_module()
    (found,) = (op for op in module.walk() if isinstance(op, ProgramOp))
    return found


def tiles(trips: int, walk: str) -> str:
    """A loop of loads, products, conversions and stores with two slots each; `walk` moves the addresses in DRAM."""
    load = "#g5.lmem<mod(i.seq, 2)*65536, pitch 512, f8E4M3FN>"
    sums = "#g5.lmem<mod(i.seq, 2)*131072 + 524288, pitch 128, f32>"
    out = "mod(i.seq, 2)*65536 + 1310720"
    return f"""g5.loop i < <{trips}> at "k" {{
      g5.gdma {{direction = "load", dram = <core*65536 + {walk}>, lmem = <mod(i.seq, 2)*65536>,
        shape = [<128>, <512>], dram_strides = [<7168>, <1>], lmem_strides = [<512>, <1>], element_type = f8E4M3FN}}
        after [tiu-1] at "k"
      g5.tiu {{acc = {sums}, a = {load}, b = #g5.lmem<1048576, pitch 128, f8E4M3FN>, m = <128>, n = <128>, k = <512>,
        accumulate = <0>, transpose_b = false}} after [gdma-0, vec-1] at "k"
      g5.vec {{kind = #tile.convert, ins = [{sums}], outs = [#g5.lmem<{out}, pitch 128, bf16>], updates = [],
        rows = <128>, columns = <128>}} after [tiu-0, gdma-1] at "k"
      g5.gdma {{direction = "store", dram = <core*32768 + {walk} + 68719476736>, lmem = <{out}>,
        shape = [<128>, <128>], dram_strides = [<128>, <1>], lmem_strides = [<128>, <1>], element_type = bf16,
        late = unit}} after [vec-0] at "k"
    }}"""


def rate(commands: Commands, skip: bool) -> float:
    """Commands a second of CPU time, the best of three."""
    times: list[float] = []
    for _ in range(3):
        begin = process_time()
        assert kernel.run(commands, load_chip(CHIP), skip=skip) is not None
        times.append(process_time() - begin)
    return commands.count / min(times)


def print_rates() -> None:
    """Commands a second of the event loop alone, and with the lowering of the program."""
    if not kernel.available():
        print("no C compiler here: programs run in the plain form")
        return
    chip = load_chip(CHIP)
    flat = lower(program(tiles(4000, "i*512"), 64), chip, {}, loops=False)
    print(f"unrolled, 64 cores that share DRAM, {flat.count} commands: {rate(flat, False) / 1e6:.2f} M commands/s")
    one = lower(program(tiles(250_000, "i*512"), 1), chip, {}, loops=False)
    print(f"unrolled, 1 core, {one.count} commands: {rate(one, False) / 1e6:.2f} M commands/s (must be 5)")
    for trips in (10_000, 1_000_000):
        looped = program(tiles(trips, f"mod(i, 8)*{TURN}"), 64)
        begin = process_time()
        commands = lower(looped, chip, {})
        times = kernel.run(commands, chip)
        seconds = process_time() - begin
        assert times is not None
        print(
            f"loop of {trips} iterations, 64 cores, {times.count} commands, {len(times.row)} of them run: "
            f"{seconds * 1e3:.1f} ms with lowering, {times.count / seconds / 1e6:.0f} M command equivalents/s "
            "(must be 100)"
        )
    assert np.all(times.end_ps >= times.start_ps)


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel-only", action="store_true", help="leave out the steps of whole models")
    options = parser.parse_args()
    print_rates()
    if not options.kernel_only:
        print_steps()


if __name__ == "__main__":
    main()
