"""Steps at granularity silicon against measured points of serving engines: `python benchmarks/silicon_steps.py`.

The points are those of `silicon_sample.csv` in the data of `pmc[silicon]`: mean time per output token (TPOT) at a fixed
number of requests in flight.  No parameter was fitted or chosen on them.  Points count that one program describes: the
engine serves prefill and decode on the same GPUs (`agg`), no pipeline stages, and tables of that engine on that system.

In flight are `batch` requests, of which each is prefilled once in `osl` steps while the others wait.  So with the step
t(isl + osl / 2) and the prefill p of one prompt, a token takes t + (batch - 1) p / osl in the mean.  Where the second
part is less than a tenth by the model itself, the point is *static*: it needs neither a queue nor that formula.

Engines are those of the tables, mostly newer than those of the points.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import process_time

import numpy as np

from pmc.backends.silicon.library import Library
from pmc.compiler.config import load_chip, load_deployment, load_system, load_topology
from pmc.compiler.driver import compile_model, load_model
from pmc.compiler.evaluation import EvaluationOptions
from pmc.compiler.silicon import Measurements
from pmc.dialects.errors import PmcError

STATIC = 0.1
"""The part of a token that the prefills of others may take at most."""

CONFIGS = {
    "deepseek-ai/DeepSeek-R1": "deepseek-ai--DeepSeek-R1",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai--DeepSeek-R1",
    "meta-llama/Llama-3.1-70B": "meta-llama--Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama--Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama--Meta-Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen--Qwen3-32B",
    "zhipuai/GLM-5": "zai-org--GLM-5",
}
"""Files of models that are not called like the model."""

MIXED = ("openai/gpt-oss-120b",)
"""Models of which there is one checkpoint, with types of its own."""

TYPES: Mapping[str, dict[str, object]] = {
    "": {},
    "fp8": {"quantization.weights": "fp8", "quantization.activations": "fp8", "quantization.kv_cache": "fp8"},
    "fp8_block": {"quantization.weights": "fp8-block", "quantization.activations": "fp8"},
    "nvfp4": {"quantization.weights": "nvfp4", "quantization.activations": "fp4", "quantization.kv_cache": "fp8"},
    "int4_wo": {"quantization.weights": "int4-g128"},
}
"""What the points call their products, as fields of a deployment; routers and heads stay as they are."""


def points(root: Path, most: int) -> Iterable[dict[str, str]]:
    """Points that one program describes, `most` of them by a hash of their name."""
    with (root / "silicon_sample.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["mode"] == "agg" and r["pp_size"] == "1" and r["silicon_tpot_ms"]]
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())[:most]


def estimate(row: Mapping[str, str], root: Path) -> tuple[float, float]:
    """Milliseconds of a decode step halfway through the output, and of the prefill of one prompt."""
    model_name = CONFIGS.get(row["model_path"], row["model_path"].replace("/", "--"))
    config = root.parent / "model_configs" / f"{model_name}_config.json"
    system = load_system(row["system"])
    chip, topology = load_chip(system.chip), load_topology(system.topology)
    tp, dp = int(row["tp_size"]), int(row["attention_dp_size"] or 1) or 1
    moe_tp, ep = int(row["moe_tp_size"] or 1) or 1, int(row["moe_ep_size"] or 1) or 1
    ranks = tp if tp >= dp and dp > 1 else tp * dp
    tp = ranks // dp
    model = load_model(config)
    experts = "expert" in config.read_text(encoding="utf-8")
    isl, osl, batch = int(row["isl"]), int(row["osl"]), int(row["batch_size"])
    common: dict[str, object] = {"tp": tp, "dp": dp, **TYPES[row["gemm_quant_mode"]]}
    if row["model_path"] in MIXED:
        common |= {"quantization.weights": "checkpoint", "quantization.activations": "checkpoint"}
    elif "quantization.weights" in common:
        latent = ["*.mla.*"] if "DeepSeek" in model_name and row["gemm_quant_mode"] == "nvfp4" else []
        common["quantization.keep"] = [*latent, *(["*router*"] if experts else []), "lm_head.*"]
    if experts:
        common |= {"moe_tp": moe_tp, "ep": ep}
    times: list[float] = []
    for phase, lengths in (
        ("decode", {"batch": batch, "q_len": 1, "kv_len": isl + osl // 2}),
        ("prefill", {"batch": dp, "q_len": isl, "kv_len": isl}),
    ):
        deployment = load_deployment(f"{phase}-moe" if experts else phase, {**common, **lengths})
        program = compile_model(model.clone(), chip, topology, deployment, "dist")
        measurements = Measurements(system.tables, row["backend"], mode="hybrid")
        found = EvaluationOptions("silicon", measurements=measurements).evaluator(program).step()
        times.append(found.total_us / 1e3)
    return times[0], times[1]


def main() -> None:
    """Print the errors by model and engine, and why other points are left out."""
    parser = argparse.ArgumentParser(
        description="Steps at granularity silicon against measured points of serving engines."
    )
    parser.add_argument("--points", type=int, default=60, help="how many, drawn by a hash of their names")
    parser.add_argument("--each", action="store_true", help="print every point")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    root = Library.installed().root
    started, refused, found = (
        process_time(),
        Counter[str](),
        defaultdict[tuple[str, str], list[tuple[float, ...]]](list),
    )
    for row in sorted(points(root, arguments.points), key=lambda r: (r["system"], r["backend"], r["model_path"])):
        try:
            step_ms, prefill_ms = estimate(row, root)
        except PmcError as error:
            refused[f"{row['model_path']} on {row['system']} {row['backend']}: {str(error)[:150]}"] += 1
            continue
        measured, batch, osl = float(row["silicon_tpot_ms"]), int(row["batch_size"]), int(row["osl"])
        others = (batch - 1) * prefill_ms / osl
        is_static = others < STATIC * (step_ms + others)
        errors = (step_ms / measured - 1, (step_ms + others) / measured - 1, float(is_static))
        found[row["model_path"], row["backend"]].append(errors)
        if arguments.each:
            print(row["id"], f"measured {measured:.2f} step {step_ms:.2f} with prefills {step_ms + others:.2f} ms")
    header = (
        "model",
        "engine",
        "points",
        "static",
        "static: median error",
        "bias",
        "all, with prefills: median error",
        "bias",
    )
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    groups = {f"{model} | {engine}": rows for (model, engine), rows in sorted(found.items())}
    everything = [errors for rows in found.values() for errors in rows]
    for name, group in {**groups, "all | all": everything}.items():
        errors = np.array(group)
        static = errors[errors[:, 2] == 1, 0]
        told = f"{np.median(abs(static)):.1%} | {np.median(static):+.1%}" if len(static) else "- | -"
        with_prefills = f"{np.median(abs(errors[:, 1])):.1%} | {np.median(errors[:, 1]):+.1%}"
        print(f"| {name} | {len(group)} | {len(static)} | {told} | {with_prefills} |")
    for reason, count in refused.most_common():
        print(f"left out {count}: {reason}")
    print(f"{process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
