"""What must agree between the levels of a compiled model besides its values: types, shares, work, bytes, memory.

A fault that keeps every value can still cost bytes, time or memory, or break a rule of the chip that no small program
runs into.  Each function compares a module with what was noted of the levels above and gives a line for the first
thing that is wrong, or None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.utils.arg_spec import ArgSpec

from pmc.compiler.context import make_context
from pmc.compiler.op_times import op_times
from pmc.compiler.pipelines import build_pass
from pmc.dialects import dist, g5, layer, tile
from pmc.dialects.analyses.kernel_work import kernel_work
from pmc.dialects.analyses.program_work import program_work
from pmc.dialects.analyses.scratch import scratch_types
from pmc.dialects.arch import Chip, ChipAttr
from pmc.dialects.assembly import PmcOp
from pmc.dialects.deployment import Deployment
from pmc.dialects.expr import expr
from pmc.dialects.interfaces import Work, WorkInterface
from pmc.dialects.levels import level_of
from pmc.dialects.tensor import element_name, tensor
from pmc.dialects.tile_plan import PLAN
from pmc.passes.base import PassError
from pmc.passes.partition_stages import BALANCED

Key = tuple[str, str]
"""Path and name of a tensor op."""

CHIP = "arch.chip"

FUSING = ("fuse-rows", "fuse-gates")
"""The passes that make one op of several."""


@dataclass
class Invariants:
    """What the levels so far have said."""

    deployment: Deployment
    types: dict[tuple[str, str, int], str] = field(default_factory=dict[tuple[str, str, int], str])
    """The element type of every value, by path, op and result."""
    read: dict[tuple[str, str], list[list[str]]] = field(default_factory=dict[tuple[str, str], list[list[str]]])
    """The element types that every op reads, by path and op, in the order of the text."""
    wholes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """The dims of every weight of the whole model."""
    work: dict[Key, list[Work]] = field(default_factory=dict[Key, list[Work]])
    """What the ops of a key do, in the order of the text."""
    scratch: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Paths and bytes of the arrays that kernels will need while they run, as the footprint counts them."""

    def broken(self, name: str, module: ModuleOp, changed: bool = True) -> str | None:
        """What is wrong after pass `name`; notes what the next passes must keep.

        Kernels that are not `changed` since the pass before do what they did.
        """
        match level_of(module):
            case "layer":
                self.types = types_of(module)
                self.wholes = weight_dims(module)
                return None
            case "dist":
                wrong = self.converted(module) if name == "fuse-rows" else self.retyped(module)
                if wrong is None and name in FUSING:
                    wrong = self.reread(module)
                if wrong is None and name == "localize":
                    wrong = self.unshared(module)
                if wrong is None and name == "insert-collectives":
                    wrong = undone_move(module)
                if wrong is None and name == "combine-collectives":
                    wrong = left_apart(module)
                if wrong is None and name == "partition-stages":
                    wrong = uneven_stages(module, self.deployment.pp_layers == BALANCED)
                self.read = read_types_of(module)
                self.work = _noted(_tensor_work(module))
                self.scratch = planned_scratch(module)
                return wrong
            case "tile":
                if name == "allocate-lmem":
                    return misplaced_buffer(module)
                if name == "allocate-dram":
                    return misplaced_array(module)
                if not changed:
                    return None
                lowered = name == "lower-to-tiles"
                done = _noted((op, kernel_work(op)) for op in module.walk() if isinstance(op, tile.KernelOp))
                if name == "prefetch-weights":
                    wrong = self.moved_ahead(done)
                else:
                    wrong = self.reworked(done, tile.KernelOp.name, exact=not lowered)
                if wrong is None and lowered:
                    wrong = short_sum(module) or self.rescratched(module)
                self.work = done
                return wrong
            case "commands":
                done = _noted((op, program_work(op)) for op in module.walk() if isinstance(op, g5.ProgramOp))
                return self.reworked(done, g5.ProgramOp.name, exact=True)
            case _:
                return None

    def retyped(self, module: ModuleOp) -> str | None:
        """A value whose element type is another one than in the layer program."""
        for key, name in types_of(module).items():
            known = self.types.get(key, name)
            if known != name:
                return f"{key[1]} at '{key[0]}': result {key[2]} is {name}, it was {known}"
        return None

    def converted(self, module: ModuleOp) -> str | None:
        """A value of another type than before, but for those that a `layer.quantize` that is gone has converted."""
        now, gone = types_of(module), dict[str, str]()
        for key, name in self.types.items():
            path = key[0].removesuffix(".quantize")
            if key[1] == layer.QuantizeOp.name and key not in now:
                gone[path] = name
                if name not in (found for (where, _, _), found in now.items() if where == path):
                    return f"nothing at '{path}' is {name}, to which {key[1]} converted it"
        for (path, op, result), name in now.items():
            known = self.types.get((path, op, result), name)
            if name not in (known, gone.get(path, known)):
                return f"{op} at '{path}': result {result} is {name}, it was {known}"
        self.types = now
        return None

    def reread(self, module: ModuleOp) -> str | None:
        """An op that reads other types than before: what is fused gives what it gave."""
        for (path, op), types in read_types_of(module).items():
            before = self.read.get((path, op), types)
            if before != types:
                return f"{op} at '{path}' reads {types}, it read {before}"
        return None

    def unshared(self, module: ModuleOp) -> str | None:
        """A weight of which a rank holds more or less than its share: by the logical axes of its dims."""
        d = self.deployment
        ways = {"heads": d.tp, "index_heads": d.tp, "ffn": d.tp, "expert": d.ep, "expert_ffn": d.moe_tp}
        of_vocabulary = {"tp": d.tp, "stage": d.tp * d.cp * d.dp, "replicated": 1}
        for op in module.walk():
            if not isinstance(op, layer.WeightOp) or op.path.data not in self.wholes:
                continue
            for axis, whole, held in zip(op.axis_names(), self.wholes[op.path.data], _dims(op), strict=True):
                share = whole // ways.get(axis, 1)
                if axis == "vocab":
                    table = op.axis_names()[0] == axis
                    share = -(-whole // of_vocabulary[d.embedding if table else d.lm_head])
                if axis != "kv_heads" and held != share:
                    what = f"{axis or 'columns'} of '{op.path.data}'"
                    return f"a rank holds {held} of the {whole} {what}, its share is {share}"
        return None

    def reworked(self, done: Mapping[Key, Sequence[Work]], what: str, exact: bool = False) -> str | None:
        """A kernel or program that computes or stores something else than its op, or reads less."""
        for key, ops in self.work.items():
            found = done.get(key, [])
            if len(found) != len(ops):
                return f"{key[1]} at '{key[0]}' became {len(found)} {what} instead of {len(ops)}"
            for before, after in zip(ops, found, strict=True):
                if before != after if exact else not _does(after, before, "attention" in key[1]):
                    return f"{what} at '{key[0]}' does {_text(after)}, its {key[1]} {_text(before)}"
        return None

    def moved_ahead(self, done: Mapping[Key, Sequence[Work]]) -> str | None:
        """A kernel that does something else than before, but for what one reads for another: together as much."""

        def but_for_reads(found: Mapping[Key, Sequence[Work]]) -> dict[Key, list[Work]]:
            return {key: [replace(work, bytes_read=expr(0)) for work in own] for key, own in found.items()}

        def read(found: Mapping[Key, Sequence[Work]]) -> int:
            return sum(work.bytes_read.constant for own in found.values() for work in own)

        before, self.work = self.work, but_for_reads(self.work)
        wrong = self.reworked(but_for_reads(done), tile.KernelOp.name, exact=True)
        if wrong is None and read(before) != read(done):
            wrong = f"the kernels read {read(done)} bytes, they read {read(before)}"
        return wrong

    def rescratched(self, module: ModuleOp) -> str | None:
        """Arrays for partial results that are others than the footprint of the tensor program counts."""
        arrays = [op for op in module.walk() if isinstance(op, tile.GlobalOp) and op.kind.data == "scratch"]
        found = sorted((op.path.data, op.memref.bytes) for op in arrays)
        if found == self.scratch:
            return None
        path, size = next(iter(set(found) ^ set(self.scratch)), ("", 0))
        return f"{len(found)} scratch arrays, the plans need {len(self.scratch)}: {size} bytes at '{path}' differ"


def planned_scratch(module: ModuleOp) -> list[tuple[str, int]]:
    """Paths and bytes of what the plans of a tensor program need beside its values; none before `bind-symbols`."""
    planned = [op for op in module.walk() if isinstance(op, layer.LayerOp) and PLAN in op.attributes]
    return sorted((op.path.data, type_.bytes.constant) for op in planned for type_ in scratch_types(op))


def _does(kernel: Work, op: Work, attention: bool) -> bool:
    """Whether a kernel does what its op asks.

    It may read a block again, leave partial sums in DRAM for a while, and compute masked scores of attention.

    The arithmetic of vector kinds is counted coarser than that of tensor ops.
    """
    flops, wanted = kernel.flops.constant, op.flops.constant
    same = wanted <= flops if attention else wanted == flops or op.unit != "cube"
    pairs = (op.bytes_written, kernel.bytes_written), (op.bytes_read, kernel.bytes_read)
    return same and all(least.constant <= moved.constant for least, moved in pairs)


def _text(work: Work) -> str:
    return f"{work.flops} FLOPs on {work.bytes_read} bytes read and {work.bytes_written} written"


def types_of(module: ModuleOp) -> dict[tuple[str, str, int], str]:
    """The element types of all results of tensor ops."""
    return {
        (op.path.data, op.name, index): element_name(tensor(result).element_type)
        for op in module.walk()
        if isinstance(op, layer.LayerOp)
        for index, result in enumerate(op.results)
    }


def read_types_of(module: ModuleOp) -> dict[tuple[str, str], list[list[str]]]:
    """The element types of the operands of all tensor ops."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for op in module.walk():
        if isinstance(op, layer.LayerOp):
            types = [element_name(tensor(value).element_type) for value in op.operands]
            found.setdefault((op.path.data, op.name), []).append(types)
    return found


def uneven_stages(module: ModuleOp, balanced: bool = True) -> str | None:
    """Two stages that were more equal if one gave a layer to the other, or a channel that two values go through."""
    stages = [op for op in module.walk() if isinstance(op, dist.StageOp)]
    repeats = [
        [op for op in stage.body.block.ops if isinstance(op, layer.RepeatOp) and op.is_layers] for stage in stages
    ]
    layers = [sum(op.trip_count for op in own) for own in repeats]
    times = op_times(module) if balanced else None
    if not balanced:
        pass  # as the deployment says
    elif times is None:
        if layers and max(layers) > min(layers) + 1:
            return f"the stages have {', '.join(map(str, layers))} layers, which can be dealt out more evenly"
    else:

        def seconds(op: Operation) -> float:
            return sum(times.get(inner, 0.0) for inner in op.walk() if not isinstance(inner, dist.PointToPointOp))

        totals = [seconds(stage) for stage in stages]
        for left in range(len(stages) - 1):
            for giver, taker, repeat in (
                (left, left + 1, repeats[left][-1]),
                (left + 1, left, repeats[left + 1][0]),
            ):
                one = seconds(repeat) / repeat.trip_count
                if layers[giver] > 1 and totals[taker] + one < totals[giver] * (1 - 1e-6):
                    return f"stage {giver} takes longer than stage {taker} would with a layer of it"
    channels = [op.channel.value.data for op in module.walk() if isinstance(op, dist.SendOp)]
    repeated = next((c for c in channels if channels.count(c) > 1), None)
    return None if repeated is None else f"{channels.count(repeated)} values are sent on channel {repeated}"


def undone_move(module: ModuleOp) -> str | None:
    """A collective that takes back what one before it did: bytes for nothing."""
    for op in module.walk():
        if not isinstance(op, dist.LocalSliceOp | dist.AllGatherOp):
            continue
        undoes = dist.AllGatherOp if isinstance(op, dist.LocalSliceOp) else dist.ReduceScatterOp
        before = op.x.owner
        while isinstance(before, dist.CollectiveOp):
            same = isinstance(before, undoes) and (before.axis, before.dim) == (op.axis, op.dim)
            if same:
                return f"{op.name} at '{op.path.data}' takes back the {before.name} before it"
            before = before.operands[0].owner
    return None


def left_apart(module: ModuleOp) -> str | None:
    """Two collectives, the second right behind the first, that could be one: a latency for nothing."""
    for op in module.walk():
        before = op.prev_op
        if isinstance(op, dist.CollectiveOp) and isinstance(before, dist.CollectiveOp):
            one, other = before.exchange(), op.exchange()
            same = (one.collective, one.algorithm, one.ins[0].element_type) == (
                (other.collective, other.algorithm, other.ins[0].element_type)
            )
            if same and type(one.collective) in dist.GROUPED and before.results[0] not in op.operands:
                return f"{op.name} at '{op.path.data}' and the one before it could be one collective"
    return None


def short_sum(module: ModuleOp) -> str | None:
    """A matrix command that adds up in another type than FP32, which the matrix unit does not do."""
    for op in module.walk():
        if isinstance(op, tile.MmaOp):
            name = element_name(tile.buffer_type(op.acc).element_type)
            if name != "f32":
                return f"{op.name} at '{op.path.data}' adds up in {name}, must be f32"
    return None


def _dims(op: layer.WeightOp) -> tuple[int, ...]:
    return tuple(dim.constant for dim in tensor(op.result).dims)


def weight_dims(module: ModuleOp) -> dict[str, tuple[int, ...]]:
    """The dims of every weight of one layer."""
    return {op.path.data: _dims(op) for op in module.walk() if isinstance(op, layer.WeightOp)}


def _noted(found: Iterator[tuple[Operation, Work]]) -> dict[Key, list[Work]]:
    noted: dict[Key, list[Work]] = {}
    for op, work in found:
        name = op.op_name.data if isinstance(op, tile.KernelOp | g5.ProgramOp) else op.name
        assert isinstance(op, PmcOp)
        if name != "copy":  # copies are how arrays are made, no tensor op asks for them
            noted.setdefault((op.path.data, name), []).append(work)
    return noted


def _tensor_work(module: ModuleOp) -> Iterator[tuple[Operation, Work]]:
    """The tensor ops that become kernels."""
    for op in module.walk():
        if isinstance(op, WorkInterface) and PLAN in op.attributes:
            yield op, op.work()


# -- memory -----------------------------------------------------------------------------------------------------


def _chip(module: ModuleOp) -> Chip:
    chip = module.attributes[CHIP]
    assert isinstance(chip, ChipAttr)
    return chip.data


def misplaced_buffer(module: ModuleOp) -> str | None:
    """A buffer that is unaligned, overlaps another of its kernel, or ends after the budget of a core.

    The budget is a bound that is kept: with a byte less than the largest kernel needs, the module must be refused.
    """
    chip = _chip(module)
    step, most = chip.alignment_bytes, 0
    for kernel in (op for op in module.walk() if isinstance(op, tile.KernelOp)):
        where = f"the kernel of {kernel.op_name.data} at '{kernel.path.data}'"
        allocs = [op for op in kernel.walk() if isinstance(op, tile.AllocOp) and op.address is not None]
        places = [(op.byte_range.start, op.byte_range.stop) for op in allocs]
        extra = any(op.extra_slots for op in allocs)
        limit = chip.commands.lmem.bytes_per_core if extra else chip.lmem_tile_budget_bytes
        wrong = _misplaced(places, step, limit, "LMEM")
        if wrong is not None:
            return f"{where}: {wrong}"
        planned = [op.byte_range.stop - op.byte_range.start - _extra_bytes(op) for op in allocs]
        most = max(most, sum(-(-size // step) * step for size in planned))
    smaller = _with_budget(chip, most - 1)
    if most and not _refuses("allocate-lmem", module, smaller):
        return f"a kernel needs {most} bytes of LMEM and is placed in a budget of {smaller.lmem_tile_budget_bytes}"
    return None


def _extra_bytes(op: tile.AllocOp) -> int:
    return op.extra_slots * tile.buffer_type(op.result).bytes


def misplaced_array(module: ModuleOp) -> str | None:
    """An array that is unaligned, overlaps a weight or a cache, or ends after the capacity of the chip.

    The capacity is a bound that is kept: with a byte less than the last array ends at, the module must be refused.
    """
    chip, end = _chip(module), 0
    program = next(op for op in module.ops if isinstance(op, tile.ProgramOp))
    stages = [op for op in program.body.block.ops if isinstance(op, tile.StageOp)]
    shared = [op for op in program.body.block.ops if isinstance(op, tile.GlobalOp)]
    groups = [[*shared, *(op for op in stage.body.block.ops if isinstance(op, tile.GlobalOp))] for stage in stages]
    for held in groups or [shared]:
        # What is computed may share memory with other results, not with what stays there.
        places = {op: _place(op) for op in held}
        kept = {op: places[op] for op in held if op.kind.data in ("weight", "state")}
        for op, (start, stop) in places.items():
            wrong = _misplaced([(start, stop)], chip.alignment_bytes, chip.dram_bytes, "DRAM")
            if wrong is None and any(start < b and a < stop and other is not op for other, (a, b) in kept.items()):
                wrong = f"DRAM {start}..{stop - 1} is that of another array"
            if wrong is not None:
                return f"{op.kind.data} '{op.path.data}': {wrong}"
            end = max(end, stop)
    data = chip.model_dump()
    data["dram"]["capacity_gib"] = (end - 1) / 2**30
    if not _refuses("allocate-dram", module, Chip.model_validate(data)):
        return f"arrays up to byte {end} of DRAM are placed in {end - 1}"
    return None


def _place(op: tile.GlobalOp) -> tuple[int, int]:
    start = op.address.value.data if op.address is not None else -1
    return start, start + op.memref.bytes


def _misplaced(places: Sequence[tuple[int, int]], step: int, limit: int, memory: str) -> str | None:
    end = 0
    for start, stop in sorted(places):
        if start % step:
            return f"{memory} {start}..{stop - 1} does not start at a multiple of {step}"
        if start < end:
            return f"{memory} {start}..{stop - 1} overlaps bytes up to {end - 1}"
        if stop > limit:
            return f"{memory} {start}..{stop - 1} ends after {limit}"
        end = stop
    return None


def _with_budget(chip: Chip, budget: int) -> Chip:
    data = chip.model_dump()
    lmem = data["command_level"]["lmem"]
    lmem.update(bytes_per_core=max(1, int(budget / lmem["tile_budget_fraction"])))
    return Chip.model_validate(data)


def _refuses(name: str, module: ModuleOp, chip: Chip) -> bool:
    """Whether pass `name` raises on a copy of the module for another chip."""
    copy = module.clone()
    copy.attributes[CHIP] = ChipAttr(chip)
    try:
        build_pass(ArgSpec(name, {})).apply(make_context(), copy)
    except PassError:
        return True
    return False
