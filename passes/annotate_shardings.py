"""The pass `annotate-shardings`: a sharding on every value, a `dist.reshard` wherever two disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod
from typing import ClassVar, NoReturn

from xdsl.dialects.builtin import IntegerAttr, ModuleOp, f32, i64
from xdsl.ir import Block, Operation, Region, SSAValue

from pmc.dialects import dist, layer
from pmc.dialects.analyses.sharded_model import COUNTED_BY, KEY_HEADS, ShardedModel, axis_of_block
from pmc.dialects.assembly import PmcOp, PropertyValue
from pmc.dialects.dist import CONTEXT, PIPELINE, REPLICAS, Axis, Mesh, MeshAttr, Sharding, ShardingAttr, sharding_of
from pmc.dialects.expr import ExprAttr, ceildiv, expr, max_of, product, rank_symbol
from pmc.dialects.interfaces import POSITIONS, ROWS, SEQUENCES, WHOLE, ShardingRule
from pmc.dialects.levels import MESH, Level
from pmc.dialects.state_roles import ENTRY_AXIS
from pmc.dialects.tensor import TensorType, tensor
from pmc.passes.base import PassError, PmcPass


@dataclass(frozen=True)
class AnnotateShardingsPass(PmcPass):
    """Shard a layer program over a mesh by the rules of Megatron-LM.

    The logical axes of weights and caches are mapped to mesh axes: heads (those of an indexer too) and ffn to tp,
    experts to ep, the width of an expert to moe_tp, the vocabulary of the embedding and of the LM head to tp or to all
    ranks of a stage, sequences to dp, their positions to cp; a latent of MLA has no axis and is replicated.  Shardings
    then flow forward through every op's `sharding_rule`; weights and caches stay where they are, activations move.  A
    vocabulary that the ranks do not divide is padded: the last of them hold rows and columns of zeros, whose logits are
    dropped.  A contracted dim that is sharded leaves a partial sum.  With `sp` the residual stream is split over tp as
    well.  Types stay those of whole tensors; lengths and positions in properties are those of a rank of cp.

        %y = layer.matmul(%x, %w) : !layer.tensor<[batch*q_len, 7168], bf16>
        %z = layer.add(%r, %y) ..
    becomes
        %y = layer.matmul(%x, %w) : !layer.tensor<[..], bf16, #dist.sharding<[[dp], []], partial [tp]>>
        %s = dist.reshard(%y) : !layer.tensor<[..], bf16, #dist.sharding<[[dp], []]>>
        %z = layer.add(%r, %s) ..

    Ranks are numbered from the inside out: tp, cp, then dp (with cp and tp the chips of ep), pp, or without experts tp,
    cp, pp, dp.  Assumes a symbolic `batch` when dp > 1, and symbolic lengths when cp > 1.
    """

    name = "annotate-shardings"
    READS: ClassVar[tuple[Level, ...]] = ("layer",)
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    moe_tp: int = 1
    moe_dp: int = 1
    embedding: str = "tp"
    lm_head: str = "tp"
    cp: int = 1
    sp: bool = False

    def run(self, module: ModuleOp) -> None:
        """Shard every program of the module."""
        model = ShardedModel.of(module)
        mesh = self.mesh(model)
        self._sharder(mesh, model).check(model)
        for program in module.ops:
            if isinstance(program, layer.ProgramOp):
                self._sharder(mesh, model).program(program)
        module.attributes[MESH] = MeshAttr(mesh)

    def mesh(self, model: ShardedModel) -> Mesh:
        """The mesh over which a model is sharded.  Raises PassError where it has none of these sizes."""
        for option in ("tp", "pp", "dp", "ep", "moe_tp", "moe_dp", "cp"):
            if getattr(self, option) < 1:
                raise PassError(f"{self.name}: {option} is {getattr(self, option)}, must be at least 1")
        tp, cp, dp, stage = self.tp, self.cp, self.dp, self.tp * self.cp * self.dp
        experts = model.experts
        of_experts = self.moe_tp * self.ep * self.moe_dp
        if experts and stage != of_experts:
            raise PassError(
                f"{self.name}: dp*cp*tp = {dp}*{cp}*{tp} = {stage} must equal moe_tp*ep*moe_dp = "
                f"{self.moe_tp}*{self.ep}*{self.moe_dp} = {of_experts}: "
                "attention and experts share the ranks of a stage"
            )
        if not experts and of_experts > 1:
            raise PassError(
                f"{self.name}: ep = {self.ep}, moe_tp = {self.moe_tp}, moe_dp = {self.moe_dp}, "
                "but the model has no experts"
            )
        self._check_vocabulary(model)
        # Experts span all dp ranks of a stage, so these stay together; without them a pipeline does.
        dp_stride, pp_stride = (tp * cp, stage) if experts else (tp * cp * self.pp, tp * cp)
        axes = [Axis("tp", tp, 1), Axis("dp", dp, dp_stride), Axis("pp", self.pp, pp_stride)]
        if cp > 1:
            axes.insert(1, Axis(CONTEXT, cp, tp))
        if experts:
            axes += [Axis("moe_tp", self.moe_tp, 1), Axis("ep", self.ep, self.moe_tp)]
            if self.moe_dp > 1:
                axes.append(Axis(REPLICAS, self.moe_dp, self.moe_tp * self.ep))
        if "stage" in (self.embedding, self.lm_head) and stage > tp:
            axes.append(Axis(VOCABULARY, stage, 1))
        fewer = _fewer_than(tp, model.key_heads)
        for kv_heads in fewer:
            if tp % kv_heads:
                raise PassError(f"{self.name}: tp = {tp} is not a multiple of the {kv_heads} key heads it exceeds")
            # Fewer key heads than ranks: neighbours hold the same head.
            axes.append(Axis(_shared_heads(kv_heads, fewer), kv_heads, tp // kv_heads))
        return Mesh(stage * self.pp, tuple(axes))

    def shardings(self, model: ShardedModel) -> str:
        """What passes have in common that shard a model alike, whatever the sizes of the axes and the mesh attribute.

        Raises PassError where the pass refuses the model.
        """
        mesh = self.mesh(model)
        sharder = self._sharder(mesh, model)
        sharder.check(model)
        split = [axis for axis in mesh.axes if axis.size > 1 and axis.name != PIPELINE]
        overlaps = [(a.name, b.name) for a, b in combinations(split, 2) if a.overlaps(b)]
        # Under cp, and with slots for all tokens, sizes stand in lengths, positions and capacities.
        axes = split if self.cp > 1 or model.worst else [axis.name for axis in split]
        own = (self.sp, sharder.embedding, sharder.lm_head, sharder.axis_of, sharder.slots, sharder.expert_plane)
        return f"{self.name}: {axes} {overlaps} {own}"

    def _sharder(self, mesh: Mesh, model: ShardedModel) -> _Sharder:
        return _Sharder(mesh, self.sp, *self._vocabulary(mesh), model.key_heads)

    def _check_vocabulary(self, model: ShardedModel) -> None:
        for option in ("embedding", "lm_head"):
            if getattr(self, option) not in VOCABULARY_SPLITS:
                raise PassError(
                    f"{self.name}: {option} is '{getattr(self, option)}', must be {', '.join(VOCABULARY_SPLITS[:-1])} "
                    f"or {VOCABULARY_SPLITS[-1]}"
                )
            if getattr(self, option) == "stage" and self.pp > 1 and self.dp > 1 and not model.experts:
                raise PassError(
                    f"{self.name}: {option} = stage needs the ranks of a stage side by side; those of a model without "
                    f"experts are {self.tp * self.cp * self.pp} apart with pp = {self.pp}: choose tp or replicated"
                )
        if model.tied and self.embedding != self.lm_head:
            raise PassError(
                f"{self.name}: embedding = {self.embedding} and lm_head = {self.lm_head}, but both are one table in "
                "this model (tie_word_embeddings): split them alike"
            )

    def _vocabulary(self, mesh: Mesh) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The axes that split the vocabulary of the embedding and of the LM head."""
        whole = (VOCABULARY,) if any(axis.name == VOCABULARY for axis in mesh.axes) else ("tp",)
        axes = {"tp": ("tp",), "stage": whole, "replicated": ()}
        embedding, lm_head = (
            tuple(name for name in axes[split] if mesh.axis(name).size > 1) for split in (self.embedding, self.lm_head)
        )
        return embedding, lm_head


def _fewer_than(tp: int, key_heads: Mapping[str, int]) -> list[int]:
    """The numbers of key heads of blocks that have fewer of them than there are ranks."""
    return sorted({heads for heads in key_heads.values() if heads < tp})


def _shared_heads(kv_heads: int, fewer: Sequence[int]) -> str:
    """The mesh axis of ranks with different key heads."""
    return "tp_kv" if len(fewer) == 1 else f"tp_kv{kv_heads}"


VOCABULARY = "vocab"
"""The mesh axis of all ranks of a stage, where a vocabulary is split over them."""

VOCABULARY_SPLITS = ("tp", "stage", "replicated")


@dataclass
class _Sharder:
    """Rebuilds one program with shardings; `values` maps old values to new ones."""

    mesh: Mesh
    sp: bool
    embedding: tuple[str, ...]
    """The axes that split the vocabulary of the embedding."""
    lm_head: tuple[str, ...]
    """Those of the LM head."""
    key_heads: Mapping[str, int]
    """By path of an attention block its key heads."""
    values: dict[SSAValue, SSAValue] = field(default_factory=dict[SSAValue, SSAValue])
    resharded: dict[tuple[SSAValue, Sharding], SSAValue] = field(
        default_factory=dict[tuple[SSAValue, Sharding], SSAValue]
    )
    block: Block = field(default_factory=Block)

    def __post_init__(self) -> None:
        names = {axis.name for axis in self.mesh.axes if axis.size > 1}
        self.dp = ("dp",) if "dp" in names else ()
        self.cp = (CONTEXT,) if CONTEXT in names else ()
        self.tp = ("tp",) if "tp" in names else ()
        self.ep = ("ep",) if "ep" in names else ()
        # Experts split over exactly the tp ranks use the tp axis itself, so that their partial sums meet those of
        # the shared expert; otherwise the token copies of the moe_tp ranks are gathered.
        same_plane = all(a in names for a in ("tp", "moe_tp")) and (
            self.mesh.axis("tp").size == self.mesh.axis("moe_tp").size
        )
        self.expert_plane = same_plane or not names & {"tp", "moe_tp"}
        self.moe_tp = self.tp if same_plane else ("moe_tp",) if "moe_tp" in names else ()
        # Replicas of the experts share no tokens: a slot is for one of them.
        moe_dp = (REPLICAS,) if REPLICAS in names else ()
        self.slots = moe_dp if self.expert_plane else (*moe_dp, *self.moe_tp)
        fewer = _fewer_than(self.mesh.axis("tp").size, self.key_heads)
        shared = {heads: _shared_heads(heads, fewer) for heads in fewer}
        kv = {
            h: tuple(n for n in (shared[h],) if n in names) if h in shared else self.tp for h in self.key_heads.values()
        }
        self.axis_of = {
            "": (),
            "batch": self.dp,
            "position": self.cp,
            ENTRY_AXIS: (),
            "heads": self.tp,
            KEY_HEADS: self.tp,
            **{f"{KEY_HEADS} of {heads}": axes for heads, axes in kv.items()},
            "ffn": self.tp,
            "index_heads": self.tp,
            "vocab": self.lm_head,
            "expert": self.ep,
            "expert_ffn": self.moe_tp,
        }
        self.rows = (*self.dp, *self.cp)
        self.tokens = (*self.rows, *self.tp) if self.sp else self.rows
        self.may_split = {SEQUENCES: self.dp, POSITIONS: self.cp}

    def check(self, model: ShardedModel) -> None:
        """Raise PassError for a dim that the ranks which share it do not divide, and for what cp cannot split."""
        if self.cp and model.local is not None:
            path, kind = model.local
            raise PassError(
                f"annotate-shardings: layer.attention at '{path}' has a {kind}, which context parallelism "
                f"does not split: every rank has keys from the whole sequence; choose cp = 1"
            )
        if self.cp and model.recurrence is not None:
            raise PassError(
                f"annotate-shardings: {model.recurrence} goes through a sequence from its first token to its last, "
                f"cp = {self.mesh.axis(CONTEXT).size} would split it: only dp and tp can"
            )
        size = self.mesh.axis("tp").size
        for kind, heads, path in model.heads:
            if heads % size and (kind != "key heads" or heads > size):
                raise PassError(f"annotate-shardings: the {heads} {kind} of '{path}' are not divisible by tp = {size}")
        for name, elements, path in model.dims:
            if name not in self.axis_of:
                known = ", ".join(a for a in self.axis_of if a)
                raise PassError(f"annotate-shardings: '{path}' has the unknown axis '{name}' (known: {known})")
            axes = self.axis_of[name]
            size = prod(self.mesh.axis(axis).size for axis in axes)
            if elements % size:
                raise PassError(
                    f"annotate-shardings: the {name} dim of '{path}' has {elements} elements, "
                    f"not divisible by {'*'.join(axes)} = {size}"
                )

    # -- structure ----------------------------------------------------------------------------------------------

    def program(self, program: layer.ProgramOp) -> None:
        """Replace the body of `program`."""
        old = program.body.block
        self.block = Block(arg_types=[_encoded(a, self._by_rows(a)) for a in old.args])
        for before, after in zip(old.args, self.block.args, strict=True):
            after.name_hint = before.name_hint
            self.values[before] = after
            self._check_symbols(before.type, program.path.data)
        self._ops(old)
        body = program.detach_region(program.body)
        program.add_region(Region(self.block))
        body.drop_all_references()

    def _by_rows(self, value: SSAValue) -> Sharding:
        """Split by dp along the first dim, and by cp where that counts all tokens."""
        first, *others = tensor(value).dims
        return Sharding((self.rows if "q_len" in first.symbols else self.dp, *(() for _ in others)))

    def _check_symbols(self, type_: object, path: str) -> None:
        """The first dim counts sequences and positions by symbols, which dp and cp divide."""
        found = type_.dims[0].symbols if isinstance(type_, TensorType) else frozenset[str]()
        for axes, symbol in ((self.dp, "batch"), (self.cp, "q_len")):
            if axes and symbol not in found:
                self._no_symbol(path, symbol, axes[0])

    def _no_symbol(self, path: str, symbol: str, axis: str) -> NoReturn:
        ways = f"{axis} = {self.mesh.axis(axis).size}"
        raise PassError(
            f"annotate-shardings: '{path}' has no symbol '{symbol}' for {ways} to divide; "
            "run this pass before bind-symbols"
        )

    def _ops(self, block: Block) -> None:
        handlers: dict[type[Operation], Callable[[Operation], None]] = {
            layer.RepeatOp: self._repeat,
            layer.YieldOp: self._yield,
            layer.ReturnOp: self._return,
            layer.WeightOp: self._source,
            layer.StateOp: self._source,
            layer.AddBiasOp: self._add_bias,
            layer.RmsNormOp: self._rms_norm,
            layer.AttentionOp: self._attention,
            layer.RopeOp: self._rope,
            layer.TemperatureOp: self._rope,
            layer.PositionEmbeddingOp: self._positions,
            layer.IndexScoresOp: self._sparse,
            layer.BlockScoresOp: self._sparse,
            layer.TopkSelectOp: self._sparse,
            layer.GatherRowsOp: self._sparse,
            layer.SparseAttentionOp: self._sparse,
            layer.LastTokenOp: self._last_token,
            layer.DispatchOp: self._dispatch,
            layer.CombineOp: self._combine,
        }
        for op in block.ops:
            handlers.get(type(op), self._by_rule)(op)

    def _repeat(self, op: Operation) -> None:
        assert isinstance(op, layer.RepeatOp)
        inits = [self._settled(v, op) for v in op.inits]
        outer, outer_cache = self.block, self.resharded
        self.block, self.resharded = Block(arg_types=[v.type for v in inits]), {}
        for before, after in zip(op.body.block.args, self.block.args, strict=True):
            after.name_hint = before.name_hint
            self.values[before] = after
        self._ops(op.body.block)
        body, self.block, self.resharded = Region(self.block), outer, outer_cache
        symbol = None if op.symbol is None else op.symbol.data
        new = layer.RepeatOp.build_with(
            op.trip_count,
            inits,
            body,
            op.path.data,
            op.first.value.data,
            op.total.value.data,
            symbol,
            op.share_counts,
        )
        self._add(op, new)

    def _yield(self, op: Operation) -> None:
        assert isinstance(op, layer.YieldOp)
        values = [
            self._reshard(self.values[v], sharding_of(tensor(argument)), op)
            for v, argument in zip(op.values, self.block.args, strict=True)
        ]
        self._add(op, layer.YieldOp.make([values], [], op.path.data, like=op))

    def _return(self, op: Operation) -> None:
        assert isinstance(op, layer.ReturnOp)
        values = [self._reshard(self.values[v], self._by_rows(v), op) for v in op.values]
        self._add(op, layer.ReturnOp.make([values], [], op.path.data, like=op))

    # -- ops ----------------------------------------------------------------------------------------------------

    def _source(self, op: Operation) -> None:
        assert isinstance(op, layer.SourceOp)
        dims: list[tuple[str, ...]] = []
        for name, dim in zip(op.axis_names(), tensor(op.result).dims, strict=True):
            axes = self.axis_of[axis_of_block(name, op.path.data, self.key_heads)]
            if name == "vocab" and any(isinstance(use.operation, layer.EmbeddingOp) for use in op.result.uses):
                axes = self.embedding
            dims.append(axes)
            if axes and name in COUNTED_BY and (symbol := COUNTED_BY[name]) not in dim.symbols:
                self._no_symbol(op.path.data, symbol, axes[0])
        self._rebuild(op, [], [Sharding(tuple(dims))])

    def _by_rule(self, op: Operation) -> None:
        if not isinstance(op, layer.LayerOp):
            raise PassError(f"annotate-shardings: {op.name} is not an op of the layer level")
        rule = op.sharding_rule()
        operands = [self.values[v] for v in op.operands]
        partials = {sharding_of(tensor(v)).partial for i, v in enumerate(operands) if i in rule.linear}
        kept = partials.pop() if len(partials) == 1 else ()
        shardings = [
            sharding_of(tensor(v)) if kept and i in rule.linear else self._settled_sharding(v)
            for i, v in enumerate(operands)
        ]
        axes = self._factor_axes(rule, shardings)
        wanted = [
            Sharding(_dims(factors, axes), kept if i in rule.linear else ()) for i, factors in enumerate(rule.operands)
        ]
        operands = [self._reshard(v, s, op) for v, s in zip(operands, wanted, strict=True)]
        surviving = {f for factors in rule.results for f in factors} | rule.aligned
        surviving |= {SEQUENCES, POSITIONS} if ROWS in surviving else set()
        contracted = tuple(a for f, names in axes.items() if f not in surviving for a in names)
        results = [Sharding(_dims(factors, axes), (*kept, *contracted)) for factors in rule.results]
        self._rebuild(op, operands, results)

    def _factor_axes(self, rule: ShardingRule, shardings: Sequence[Sharding]) -> dict[str, tuple[str, ...]]:
        """The mesh axes of every factor: stationary operands first, no axis twice."""
        chosen: dict[str, tuple[str, ...]] = {WHOLE: ()}
        order = sorted(range(len(shardings)), key=lambda i: i not in rule.stationary)
        for index in order:
            for whole, axes in zip(rule.operands[index], shardings[index].dims, strict=True):
                for factor in (SEQUENCES, POSITIONS) if whole == ROWS else (whole,):
                    if factor in chosen:
                        continue
                    taken = [a for f, names in chosen.items() if f not in rule.aligned for a in names]
                    chosen[factor] = tuple(
                        a
                        for a in axes
                        if (factor in rule.aligned or not self._overlaps_any(a, taken))
                        and a in self.may_split.get(factor, axes)
                    )
        return chosen

    def _overlaps_any(self, name: str, others: Sequence[str]) -> bool:
        axis = self.mesh.axis(name)
        return any(axis.overlaps(self.mesh.axis(other)) for other in others)

    def _attention(self, op: Operation) -> None:
        """A rank of tp has the slopes of its own heads where scores have a bias by distance."""
        assert isinstance(op, layer.AttentionOp)
        self._by_rule(op)
        new = self.block.last_op
        assert isinstance(new, layer.AttentionOp)
        for axis in sharding_of(tensor(new.q[0])).dims[1] if op.alibi_heads is not None else ():
            new.first_head = ExprAttr(expr(rank_symbol(axis)) * (op.heads // self.mesh.axis(axis).size))

    # -- positions ----------------------------------------------------------------------------------------------

    def _rope(self, op: Operation) -> None:
        """A rank of cp has every n-th position, from its own number on."""
        assert isinstance(op, layer.RopeOp | layer.TemperatureOp)
        self._by_rule(op)
        new = self.block.last_op
        assert isinstance(new, layer.RopeOp | layer.TemperatureOp)
        for axis in set(self.cp) & set(sharding_of(tensor(new.x)).dims[0]):
            size = self.mesh.axis(axis).size
            new.properties["q_len"] = ExprAttr(ceildiv(op.q_len.data, size))
            new.properties["kv_len"] = ExprAttr(ceildiv(op.kv_len.data, size))
            new.properties["stride"] = IntegerAttr(size, i64)
            new.properties["first"] = ExprAttr.of(rank_symbol(axis))

    def _positions(self, op: Operation) -> None:
        """Whole sequences read the table, as no command has an address that differs by rank; they part behind it."""
        assert isinstance(op, layer.PositionEmbeddingOp)
        wanted = self._settled_sharding(self.values[op.x])
        self._by_rule(op)
        self.values[op.y] = self._reshard(self.values[op.y], wanted, op)

    def _sparse(self, op: Operation) -> None:
        """A rank of cp has every n-th query, from its own number on, and all keys to select among."""
        self._by_rule(op)
        new = self.block.last_op
        assert isinstance(new, layer.LayerOp)
        for axis in set(self.cp) & set(sharding_of(tensor(new.results[0])).dims[0]):
            size = self.mesh.axis(axis).size
            name = "sequence_q_len" if isinstance(new, layer.SparseAttentionOp) else "q_len"
            q_len = new.properties[name]
            assert isinstance(q_len, ExprAttr)
            new.properties[name] = ExprAttr(ceildiv(q_len.data, size))
            if isinstance(new, layer.TopkSelectOp | layer.SparseAttentionOp):
                new.stride, new.first = IntegerAttr(size, i64), ExprAttr.of(rank_symbol(axis))

    def _last_token(self, op: Operation) -> None:
        """The last rows of the ranks of cp are the last tokens of a sequence, of which the very last is wanted."""
        assert isinstance(op, layer.LastTokenOp)
        if not self.cp:
            self._by_rule(op)
            return
        size = self.mesh.axis(self.cp[0]).size
        last, width = tensor(op.y).dims
        x = self.values[op.x]
        type_ = tensor(op.y).with_dims((last * size, width))
        for path, q_len, rows, result in (
            (f"{op.path.data}.of_rank", ceildiv(op.q_len.data, size), self.rows, type_),
            (op.path.data, expr(size), self.dp, tensor(op.y)),
        ):
            x = self._reshard(x, Sharding((rows, ())), op)
            encoded = result.with_encoding(ShardingAttr(Sharding((rows, ()))))
            new = layer.LastTokenOp.make([x], [encoded], path, {"q_len": q_len}, like=op)
            self.block.add_op(new)
            x = new.y
        x.name_hint = op.y.name_hint
        self.values[op.y] = x

    # -- experts ------------------------------------------------------------------------------------------------

    def _dispatch(self, op: Operation) -> None:
        """Tokens meet their experts.

        On the expert plane (moe_tp is tp, or neither is used) every tp rank already has the tokens of its group, and
        each copy goes to the expert shard with the same tp coordinate.  Otherwise each tp rank takes its part of the
        tokens, and the slots arrive split over moe_tp, to be gathered before the expert.
        """
        assert isinstance(op, layer.DispatchOp)
        rows = self._expert_token_axes()
        operands = [self._reshard(self.values[v], Sharding((rows, ())), op) for v in op.operands]
        experts, capacity, width = tensor(op.y).dims
        slots = self.slots
        if op.capacity.data == "worst":
            # No rank can be sent more than all padded tokens of its group.
            local = dist.local_dim(tensor(op.x).dims[0], rows, self.mesh)
            capacity = local * product(self.mesh.axis(a).size for a in (*self.ep, *slots))
        type_ = TensorType.of((experts, capacity, width), tensor(op.y).element_type)
        self._rebuild(op, operands, [Sharding((self.ep, slots, ()))], [type_])

    def _combine(self, op: Operation) -> None:
        """The inverse: on the expert plane partial sums of the experts stay partial sums of the tokens."""
        assert isinstance(op, layer.CombineOp)
        rows = self._expert_token_axes()
        experts = self.values[op.y_experts]
        slots = self.slots
        partial = sharding_of(tensor(experts)).partial if self.expert_plane else ()
        moved = [self._reshard(experts, Sharding((self.ep, slots, ()), partial), op)]
        moved += [self._reshard(self.values[v], Sharding((rows, ())), op) for v in (op.indices, op.weights)]
        self._rebuild(op, moved, [Sharding((rows, ()), partial)])

    def _add_bias(self, op: Operation) -> None:
        """Partial sums of experts stay so until they are those of tokens, of which there are fewer than slots."""
        assert isinstance(op, layer.AddBiasOp)
        partial = sharding_of(tensor(self.values[op.x])).partial
        if op.has_own_matrices and partial:
            op.share = ExprAttr(product(max_of(1 - expr(rank_symbol(axis)), 0) for axis in partial))
        self._by_rule(op)

    def _rms_norm(self, op: Operation) -> None:
        """Ranks that have parts of a row exchange one number per row: the sum of its squares."""
        assert isinstance(op, layer.RmsNormOp)
        rows, width = tensor(op.x).dims
        heads = sharding_of(tensor(self.values[op.x])).dims[1]
        whole = width == expr(op.group.value.data)
        if op.w is None or not whole or not heads or heads != sharding_of(tensor(self.values[op.w])).dims[0]:
            self._by_rule(op)
            return
        path, sum_type = op.path.data, TensorType.of([rows, expr(1)], f32)
        sums = layer.SquareSumOp.make([op.x], [sum_type], f"{path}.square_sum", like=op)
        self._by_rule(sums)
        given: dict[str, PropertyValue] = {"eps": op.eps, "width": op.group, "zero_centered": op.zero_centered}
        norm = layer.SplitRmsNormOp.make([op.x, sums.y, op.w], [op.y.type], path, given, like=op)
        self._by_rule(norm)
        self.values[op.y] = self.values[norm.y]

    def _expert_token_axes(self) -> tuple[str, ...]:
        return self.rows if self.expert_plane else (*self.rows, *self.tp)

    # -- values -------------------------------------------------------------------------------------------------

    def _settled_sharding(self, value: SSAValue) -> Sharding:
        """The sharding in which a value is used when it may not be partial: with sp a sum is scattered over tokens."""
        sharding = sharding_of(tensor(value))
        if not sharding.partial:
            return sharding
        rows = self.tokens if len(sharding.dims) == 2 else sharding.dims[0]
        return Sharding((rows, *sharding.dims[1:]))

    def _settled(self, value: SSAValue, user: Operation) -> SSAValue:
        return self._reshard(self.values[value], self._settled_sharding(self.values[value]), user)

    def _reshard(self, value: SSAValue, wanted: Sharding, user: Operation) -> SSAValue:
        """`value` in the sharding `wanted`; one reshard serves all uses."""
        if sharding_of(tensor(value)) == wanted:
            return value
        known = self.resharded.get((value, wanted))
        if known is None:
            path = value.owner.path.data if isinstance(value.owner, PmcOp) else _path(user)
            op = dist.ReshardOp.make([value], [_encoded(value, wanted)], path, like=user)
            self.block.add_op(op)
            known = self.resharded[value, wanted] = op.y
        return known

    def _rebuild(
        self,
        op: Operation,
        operands: Sequence[SSAValue],
        shardings: Sequence[Sharding],
        types: Sequence[TensorType] | None = None,
    ) -> None:
        """The same op on new operands, its results with shardings."""
        plain = types or [self._resized(op, index, operands) for index in range(len(op.results))]
        new = type(op).create(
            operands=operands,
            result_types=[t.with_encoding(ShardingAttr(s)) for t, s in zip(plain, shardings, strict=True)],
            properties=op.properties,
            attributes=op.attributes,
            location=op.location,
        )
        self._add(op, new)

    def _resized(self, op: Operation, result: int, operands: Sequence[SSAValue]) -> TensorType:
        """The type of a result whose expert capacity may have changed: dims of one factor are of one size."""
        type_ = tensor(op.results[result])
        if not isinstance(op, layer.LayerOp) or len(type_.dims) != 3 or not operands:
            return type_
        rule = op.sharding_rule()
        dims = list(type_.dims)
        for position, factor in enumerate(rule.results[result]):
            for factors, before, after in zip(rule.operands, op.operands, operands, strict=True):
                if factor in factors and factor != WHOLE:
                    at = factors.index(factor)
                    if tensor(before).dims[at] == dims[position]:
                        dims[position] = tensor(after).dims[at]
                        break
        return type_.with_dims(dims)

    def _add(self, old: Operation, new: Operation) -> None:
        self.block.add_op(new)
        for before, after in zip(old.results, new.results, strict=True):
            after.name_hint = before.name_hint
            self.values[before] = after


def _encoded(value: SSAValue, sharding: Sharding) -> TensorType:
    return tensor(value).with_encoding(ShardingAttr(sharding))


def _dims(factors: Sequence[str], axes: dict[str, tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    def of(factor: str) -> tuple[str, ...]:
        return (*of(SEQUENCES), *of(POSITIONS)) if factor == ROWS else axes.get(factor, ())

    return tuple(of(factor) for factor in factors)


def _path(op: Operation) -> str:
    return op.path.data if isinstance(op, PmcOp) else ""
