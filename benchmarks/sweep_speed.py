"""How fast `pmc sweep` is: layouts of DeepSeek-V3 on up to 128 SG2262 at the granularity chip.

    python benchmarks/sweep_speed.py

Prints the CPU seconds of the process.  A layout is one way to share the model: tp, dp, ep, moe_tp, pp and sp.  Of all
combinations those that the model cannot have are refused, and not counted; those that do not fit the DRAM are.
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


def main() -> None:
    """Measure and print."""
    topology = pmc.load_topology("p1-r1-b4-c32", {"boards_per_rack": 32})
    model, deployment = pmc.load_model("deepseek-v3"), pmc.load_deployment("dsv3-decode-ep32")
    start = process_time()
    result = pmc.sweep(model, "sg2262", topology, deployment, axes=AXES)
    seconds = process_time() - start
    layouts = len(result) - result.count("infeasible")
    print(f"{layouts} layouts of {len(result)} combinations: {seconds:.2f} s of CPU, {layouts / seconds:.0f} a second")


if __name__ == "__main__":
    main()
