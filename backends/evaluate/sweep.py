"""One compiled module at many points (batch, q_len, kv_len) at once, with arrays in place of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from pmc.backends.cost.model import Number, Target
from pmc.backends.evaluate.engine import cost_model, granularity_of, program_of, sites, symbol_values
from pmc.dialects.accounting import accounting_of
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import FloatArray, IntArray


@dataclass(frozen=True)
class SweepResult:
    """Totals of one step at every point; all arrays have the broadcast shape of the bindings."""

    time_us: FloatArray
    compute_us: FloatArray
    memory_us: FloatArray
    comm_us: FloatArray
    flops: FloatArray
    dram_bytes: FloatArray
    link_bytes: FloatArray
    unvalidated: tuple[str, ...]


def sweep_module(
    module: ModuleOp,
    bindings: Mapping[str, int | IntArray],
    granularity: str = "core",
) -> SweepResult:
    """The totals of `evaluate_module` at every point of `bindings`, whose arrays broadcast against each other.

    `granularity` is `chip` or `core`: tiles are searched for one shape at a time.  Ops with equal types, properties and
    operands in common are computed once.  Raises PmcError as `evaluate_module` does, and for the granularity tile.
    """
    looked_at = granularity_of(granularity)
    if looked_at.one_by_one:
        raise PmcError("a sweep needs the granularity chip or core: tiles are searched for one shape at a time")
    values = symbol_values(module, bindings)
    target = Target.of(module)
    model = cost_model(looked_at, target, accounting_of(module, "sweep"))
    shape = np.broadcast_shapes(*(np.shape(v) for v in values.values()))
    counts: dict[object, int] = {}
    first: dict[object, Operation] = {}
    for site in sites(program_of(module)):
        key = _identity(site.op, site.stage)
        counts[key] = counts.get(key, 0) + site.count
        first.setdefault(key, site.op)
    sums = {name: np.zeros(shape) for name in ("time", "compute", "memory", "comm", "flops", "dram", "link")}
    for key, op in first.items():
        cost = model.cost(op, values)
        if cost is None:
            continue
        parts: dict[str, Number] = {
            "time": cost.time_s, "compute": cost.compute_s, "memory": cost.memory_s, "comm": cost.comm_s,
            "flops": cost.flops, "dram": cost.bytes_read + cost.bytes_written, "link": cost.link_bytes,
        }  # fmt: skip
        for name, value in parts.items():
            sums[name] += counts[key] * np.asarray(value)
    return SweepResult(
        sums["time"] * 1e6, sums["compute"] * 1e6, sums["memory"] * 1e6, sums["comm"] * 1e6,
        sums["flops"], sums["dram"], sums["link"], model.unvalidated(),
    )  # fmt: skip


def _identity(op: Operation, stage: int) -> object:
    """What a cost depends on: types, properties, which operands are equal; the stage, for where its ranks sit."""
    operands = list(op.operands)
    properties = tuple(sorted((name, value) for name, value in op.properties.items() if name != "path"))
    return (
        op.name,
        stage,
        tuple(value.type for value in (*operands, *op.results)),
        properties,
        tuple(operands.index(value) for value in operands),
    )
