"""The derived waits order every conflict, for random loop nests, and let double buffering overlap."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmc.dialects.analyses.hazards import Barrier, Buffer, Command, Item, Loop, lags

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


# -- late commands and barriers ---------------------------------------------------------------------------------


def test_who_waits_for_a_late_store_finds_one_body_less_in_between() -> None:
    body, commands = matmul_nest(slots=2)
    commands["store"].late = True
    waits = lags(body)
    # The store two n ago was given one n ago, at the end: then come only the 4 * 2 loads of this n.
    assert waits[commands["convert"]] == {"tiu": 0, "gdma": 8}
    # It waits for the convert of its own n, counted where it stands.
    assert waits[commands["store"]] == {"vec": 0}
    assert waits[commands["load a"]] == {"tiu": 1}


@pytest.mark.parametrize(("late", "lag"), [(False, 1), (True, 0)])
def test_a_late_store_between_two_commands_may_not_have_been_given_yet(late: bool, lag: int) -> None:
    """Load a, store o, use a: in the first iteration the late store does not come before the use."""
    a, o = Buffer(0, 32, 2, 1), Buffer(32, 64, 2, 1)
    use = Command("vec", [a], [])
    body: list[Item] = [Command("gdma", [], [a]), Command("gdma", [o], [], late), use]
    assert lags([Loop(5, body)])[use] == {"gdma": lag}


def test_after_its_loop_a_late_store_is_one_like_others() -> None:
    """The last run of a late store is given in its own iteration; another loop may then use its bytes."""
    o, other = Buffer(0, 32, 2, 1), Buffer(0, 16, 1, 1)
    use, load = Command("vec", [], [other]), Command("gdma", [], [Buffer(64, 96, 1, 1)])
    first = Loop(5, [Command("gdma", [o], [], late=True), load])
    # After the store of the last iteration comes its load.
    assert lags([first, Loop(2, [use])])[use] == {"gdma": 1}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            [Command("vec", [], [Buffer(0, 32, 1, 1)])],
            "the buffer of a late command has a slot to keep its bytes in",
        ),
        ([], "nothing may use the buffer of a late command after it in the same iteration"),
    ],
)
def test_what_would_overwrite_a_late_store_is_refused(body: list[Item], message: str) -> None:
    slots = 1 if body else 2
    o = Buffer(0, 32, slots, 1)
    before, after = Command("vec", [], [o]), Command("vec", [], [o])
    store = Command("gdma", [o], [], late=True)
    with pytest.raises(AssertionError, match=message):
        lags([Loop(3, [before, store] if body else [store, after])])


def test_who_uses_the_slot_of_the_iteration_before_is_an_iteration_closer_to_who_overwrites_it() -> None:
    """Load a, then compute on what the iteration before loaded: with 3 slots one load runs ahead, with 2 none."""
    for slots, lag in ((3, 1), (2, 0)):
        a = Buffer(0, 30, slots, 1)
        load, other = Command("gdma", [], [a]), Command("gdma", [], [Buffer(64, 96, 1, 0)])
        use = Command("tiu", [a], [], behind=[a])
        waits = lags([Loop(5, [load, other, use])])
        # The load of the iteration before, behind which came its other load and both of this one.
        assert waits == {load: {"tiu": lag}, other: {}, use: {"gdma": 3}}


@pytest.mark.parametrize(("once", "lag"), [(True, 1), (False, 0)])
def test_a_loop_that_runs_once_comes_again_after_a_turn_of_the_loop_around_it(once: bool, lag: int) -> None:
    """Each turn multiplies outside and in the inner loop; the softmax there waits for the inner product before."""
    acc, other = Buffer(0, 32, 1, 0), Buffer(32, 64, 1, 0)
    softmax, product = Command("vec", [acc], [acc]), Command("tiu", [acc], [acc])
    waits = lags([Loop(5, [Command("tiu", [], [other]), Loop(0, [softmax, product], once)])])
    assert waits[softmax] == {"tiu": lag}


def test_nothing_waits_across_a_barrier() -> None:
    a = Buffer(0, 32, 1, 0)
    load, again, use = Command("gdma", [], [a]), Command("gdma", [], [a]), Command("vec", [a], [])
    assert lags([load, Barrier(), use]) == {load: {}, use: {}}
    # The load after the barrier is waited for, the one before it is not counted.
    assert lags([load, Barrier(), again, use]) == {load: {}, again: {}, use: {"gdma": 0}}


def test_a_barrier_in_a_loop_takes_no_wait_away() -> None:
    a = Buffer(0, 32, 1, 1)
    load, use = Command("gdma", [], [a]), Command("vec", [a], [])
    with_barrier = lags([Loop(3, [load, Barrier(), use])])
    # The use of the iteration before, and the load of this one.
    assert with_barrier == {load: {"vec": 0}, use: {"gdma": 0}}


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
    stored: Buffer | None = None
    if depth and pick.random() < 0.5:
        # The loops of one depth have their late stores from the same bytes.
        start = 1000 + 100 * depth
        stored = Buffer(start, start + 6, pick.choice([2, 3]), depth)
        buffers.append(stored)
    for _ in range(pick.randint(1, 4)):
        if depth < 3 and pick.random() < 0.35:
            once = pick.random() < 0.4
            least = pick.choice([0, 0, 1] if once else [0, 0, 1, 2])
            items.append(Loop(least, random_body(pick, depth + 1, buffers, bytes_left), once))
        elif buffers:
            chosen = pick.choices(buffers, k=pick.randint(1, 3))
            cut = pick.randint(0, len(chosen))
            # What a late store has still to store is in the slot of the iteration before.
            rotating = [b for b in dict.fromkeys(chosen) if b.depth and b.slots > 1 and b.start < 1000]
            behind = [b for b in rotating if pick.random() < 0.3]
            items.append(Command(pick.choice(ENGINES), chosen[:cut], chosen[cut:], behind=behind))
    if stored is not None:
        items.append(Command(pick.choice(ENGINES), [stored], [], late=True))
    return items


def events(body: Sequence[Item], pick: random.Random) -> Iterator[Event]:
    """Run the nest; a loop of at least 0 trips runs 0 to 3 times, differently each time."""
    waits = lags(body)
    issued = dict.fromkeys(ENGINES, 0)
    runs: dict[int, int] = {}

    def used(item: Command, buffers: Sequence[Buffer], loops: tuple[int, ...]) -> frozenset[int]:
        cells: set[int] = set()
        for buffer in buffers:
            size = (buffer.stop - buffer.start) // buffer.slots
            turn = runs[loops[buffer.depth - 1]] - 1 - (buffer in item.behind) if buffer.depth else 0
            slot = turn % buffer.slots
            cells.update(range(buffer.start + slot * size, buffer.start + (slot + 1) * size))
        return frozenset(cells)

    def given(event: Event) -> Event:
        issued[event.engine] += 1
        return replace(event, number=issued[event.engine])

    def run(
        items: Sequence[Item], loops: tuple[int, ...], pending: dict[Command, Event], last: bool
    ) -> Iterator[Event]:
        for item in items:
            if isinstance(item, Loop):
                kept: dict[Command, Event] = {}
                trips = item.trips or pick.randint(0, 1 if item.once else 3)
                for i in range(trips):
                    runs[id(item)] = runs.get(id(item), 0) + 1
                    yield from run(item.body, (*loops, id(item)), kept, i == trips - 1)
            elif isinstance(item, Command):
                absolute = {engine: issued[engine] - lag for engine, lag in waits[item].items()}
                event = Event(item.engine, 0, absolute, used(item, item.reads, loops), used(item, item.writes, loops))
                if item in pending:
                    yield given(pending.pop(item))
                if item.late and not last:
                    pending[item] = event
                else:
                    yield given(event)

    return run(body, (), {}, True)


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
