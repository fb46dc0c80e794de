"""What the columns of every table kind mean: the one place that says coordinates, categories, units and lanes.

A table has one row per measurement.  Its key are the coordinates (numbers) and the categories (words); the names are
those of the files of aiconfigurator (`<kind>_perf.parquet`, `<kind>_perf.txt`), so that such files load as they are.

- A *lane* column says which kernel was measured where the engine has a choice.  Lanes are no part of the key.
- *Provenance* columns say what was running; they are no part of the key either.
- `power` (W, the mean over a measurement) may be there or not; `power_limit` (W) is read by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pmc.dialects.errors import PmcError
from pmc.dialects.schema import did_you_mean

PROVENANCE = ("framework", "version", "device", "op_name", "kernel_source")
"""Text.  `kernel_source` is a lane and `op_name` a constant, unless a kind says that they are categories."""

POWER, POWER_LIMIT = "power", "power_limit"
"""Watts."""

LATENCY_UNIT = "ms"


@dataclass(frozen=True)
class Coordinate:
    """A number of the key of a table."""

    name: str
    unit: str
    """What is counted."""
    default: float | None = None
    """The value where a file has no such column; None where it must have it."""


@dataclass(frozen=True)
class TableKind:
    """The columns of one kind of table."""

    name: str
    """The file is `<name>_perf.parquet` or `<name>_perf.txt`."""
    coordinates: tuple[Coordinate, ...]
    categories: tuple[str, ...]
    lanes: tuple[str, ...] = ("kernel_source",)
    """Columns that tell kernels apart between which the engine chooses."""
    latency: str = "latency"
    """The column with the time in ms."""
    category_defaults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Words for categories that some files leave out."""
    unread: tuple[str, ...] = ()
    """Known columns that are neither key nor result: parts of the latency, sizes that follow from the key."""

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(c.name for c in self.coordinates)

    @property
    def known(self) -> tuple[str, ...]:
        """Every column that a file may have."""
        own = (*self.axes, *self.categories, *self.lanes, *self.unread)
        return tuple(dict.fromkeys((*own, self.latency, POWER, POWER_LIMIT, *PROVENANCE)))

    @property
    def required(self) -> tuple[str, ...]:
        """Every column that a file must have."""
        axes = [c.name for c in self.coordinates if c.default is None]
        return (*axes, *(c for c in self.categories if c not in self.category_defaults), self.latency)

    def unit_of(self, column: str) -> str | None:
        """The unit of a column, None for text."""
        if column == self.latency:
            return LATENCY_UNIT
        if column in (POWER, POWER_LIMIT):
            return "W"
        return next((c.unit for c in self.coordinates if c.name == column), None)


def _axes(text: str) -> tuple[Coordinate, ...]:
    """Coordinates from `name: unit` or `name=default: unit`, separated by commas."""
    axes: list[Coordinate] = []
    for part in text.split(","):
        name, _, unit = (word.strip() for word in part.partition(":"))
        name, _, default = name.partition("=")
        axes.append(Coordinate(name, unit, float(default) if default else None))
    return tuple(axes)


_ATTENTION = (
    "batch_size: sequences, isl: tokens, num_heads: heads, num_key_value_heads: heads, head_dim: elements, "
    "beam_width: beams, step: tokens, window_size=0: tokens"
)
"""Context: `isl` new tokens after a prefix of `step`.  Generation: one new token (`isl`) that attends to `step` older
ones and to itself.  `window_size` 0 is no window."""
_MLA = "num_heads: heads, batch_size: sequences, isl: tokens, step: tokens"
"""`num_heads` are those of a rank; `tp_size` follows from them and the model."""
_MODULE = ("model", "architecture", "mla_dtype", "kv_cache_dtype", "gemm_type")
_MOE = (
    "num_tokens: tokens, hidden_size: elements, inter_size: elements, topk: experts, num_experts: experts, "
    "moe_tp_size: ranks, moe_ep_size: ranks"
)
_DELTA_RULE = (
    "batch_size: sequences, seq_len: tokens, d_model: elements, d_conv: tokens, num_k_heads: heads, "
    "head_k_dim: elements, num_v_heads: heads, head_v_dim: elements"
)
_COMPRESSED = f"{_MLA}, compress_ratio: tokens"


def _module(name: str, axes: str = _MLA, *more: str, unread: tuple[str, ...] = ("tp_size",)) -> TableKind:
    return TableKind(name, _axes(axes), (*_MODULE, *more), unread=unread)


def _wide_ep_mla(name: str) -> TableKind:
    """Files of older engines do not say the model: all of them are of DeepSeek-V3."""
    unsaid = MappingProxyType({word: "" for word in ("model", "architecture", "gemm_type")})
    return TableKind(name, _axes(_MLA), _MODULE, category_defaults=unsaid, unread=("tp_size",))


def _state_space(name: str, axes: str) -> TableKind:
    """One row per kernel of a layer: `kernel_source` says which, so it is a category, and there are no lanes."""
    return TableKind(name, _axes(axes), ("phase", "kernel_source"), lanes=(), unread=("num_tokens", "model_name"))


_KINDS = (
    TableKind("gemm", _axes("m: rows, n: columns, k: elements"), ("gemm_dtype",)),
    TableKind("context_attention", _axes(_ATTENTION), ("attn_dtype", "kv_cache_dtype")),
    TableKind("generation_attention", _axes(_ATTENTION), ("attn_dtype", "kv_cache_dtype")),
    TableKind(
        "encoder_attention",
        _axes("batch_size: sequences, isl: tokens, num_heads: heads, head_dim: elements"),
        ("attn_dtype",),
    ),
    TableKind("context_mla", _axes(_MLA), ("mla_dtype", "kv_cache_dtype"), unread=("tp_size",)),
    TableKind("generation_mla", _axes(_MLA), ("mla_dtype", "kv_cache_dtype"), unread=("tp_size",)),
    TableKind("mla_bmm", _axes("num_tokens: tokens, num_heads: heads"), ("op_name", "bmm_dtype")),
    _module("mla_context_module"),
    _module("mla_generation_module"),
    _module("dsa_context_module"),
    _module("dsa_generation_module"),
    _module("msa_context_module"),
    _module("msa_generation_module"),
    _module("dsv4_csa_context_module", _COMPRESSED),
    _module("dsv4_csa_generation_module", _COMPRESSED),
    _module("dsv4_hca_context_module", _COMPRESSED),
    _module("dsv4_hca_generation_module", _COMPRESSED),
    _module("dsv4_hca_attn_module", _COMPRESSED, unread=("tp_size", "local_num_heads")),
    _module("dsv4_paged_mqa_logits_module", _COMPRESSED, unread=("tp_size", "local_num_heads")),
    _module("dsv4_csa_topk_calib", _COMPRESSED, "score_mode"),
    _module("glm5_topk_module", _COMPRESSED, "score_mode"),
    _module("glm5_mqa_logits_module", _COMPRESSED),
    _module("glm5_dsa_attn_module", _COMPRESSED),
    _wide_ep_mla("wideep_context_mla"),
    _wide_ep_mla("wideep_generation_mla"),
    TableKind("moe", _axes(_MOE), ("moe_dtype", "distribution")),
    TableKind("wideep_context_moe", _axes(_MOE), ("moe_dtype", "distribution")),
    TableKind("wideep_generation_moe", _axes(_MOE), ("moe_dtype", "distribution")),
    TableKind(
        "wideep_moe",
        _axes(f"{_MOE}, dp_num_tokens: tokens, rank0_num_tokens: tokens, num_slots: experts"),
        ("moe_dtype", "moe_kernel", "distribution", "simulation_mode"),
    ),
    TableKind("nccl", _axes("num_gpus: ranks, message_size: elements"), ("op_name", "nccl_dtype")),
    TableKind("oneccl", _axes("num_gpus: ranks, message_size: elements"), ("op_name", "nccl_dtype")),
    TableKind(
        "custom_allreduce",
        _axes("num_gpus: ranks, message_size: elements"),
        ("allreduce_dtype",),
        lanes=("kernel_source", "backend", "implementation"),
    ),
    _state_space(
        "mamba2",
        "batch_size: sequences, seq_len: tokens, d_model: elements, d_state: elements, d_conv: tokens, "
        "nheads: heads, head_dim: elements, n_groups: groups, chunk_size: tokens",
    ),
    _state_space("gdn", _DELTA_RULE),
    _state_space("kda", _DELTA_RULE),
    TableKind(
        "mhc_module",
        _axes(
            "num_tokens: tokens, num_sites: sites, hc_mult: streams, hidden_size: elements, sinkhorn_iters: iterations"
        ),
        ("op_name", "architecture"),
    ),
    TableKind("norm", _axes("num_tokens: tokens, hidden_size: elements"), ("op_name", "element_dtype")),
    TableKind("elementwise", _axes("num_tokens: tokens, hidden_size: elements"), ("op_name", "element_dtype")),
    TableKind("computescale", _axes("m: rows, k: elements"), ("quant_dtype",)),
    TableKind("scale_matrix", _axes("m: rows, k: elements"), ("quant_dtype",)),
    TableKind(
        "wideep_context_mlp",
        _axes("num_token: tokens, hidden_size: elements, intermediate_size: elements"),
        ("quant_type",),
        latency="avg_ms",
    ),
    TableKind(
        "wideep_generation_mlp",
        _axes("num_token: tokens, hidden_size: elements, intermediate_size: elements"),
        ("quant_type",),
        latency="avg_ms",
    ),
    TableKind(
        "trtllm_alltoall",
        _axes("num_tokens: tokens, hidden_size: elements, topk: experts, num_experts: experts, moe_ep_size: ranks"),
        ("op_name", "moe_dtype", "distribution"),
    ),
    TableKind(
        "moe_a2a",
        _axes(
            "ep_size: ranks, node_num: nodes, hidden_size: elements, topk: experts, num_experts: experts, "
            "num_tokens: tokens, sms: processors"
        ),
        ("comm_backend", "phase", "comm_dtype"),
        unread=("transmit_us", "notify_us"),
    ),
)

KINDS: Mapping[str, TableKind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All kinds by name."""


def kind_named(name: str) -> TableKind:
    """The kind of this name.  Raises PmcError, with the nearest name, for others."""
    kind = KINDS.get(name)
    if kind is None:
        raise PmcError(f"no kind of table is called '{name}'{did_you_mean(name, KINDS)}; known: {', '.join(KINDS)}")
    return kind
