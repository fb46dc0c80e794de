"""What a program on a mesh must keep to: shardings before `localize`, shapes of one rank after it.

An op sees its operands, its results and its properties; which axes there are stands on the module.  So this is verified
with the program, after its ops:

- A sharding has as many dims as its tensor, names axes of the mesh, and splits nothing twice by the same ranks.
- Dims with one factor of an op's sharding rule are split by the same axes; a dim that must be whole is; sequences are
  split by dp, positions by cp.
- A result is a partial sum over the axes of the factors that are summed away, and of the operands that are linear.
- A collective changes the sharding, or the shape of a rank, as its kind says.
- A send and its recv agree about channel, stages and type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import prod
from typing import NoReturn

from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from pmc.dialects import dist
from pmc.dialects.assembly import PmcOp
from pmc.dialects.dist import Axis, Mesh, MeshAttr, PartialAttr, Sharding, ShardingAttr
from pmc.dialects.flash_attention import FlashAttentionOp
from pmc.dialects.interfaces import POSITIONS, ROWS, SEQUENCES, WHOLE, ShardingRule
from pmc.dialects.layer_op import HEAD, LayerOp
from pmc.dialects.levels import MESH
from pmc.dialects.tensor import TensorType, tensor

Split = tuple[str, ...]
"""The mesh axes along which a dim is split, the slowest first."""


def verify_on_mesh(program: Operation) -> None:
    """Raise VerifyException for the first op of `program` that does not fit the mesh of its module."""
    module = program.parent_op()
    mesh = module.attributes.get(MESH, MeshAttr(Mesh(1, ()))) if isinstance(module, ModuleOp) else None
    if mesh is None:
        return  # a program on its own, which a pass is at work on
    if not isinstance(mesh, MeshAttr):
        raise VerifyException(f"the module attribute {MESH} is {mesh}, must be a #dist.mesh")
    _MeshVerifier(mesh.data).program(program)


class _MeshVerifier:
    """Verifies one program; remembers the shardings that it has found to be right."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.axes = {axis.name: axis for axis in mesh.axes}
        self.right: set[tuple[Sharding, int]] = set()
        self.op: Operation

    def fail(self, message: str) -> NoReturn:
        path = self.op.path.data if isinstance(self.op, PmcOp) else ""
        raise VerifyException(f"{self.op.name} at '{path}': {message}")

    def program(self, program: Operation) -> None:
        for op in program.walk():
            self.op = op
            self._attributes(op)
            for region in op.regions:
                for block in region.blocks:
                    self._values(block.args, "block argument")
            self._values(op.results, "result")
            if isinstance(op, LayerOp):
                self._layer_op(op)
            elif isinstance(op, dist.ReshardOp | dist.CollectiveOp | dist.CollectiveGroupOp):
                self._change(op)
        self._channels(program)

    # -- values -------------------------------------------------------------------------------------------------

    def _values(self, values: Sequence[SSAValue], what: str) -> None:
        """The axes of values exist and do not split the same ranks twice."""
        for index, value in enumerate(values):
            encoding = tensor(value).encoding
            if isinstance(encoding, ShardingAttr):
                if (encoding.data, len(tensor(value).dims)) not in self.right:
                    self._sharding(encoding.data, len(tensor(value).dims), f"{what} {index}")
            elif isinstance(encoding, PartialAttr):
                self._sharding(Sharding((), encoding.data), 0, f"{what} {index}")

    def _sharding(self, sharding: Sharding, dims: int, what: str) -> None:
        if (sharding, dims) in self.right:
            return
        if len(sharding.dims) != dims:
            self.fail(f"{what} has {dims} dims, its sharding {len(sharding.dims)}")
        names = [name for axes in (*sharding.dims, sharding.partial) for name in axes]
        found = [self._axis(name, what) for name in names]
        for a, b in combinations(found, 2):
            if a.name == b.name:
                self.fail(f"{what} is split or summed twice along '{a.name}'")
            if a.overlaps(b):
                self.fail(f"{what} is split or summed along '{a.name}' and '{b.name}', which share ranks")
        self.right.add((sharding, dims))

    def _axis(self, name: str, what: str) -> Axis:
        axis = self.axes.get(name)
        if axis is None:
            self.fail(f"{what} names the axis '{name}', the mesh has {', '.join(self.axes) or 'none'}")
        return axis

    def _attributes(self, op: Operation) -> None:
        """What a local program keeps of the whole: shardings of sources, arguments and results, axes by name."""
        for name in ("axis", "vocab_axis"):
            if name in op.properties:
                axis = op.properties[name]
                if isinstance(axis, StringAttr):
                    self._axis(axis.data, f"'{name}'")
        if not op.attributes:
            return
        part = op.attributes.get(dist.SHARDING)
        if part is not None:
            self._parts(dist.SHARDING, [part], op.results)
        for name, values in ((dist.ARGUMENTS, _arguments(op)), (dist.RESULTS, op.operands)):
            parts = op.attributes.get(name)
            if parts is not None:
                if not isa(parts, ArrayAttr[Attribute]):
                    self.fail(f"{name} is {parts}, must be a list")
                self._parts(name, parts.data, values)

    def _parts(self, name: str, parts: Sequence[Attribute], values: Sequence[SSAValue]) -> None:
        if len(parts) != len(values):
            self.fail(f"{name} has {len(parts)} entries for {len(values)} values")
        for part, value in zip(parts, values, strict=True):
            sharding = part.encoding if isinstance(part, TensorType) else part
            if not isinstance(sharding, ShardingAttr):
                kind = "a type with a sharding" if name == dist.RESULTS else "a sharding"
                self.fail(f"{name} holds {part}, must be {kind}")
            self._sharding(sharding.data, len(tensor(value).dims), name)

    # -- ops ----------------------------------------------------------------------------------------------------

    def _shardings(self, op: Operation) -> list[Sharding] | None:
        """The shardings of all operands and results; None for an op on the shapes of one rank."""
        encodings = [tensor(value).encoding for value in (*op.operands, *op.results)]
        found = [encoding.data for encoding in encodings if type(encoding) is ShardingAttr]
        if found and len(found) < len(encodings):
            lacking = next(i for i, e in enumerate(encodings) if not isinstance(e, ShardingAttr))
            self.fail(f"{_what(op, lacking)} has no sharding, others have")
        return found or None

    def _layer_op(self, op: LayerOp) -> None:
        shardings = self._shardings(op)
        if shardings is None:
            return
        rule = op.sharding_rule()
        splits: dict[str, Split] = {}
        factors = (*rule.operands, *rule.results)
        for index, (names, sharding) in enumerate(zip(factors, shardings, strict=True)):
            if len(names) != len(sharding.dims):
                self.fail(f"{_what(op, index)} has {len(sharding.dims)} dims, must have {len(names)}")
            for dim, (name, axes) in enumerate(zip(names, sharding.dims, strict=True)):
                for factor, split in self._factors(name, axes, op, index, dim):
                    known = splits.setdefault(factor, split)
                    if known != split:
                        self.fail(
                            f"dim {dim} of {_what(op, index)} is split along {_axes(split)}, "
                            f"must be along {_axes(known)} as the same dim of the other values"
                        )
        self._routed(rule, splits)
        if isinstance(op, FlashAttentionOp):
            self._heads(op, splits)
        self._sums(op, rule, splits, shardings)

    def _factors(self, name: str, axes: Split, op: Operation, index: int, dim: int) -> Iterator[tuple[str, Split]]:
        """The factors of a dim and the axes that split each."""
        if name == ROWS:
            sequences = tuple(a for a in axes if a == dist.DATA)
            positions = tuple(a for a in axes if a == dist.CONTEXT)
            if axes != (*sequences, *positions):
                self.fail(
                    f"dim {dim} of {_what(op, index)} is split along {_axes(axes)}, rows of sequences: dp, then cp"
                )
            yield SEQUENCES, sequences
            yield POSITIONS, positions
            return
        if name == WHOLE and axes:
            self.fail(f"dim {dim} of {_what(op, index)} is split along {_axes(axes)}, must be whole")
        for factor, only in ((SEQUENCES, dist.DATA), (POSITIONS, dist.CONTEXT)):
            if name == factor and axes not in ((), (only,)):
                self.fail(f"dim {dim} of {_what(op, index)} is split along {_axes(axes)}, may only be along {only}")
        yield name, axes

    def _sums(self, op: LayerOp, rule: ShardingRule, splits: dict[str, Split], shardings: Sequence[Sharding]) -> None:
        """The results are partial sums over what is summed away, no more and no less."""
        kept = {factor for names in rule.results for name in names for factor in _parts_of(name)}
        spared = kept | rule.aligned | rule.routed[0] | rule.routed[1]
        summed = {a for f, axes in splits.items() if f not in spared for a in axes}
        operands = len(op.operands)
        linear = {a for i, s in enumerate(shardings[:operands]) if i in rule.linear for a in s.partial}
        for index, sharding in enumerate(shardings[operands:], operands):
            if set(sharding.partial) != summed | linear:
                self.fail(
                    f"{_what(op, index)} is a partial sum over {_axes(sharding.partial)}, "
                    f"must be over {_axes(sorted(summed | linear))}"
                )

    def _routed(self, rule: ShardingRule, splits: dict[str, Split]) -> None:
        """Each token is sent once: tokens are split over the ranks of the experts and their slots."""
        tokens, slots = ([a for factor in sorted(side) for a in splits.get(factor, ())] for side in rule.routed)
        if self.mesh.told_apart(tokens) != self.mesh.told_apart(slots):
            self.fail(
                f"tokens are split along {_axes(tokens)}, experts and slots along {_axes(slots)}: not the same ranks"
            )

    def _heads(self, op: FlashAttentionOp, splits: dict[str, Split]) -> None:
        """Every rank has the key heads of its query heads, and all keys of a window or chunk."""
        if op.reach is not None and splits.get(POSITIONS):
            self.fail(
                f"its keys are split along {_axes(splits[POSITIONS])}, the keys of a {op.reach.kind} must be whole on "
                "every rank"
            )
        query_axes, key_axes = splits.get(HEAD, ()), splits.get("g", ())
        ways, key_ways = (prod(self.axes[a].size for a in axes) for axes in (query_axes, key_axes))
        if op.heads % ways:
            self.fail(f"{op.heads} heads cannot be split {ways} ways")
        for heads in {*(op.kv_heads(piece) for piece in range(len(op.k))), op.v_heads} - {1}:
            if key_axes == query_axes and heads % key_ways == 0:
                continue
            # Fewer key heads than ranks: neighbours have the same one.
            ends = [[stop for _, stop in self.mesh.told_apart(axes)] for axes in (query_axes, key_axes)]
            if heads != key_ways or ways % key_ways or ends[0] != ends[1]:
                self.fail(
                    f"{heads} key heads are split along {_axes(key_axes)}, {op.heads} query heads along "
                    f"{_axes(query_axes)}: a rank lacks key heads of its queries"
                )

    def _change(self, op: dist.ReshardOp | dist.CollectiveOp | dist.CollectiveGroupOp) -> None:
        """Collectives and reshards say themselves what they may change."""
        shardings = self._shardings(op)
        if not isinstance(op, dist.ReshardOp):
            wrong = op.wrong_shape(self.mesh) if shardings is None else op.wrong_sharding(self.mesh)
            if wrong is not None:
                self.fail(wrong)
        elif shardings is None:
            self.fail("the operand has no sharding")

    # -- stages -------------------------------------------------------------------------------------------------

    def _channels(self, program: Operation) -> None:
        """Each channel leads from one send to one recv of the peer, with one type."""
        sends: dict[int, tuple[dist.SendOp, int]] = {}
        recvs: dict[int, tuple[dist.RecvOp, int]] = {}
        stages: set[int] = set()
        for stage in program.regions[0].block.ops:
            if not isinstance(stage, dist.StageOp):
                continue
            self.op = stage
            index = stage.index.value.data
            if index in stages:
                self.fail(f"there are two stages {index}")
            stages.add(index)
            for op in stage.walk():
                if isinstance(op, dist.SendOp | dist.RecvOp):
                    self.op = op
                    ends = sends if isinstance(op, dist.SendOp) else recvs
                    channel = op.channel.value.data
                    if channel in ends:
                        self.fail(f"channel {channel} is used twice")
                    ends[channel] = op, index  # type: ignore[assignment]
        if stages and stages != set(range(len(stages))):
            self.fail(f"the stages are {sorted(stages)}, must be numbered from 0")
        self._pairs(sends, recvs)

    def _pairs(self, sends: dict[int, tuple[dist.SendOp, int]], recvs: dict[int, tuple[dist.RecvOp, int]]) -> None:
        for channel in sends.keys() | recvs.keys():
            self.op = (sends.get(channel) or recvs[channel])[0]
            if channel not in sends or channel not in recvs:
                self.fail(f"channel {channel} has no {'send' if channel not in sends else 'recv'}")
            (send, source), (recv, target) = sends[channel], recvs[channel]
            if send.peer.value.data != target or recv.peer.value.data != source:
                self.fail(
                    f"channel {channel} leads from stage {source} to {send.peer.value.data}, "
                    f"is received in stage {target} from {recv.peer.value.data}"
                )
            if send.x.type != recv.y.type:
                self.fail(f"channel {channel} sends {send.x.type}, the other end receives {recv.y.type}")


def _arguments(op: Operation) -> Sequence[SSAValue]:
    return op.regions[0].blocks[0].args if op.regions and op.regions[0].blocks else ()


def _parts_of(factor: str) -> tuple[str, ...]:
    return (SEQUENCES, POSITIONS) if factor == ROWS else (factor,)


def _what(op: Operation, index: int) -> str:
    """The operand or result with this number among both."""
    operands = len(op.operands)
    return f"operand {index}" if index < operands else f"result {index - operands}"


def _axes(names: Sequence[str]) -> str:
    return ", ".join(names) or "no axis"
