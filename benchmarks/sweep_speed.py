"""How fast `pmc sweep` is: layouts of DeepSeek-V3 on SG2262, and a million points of one program of Llama.

    python benchmarks/sweep_speed.py

Prints the CPU seconds of the process.  A layout is one way to share the model: tp, dp, ep, moe_tp, pp, sp and what the
LM head is split by.  Of all combinations many are none, because attention and experts must share the ranks of a stage,
and sp needs tp: these are refused, in rows of their own.  The others are legal, whether they fit the DRAM or not.  The
million points are all of 1000 batches and 1000 lengths of the cache.  All are at the granularity chip.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import process_time

import pmc

FEW = {
    "deployment.tp": "1,2,4,8",
    "deployment.dp": "2..16:x2",
    "deployment.ep": "2..64:x2",
    "deployment.moe_tp": "1,2,4",
    "deployment.pp": "1,2",
    "deployment.sp": "false,true",
}
"""154 legal layouts."""

MANY = {
    "deployment.tp": "1,2,4,8",
    "deployment.dp": "1..64:x2",
    "deployment.ep": "1..64:x2",
    "deployment.moe_tp": "1,2,4,8",
    "deployment.pp": "1,2,4,8",
    "deployment.sp": "false,true",
    "deployment.lm_head": "tp,stage",
}
"""More than a thousand."""

POINTS = {"deployment.batch": "1..1000", "deployment.kv_len": "1..1000"}


def main() -> None:
    """Measure and print."""
    one_program()
    layouts(FEW, 32)
    layouts(MANY, 128)


def one_program() -> None:
    """A million points that differ in batch and length only, and their CSV."""
    model, deployment = pmc.load_model("llama-3.1-8b"), pmc.load_deployment("llama-8b-decode")
    start = process_time()
    result = pmc.sweep(model, "sg2262", "p1-r1-b1-c8", deployment, axes=POINTS)
    found = process_time()
    size = len(result.to_csv())
    written = process_time()
    print(
        f"{len(result)} points of one program: {found - start:.2f} s of CPU; "
        f"CSV of {size / 1e6:.0f} MB: {written - found:.2f} s"
    )


def layouts(axes: Mapping[str, str], boards: int) -> None:
    """Layouts, each of which is another program, on so many boards of 8 chips."""
    topology = pmc.load_topology("p1-r1-b4-c32", {"boards_per_rack": boards})
    model, deployment = pmc.load_model("deepseek-v3"), pmc.load_deployment("dsv3-decode-ep32")
    start = process_time()
    result = pmc.sweep(model, "sg2262", topology, deployment, axes=axes)
    seconds = process_time() - start
    legal = len(result) - result.count("infeasible")
    print(
        f"{len(result)} combinations, of which {legal} legal layouts: {seconds:.2f} s of CPU, "
        f"{len(result) / seconds:.0f} combinations and {legal / seconds:.0f} layouts a second"
    )


if __name__ == "__main__":
    main()
