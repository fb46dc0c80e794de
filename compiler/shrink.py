"""Small models, chips and deployments of the same structure as large ones, for running them on numpy.

Everything that decides which ops, collectives and loops exist is kept: the blocks, the kinds of layers, the
parallel axes, grouped or shared heads, a latent that is narrower than the keys, the groups of experts.  Sizes become
small, but not round: they leave edge tiles, and the batch does not divide by dp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, lcm
from typing import Any, TypeVar, cast

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, i64
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from pmc.compiler.frontend import DTYPES
from pmc.dialects import model
from pmc.dialects.arch import DTYPE_BITS, Chip
from pmc.dialects.assembly import PropertyValue
from pmc.dialects.checkpoint import CHECKPOINT, CheckpointAttr, StoredTypes, checkpoint_of
from pmc.dialects.deployment import Deployment, Quantization
from pmc.dialects.element_formats import ElementFormat, Scales, element_format
from pmc.dialects.rope_scaling import BY_LENGTH, is_longrope
from pmc.dialects.structure import shares_attr
from pmc.dialects.tensor import TensorType, tensor
from pmc.dialects.type_rules import CHECKPOINT_TYPES, UNCONVERTED, parse_rule

HIDDEN = 38
HEAD_DIM, NOPE_DIM, ROPE_DIM, V_DIM = 8, 8, 4, 6
KEY_DIM = 5
"""Columns of the state of a recurrence."""
QUERY_RANK, LATENT_RANK = 20, 11
WINDOW = 13
"""Tokens that a query sees of the 41 of a small deployment, or of the 7 new ones and those before."""
ORIGINAL_LENGTH = 23
"""Tokens of a sequence up to which a rotary embedding is as it was trained first."""

Properties = dict[str, PropertyValue]


def shrink_model(module: ModuleOp, deployment: Deployment, layers: int, dtype: str | None = "float32") -> ModuleOp:
    """A model of the same blocks with about `layers` layers and small dims that divide as `deployment` needs.

    Every kind of layer stays, so there may be more than `layers`.  Without `dtype` the model keeps its own.
    """
    (llm,) = (op for op in module.ops if isinstance(op, model.LlmOp))
    shrunk = _Shrunk(llm, deployment, layers, None if dtype is None else DTYPES[dtype])
    draft = model.draft_of(module)
    small = [shrunk.llm(), *([] if draft is None else [shrunk.draft(draft)])]
    attributes = dict(module.attributes)
    checkpoint = checkpoint_of(module)
    if checkpoint is not None and checkpoint.stored is not None:
        stored = _small_groups(checkpoint.stored)
        attributes[CHECKPOINT] = CheckpointAttr(checkpoint.model_copy(update={"stored": stored}))
    found = ModuleOp(small, attributes)
    found.verify()
    return found


class _Shrunk:
    """One model, rebuilt op by op: types and properties become small, everything else is copied."""

    def __init__(self, llm: model.LlmOp, deployment: Deployment, layers: int, dtype: Attribute | None) -> None:
        self.source = llm
        self.deployment = deployment
        self.layers = layers
        self.dtype = dtype or llm.dtype
        self.vocabulary = _vocabulary(llm.vocab_size.value.data, deployment)
        self.values = dict[SSAValue, SSAValue]()

    def llm(self) -> model.LlmOp:
        old = self.source
        body = Block(arg_types=[a.type for a in old.body.block.args])
        self.values.update(zip(old.body.block.args, body.args, strict=True))
        self.copy(old.body.block, body, _layer_counts(old.body.block, self.layers), {})
        sizes: Properties = {"hidden_size": HIDDEN, "vocab_size": self.vocabulary, "dtype": self.dtype}
        return model.LlmOp.make([], [], old.path.data, {**old.properties, **sizes}, [Region(body)], like=old)

    def draft(self, old: model.DraftOp) -> model.DraftOp:
        tokens, rows = (a.type for a in old.body.block.args)
        assert isinstance(rows, TensorType)
        body = Block(arg_types=[tokens, TensorType.of([rows.dims[0], HIDDEN], self.dtype)])
        self.values.update(zip(old.body.block.args, body.args, strict=True))
        self.copy(old.body.block, body, {}, {})
        return model.DraftOp.make([], [], old.path.data, {}, [Region(body)], like=old)

    def copy(
        self,
        old: Block,
        new: Block,
        counts: Mapping[model.RepeatOp, int],
        shares: Mapping[model.RepeatOp, Sequence[int]],
    ) -> None:
        for op in old.ops:
            assert isinstance(op, model.BlockOp | model.RepeatOp | model.YieldOp)
            operands = [self.values[value] for value in op.operands]
            given: Properties = dict(op.properties)
            regions: list[Region] = []
            results = [self.type_of(result, op, operands) for result in op.results]
            if isinstance(op, model.RepeatOp):
                results = [tensor(value) for value in operands]
                inside = _shares(op.body.block)
                turns = len(next(iter(inside.values()), ()))
                given["count"] = turns or counts[op]
                if op in shares:
                    given |= {"count": sum(shares[op]), "shares": shares_attr(shares[op])}
                inner = Block(arg_types=[value.type for value in operands])
                self.values.update(zip(op.body.block.args, inner.args, strict=True))
                # In a group that recurs, one layer of each kind.
                self.copy(op.body.block, inner, _layer_counts(op.body.block, 1), inside)
                regions.append(Region(inner))
            elif (shrink := SHRUNK.get(type(op))) is not None:
                given |= shrink(op, self.deployment)
            if "vocab_size" in op.properties:
                given["vocab_size"] = self.vocabulary
            grouped = [operands] if isinstance(op, model.RepeatOp | model.YieldOp) else operands
            copied = type(op).make(grouped, results, op.path.data, given, regions, like=op)
            new.add_op(copied)
            self.values.update(zip(op.results, copied.results, strict=True))

    def type_of(self, old: SSAValue, op: Operation, operands: Sequence[SSAValue]) -> TensorType:
        """The type of a result: rows of the hidden size or of the vocabulary, or keys that an indexer selects."""
        dims = tensor(old).dims
        if isinstance(op, model.DsaOp) and old is op.selected:
            return op.selection(dims[0], _selected_keys(self.deployment))
        if isinstance(op, model.LmHeadOp):
            return TensorType.of([*dims[:-1], self.vocabulary], self.dtype)
        if isinstance(op, model.StreamsOp):
            return op.result_of([tensor(value) for value in operands])
        width = HIDDEN if isinstance(op, model.EmbeddingOp) else tensor(operands[0]).dims[-1]
        return TensorType.of([*dims[:-1], width], self.dtype)


def _layer_counts(body: Block, layers: int) -> dict[model.RepeatOp, int]:
    """Iterations of each repeat: one, and of the `layers` that are left one more in turn, from the last repeat on."""
    runs = [op for op in body.ops if isinstance(op, model.RepeatOp)]
    counts = dict.fromkeys(runs, 1)
    left = layers - len(counts)
    while runs and left > 0:
        for run in reversed(runs):
            if left > 0 and (counts[run] < run.trip_count or all(counts[r] >= r.trip_count for r in runs)):
                counts[run] += 1
                left -= 1
    return counts


def _shares(body: Block) -> dict[model.RepeatOp, list[int]]:
    """The shares of kinds that take turns, in the first turns that have all of them; two layers of a kind in a turn."""
    runs = [op for op in body.ops if isinstance(op, model.RepeatOp) and op.shares is not None]
    counts = {run: run.share_counts or () for run in runs}
    chosen = sorted({next(turn for turn, count in enumerate(counts[run]) if count) for run in runs})
    return {run: [min(counts[run][turn], 2) for turn in chosen] for run in runs}


def _vocabulary(size: int, d: Deployment) -> int:
    """A vocabulary that its ranks divide where they divide that of the model; otherwise the last rank has padding."""
    ranks = d.tp * (d.cp * d.dp if "stage" in (d.embedding, d.lm_head) else 1)
    return 19 * ranks - (1 if size % ranks else 0)


def _gqa(op: model.GroupedAttentionOp, d: Deployment) -> Properties:
    """Query heads that tp divides; key heads as many, two a rank shared by two, or fewer than tp, as in the model."""
    heads, kv_heads, tp = op.heads, op.kv_heads, d.tp
    if kv_heads == heads:
        small = (2 * tp, 2 * tp)
    elif kv_heads < tp:
        small = (2 * lcm(kv_heads, tp), kv_heads)
    else:
        shared = 2 * tp if kv_heads % (2 * tp) == 0 else tp
        small = (2 * shared, shared)
    found: Properties = {"num_attention_heads": small[0], "num_key_value_heads": small[1], "head_dim": HEAD_DIM}
    if op.rotary_dim is not None:
        found["rotary_dim"] = ROPE_DIM
    if op.rope_scaling is not None:
        found["rope_scaling"] = _small_scaling(op.rope_scaling, HEAD_DIM if op.rotary_dim is None else ROPE_DIM)
    for reach in ("window", "chunk", "temperature_floor"):
        if reach in op.properties:
            found[reach] = WINDOW
    if op.v_head_dim is not None:
        found["v_head_dim"] = V_DIM
    return found


def _block_sparse_attention(op: model.BlockSparseAttentionOp, d: Deployment) -> Properties:
    """Blocks of few keys, of which there are more than are selected, and a part of one."""
    sizes: Properties = {"index_head_dim": 10, "index_block_size": 4, "index_topk_blocks": 3}
    return {**_gqa(op, d), **sizes, "index_local_blocks": min(op.index_local_blocks.value.data, 2)}


def _small_scaling(scaling: DictionaryAttr, columns: int) -> DictionaryAttr:
    """With numbers for the pairs that are left, the first of all, and sequences that are longer than the original."""
    if not is_longrope(scaling):
        return scaling
    lists = {name: ArrayAttr([*cast("ArrayAttr[Attribute]", scaling.data[name])][: columns // 2]) for name in BY_LENGTH}
    original = {"original_max_position_embeddings": IntegerAttr(ORIGINAL_LENGTH, i64)}
    return DictionaryAttr({**scaling.data, **original, **lists})


def _latent(op: model.LatentAttentionOp, d: Deployment) -> Properties:
    """A latent that is narrower than the keys that are made of it."""
    return {
        "num_attention_heads": 2 * d.tp,
        "q_lora_rank": None if op.q_lora_rank is None else QUERY_RANK,
        "kv_lora_rank": LATENT_RANK,
        "qk_nope_head_dim": NOPE_DIM,
        "qk_rope_head_dim": ROPE_DIM,
        "v_head_dim": V_DIM,
    }


def _dsa(op: model.DsaOp, d: Deployment) -> Properties:
    """Index heads that tp divides, part of them rotated; fewer keys than there are, in prefill more than some see."""
    found = {**_latent(op, d), "index_topk": _selected_keys(d)}
    return found if op.chosen is not None else {**found, "index_n_heads": 3 * d.tp, "index_head_dim": 10}


def _compressed_attention(op: model.CompressedAttentionOp, d: Deployment) -> Properties:
    """Groups of heads that tp divides; entries of few tokens, of which some close in a step and some do not."""
    found: Properties = {
        "num_attention_heads": 4 * d.tp,
        "q_lora_rank": QUERY_RANK,
        "head_dim": HEAD_DIM + 2,
        "qk_rope_head_dim": ROPE_DIM,
        "window": WINDOW,
        "o_groups": 2 * d.tp,
        "o_lora_rank": V_DIM,
    }
    if op.compress_ratio is not None:
        found["compress_ratio"] = 2 if op.has_indexer else 4
    if op.has_indexer:
        found |= {"index_n_heads": 3 * d.tp, "index_head_dim": 10, "index_topk": 7}
    return found


def _selected_keys(d: Deployment) -> int:
    return 13 if d.phase == "decode" else 37


def _ffn(op: model.FfnOp, d: Deployment) -> Properties:
    del op
    return {"intermediate_size": 20 * d.tp}


def _moe(op: model.MoeOp, d: Deployment) -> Properties:
    """Two experts or more per rank and per group, at most three choices."""
    shared = ceil(op.shared_intermediate_size.value.data / op.moe_intermediate_size.value.data)
    return {
        "n_routed_experts": max(2 * lcm(d.ep, op.n_group.value.data), 4),
        "num_experts_per_tok": min(op.top_k, 3),
        "moe_intermediate_size": 10 * d.moe_tp,
        # As many shared experts side by side as there are, which tp divides.
        "shared_intermediate_size": lcm(10 * d.moe_tp * shared, d.tp),
        "moe_latent_size": None if op.moe_latent_size is None else LATENT_RANK,
    }


def _gated_delta_net(op: model.GatedDeltaNetOp, d: Deployment) -> Properties:
    """Key heads that tp divides, each with as many value heads as in the model."""
    shared = op.num_value_heads.value.data // op.num_key_heads.value.data
    keys = 1 if op.num_key_heads.value.data == 1 else 2 * d.tp
    return {
        "num_key_heads": keys,
        "num_value_heads": shared * keys,
        "key_head_dim": KEY_DIM,
        "value_head_dim": V_DIM,
    }


def _kimi_delta(op: model.KimiDeltaOp, d: Deployment) -> Properties:
    """Heads that tp divides."""
    del op
    return {"num_heads": 2 * d.tp, "head_dim": V_DIM}


def _mamba2(op: model.Mamba2Op, d: Deployment) -> Properties:
    """Groups that tp divides, of two heads each."""
    groups = 1 if op.n_groups.value.data == 1 else 2 * d.tp
    return {"num_heads": 2 * lcm(groups, d.tp), "head_dim": V_DIM, "n_groups": groups, "state_size": KEY_DIM}


SHRUNK: Mapping[type[Operation], Callable[[Any, Deployment], Properties]] = {
    model.GqaOp: _gqa,
    model.BlockSparseAttentionOp: _block_sparse_attention,
    model.MlaOp: _latent,
    model.DsaOp: _dsa,
    model.CompressedAttentionOp: _compressed_attention,
    model.GatedDeltaNetOp: _gated_delta_net,
    model.KimiDeltaOp: _kimi_delta,
    model.Mamba2Op: _mamba2,
    model.FfnOp: _ffn,
    model.MoeOp: _moe,
}
"""The small sizes of a block, by its op; what is not named stays."""


def shrink_deployment(deployment: Deployment, **changes: object) -> Deployment:
    """The same parallel axes, a batch that dp does not divide, few tokens, and room for every token at every expert.

    The new tokens continue a cache.  With cp a decode step has as many queries as cp has ranks, as when drafts are
    verified.  Many data-parallel ranks do what a few do: dp and ep (or moe_dp) are divided alike.
    """
    d = deployment
    fewer = _fewer_ranks(d)
    queries = (7 if d.cp == 1 else 2 * d.cp) if d.phase == "prefill" else d.cp  # beside those that are drafted
    small = {
        "dp": d.dp // fewer,
        "ep": d.ep // fewer if d.ep > 1 else 1,
        "moe_dp": d.moe_dp // fewer if d.ep == 1 and d.moe_dp > 1 else d.moe_dp,
        "batch": d.dp // fewer + 1 if d.dp > 1 else 3,
        "q_len": queries,
        "kv_len": -(-41 // d.cp) * d.cp,
        "expert_capacity": "worst",
        "quantization": _small_groups(d.quantization),
        **changes,
    }
    return Deployment.model_validate({**d.model_dump(), **small})


TypesT = TypeVar("TypesT", Quantization, StoredTypes)


def _small_groups(types: TypesT) -> TypesT:
    """Weights of which two numbers share a scale where more do: the widths of small models are no multiples of more."""
    rules = (replace(rule, weights=_small_format(rule.weights)) for rule in map(parse_rule, types.types))
    weights = None if types.weights is None else _small_format(types.weights)
    return types.model_copy(update={"weights": weights, "types": tuple(map(str, rules))})


def _small_format(name: str) -> str:
    found = None if name in (UNCONVERTED, CHECKPOINT_TYPES) else element_format(name)
    if found is None or found.scales is None:
        return name
    return str(ElementFormat(found.element, Scales(2, 1, found.scales.element)))


MANY_RANKS = 4
"""Meshes up to this size are kept."""


def _fewer_ranks(d: Deployment) -> int:
    """The factor by which dp shrinks, and what spreads the experts, if any does: at least two ranks of each stay."""
    spread = d.ep if d.ep > 1 else d.moe_dp
    most = max(1, d.dp // 2) if spread == 1 else max(1, min(d.dp // 2, spread // 2))
    factors = [f for f in range(1, most + 1) if d.dp % f == 0 and (spread == 1 or spread % f == 0)]
    return next((f for f in factors if d.ranks // f <= MANY_RANKS), factors[-1])


LEAST_BUDGET, MOST_BUDGET = 1024, 64 * 1024
"""Bytes of LMEM for tiles between which the least is searched that a model is compiled into."""


def with_fp32(chip: Chip) -> Chip:
    """The chip with a matrix unit that takes FP32 too, as its slowest type: accelerators rarely have one."""
    data = chip.model_dump()
    for counts in (data["macs_per_lane_per_cycle"], data["cube"]["k"]):
        counts["f32"] = counts["f32"] or min(count for count in counts.values() if count is not None)
    return Chip.model_validate(data)


def shrink_chip(chip: Chip, budget: int = 16 * 1024) -> Chip:
    """Nine cores with a small matrix unit and `budget` bytes of LMEM for tiles, so that loops have several iterations.

    Models are run on it in FP32, so it has a matrix unit for that (see `with_fp32`).

    Raises PmcError for a chip without a command level, for which nothing is compiled below the dist level.
    """
    data = with_fp32(chip).model_dump()
    command_level = data["command_level"]
    cores, columns, rows = 9, 3, 3
    data.update(name=f"{chip.name}-small", cores=cores, dies=1, die_to_die=None)
    data["cube"].update(m=4, n=3)
    depths = data["cube"]["k"]
    depths.update({name: 16 * 8 // DTYPE_BITS[name] for name, depth in depths.items() if depth is not None})
    if command_level is not None:
        fraction = command_level["lmem"]["tile_budget_fraction"]
        command_level["lmem"].update(bytes_per_core=ceil(budget / fraction))
        command_level["noc"].update(mesh_columns=columns, mesh_rows=rows, cluster_columns=columns, cluster_rows=1)
    return Chip.model_validate(data)
