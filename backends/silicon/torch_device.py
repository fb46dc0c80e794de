"""Kernels of PyTorch on a CPU or a CUDA device, for `collect`.

A kernel is run until `LEAST_S` have passed, at least `LEAST_RUNS` times, after two runs that do not count; its time is
the median.  On CUDA every run is between two events, and before it a buffer larger than the cache is written, so that
operands come from memory; on a CPU it is the time that passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np

from pmc.backends.silicon.attention import ContextAttention, GenerationAttention
from pmc.backends.silicon.collect import DTYPE
from pmc.backends.silicon.gemm import Gemm
from pmc.backends.silicon.moe import Moe
from pmc.backends.silicon.rows import Elementwise, Norm
from pmc.backends.silicon.system import Gpu, Misc, Node, SystemFile
from pmc.backends.silicon.work import Workload
from pmc.dialects.errors import PmcError

LEAST_S, LEAST_RUNS, MOST_RUNS = 0.02, 5, 100
FLUSHED_BYTES = 256 * 2**20
"""More than the cache of any GPU."""


def require_torch() -> Any:
    """PyTorch.  Raises PmcError, naming how it is installed, where it is missing."""
    try:
        return import_module("torch")
    except ImportError:
        raise PmcError("pmc collect runs kernels with PyTorch: pip install 'pmc[collect]'") from None


class TorchDevice:
    """`cpu` or `cuda`."""

    framework = "torch"
    lane = "torch"

    def __init__(self, kind: str) -> None:
        """Raises PmcError where PyTorch is missing, or has no such device."""
        if kind not in ("cpu", "cuda"):
            raise PmcError(f"device '{kind}': measured are cpu and cuda")
        self.torch = torch = require_torch()
        if kind == "cuda" and not torch.cuda.is_available():
            raise PmcError(f"device cuda: PyTorch {torch.__version__} sees no CUDA device here")
        self.kind = kind
        self.version = str(torch.__version__).partition("+")[0]
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=kind) if kind == "cuda" else None

    def name(self) -> str:
        """Of the device, as the name of a system."""
        text = "cpu" if self.kind == "cpu" else str(self.torch.cuda.get_device_name())
        return "_".join("".join(c if c.isalnum() else " " for c in text.lower()).split())

    def specification(self) -> SystemFile:
        """The rate of a large product and the bandwidth of a large copy, measured; processors and memory as reported.

        The efficiencies of fits are parts of these rates, so they need not be those of a data sheet.
        """
        torch = self.torch
        size = 8192 if self.kind == "cuda" else 1024
        a, b = self._random(size, size), self._random(size, size)
        rate = 2 * size**3 / (self._run(lambda: a @ b) / 1e3)
        elements = 2**29 if self.kind == "cuda" else 2**25
        source = torch.zeros(elements, dtype=torch.bfloat16, device=self.kind)
        target = torch.empty_like(source)
        bandwidth = 2 * 2 * elements / (self._run(lambda: target.copy_(source)) / 1e3)
        if self.kind == "cuda":
            properties = torch.cuda.get_device_properties(0)
            processors, memory = properties.multi_processor_count, properties.total_memory
        else:
            processors, memory = torch.get_num_threads(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        gpu = Gpu(
            mem_bw=float(f"{bandwidth:.4g}"),
            mem_bw_empirical_scaling_factor=1.0,
            mem_empirical_constant_latency=0.0,
            mem_capacity=int(memory),
            bfloat16_tc_flops=float(f"{rate:.4g}"),
            num_sms=int(processors),
        )
        node = Node(num_gpus_per_node=1, p2p_latency=0.0)
        return SystemFile(data_dir="", gpu=gpu, node=node, misc=Misc(nccl_mem={}, other_mem=0))

    def milliseconds(self, workload: Workload) -> float:
        """The median of one run.  Raises PmcError for a workload that has no kernel here."""
        return self._run(self.kernel(workload))

    def kernel(self, workload: Workload) -> Callable[[], Any]:
        """What runs a kernel once, on operands that it has made, and gives its result.  Raises PmcError as above."""
        functional = self.torch.nn.functional
        match workload:
            case Gemm(m=m, n=n, k=k, gemm_dtype=str(dtype)) if dtype == DTYPE:
                a, b = self._random(m, k), self._random(n, k).t()
                return lambda: a @ b
            case ContextAttention(step=0, window_size=0) as w:
                q = self._random(w.batch_size, w.num_heads, w.isl, w.head_dim)
                k, v = (self._random(w.batch_size, w.num_key_value_heads, w.isl, w.head_dim) for _ in range(2))
                return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            case GenerationAttention(isl=1, window_size=0) as w:
                q = self._random(w.batch_size, w.num_heads, 1, w.head_dim)
                k, v = (self._random(w.batch_size, w.num_key_value_heads, w.step + 1, w.head_dim) for _ in range(2))
                return lambda: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            case Moe(moe_tp_size=1, moe_ep_size=1, distribution="balanced") as w:
                return self._experts(w)
            case Norm(op_name=name) as w:
                x, hidden = self._random(w.num_tokens, w.hidden_size), w.hidden_size
                norm = functional.rms_norm if name == "rms_norm" else functional.layer_norm
                return lambda: norm(x, (hidden,))
            case Elementwise(op_name=name) as w:
                x, y = (self._random(w.num_tokens, w.hidden_size) for _ in range(2))
                return (lambda: x + y) if name == "add" else (lambda: functional.silu(x) * y)
            case _:
                raise PmcError(f"{workload}: PyTorch measures no such kernel here")

    def _experts(self, w: Moe) -> Callable[[], Any]:
        """Rows of every expert one after the other, as even as they come: gate and up, SiLU, down."""
        functional, rows = self.torch.nn.functional, w.num_tokens * w.topk
        held = np.bincount(np.arange(rows) % w.num_experts, minlength=w.num_experts).tolist()
        x = self._random(rows, w.hidden_size)
        up = self._random(w.num_experts, w.hidden_size, 2 * w.inter_size)
        down = self._random(w.num_experts, w.inter_size, w.hidden_size)
        parts = list(x.split(held))

        def run() -> list[Any]:
            results: list[Any] = []
            for expert, part in enumerate(parts):
                if len(part):
                    gate, value = (part @ up[expert]).chunk(2, dim=-1)
                    results.append((functional.silu(gate) * value) @ down[expert])
            return results

        return run

    def _random(self, *shape: int) -> Any:
        return self.torch.randn(shape, dtype=self.torch.bfloat16, device=self.kind)

    def _run(self, kernel: Callable[[], object]) -> float:
        with self.torch.inference_mode():
            for _ in range(2):
                kernel()
            times: list[float] = []
            while len(times) < LEAST_RUNS or (sum(times) < 1e3 * LEAST_S and len(times) < MOST_RUNS):
                times.append(self._once(kernel))
        return float(np.median(times))

    def _once(self, kernel: Callable[[], object]) -> float:
        if self._flushed is None:
            start = perf_counter()
            kernel()
            return 1e3 * (perf_counter() - start)
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._flushed.zero_()
        events[0].record()
        kernel()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1]))
