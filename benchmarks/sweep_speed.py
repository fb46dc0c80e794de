"""How fast `pmc sweep` is: layouts of DeepSeek-V3 on up to 128 SG2262, and a million points of one program of Llama.

    python benchmarks/sweep_speed.py

Prints the CPU seconds of the process.  A layout is one way to share the model: tp, dp, ep, moe_tp, pp and sp.  Of all
combinations those that the model cannot have are refused, and not counted; those that do not fit the DRAM are.  The
million points are all of 1000 batches and 1000 lengths of the cache.  Both are at the granularity chip.
"""

from __future__ import annotations

from time import process_time

import pmc

AXES = {
    "deployment.tp": "1,2,4,8",
    "deployment.dp": "2..16:x2",
    "deployment.ep": "2..64:x2",
    "deployment.moe_tp": "1,2,4",
    "deployment.pp": "1,2",
    "deployment.sp": "false,true",
}


POINTS = {"deployment.batch": "1..1000", "deployment.kv_len": "1..1000"}


def main() -> None:
    """Measure and print."""
    one_program()
    layouts()


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


def layouts() -> None:
    """Layouts, each of which is another program."""
    topology = pmc.load_topology("p1-r1-b4-c32", {"boards_per_rack": 32})
    model, deployment = pmc.load_model("deepseek-v3"), pmc.load_deployment("dsv3-decode-ep32")
    start = process_time()
    result = pmc.sweep(model, "sg2262", topology, deployment, axes=AXES)
    seconds = process_time() - start
    count = len(result) - result.count("infeasible")
    print(f"{count} layouts of {len(result)} combinations: {seconds:.2f} s of CPU, {count / seconds:.0f} a second")


if __name__ == "__main__":
    main()
