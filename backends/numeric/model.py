"""Runs a module of the `model` dialect: the reference, written from the published equations.

It shares nothing with the semantics of the lower levels, so that it can disagree with them: sequences, heads
and tokens are loops, rotations are complex products, MLA is never absorbed.  Only the names and layouts of
the inputs are common: weights [in, out] at block path + "." + name, caches [batch, kv_len, width].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Block, Operation, SSAValue

from pmc.backends.numeric import model_compressed
from pmc.backends.numeric.environment import Environment, Source, seeded_environment
from pmc.backends.numeric.errors import Array, NumericError, require_finite
from pmc.backends.numeric.model_block_sparse import chosen_keys
from pmc.backends.numeric.model_hyper_connections import collapse_streams, copy_streams, mix_streams, stream_weights
from pmc.backends.numeric.model_recurrent import States, Weights, gated_delta_net, kimi_delta, mamba2
from pmc.backends.numeric.model_rotary import Rotary
from pmc.dialects import model
from pmc.dialects.drafting import is_drafting


@dataclass(frozen=True)
class ModelRun:
    """What the reference computed."""

    logits: Array
    """[batch*q_len, vocabulary]."""
    states: dict[str, Array]
    """Every cache after the step, by path, with a leading layer dim."""
    values: dict[str, list[Array]]
    """The rows after every block, by block path, one array per layer."""
    drafted: tuple[Array, ...] = ()
    """The logits of every application of the draft layer: [batch, vocabulary]."""


def the_llm(module: ModuleOp) -> model.LlmOp:
    """The one model of a module."""
    found = [op for op in module.ops if isinstance(op, model.LlmOp)]
    if len(found) != 1:
        raise NumericError(f"the module holds {len(found)} model.llm ops, must be one")
    return found[0]


def model_sources(module: ModuleOp, bindings: dict[str, int], drafts: int = 0) -> list[Source]:
    """All weights and caches of the model, in the order of its blocks; those of a draft layer that is applied too."""
    found: list[Source] = []
    drafting = [model.draft_of(module)] if drafts else []
    for op in (block for part in (the_llm(module), *drafting) if part is not None for block in part.walk()):
        if not isinstance(op, model.BlockOp):
            continue
        layers = _layers_around(op)
        for w in op.weights():
            if w.is_own:
                found.append(Source(f"{op.path.data}.{w.name}", "weight", (*layers, *w.dims), w.axes, w.role, w.below))
        for cache in op.caches():
            positions = bindings["kv_len"] + (drafts - 1 if is_drafting(op.path.data) else 0)
            rows = positions // cache.ratio
            if cache.window is not None:
                rows = min(positions, cache.window + bindings["q_len"] - 1)
            shape, axes = (*layers, bindings["batch"], rows, cache.width), ("batch", cache.row_axis, cache.axis)
            found.append(Source(f"{op.path.data}.{cache.name}", "state", shape, axes))
        for state in op.states():
            shape, axes = (*layers, bindings["batch"], *state.dims), ("batch", *state.axes)
            found.append(Source(f"{op.path.data}.{state.name}", "state", shape, axes, state.role))
    return found


def _layers_around(op: Operation) -> tuple[int, ...]:
    parent = op.parent_op()
    if parent is None:
        return ()
    outer = _layers_around(parent)
    return (parent.runs(prod(outer)),) if isinstance(parent, model.RepeatOp) else outer


def seeded_model_environment(module: ModuleOp, bindings: dict[str, int], seed: int, drafts: int = 0) -> Environment:
    """Deterministic inputs for the model and `drafts` applications of its draft layer, as for its layer program."""
    vocabulary = the_llm(module).vocab_size.value.data
    return seeded_environment(model_sources(module, bindings, drafts), vocabulary, bindings, seed, drafts)


def run_model(module: ModuleOp, environment: Environment, compute: Any = np.float64) -> ModelRun:
    """Run the one model of `module` with numpy type `compute`; storage types are ignored.

    Its draft layer is applied to the tokens that the environment has for it.
    Errors (NumericError, one line): inputs that are missing, misshapen or not finite, and unknown ops.
    """
    drafts = len(environment.drafted)
    environment.check(model_sources(module, dict(environment.bindings), drafts))
    return ModelMachine(environment, compute).run(the_llm(module), model.draft_of(module) if drafts else None)


# -- equations ----------------------------------------------------------------------------------------------


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x_i / RMS(x) * g_i, row by row (Zhang and Sennrich 2019, equation 4)."""
    rms = np.sqrt(np.sum(x**2, axis=-1) / x.shape[-1] + eps)
    normed: Array = x / rms[..., None] * weight
    return normed


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    y: Array = 1 / (1 + np.exp(-x))
    return y


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}
"""Hendrycks and Gimpel 2016 (GELU, exact and by tanh), So et al. 2021 (squared ReLU)."""


def gated(name: str, gate: Array, up: Array, limit: float, alpha: float) -> Array:
    """The activation of a gated linear unit (Shazeer 2020); the clamped forms are those of gpt-oss and DeepSeek-V4."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name](gate) * up
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return ACTIVATIONS["silu"](gate) * up if name == "clamped_silu" else gate * sigmoid(alpha * gate) * (up + 1)


def soft_cap(x: Array, cap: float) -> Array:
    """cap * tanh(x / cap) (Gemma 2 report, section 2)."""
    y: Array = cap * np.tanh(x / cap)
    return y


def alibi(heads: int) -> list[float]:
    """The slopes of ALiBi, as its authors compute them: a geometric sequence, or parts of two of them."""
    if heads & (heads - 1) == 0:
        ratio = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [ratio**i for i in range(1, heads + 1)]
    lower = 1 << int(math.log2(heads))
    return alibi(lower) + alibi(2 * lower)[0::2][: heads - lower]


def attend(
    q: Array,
    k: Array,
    v: Array,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    sink: float | None = None,
    chunk: int | None = None,
    kv_len: int = 0,
    slope: float = 0.0,
) -> Array:
    """Causal softmax(scale q k^T) v of one head: q [q_len, d], k [kv_len, d], v [kv_len, e] -> [q_len, e].

    With a window a query sees so many keys, the last of them its own (Beltagy et al. 2020, section 3.1).  A cap bounds
    the scores; a sink is one more score, of a value 0.  With a chunk the query at a position sees the keys since the
    last multiple of it; `kv_len` then says where the last query stands, as k may be without its first rows.  A slope
    takes slope * distance from the score of a key (Press et al. 2022, section 3).
    """
    past = len(k) - len(q)
    rows: list[Array] = []
    for i, query in enumerate(q):
        end = past + i + 1
        if chunk is not None:
            window = (kv_len - len(q) + i) % chunk + 1
        seen = slice(0 if window is None else max(0, end - window), end)
        logits = scale * (k[seen] @ query)
        if cap is not None:
            logits = soft_cap(logits, cap)
        logits = logits - slope * np.arange(len(logits) - 1, -1, -1)
        scores = logits if sink is None else np.append(logits, sink)
        p = np.exp(scores - scores.max())
        rows.append(p[: len(logits)] @ v[seen] / p.sum())
    return np.stack(rows)


SCORES: dict[str, Callable[[Array], Array]] = {
    "softmax": lambda z: np.exp(z - z.max()) / np.exp(z - z.max()).sum(),
    "sigmoid": sigmoid,
    "sqrtsoftplus": lambda z: np.sqrt(np.log(1 + np.exp(z))),
}
"""What makes scores of the router logits of a token (the last: DeepSeek-V4 report, section 2.1)."""


def choose_experts(
    scores: Array, bias: Array, top_k: int, groups: int, top_groups: int, best_of_group: int = 2
) -> list[int]:
    """The experts of one token, best first: top-k of score + bias in the best groups (DeepSeek-V3, 2.1.2).

    A group is worth the sum of its two best choices; in DeepSeek-V2 (section 2.1.2 of its report) its best one alone.
    """
    choice = scores + bias
    size = len(choice) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    worth = [sum(sorted((choice[e] for e in group), reverse=True)[:best_of_group]) for group in members]
    open_groups = sorted(range(groups), key=lambda g: -worth[g])[:top_groups]
    candidates = sorted(e for g in open_groups for e in members[g])
    return sorted(candidates, key=lambda e: -choice[e])[:top_k]


# -- blocks -------------------------------------------------------------------------------------------------


@dataclass
class ModelMachine:
    """The values of one run."""

    environment: Environment
    compute: Any
    layer: tuple[int, ...] = ()
    """The number of the current layer among those of its path, as an index; () outside of layers."""
    states: dict[str, Array] = field(default_factory=dict[str, Array])
    values: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])

    read_by_head: Any = None
    """The rows that the last head has read."""
    selected: Any = None
    """The keys that the last sparse attention selected: of every sequence and query a list of positions."""

    def __post_init__(self) -> None:
        self.batch, self.q_len, self.kv_len = (self.environment.bindings[s] for s in ("batch", "q_len", "kv_len"))
        self.states = {p: np.array(v, self.compute) for p, v in self.environment.states.items()}
        self.blocks: dict[type[model.BlockOp], Callable[..., Array]] = {
            model.EmbeddingOp: self.embedding,
            model.NormOp: self.norm,
            model.AddOp: self.add,
            model.ScaleOp: self.scale,
            model.LearnedScaleOp: self.learned_scale,
            model.SoftCapOp: self.soft_cap,
            model.PositionEmbeddingOp: self.position_embedding,
            model.CopyStreamsOp: copy_streams,
            model.StreamWeightsOp: self.stream_weights,
            model.CollapseStreamsOp: collapse_streams,
            model.MixStreamsOp: mix_streams,
            model.GqaOp: self.gqa,
            model.BlockSparseAttentionOp: self.gqa,
            model.MlaOp: self.latent_attention,
            model.DsaOp: self.latent_attention,
            model.CompressedAttentionOp: self.compressed_attention,
            model.GatedDeltaNetOp: self.gated_delta_net,
            model.KimiDeltaOp: self.kimi_delta,
            model.Mamba2Op: self.mamba2,
            model.FfnOp: self.ffn,
            model.MoeOp: self.moe,
            model.LmHeadOp: self.lm_head,
            model.EhProjOp: self.eh_proj,
        }

    def run(self, llm: model.LlmOp, draft: model.DraftOp | None) -> ModelRun:
        (logits,) = self.run_block(llm.body.block, [self.environment.tokens])
        drafted = () if draft is None else tuple(self.drafts(draft))
        return ModelRun(logits, self.states, self.values, drafted)

    def drafts(self, draft: model.DraftOp) -> list[Array]:
        """Token by token (DeepSeek-V3 report, equations 21 to 23): all drafts of the step before were accepted."""
        hidden, found = self.read_by_head, list[Array]()
        for number, tokens in enumerate(self.environment.drafted):
            if number:
                self.q_len, self.kv_len = 1, self.kv_len + 1
            logits, rows = self.run_block(draft.body.block, [tokens, hidden])
            found.append(logits[self.q_len - 1 :: self.q_len])
            hidden = rows[self.q_len - 1 :: self.q_len]
        return found

    def run_block(self, block: Block, arguments: list[Array]) -> list[Array]:
        values: dict[SSAValue, Array] = dict(zip(block.args, arguments, strict=True))
        for op in block.ops:
            operands = [values[v] for v in op.operands]
            if isinstance(op, model.YieldOp):
                return operands
            if isinstance(op, model.RepeatOp):
                outer = self.layer
                for index in op.iterations(sum(outer)):
                    self.layer = (index if op.shares is not None else sum(outer) * op.trip_count + index,)
                    operands = self.run_block(op.body.block, operands)
                self.layer = outer
                values.update(zip(op.results, operands, strict=True))
                continue
            semantics = self.blocks.get(type(op)) if isinstance(op, model.BlockOp) else None
            if semantics is None or not isinstance(op, model.BlockOp):
                raise NumericError(f"{op.name}: the op has no numeric semantics at the model level")
            y = semantics(op, *operands)
            if isinstance(op, model.DsaOp) and op.selected is not None:
                values[op.selected] = self.selected
            require_finite(y, f"{op.name} at '{op.path.data}'")
            values[op.y] = y
            self.values.setdefault(op.path.data, []).append(y)
        raise NumericError("a block without model.yield has no results")

    def weight(self, block: model.BlockOp, name: str) -> Array:
        """A parameter of the current layer."""
        spec = next((w for w in block.weights() if w.name == name), None)
        path = f"{block.path.data}.{name}" if spec is None else block.path_of(spec)
        values: Array = self.environment.weights[path][self.layer]
        return values.astype(self.compute)

    def cached(self, block: model.BlockOp, name: str, sequence: int, new: Array) -> Array:
        """All rows of a sequence's cache after `new` [q_len, width] is written to its end."""
        cache: Array = self.states[f"{block.path.data}.{name}"][self.layer][sequence][: self.kv_len]
        cache[len(cache) - self.q_len :] = new
        return cache

    def norm(self, block: model.NormOp, x: Array) -> Array:
        gain = self.weight(block, "weight") + (1 if block.zero_centered else 0)
        if block.kind.data == "rms":
            return rms_norm(x, gain, block.eps.value.data)
        centred = x - x.mean(axis=1)[:, None]
        y: Array = centred / np.sqrt((centred**2).mean(axis=1)[:, None] + block.eps.value.data) * gain
        if not block.bias:
            return y
        shifted: Array = y + self.weight(block, "bias")
        return shifted

    def scale(self, block: model.ScaleOp, x: Array) -> Array:
        y: Array = block.factor.value.data * x
        return y

    def learned_scale(self, block: model.LearnedScaleOp, x: Array) -> Array:
        y: Array = self.weight(block, "weight")[0] * x
        return y

    def soft_cap(self, block: model.SoftCapOp, x: Array) -> Array:
        return soft_cap(x, block.cap.value.data)

    def position_embedding(self, block: model.PositionEmbeddingOp, x: Array) -> Array:
        rows = self.weight(block, "weight")[block.offset.value.data :]
        y: Array = x + np.concatenate([rows[self.kv_len - self.q_len : self.kv_len]] * self.batch)
        return y

    def add(self, block: model.AddOp, x: Array, other: Array) -> Array:
        del block
        return x + other

    def sequences(self, x: Array) -> list[Array]:
        """The rows of each sequence."""
        return list(x.reshape(self.batch, self.q_len, -1))

    def embedding(self, block: model.EmbeddingOp, tokens: Array) -> Array:
        table = self.weight(block, "weight")
        if tokens.min() < 0 or tokens.max() >= len(table):
            raise NumericError(
                f"model.embedding at '{block.path.data}': token ids are {tokens.min()} to {tokens.max()}, "
                f"the vocabulary has 0 to {len(table) - 1}"
            )
        return np.stack([table[t] for t in tokens])

    def rotary(self, block: model.AttentionBlockOp, interleaved: bool) -> Rotary:
        fields: dict[str, float | str | list[float]] = {}
        if isinstance(block.rope_scaling, DictionaryAttr):
            for name, value in block.rope_scaling.data.items():
                if isinstance(value, StringAttr):
                    fields[name] = value.data
                elif isinstance(value, IntegerAttr | FloatAttr):
                    fields[name] = float(cast(Any, value).value.data)
                elif isinstance(value, ArrayAttr):
                    fields[name] = [cast(FloatAttr, each).value.data for each in cast(Iterable[Attribute], value)]
        assert block.rope_theta is not None, "verified"
        return Rotary(block.rope_theta.value.data, fields, interleaved, self.kv_len)

    def gqa(self, block: model.GroupedAttentionOp, x: Array) -> Array:
        """Grouped-query attention (Ainslie et al. 2023): a key head serves heads / kv_heads query heads.

        With an indexer a key head is read in the keys that its index head has chosen.
        """
        d, heads, kv_heads = block.head_dim.value.data, block.heads, block.kv_heads
        past = self.kv_len - self.q_len
        turned = d if block.rotary_dim is None else block.rotary_dim.value.data
        scale = d**-0.5 if block.softmax_scale is None else block.softmax_scale.value.data
        window, chunk = (None if a is None else a.value.data for a in (block.window, block.chunk))
        cap = None if block.score_soft_cap is None else block.score_soft_cap.value.data
        sinks = self.weight(block, "sinks") if block.sinks else [None] * heads
        slopes = alibi(heads) if block.alibi else [0.0] * heads
        eps = None if block.qk_norm_eps is None else block.qk_norm_eps.value.data
        behind = block.qk_norm is not None and block.qk_norm.data == "rotated"

        def head_rows(h: Array, name: str, count: int) -> list[Array]:
            """The heads of queries or keys: projected, normalised, rotated."""
            rows = self.linear(block, f"{name}_proj", h, bool(block.qkv_bias) and not name.startswith("indexer."))
            split = [rows] if block.qk_norm is not None and block.qk_norm.data == "row" else np.split(rows, count, 1)
            if eps is not None and not behind:
                gain = self.weight(block, f"{name}_norm.weight") + (1 if block.qk_norm_zero_centered else 0)
                split = [rms_norm(part, gain, eps) for part in split]
            split = np.split(np.hstack(split), count, 1)
            if block.rope_theta is not None:
                rotary = self.rotary(block, bool(block.rope_interleave))
                split = [np.hstack([rotary.rotate(part[:, :turned], past), part[:, turned:]]) for part in split]
            return split if eps is None or not behind else [rms_norm(part, np.ones(d), eps) for part in split]

        outputs: list[Array] = []
        for b, h in enumerate(self.sequences(x)):
            keys = self.cached(block, "k_cache", b, np.hstack(head_rows(h, "k", kv_heads)))
            values = self.cached(block, "v_cache", b, self.values_of(block, h))
            k, v = np.split(keys, kv_heads, axis=1), np.split(values, kv_heads, axis=1)
            chosen: list[list[list[int]]] | None = None
            if isinstance(block, model.BlockSparseAttentionOp):
                (index_key,) = head_rows(h, "indexer.k", 1)
                index_keys = self.cached(block, "indexer.k_cache", b, index_key)
                chosen = chosen_keys(head_rows(h, "indexer.q", kv_heads), index_keys, block.index_sizes[1:])
            read: list[Array] = []
            for i, query in enumerate(head_rows(h, "q", heads)):
                shared = i // (heads // kv_heads)
                warm = query * self.temperatures(block)[:, None]
                if chosen is not None:
                    of_query = zip(warm, chosen[shared], strict=True)
                    rows = [attend(row[None], k[shared][seen], v[shared][seen], scale) for row, seen in of_query]
                    read.append(np.concatenate(rows))
                    continue
                how = (scale, window, cap, sinks[i], chunk, self.kv_len, slopes[i])
                read.append(attend(warm, k[shared], v[shared], *how))
            if block.head_gate:
                gates = sigmoid(h @ self.weight(block, "head_gate.weight"))
                read = [rows * gates[:, [i]] for i, rows in enumerate(read)]
            attended = np.hstack(read)
            if block.output_gate:
                attended = attended * sigmoid(self.linear(block, "gate_proj", h, bool(block.qkv_bias)))
            outputs.append(self.linear(block, "o_proj", attended, bool(block.o_bias)))
        return np.concatenate(outputs)

    def values_of(self, block: model.GroupedAttentionOp, h: Array) -> Array:
        """What the value cache takes of a sequence: projected, normalised head by head, multiplied."""
        v = self.linear(block, "k_proj" if block.keys_as_values else "v_proj", h, bool(block.qkv_bias))
        if block.value_norm_eps is not None:
            heads = np.split(v, block.kv_heads, axis=1)
            v = np.hstack([rms_norm(part, np.ones(block.v_dim), block.value_norm_eps.value.data) for part in heads])
        return v if block.value_scale is None else v * block.value_scale.value.data

    def temperatures(self, block: model.GroupedAttentionOp) -> Array:
        """The factor of every query of a sequence (Nakanishi, Scalable-Softmax, 2025; Llama 4)."""
        if block.temperature_floor is None or block.temperature_scale is None:
            return np.ones(self.q_len)
        floor, scale = block.temperature_floor.value.data, block.temperature_scale.value.data
        numbers = range(self.kv_len - self.q_len + 1, self.kv_len + 1)
        return np.array([1 + scale * math.log(1 + number // floor) for number in numbers])

    def latent_attention(self, block: model.MlaOp | model.DsaOp, x: Array, chosen_before: Any = None) -> Array:
        """Multi-head latent attention (DeepSeek-V2 report, equations 9 to 19), keys and values expanded.

        Of the keys that a query of DSA sees, those that its indexer selects, or that of a layer before it selected.
        """
        nope, rope, v_dim = block.head_dims
        heads, rank = block.heads, block.kv_lora_rank.value.data
        past = self.kv_len - self.q_len
        rotary = None if block.rope_theta is None else self.rotary(block, bool(block.rope_interleave))
        scale = (nope + rope) ** -0.5 * (1.0 if rotary is None else rotary.mla_scale())

        def placed(rows: Array) -> Array:
            return rows if rotary is None else rotary.rotate(rows, past)

        expand = self.weight(block, "kv_b_proj.weight").reshape(rank, heads, nope + v_dim)
        outputs: list[Array] = []
        selected: list[list[list[int]]] = []
        for b, h in enumerate(self.sequences(x)):
            latent = h
            if block.q_lora_rank is None:
                queries = h @ self.weight(block, "q_proj.weight")
            else:
                latent = h @ self.weight(block, "q_a_proj.weight")
                latent = rms_norm(latent, self.weight(block, "q_a_layernorm.weight"), model.LATENT_NORM_EPS)
                queries = latent @ self.weight(block, "q_b_proj.weight")
            down = h @ self.weight(block, "kv_a_proj.weight")
            c = rms_norm(down[:, :rank], self.weight(block, "kv_a_layernorm.weight"), model.LATENT_NORM_EPS)
            c = self.cached(block, "c_kv_cache", b, c)
            k_rope = self.cached(block, "k_rope_cache", b, placed(down[:, rank:]))
            chosen = [list(range(past + i + 1)) for i in range(self.q_len)]
            if isinstance(block, model.DsaOp):
                chosen = self.indexed(block, b, h, latent) if chosen_before is None else chosen_before[b]
            selected.append(chosen)
            read: list[Array] = []
            for i, q in enumerate(np.split(queries, heads, axis=1)):
                q = np.hstack([q[:, :nope], placed(q[:, nope:])])
                k = np.hstack([c @ expand[:, i, :nope], k_rope])
                v = c @ expand[:, i, nope:]
                rows = [attend(row[None], k[keys], v[keys], scale) for row, keys in zip(q, chosen, strict=True)]
                read.append(np.concatenate(rows))
            outputs.append(np.hstack(read) @ self.weight(block, "o_proj.weight"))
        self.selected = selected
        return np.concatenate(outputs)

    def indexed(self, block: model.DsaOp, sequence: int, h: Array, latent: Array) -> list[list[int]]:
        """The keys that the lightning indexer selects for each query (DeepSeek-V3.2 report, equation 1)."""
        heads, rope = block.index_dims[0], block.qk_rope_head_dim.value.data
        rotary, past = self.rotary(block, bool(block.index_rope_interleave)), self.kv_len - self.q_len
        k = h @ self.weight(block, "indexer.wk.weight")
        k = (k - k.mean(axis=1)[:, None]) / np.sqrt(k.var(axis=1)[:, None] + model.LATENT_NORM_EPS)
        k = k * self.weight(block, "indexer.k_norm.weight") + self.weight(block, "indexer.k_norm.bias")
        k_rope = self.cached(block, "indexer.k_rope_cache", sequence, rotary.rotate(k[:, :rope], past))
        keys = np.hstack([k_rope, self.cached(block, "indexer.k_nope_cache", sequence, k[:, rope:])])
        q = np.split(latent @ self.weight(block, "indexer.wq_b.weight"), heads, axis=1)
        q = [np.hstack([rotary.rotate(head[:, :rope], past), head[:, rope:]]) for head in q]
        weights = h @ self.weight(block, "indexer.weights_proj.weight")
        chosen: list[list[int]] = []
        for i in range(self.q_len):
            seen = past + i + 1
            scores = [
                sum(weights[i, n] * max(0.0, float(keys[s] @ q[n][i])) for n in range(heads)) for s in range(seen)
            ]
            best = sorted((-score, s) for s, score in enumerate(scores))
            chosen.append(sorted(s for _, s in best[: block.index_topk.value.data]))
        return chosen

    def compressed_attention(self, block: model.CompressedAttentionOp, x: Array) -> Array:
        """See `model_compressed`."""
        turns = self.rotary(block, True)
        back = replace(turns, forwards=-1)
        outputs: list[Array] = []
        for b, h in enumerate(self.sequences(x)):

            def state(name: str, sequence: int = b) -> Array:
                held: Array = self.states[f"{block.path.data}.{name}"][self.layer][sequence]
                return held

            def cached(name: str, new: Array, sequence: int = b) -> Array:
                return self.cached(block, name, sequence, new)

            weights = partial(self.weight, block)
            outputs.append(
                model_compressed.attention(block, h, self.kv_len, weights, state, cached, turns, back, rms_norm)
            )
        return np.concatenate(outputs)

    def stream_weights(self, block: model.StreamWeightsOp, x: Array) -> Array:
        """See `model_hyper_connections`."""
        return stream_weights(block, x, partial(self.weight, block))

    def gated_delta_net(self, block: model.GatedDeltaNetOp, x: Array) -> Array:
        """See `model_recurrent`."""
        return self.recurrent(block, x, partial(gated_delta_net, block))

    def kimi_delta(self, block: model.KimiDeltaOp, x: Array) -> Array:
        """See `model_recurrent`."""
        return self.recurrent(block, x, partial(kimi_delta, block))

    def mamba2(self, block: model.Mamba2Op, x: Array) -> Array:
        """See `model_recurrent`."""
        return self.recurrent(block, x, partial(mamba2, block))

    def recurrent(self, block: model.BlockOp, x: Array, mixer: Callable[[Array, Weights, States], Array]) -> Array:
        """What a mixer makes of each sequence, with its own states."""
        outputs: list[Array] = []
        for b, h in enumerate(self.sequences(x)):

            def state(name: str, sequence: int = b) -> Array:
                held: Array = self.states[f"{block.path.data}.{name}"][self.layer][sequence]
                return held

            outputs.append(mixer(h, partial(self.weight, block), state))
        return np.concatenate(outputs)

    def ffn(self, block: model.FfnOp, x: Array) -> Array:
        return self.network(block, x, "")

    def eh_proj(self, block: model.EhProjOp, embedding: Array, hidden: Array) -> Array:
        """[embedding; hidden] M, as one matrix (DeepSeek-V3 report, equation 21)."""
        matrix = np.vstack([self.weight(block, "embedding.weight"), self.weight(block, "hidden.weight")])
        y: Array = np.hstack([embedding, hidden]) @ matrix
        return y

    def linear(self, block: model.BlockOp, name: str, x: Array, bias: bool, expert: int | None = None) -> Array:
        """x W + b, with the parameters of one expert if given."""
        at = ... if expert is None else expert
        y: Array = x @ self.weight(block, f"{name}.weight")[at]
        return y + self.weight(block, f"{name}.bias")[at] if bias else y

    def network(self, block: model.NetworkOp, x: Array, prefix: str, expert: int | None = None) -> Array:
        """down(f(gate, up)), or down(f(up)) without a gate."""
        bias, name = bool(block.bias), block.activation.data
        up = self.linear(block, f"{prefix}up_proj", x, bias, expert)
        if block.gated:
            limit, alpha = (
                math.nan if value is None else value.value.data
                for value in (block.activation_limit, block.activation_alpha)
            )
            hidden = gated(name, self.linear(block, f"{prefix}gate_proj", x, bias, expert), up, limit, alpha)
        else:
            hidden = ACTIVATIONS[name](up)
        return self.linear(block, f"{prefix}down_proj", hidden, bias, expert)

    def moe(self, block: model.MoeOp, x: Array, tokens: Array | None = None) -> Array:
        """Routed experts one token at a time, shared ones on all tokens (DeepSeekMoE, equations 9 to 11).

        With `tokens` the experts of a token stand in a table of its id, and only their weights depend on the row.
        """
        table = None if tokens is None else self.weight(block, "router.table").astype(np.int64)
        router = self.weight(block, "router.weight")
        bias = self.weight(block, "router.bias") if block.correction_bias else np.zeros(block.experts)
        groups, top_groups = block.n_group.value.data, block.topk_group.value.data
        best = 2 if block.best_of_group is None else block.best_of_group.value.data
        read, y = x, np.zeros_like(x)
        if block.own_norms_eps is not None:
            eps = block.own_norms_eps.value.data
            router = router / math.sqrt(x.shape[1])
            read = rms_norm(x, self.weight(block, "router.norm.weight"), eps)
            x = rms_norm(x, self.weight(block, "norm.weight"), eps)
        factors = self.weight(block, "router.expert_scale") if block.expert_scale else np.ones(block.experts)
        for t, h in enumerate(x):
            logits = read[t] @ router
            if block.router_bias:
                logits = logits + self.weight(block, "router.linear_bias")
            scores = SCORES[block.scoring.data](logits)
            if table is None or tokens is None:
                chosen = choose_experts(scores, bias, block.top_k, groups, top_groups, best)
            else:
                chosen = [int(e) for e in table[tokens[t]]]
            total = sum(scores[e] for e in chosen) if block.norm_topk_prob else 1.0
            latent = h if block.moe_latent_size is None else self.linear(block, "latent_down_proj", h, False)
            routed = np.zeros_like(latent)
            for e in chosen:
                share = factors[e] * scores[e] / total * block.routed_scaling_factor.value.data
                if block.scored_input:
                    routed += self.network(block, share * latent, "experts.", e)
                else:
                    routed += share * self.network(block, latent, "experts.", e)
            y[t] = routed if block.moe_latent_size is None else self.linear(block, "latent_up_proj", routed, False)
            if block.shared_intermediate_size.value.data:
                gate = sigmoid(h @ self.weight(block, "shared_gate.weight")) if block.shared_gate else 1.0
                y[t] += gate * self.network(block, h, "shared.")
        return y

    def lm_head(self, block: model.LmHeadOp, x: Array) -> Array:
        """The logits of every token."""
        self.read_by_head = x
        if block.tied is None:
            projection = self.weight(block, "proj.weight")
        else:
            projection = self.environment.weights[block.tied.data].astype(self.compute).T
        logits: Array = x @ projection
        return logits
