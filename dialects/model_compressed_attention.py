"""The attention block of DeepSeek-V4 in the `model` dialect: a window of tokens, and entries that stand for many."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import FloatAttr, IntegerAttr
from xdsl.irdl import irdl_op_definition, opt_prop_def, prop_def

from pmc.dialects.model_attention import AttentionBlockOp
from pmc.dialects.model_block import CacheSpec, WeightSpec


@irdl_op_definition
class CompressedAttentionOp(AttentionBlockOp):
    """Attention over the last `window` tokens and over compressed entries (DeepSeek-V4 report, section 2.3).

    One head of `head_dim` columns is key and value of all query heads.  The last `qk_rope_head_dim` columns of a head
    are rotated, in pairs (2j, 2j+1); those of the result are rotated back at the position of the query.  Every head has
    a sink.  The output projection takes each of `o_groups` groups of heads to `o_lora_rank` columns, then all of these.

    With a `compress_ratio` a compressor pools every so many tokens into one entry, which all later queries see: heavily
    compressed attention (HCA).  With the fields of an indexer too (CSA) a token goes into two entries, its own and the
    next, and a query attends to the `index_topk` entries with the largest scores; the indexer has a compressor of its
    own for its keys.
    """

    name = "model.compressed_attention"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        "num_attention_heads",
        "q_lora_rank",
        "head_dim",
        "qk_rope_head_dim",
        "window",
        "o_groups",
        "o_lora_rank",
        "index_n_heads",
        "index_head_dim",
        "index_topk",
    )
    q_lora_rank = prop_def(IntegerAttr)
    head_dim = prop_def(IntegerAttr)
    qk_rope_head_dim = prop_def(IntegerAttr)
    window = prop_def(IntegerAttr)
    """The tokens that a query sees as they are, its own included."""
    o_groups = prop_def(IntegerAttr)
    o_lora_rank = prop_def(IntegerAttr)
    norm_eps = prop_def(FloatAttr)
    """The epsilon of all norms of the block."""
    compress_ratio = opt_prop_def(IntegerAttr)
    """The tokens of an entry; absent = no entries."""
    index_n_heads = opt_prop_def(IntegerAttr)
    index_head_dim = opt_prop_def(IntegerAttr)
    index_topk = opt_prop_def(IntegerAttr)

    def verify_(self) -> None:
        """Pairs of columns are rotated; groups divide the heads; an indexer selects among entries."""
        super().verify_()
        self.require_same_type()
        self.require(self.rope_theta is not None, "the key that all heads share is rotated, so rope_theta must be set")
        rope, d, groups = (v.value.data for v in (self.qk_rope_head_dim, self.head_dim, self.o_groups))
        self.require(rope % 2 == 0, f"qk_rope_head_dim {rope} is odd")
        self.require(rope < d, f"qk_rope_head_dim {rope} must be less than head_dim {d}")
        self.require(self.heads % groups == 0, f"{groups} o_groups do not divide {self.heads} heads")
        indexer = (self.index_n_heads, self.index_head_dim, self.index_topk)
        self.require(len({field is None for field in indexer}) == 1, "the three fields of an indexer need each other")
        if self.compress_ratio is None:
            self.require(not self.has_indexer, "an indexer selects among entries, so compress_ratio must be set")
        else:
            ratio = self.compress_ratio.value.data
            self.require(ratio > 1, f"compress_ratio is {ratio}, must be at least 2")
        if self.has_indexer:
            width = self.index_dims[1]
            self.require(rope < width, f"index_head_dim {width} must be more than the rotated qk_rope_head_dim {rope}")

    @property
    def rotated_columns(self) -> int:
        return self.qk_rope_head_dim.value.data

    @property
    def has_indexer(self) -> bool:
        """Whether a query attends to the entries that an indexer selects, and entries overlap."""
        return self.index_topk is not None

    @property
    def index_dims(self) -> tuple[int, int]:
        """The heads of the indexer, and their width."""
        assert self.index_n_heads is not None and self.index_head_dim is not None, "verified"
        return self.index_n_heads.value.data, self.index_head_dim.value.data

    @property
    def compressors(self) -> dict[str, int]:
        """The compressors by the name of their parameters, and the width of their entries."""
        if self.compress_ratio is None:
            return {}
        found = {"compressor": self.head_dim.value.data}
        return {**found, "indexer": self.index_dims[1]} if self.has_indexer else found

    @property
    def series(self) -> int:
        """Into how many entries a token goes."""
        return 2 if self.has_indexer else 1

    def weights(self) -> list[WeightSpec]:
        """Queries by a latent, the one key and value, compressors and the indexer, the two output projections."""
        hidden, heads, d = self.width, self.heads, self.head_dim.value.data
        q_rank, groups, o_rank = (v.value.data for v in (self.q_lora_rank, self.o_groups, self.o_lora_rank))
        found = [
            WeightSpec("q_a_proj.weight", (hidden, q_rank), ("", "")),
            WeightSpec("q_a_norm.weight", (q_rank,), ("",)),
            WeightSpec("q_b_proj.weight", (q_rank, heads * d), ("", "heads")),
            WeightSpec("kv_proj.weight", (hidden, d), ("", "")),
            WeightSpec("kv_norm.weight", (d,), ("",)),
        ]
        for name, width in self.compressors.items():
            assert self.compress_ratio is not None, "it has compressors"
            columns = self.series * width
            found += [
                WeightSpec(f"{name}.kv_proj.weight", (hidden, columns), ("", "")),
                WeightSpec(f"{name}.gate_proj.weight", (hidden, columns), ("", "")),
                WeightSpec(f"{name}.position_bias", (self.compress_ratio.value.data, columns), ("", ""), role="bias"),
                WeightSpec(f"{name}.kv_norm.weight", (width,), ("",)),
            ]
        if self.has_indexer:
            index_heads, index_d = self.index_dims
            found += [
                WeightSpec("indexer.q_b_proj.weight", (q_rank, index_heads * index_d), ("", "index_heads")),
                WeightSpec("indexer.weights_proj.weight", (hidden, index_heads), ("", "index_heads")),
            ]
        return [
            *found,
            WeightSpec("sinks", (heads,), ("heads",), role="bias"),
            WeightSpec("o_a_proj.weight", (heads // groups * d, groups * o_rank), ("", "heads")),
            WeightSpec("o_b_proj.weight", (groups * o_rank, hidden), ("heads", "")),
        ]

    def caches(self) -> list[CacheSpec]:
        """The rotated keys of the window; of every compressor its entries, and the tokens of those that are open."""
        found = [CacheSpec("kv_cache", self.head_dim.value.data, "", "latent", self.window.value.data)]
        for name, width in self.compressors.items():
            assert self.compress_ratio is not None, "it has compressors"
            ratio, columns = self.compress_ratio.value.data, self.series * width
            role = "index_key" if name == "indexer" else "latent"
            found += [
                CacheSpec(f"{name}.{part}_cache", columns, "", "open_entry", self.series * ratio)
                for part in ("open_kv", "open_gate")
            ]
            found.append(CacheSpec(f"{name}.entry_cache", width, "", role, ratio=ratio))
        return found
