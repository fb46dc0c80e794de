"""What an overlay changes in the window that it is for: cores of waiting parts, cores of experts, banks of tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pmc.dialects.analyses.event_state import EventSetting, EventState, Move, Queue
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.analyses.mesh_traffic import hops
from pmc.dialects.errors import PmcError
from pmc.dialects.interfaces import IntArray
from pmc.dialects.table import Table
from pmc.dialects.trace_tables import CORE, MIGRATE, OPS, REROUTE

TENSORS = ("weight", "kv")


@dataclass(frozen=True)
class Overlay:
    """Changes of one window, which no committed event depends on."""

    window: int
    committed: str
    """Hash of the events committed before the window, as in `EventState`."""
    reroute: Table
    migrate: Table

    @classmethod
    def empty(cls, state: EventState) -> Overlay:
        """The overlay of the next window that changes nothing."""
        return cls(state.window, state.committed, Table.empty(REROUTE), Table.empty(MIGRATE))


def check_overlay(overlay: Overlay, setting: EventSetting, state: EventState) -> None:
    """Raise PmcError for an overlay that would change committed events, or whose rows lie outside of its window."""
    if overlay.window != state.window:
        raise PmcError(
            f"the overlay is for window {overlay.window}, the next is {state.window}: what is committed stays"
        )
    if overlay.committed != state.committed:
        raise PmcError(
            f"the overlay of window {overlay.window} was made after other events: it follows {overlay.committed}, "
            f"committed is {state.committed}"
        )
    first, last = setting.start_ns(overlay.window), setting.start_ns(overlay.window + 1) - 1
    for table in (overlay.reroute, overlay.migrate):
        times = table.ints("t_apply_ns")
        outside = times[(times < first) | (times > last)]
        if len(outside):
            raise PmcError(
                f"a row of the {table.schema.kind} overlay applies at {outside[0]} ns, "
                f"window {overlay.window} is {first}..{last} ns"
            )


def rerouted(queue: Queue, overlay: Overlay, setting: EventSetting) -> Queue:
    """The queue after all rows of `reroute`, one after the other.  Raises PmcError for a core that there is not."""
    table = overlay.reroute
    if not table.count:
        return queue
    core, ready = queue.core.copy(), queue.ready_ns.copy()
    lists, scopes = table.lists("mb_ids_json").int_lists(), table.texts("scope").tolist()
    for row in range(table.count):
        source, target, t_apply = (int(table.ints(n)[row]) for n in ("from_core", "to_core", "t_apply_ns"))
        for number in (source, target):
            _require_core(number, setting)
        moved = np.flatnonzero((core == source) & np.isin(setting.parts.mb[queue.part], lists[row]))
        moved = moved[_in_scope(scopes[row], queue.part[moved], setting)]
        core[moved] = target
        ready[moved] = ready_ns(setting, queue.part[moved], core[moved], t_apply)
    return Queue.ordered(queue.part, core, ready)


def ready_ns(setting: EventSetting, part: IntArray, core: IntArray, not_before: int = 0) -> IntArray:
    """When parts may start on cores: the token comes from its home core, link by link."""
    links = hops(setting.chip.arch.mesh.cores[0], setting.home[part], core)
    way = np.ceil(links * setting.chip.arch.mesh.noc.link_latency_ns).astype(np.int64)
    return np.asarray(np.maximum(setting.parts.t_gen_ns[part], not_before) + way)


def _in_scope(scope: str, part: IntArray, setting: EventSetting) -> IntArray:
    parts: LogicalParts = setting.parts
    if scope == "mb":
        return np.arange(len(part))
    if scope in OPS:
        return np.flatnonzero(parts.op[part] == OPS.index(scope))
    if scope not in setting.experts:
        raise PmcError(f"the scope '{scope}' of a reroute is neither mb, fc, attn nor an expert")
    return np.flatnonzero(parts.expert[part] == setting.experts[scope])


def _require_core(core: int, setting: EventSetting) -> None:
    if not 0 <= core < setting.chip.cores:
        raise PmcError(f"core {core} of an overlay is outside of 0..{setting.chip.cores - 1}")


def migrated(state: EventState, overlay: Overlay, setting: EventSetting) -> EventState:
    """The state with the experts on their new cores and the tensors on their way.

    Raises PmcError for a row whose object, source or target is not there.
    """
    table = overlay.migrate
    for row, (kind, name, source, target) in enumerate(
        zip(*(table.texts(column).tolist() for column in ("obj_type", "obj_id", "src", "dst")), strict=True)
    ):
        t_apply, size = int(table.ints("t_apply_ns")[row]), int(table.ints("size_bytes")[row])
        if kind in TENSORS:
            state = replace(state, moves=(*state.moves, _move(name, source, target, t_apply, size, state, setting)))
        elif kind == "expert":
            state = _with_expert(name, source, target, t_apply, state, setting)
        else:
            raise PmcError(f"the migration of a '{kind}': expected weight, kv or expert")
    return state


def _move(
    name: str, source: str, target: str, t_apply: int, size: int, state: EventState, setting: EventSetting
) -> Move:
    if name not in setting.tensors:
        raise PmcError(f"the migration of tensor {name}, which there is not")
    tensor, first, last = setting.tensors[name], *map(setting.chip.arch.bank_number, (source, target))
    if any(move.tensor == tensor for move in state.moves):
        raise PmcError(f"the migration of tensor {name}, which is on its way already")
    lies = int(state.tensor_bank[tensor])
    if lies != first:
        raise PmcError(f"the migration of tensor {name} from {source}: it lies in {setting.chip.bank_names[lies]}")
    if size < 1:
        raise PmcError(f"the migration of tensor {name} moves {size} bytes")
    return Move(tensor, first, last, t_apply, size)


def _with_expert(
    name: str, source: str, target: str, t_apply: int, state: EventState, setting: EventSetting
) -> EventState:
    if name not in setting.experts:
        raise PmcError(f"the migration of expert {name}, which there is not")
    number = setting.experts[name]
    cores = [core for core in state.expert_cores[number].tolist() if core >= 0]
    old, new = _core(source, setting), _core(target, setting)
    if old is not None and old not in cores:
        raise PmcError(f"the migration of expert {name} from core {old}: it is on {cores}")
    if new in cores:
        raise PmcError(f"the migration of expert {name} to core {new}, where it is already")
    if old is None:
        after = [*cores, *([] if new is None else [new])]
    else:
        after = [core if core != old else new for core in cores]
    kept = [core for core in after if core is not None]
    if not kept:
        raise PmcError(f"the migration of expert {name} leaves it without a core")
    return _with_cores(state, number, kept, t_apply)


def _with_cores(state: EventState, number: int, cores: list[int], t_apply: int) -> EventState:
    wide = max(len(cores), state.expert_cores.shape[1])
    found = np.full((len(state.expert_cores), wide), -1, np.int64)
    found[:, : state.expert_cores.shape[1]] = state.expert_cores
    found[number] = -1
    found[number, : len(cores)] = cores
    since = state.expert_since_ns.copy()
    since[number] = t_apply
    return replace(state, expert_cores=found, expert_since_ns=since)


def _core(name: str, setting: EventSetting) -> int | None:
    if not name:
        return None
    match = CORE.fullmatch(name)
    if match is None:
        raise PmcError(f"'{name}' is no core: expected C and its number, as C33")
    _require_core(int(match[1]), setting)
    return int(match[1])
