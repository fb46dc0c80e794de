"""Attention blocks of the `model` dialect: grouped-query attention, latent attention, sparse latent attention."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, cast

from xdsl.dialects.builtin import BoolAttr, DictionaryAttr, FloatAttr, IntegerAttr, IntegerType, StringAttr, i1, i32
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_result_def,
    prop_def,
    result_def,
)
from xdsl.utils.hints import isa

from pmc.dialects.effects import UPDATES, Effects
from pmc.dialects.expr import Expr, expr, min_of
from pmc.dialects.model_block import BlockOp, CacheSpec, WeightSpec
from pmc.dialects.rope_scaling import is_longrope, wrong_longrope
from pmc.dialects.tensor import TensorType, tensor

LATENT_NORM_EPS = 1e-6
"""Epsilon of MLA's latent norms: the default of DeepseekV3RMSNorm, which no field of the config sets."""

QK_NORMS = ("head", "row", "rotated")
"""What a norm of queries and keys covers."""


class AttentionBlockOp(BlockOp):
    """What all attention blocks have: query heads, rotary embedding, a cache that they extend."""

    EFFECTS: ClassVar[Effects] = UPDATES
    num_attention_heads = prop_def(IntegerAttr)
    rope_theta = opt_prop_def(FloatAttr)
    """The base of the rotary embedding; absent = none (NoPE)."""
    rope_scaling = opt_prop_def(DictionaryAttr)
    """The Hugging Face `rope_scaling` with its type under `rope_type`, such as `yarn`, `llama3` or `longrope`."""

    def verify_(self) -> None:
        """Rotations turn the slower the further right a pair stands; what stretches them is positive."""
        super().verify_()
        if self.rope_theta is None:
            self.require(self.rope_scaling is None, "rope_scaling without rope_theta")
        else:
            theta = self.rope_theta.value.data
            self.require(1 < theta < math.inf, f"rope_theta is {theta}, must be a number greater than 1")
        for name, value in () if self.rope_scaling is None else self.rope_scaling.data.items():
            is_number = isinstance(value, FloatAttr) or (isa(value, IntegerAttr[IntegerType]) and value.type != i1)
            if is_number:
                number = cast(FloatAttr, value).value.data
                allowed = 0 < number < math.inf or (number == 0 and name.startswith("mscale"))
                self.require(allowed, f"'{name}' of rope_scaling is {number}, must be a number greater than 0")
        if self.rope_scaling is not None and is_longrope(self.rope_scaling):
            wrong = wrong_longrope(self.rope_scaling, self.rotated_columns)
            self.require(wrong is None, wrong or "")

    @property
    @abstractmethod
    def rotated_columns(self) -> int:
        """The columns of a head that are rotated."""

    @property
    def heads(self) -> int:
        """The number of query heads."""
        return self.num_attention_heads.value.data


class GroupedAttentionOp(AttentionBlockOp):
    """What attention with key heads has that query heads share, whichever keys a query sees."""

    POSITIVE: ClassVar[tuple[str, ...]] = (
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rotary_dim",
        "v_head_dim",
        "window",
        "chunk",
        "temperature_floor",
    )
    num_key_value_heads = prop_def(IntegerAttr)
    head_dim = prop_def(IntegerAttr)
    rotary_dim = opt_prop_def(IntegerAttr)
    """The first columns of a head, which are rotated; absent = all."""
    rope_interleave = opt_prop_def(BoolAttr)
    """Whether columns (2j, 2j+1) are the pairs that are rotated (Llama 4), not (j, j + half)."""
    v_head_dim = opt_prop_def(IntegerAttr)
    """The columns of a value head; absent = head_dim."""
    value_scale = opt_prop_def(FloatAttr)
    """The factor of the values (MiMo-V2)."""
    keys_as_values = opt_prop_def(BoolAttr)
    """Whether the values are the projected keys, before norm and rotation (Gemma 4)."""
    value_norm_eps = opt_prop_def(FloatAttr)
    """The epsilon of the RMSNorm of every value head, which has no gain (Gemma 4); absent = none."""
    qk_norm = opt_prop_def(StringAttr)
    """The RMSNorm of queries and keys before the rotary embedding: of every `head` (Qwen3) or of the `row` of all heads
    (OLMo 2, MiniMax-M2); or behind it, of every head and without a gain (`rotated`, Llama 4); absent = none."""
    qk_norm_eps = opt_prop_def(FloatAttr)
    qk_norm_zero_centered = opt_prop_def(BoolAttr)
    """Whether the gain of that norm is 1 + weight."""
    qkv_bias = opt_prop_def(BoolAttr)
    o_bias = opt_prop_def(BoolAttr)
    output_gate = opt_prop_def(BoolAttr)
    """Whether what is attended to is multiplied by sigmoid(x W) before the output projection (Qwen3-Next)."""
    window = opt_prop_def(IntegerAttr)
    """The keys that a query sees, its own included; absent = all before it."""
    chunk = opt_prop_def(IntegerAttr)
    """A query sees the keys from the last multiple of this position on (Llama 4); absent = all before it."""
    temperature_floor = opt_prop_def(IntegerAttr)
    temperature_scale = opt_prop_def(FloatAttr)
    """Queries at position p are multiplied by 1 + scale * log(1 + floor((p + 1) / temperature_floor)) (Llama 4)."""
    head_gate = opt_prop_def(BoolAttr)
    """Whether the result of every head is multiplied by sigmoid(x W), one number per head (Step 3.7)."""
    sinks = opt_prop_def(BoolAttr)
    """Whether every head has one more logit in the sum of its softmax, without a value (gpt-oss)."""
    score_soft_cap = opt_prop_def(FloatAttr)
    """The bound on the scores: cap * tanh(score / cap) (Gemma 2)."""
    alibi = opt_prop_def(BoolAttr)
    """Whether the score of a key falls with its distance, for every head with its own slope (BLOOM)."""
    softmax_scale = opt_prop_def(FloatAttr)
    """The factor of the scores; absent = head_dim**-0.5."""

    @property
    def rotated_columns(self) -> int:
        return (self.rotary_dim or self.head_dim).value.data

    @property
    def kv_heads(self) -> int:
        """The number of key (and value) heads."""
        return self.num_key_value_heads.value.data

    @property
    def v_dim(self) -> int:
        """The columns of a value head."""
        return (self.head_dim if self.v_head_dim is None else self.v_head_dim).value.data

    def verify_(self) -> None:
        """Key heads divide the query heads; a head has pairs of columns to rotate."""
        super().verify_()
        self.require_same_type()
        self.require(
            self.heads % self.kv_heads == 0,
            f"num_attention_heads {self.heads} is not a multiple of num_key_value_heads {self.kv_heads}",
        )
        d = self.head_dim.value.data
        rotary = d if self.rotary_dim is None else self.rotary_dim.value.data
        if self.rope_theta is None:
            self.require(self.rotary_dim is None, "rotary_dim without rope_theta")
        else:
            name = "head_dim" if self.rotary_dim is None else "rotary_dim"
            self.require(rotary % 2 == 0, f"{name} {rotary} is odd")
            self.require(rotary <= d, f"rotary_dim {rotary} is more than head_dim {d}")
        self.require((self.qk_norm is None) == (self.qk_norm_eps is None), "qk_norm and qk_norm_eps need each other")
        if self.qk_norm is not None:
            self.require(
                self.qk_norm.data in QK_NORMS, f"qk_norm is '{self.qk_norm.data}', must be {' or '.join(QK_NORMS)}"
            )
        self.require(self.rope_theta is not None or not self.rope_interleave, "rope_interleave without rope_theta")
        self.require(not self.keys_as_values or self.v_dim == d, f"keys of {d} columns are no values of {self.v_dim}")
        self.require(self.window is None or self.chunk is None, "a window and a chunk exclude each other")
        given = self.temperature_floor is None, self.temperature_scale is None
        self.require(given[0] == given[1], "temperature_floor and temperature_scale need each other")

    def weights(self) -> list[WeightSpec]:
        """q, k and v projections, those of gates of heads or columns, optional norms, output projection."""
        hidden, d = self.width, self.head_dim.value.data
        widths = {
            "q": (self.heads * d, "heads"),
            "k": (self.kv_heads * d, "kv_heads"),
            **({} if self.keys_as_values else {"v": (self.kv_heads * self.v_dim, "kv_heads")}),
            **({"gate": (self.heads * self.v_dim, "heads")} if self.output_gate else {}),
        }
        found: list[WeightSpec] = []
        for name, (width, axis) in widths.items():
            found.append(WeightSpec(f"{name}_proj.weight", (hidden, width), ("", axis)))
            if self.qkv_bias:
                found.append(WeightSpec(f"{name}_proj.bias", (width,), (axis,), role="bias"))
        if self.head_gate:
            found.append(WeightSpec("head_gate.weight", (hidden, self.heads), ("", "heads")))
        if self.qk_norm is not None and self.qk_norm.data != "rotated":
            each = {n: (widths[n] if self.qk_norm.data == "row" else (d, "")) for n in ("q", "k")}
            found += [WeightSpec(f"{n}_norm.weight", (width,), (axis,)) for n, (width, axis) in each.items()]
        if self.sinks:
            found.append(WeightSpec("sinks", (self.heads,), ("heads",), role="bias"))
        found.append(WeightSpec("o_proj.weight", (self.heads * self.v_dim, hidden), ("heads", "")))
        if self.o_bias:
            found.append(WeightSpec("o_proj.bias", (hidden,), ("",), role="bias"))
        return found

    def caches(self) -> list[CacheSpec]:
        """The rotated keys and the values of every key head; with a chunk as many as with a window of its length."""
        reach = self.window or self.chunk
        window = None if reach is None else reach.value.data
        widths = {"k_cache": self.kv_heads * self.head_dim.value.data, "v_cache": self.kv_heads * self.v_dim}
        return [CacheSpec(name, width, "kv_heads", "key_value_heads", window) for name, width in widths.items()]


@irdl_op_definition
class GqaOp(GroupedAttentionOp):
    """Grouped-query attention (MHA when every query head has its own key head, MQA when there is one)."""

    name = "model.gqa"


class LatentAttentionOp(AttentionBlockOp):
    """Attention over one cached latent per token (DeepSeek-V2 report, section 2.1): what MLA and DSA share."""

    POSITIVE: ClassVar[tuple[str, ...]] = (
        "num_attention_heads",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
    )
    q_lora_rank = opt_prop_def(IntegerAttr)
    """The rank of the query latent; absent when queries are projected directly."""
    kv_lora_rank = prop_def(IntegerAttr)
    qk_nope_head_dim = prop_def(IntegerAttr)
    qk_rope_head_dim = prop_def(IntegerAttr)
    """The columns of a key that all heads share, which are rotated where the block has a rotary embedding."""
    v_head_dim = prop_def(IntegerAttr)
    rope_interleave = opt_prop_def(BoolAttr)
    """Whether the rotary embedding pairs columns (2j, 2j+1), as DeepSeek checkpoints store them; absent without one."""

    def verify_(self) -> None:
        """The rotary part has pairs of columns to rotate."""
        super().verify_()
        self.require_same_type()
        rotates = self.rope_theta is not None
        self.require(rotates == (self.rope_interleave is not None), "rope_theta and rope_interleave need each other")
        rope = self.qk_rope_head_dim.value.data
        self.require(rope % 2 == 0 or not rotates, f"qk_rope_head_dim {rope} is odd")

    @property
    def rotated_columns(self) -> int:
        return self.qk_rope_head_dim.value.data

    @property
    def head_dims(self) -> tuple[int, int, int]:
        """The widths of a head: (nope, rope, v)."""
        return (
            self.qk_nope_head_dim.value.data,
            self.qk_rope_head_dim.value.data,
            self.v_head_dim.value.data,
        )

    def weights(self) -> list[WeightSpec]:
        """Query projection (direct or by a latent), KV latent and its expansion, output projection."""
        hidden, heads, rank = self.width, self.heads, self.kv_lora_rank.value.data
        nope, rope, v = self.head_dims
        queries = heads * (nope + rope)
        if self.q_lora_rank is None:
            query = [WeightSpec("q_proj.weight", (hidden, queries), ("", "heads"))]
        else:
            q_rank = self.q_lora_rank.value.data
            query = [
                WeightSpec("q_a_proj.weight", (hidden, q_rank), ("", "")),
                WeightSpec("q_a_layernorm.weight", (q_rank,), ("",)),
                WeightSpec("q_b_proj.weight", (q_rank, queries), ("", "heads")),
            ]
        return [
            *query,
            WeightSpec("kv_a_proj.weight", (hidden, rank + rope), ("", "")),
            WeightSpec("kv_a_layernorm.weight", (rank,), ("",)),
            WeightSpec("kv_b_proj.weight", (rank, heads * (nope + v)), ("", "heads")),
            WeightSpec("o_proj.weight", (heads * v, hidden), ("heads", "")),
        ]

    def caches(self) -> list[CacheSpec]:
        """The normalised latent and the key that all heads share, rotated if the block rotates."""
        widths = {"c_kv_cache": self.kv_lora_rank.value.data, "k_rope_cache": self.qk_rope_head_dim.value.data}
        return [CacheSpec(name, width, "", "latent") for name, width in widths.items()]


@irdl_op_definition
class MlaOp(LatentAttentionOp):
    """Multi-head latent attention: every query sees all keys before it."""

    name = "model.mla"


@irdl_op_definition
class DsaOp(LatentAttentionOp):
    """DeepSeek sparse attention (DeepSeek-V3.2 report, section 2): MLA over the keys that an indexer selects.

    The lightning indexer scores every key for every query with `index_n_heads` small heads; the `index_topk` keys with
    the largest scores are attended to, all of them in a shorter context.  The first `qk_rope_head_dim` columns of an
    index head are rotated.

    A layer without an indexer takes the keys that one before it has `selected` as `chosen` (GLM-5.2): for every token
    the positions of min(kv_len, index_topk) keys.
    """

    name = "model.dsa"
    BARE: ClassVar[tuple[str, ...]] = ("chosen",)
    POSITIVE: ClassVar[tuple[str, ...]] = (
        *LatentAttentionOp.POSITIVE,
        "index_n_heads",
        "index_head_dim",
        "index_topk",
    )
    x = operand_def(TensorType)
    chosen = opt_operand_def(TensorType)
    y = result_def(TensorType)
    selected = opt_result_def(TensorType)
    index_n_heads = opt_prop_def(IntegerAttr)
    index_head_dim = opt_prop_def(IntegerAttr)
    index_topk = prop_def(IntegerAttr)
    index_rope_interleave = opt_prop_def(BoolAttr)
    """Whether the rotary embedding of the indexer pairs columns (2j, 2j+1) (GLM-5), or halves (DeepSeek-V3.2)."""

    def verify_(self) -> None:
        """The indexer reads the query latent, and rotates a part of its heads."""
        super().verify_()
        self.require(self.rope_theta is not None, "the indexer rotates its queries and keys, so rope_theta must be set")
        self.require(self.q_lora_rank is not None, "the indexer projects the query latent, so q_lora_rank must be set")
        indexer = (self.index_n_heads, self.index_head_dim, self.index_rope_interleave)
        if self.chosen is not None:
            self.require(not any(indexer), "a layer that takes chosen keys has no indexer")
        else:
            self.require(None not in indexer, "without chosen keys it needs the fields of an indexer")
            rope, (_, width) = self.qk_rope_head_dim.value.data, self.index_dims
            self.require(rope < width, f"index_head_dim {width} must be more than the rotated qk_rope_head_dim {rope}")
        wanted = self.selection(tensor(self.x).dims[0], self.index_topk.value.data)
        for value, what in ((self.chosen, "chosen"), (self.selected, "selected")):
            self.require(value is None or value.type == wanted, f"{what} must be {wanted}")

    @staticmethod
    def selection(tokens: Expr, top_k: int) -> TensorType:
        """The type of the positions that a layer selects."""
        return TensorType.of([tokens, min_of(expr("kv_len"), top_k)], i32)

    @property
    def index_dims(self) -> tuple[int, int]:
        """The heads of the indexer, and their width."""
        assert self.index_n_heads is not None and self.index_head_dim is not None, "verified"
        return self.index_n_heads.value.data, self.index_head_dim.value.data

    def weights(self) -> list[WeightSpec]:
        """Those of MLA, then index queries from the query latent, index keys with their norm, weights of the heads."""
        assert self.q_lora_rank is not None, "verified"
        if self.chosen is not None:
            return super().weights()
        rank, (heads, d) = self.q_lora_rank.value.data, self.index_dims
        return [
            *super().weights(),
            WeightSpec("indexer.wq_b.weight", (rank, heads * d), ("", "index_heads")),
            WeightSpec("indexer.wk.weight", (self.width, d), ("", "")),
            WeightSpec("indexer.k_norm.weight", (d,), ("",)),
            WeightSpec("indexer.k_norm.bias", (d,), ("",), role="bias"),
            WeightSpec("indexer.weights_proj.weight", (self.width, heads), ("", "index_heads")),
        ]

    def caches(self) -> list[CacheSpec]:
        """Those of MLA and the index key that all index heads share, its rotated part by itself."""
        if self.chosen is not None:
            return super().caches()
        rope = self.qk_rope_head_dim.value.data
        widths = {"indexer.k_rope_cache": rope, "indexer.k_nope_cache": self.index_dims[1] - rope}
        return [*super().caches(), *(CacheSpec(name, width, "", "index_key") for name, width in widths.items())]
