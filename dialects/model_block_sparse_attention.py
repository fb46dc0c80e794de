"""The attention block of MiniMax-M3 in the `model` dialect: every key head is read in the blocks that it selects."""

from __future__ import annotations

from typing import ClassVar

from xdsl.dialects.builtin import IntegerAttr
from xdsl.irdl import irdl_op_definition, prop_def

from pmc.dialects.model_attention import GroupedAttentionOp
from pmc.dialects.model_block import CacheSpec, WeightSpec


@irdl_op_definition
class BlockSparseAttentionOp(GroupedAttentionOp):
    """Grouped-query attention to blocks of keys (MiniMaxM3VLAttention of transformers).

    An indexer has one query head of `index_head_dim` columns for every key head, and one key that all of them share.
    The score of a block of `index_block_size` keys is the largest product of the index query with those of its keys
    that the query sees.  A key head is read in the `index_topk_blocks` blocks with the largest scores; the block of the
    query and the ones before it, `index_local_blocks` in all, are among them whatever their scores are.

    Index queries and keys are normalised and rotated as those of attention are, the rotation in as many columns.
    """

    name = "model.block_sparse_attention"
    POSITIVE: ClassVar[tuple[str, ...]] = (
        *GroupedAttentionOp.POSITIVE,
        "index_head_dim",
        "index_block_size",
        "index_topk_blocks",
        "index_local_blocks",
    )
    index_head_dim = prop_def(IntegerAttr)
    index_block_size = prop_def(IntegerAttr)
    index_topk_blocks = prop_def(IntegerAttr)
    index_local_blocks = prop_def(IntegerAttr)

    def verify_(self) -> None:
        """Keys are limited by blocks only; the heads of the indexer are normalised and rotated."""
        super().verify_()
        for name in ("window", "chunk", "score_soft_cap", "alibi", "sinks"):
            self.require(name not in self.properties, f"attention to selected blocks has no {name}")
        self.require(self.qk_norm is not None and self.qk_norm.data == "head", "qk_norm must be 'head'")
        self.require(self.rope_theta is not None, "the indexer rotates its queries and keys, so rope_theta must be set")
        width, block, top, local = self.index_sizes
        rotary = self.rotated_columns
        self.require(rotary <= width, f"index_head_dim {width} is less than the {rotary} columns that are rotated")
        self.require(block > 1, f"index_block_size is {block}, must be at least 2")
        self.require(local <= top, f"index_local_blocks {local} is more than index_topk_blocks {top}")

    @property
    def index_sizes(self) -> tuple[int, int, int, int]:
        """Columns of an index head, keys of a block, blocks that are selected, and those that always are."""
        return (
            self.index_head_dim.value.data,
            self.index_block_size.value.data,
            self.index_topk_blocks.value.data,
            self.index_local_blocks.value.data,
        )

    def weights(self) -> list[WeightSpec]:
        """Those of grouped-query attention, then the projections of the indexer with their norms."""
        width = self.index_head_dim.value.data
        return [
            *super().weights(),
            WeightSpec("indexer.q_proj.weight", (self.width, self.kv_heads * width), ("", "kv_heads")),
            WeightSpec("indexer.k_proj.weight", (self.width, width), ("", "")),
            WeightSpec("indexer.q_norm.weight", (width,), ("",)),
            WeightSpec("indexer.k_norm.weight", (width,), ("",)),
        ]

    def caches(self) -> list[CacheSpec]:
        """Keys and values, and the rotated index key that all heads share."""
        return [*super().caches(), CacheSpec("indexer.k_cache", self.index_head_dim.value.data, "", "index_key")]
