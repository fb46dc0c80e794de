"""The derived waits order every conflict, for random loop nests, and let double buffering overlap."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.passes.hazards import Buffer, Command, Item, Loop, lags

ENGINES: tuple[str, ...] = ("tiu", "gdma", "vec")


# -- the standard nest ------------------------------------------------------------------------------------------


def matmul_nest(slots: int) -> tuple[list[Item], dict[str, Command]]:
    """for n < 2: { for k < 4: {load a, load b, mma}, convert, store }, every buffer with `slots` slots."""
    c, o = Buffer(0, 100, slots, 1), Buffer(100, 200, slots, 1)
    a, b = Buffer(200, 300, slots, 2), Buffer(300, 400, slots, 2)
    commands = {
        "load a": Command("gdma", [], [a]),
        "load b": Command("gdma", [], [b]),
        "mma": Command("tiu", [a, b, c], [c]),
        "convert": Command("vec", [c], [o]),
        "store": Command("gdma", [o], []),
    }
    inner = Loop(4, [commands["load a"], commands["load b"], commands["mma"]])
    return [Loop(2, [inner, commands["convert"], commands["store"]])], commands


def test_two_slots_let_the_loads_run_one_iteration_ahead() -> None:
    body, commands = matmul_nest(slots=2)
    waits = lags(body)
    assert {name: waits[command] for name, command in commands.items()} == {
        # The mma two iterations ago used the slot: one mma after it may still run.
        "load a": {"tiu": 1},
        "load b": {"tiu": 1},
        # Both loads of this iteration; the convert two n ago, with one convert after it.
        "mma": {"gdma": 0, "vec": 1},
        # The store two n ago: then come one whole n (4 * 2 loads + 1 store) and this n's 8 loads.
        "convert": {"tiu": 0, "gdma": 17},
        "store": {"vec": 0},
    }


def test_one_slot_makes_the_loads_wait() -> None:
    body, commands = matmul_nest(slots=1)
    waits = lags(body)
    assert waits[commands["load a"]] == {"tiu": 0}
    assert waits[commands["convert"]] == {"tiu": 0, "gdma": 8}


def test_reads_do_not_wait_for_reads() -> None:
    shared = Buffer(0, 64, 1, 0)
    first, second = Command("gdma", [shared], []), Command("tiu", [shared], [])
    assert lags([first, second]) == {first: {}, second: {}}


def test_buffers_that_share_bytes_are_ordered_whatever_their_slots() -> None:
    early, late = Buffer(0, 64, 2, 1), Buffer(32, 96, 2, 1)
    read, write = Command("tiu", [early], []), Command("gdma", [], [late])
    assert lags([Loop(3, [read, write])]) == {read: {"gdma": 0}, write: {"tiu": 0}}


def test_a_loop_that_may_not_run_counts_as_nothing() -> None:
    """Between the two commands on the buffer stand 0 or more loads, so none may be assumed."""
    buffer, other = Buffer(0, 64, 1, 0), Buffer(64, 128, 1, 0)
    store, use = Command("gdma", [buffer], []), Command("vec", [], [buffer])
    load = Command("gdma", [], [other])
    assert lags([store, Loop(0, [load]), use])[use] == {"gdma": 0}
    assert lags([store, Loop(3, [load]), use])[use] == {"gdma": 3}


# -- random nests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One run of a command: its waits as absolute ids, and the bytes it uses."""

    engine: str
    number: int
    waits: dict[str, int]
    reads: frozenset[int]
    writes: frozenset[int]


def random_body(pick: random.Random, depth: int, scope: Sequence[Buffer], bytes_left: list[int]) -> list[Item]:
    buffers = list(scope)
    for _ in range(pick.randint(0, 2)):
        slots = pick.randint(1, 3) if depth else 1
        # Half of the buffers get bytes of their own, the others share them with whatever is there.
        start = bytes_left[0] if pick.random() < 0.5 else pick.randrange(0, 12)
        stop = start + slots * pick.randint(1, 2)
        bytes_left[0] = max(bytes_left[0], stop)
        buffers.append(Buffer(start, stop, slots, depth))
    items: list[Item] = []
    for _ in range(pick.randint(1, 4)):
        if depth < 3 and pick.random() < 0.35:
            items.append(Loop(pick.choice([0, 0, 1, 2]), random_body(pick, depth + 1, buffers, bytes_left)))
        elif buffers:
            chosen = pick.choices(buffers, k=pick.randint(1, 3))
            cut = pick.randint(0, len(chosen))
            items.append(Command(pick.choice(ENGINES), chosen[:cut], chosen[cut:]))
    return items


def events(body: Sequence[Item], pick: random.Random) -> Iterator[Event]:
    """Run the nest; a loop of at least 0 trips runs 0 to 3 times, differently each time."""
    waits = lags(body)
    issued = dict.fromkeys(ENGINES, 0)
    runs: dict[int, int] = {}

    def used(buffers: Sequence[Buffer], loops: tuple[int, ...]) -> frozenset[int]:
        cells: set[int] = set()
        for buffer in buffers:
            size = (buffer.stop - buffer.start) // buffer.slots
            slot = (runs[loops[buffer.depth - 1]] - 1) % buffer.slots if buffer.depth else 0
            cells.update(range(buffer.start + slot * size, buffer.start + (slot + 1) * size))
        return frozenset(cells)

    def run(items: Sequence[Item], loops: tuple[int, ...]) -> Iterator[Event]:
        for item in items:
            if isinstance(item, Loop):
                for _ in range(item.trips or pick.randint(0, 3)):
                    runs[id(item)] = runs.get(id(item), 0) + 1
                    yield from run(item.body, (*loops, id(item)))
            else:
                absolute = {engine: issued[engine] - lag for engine, lag in waits[item].items()}
                issued[item.engine] += 1
                yield Event(
                    item.engine, issued[item.engine], absolute, used(item.reads, loops), used(item.writes, loops)
                )

    return run(body, ())


def unordered(stream: Sequence[Event]) -> list[tuple[Event, Event]]:
    """Conflicting pairs of which the later one does not wait, directly or not, for the earlier: by brute force."""
    before: list[set[int]] = []
    positions = {(e.engine, e.number): i for i, e in enumerate(stream)}
    for index, event in enumerate(stream):
        direct = {positions[engine, number] for engine, number in event.waits.items() if number > 0}
        if event.number > 1:
            direct.add(positions[event.engine, event.number - 1])
        assert all(d < index for d in direct), "waits for a later command"
        before.append(direct.union(*(before[d] for d in direct)))
    return [
        (stream[i], later)
        for j, later in enumerate(stream)
        for i in range(j)
        if i not in before[j] and (stream[i].writes & (later.reads | later.writes) or stream[i].reads & later.writes)
    ]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_every_conflict_of_a_random_nest_is_ordered(seed: int) -> None:
    pick = random.Random(seed)
    body = random_body(pick, 0, (), [12])
    stream = list(events(body, pick))[:120]
    assert unordered(stream) == []


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(st.integers(0, 2**32))
def test_every_conflict_of_many_random_nests_is_ordered(seed: int) -> None:
    pick = random.Random(seed)
    body = random_body(pick, 0, (), [12])
    assert unordered(list(events(body, pick))[:200]) == []
