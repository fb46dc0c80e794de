"""What a short command costs before and after its work: processor seconds of whole processes of `pmc`.

    python benchmarks/cold_start.py [--repeats N]

Prints one row per command: the smallest of the repeats, which take turns.  Limits are for a machine that does nothing
else: what shares its caches makes every process slower.  A first run of each, which writes the bytecode of what it
imports to a folder of its own, is not counted: an installed pmc has that.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile

LLAMA = "llama-3.1-8b --chip sg2262 --topology p1-r1-b1-c8 --deployment llama-8b-decode"
DEEPSEEK = "deepseek-v3 --chip sg2262 --topology p1-r1-b4-c32 --deployment dsv3-decode-ep32"
LIMITS = {
    "--help": 0.2,
    f"evaluate {LLAMA} --granularity chip": 0.8,
    f"evaluate {LLAMA} --granularity tile": 1.0,
    f"evaluate {DEEPSEEK} --granularity chip": 0.8,
    f"evaluate {DEEPSEEK} --granularity tile": 1.0,
    f"compile {DEEPSEEK} --emit commands": 1.4,
}
"""Commands, and the processor seconds that each should take at most."""


def cpu_seconds(command: str, bytecode: str) -> float:
    """User and system time of one process, which finds and writes bytecode in a folder."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "pmc", *command.split()], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats: int = parser.parse_args().repeats
    times: dict[str, list[float]] = {command: [] for command in LIMITS}
    with tempfile.TemporaryDirectory() as bytecode:
        for command in LIMITS:
            cpu_seconds(command, bytecode)
        for _ in range(repeats):
            for command, measured in times.items():
                measured.append(cpu_seconds(command, bytecode))
    print(f"{'pmc ..':108} {'CPU s':>6} {'limit':>6}")
    for command, limit in LIMITS.items():
        print(
            f"{command:108} {min(times[command]):6.2f} {limit:6.1f}  {'yes' if min(times[command]) < limit else 'NO'}"
        )


if __name__ == "__main__":
    main()
