"""Windows of physical events: what a part takes, who waits, and that nothing is lost whatever moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pmc.dialects.analyses.event_state import EventChip, EventSetting, EventState
from pmc.dialects.analyses.identity_placement import identity_placement
from pmc.dialects.analyses.logical_parts import LogicalParts
from pmc.dialects.analyses.mesh_traffic import hops, link_bytes
from pmc.dialects.analyses.overlays import Overlay
from pmc.dialects.analyses.physical_events import PhysicalWindow, physicalize_window, uncommitted
from pmc.dialects.errors import PmcError
from pmc.dialects.table import Table
from pmc.dialects.trace_tables import EXPERTS, LOGICAL_COMPUTE, LOGICAL_MEMORY, REROUTE, TENSORS
from tests.dialects.tas_cases import WINDOW_NS, overlay, setting, stack, table_of, tables, tas, workload

Changes = Callable[[EventState], Overlay | None]


def no_changes(state: EventState) -> Overlay | None:
    return None


def run(
    found: EventSetting, changes: Changes = no_changes, ghz: float = 2.0, factor: float = 1.0
) -> list[PhysicalWindow]:
    state = found.initial
    windows: list[PhysicalWindow] = []
    clock, banks = np.full(found.chip.cores, ghz), np.full(found.chip.arch.dram.count, factor)
    while not state.is_done(found):
        windows.append(physicalize_window(found, state, clock, banks, changes(state)))
        state = windows[-1].state
        assert len(windows) < 1000
    return windows


def one_event(
    experts: list[str], flops: list[float], rows: list[tuple[str, str, int]], cores: list[int], bank: str = "B(0,0,0)"
) -> EventSetting:
    """One token of sequence 0, which lives on core 0."""
    op = "fc" if experts else "attn"
    compute = table_of(LOGICAL_COMPUTE, (1, 0, 0, 0, experts, flops, op))
    memory = table_of(LOGICAL_MEMORY, *((1, tensor, access, size, "") for tensor, access, size in rows))
    placed = table_of(EXPERTS, *((name, [core], "single") for name, core in zip(experts, cores, strict=False)))
    banks = table_of(TENSORS, *((tensor, bank) for tensor in dict.fromkeys(row[0] for row in rows)))
    chip = EventChip.of(stack(), tas().taps.capacity)
    return EventSetting.of(LogicalParts.of(compute, memory, 4), chip, WINDOW_NS, placed, banks)


# -- one part ---------------------------------------------------------------------------------------------------


def test_arithmetic_takes_its_cycles_at_the_clock() -> None:
    found = one_event(["E0"], [1e9], [("W_E0_0", "read", 1)], [0])
    fast, slow = run(found)[0].compute, run(found, ghz=1.6)[0].compute
    assert found.chip.flops_per_cycle == 2500.0
    assert (fast.cycles.tolist(), fast.duration_ns.tolist()) == ([400_000], [200_000])
    assert (slow.cycles.tolist(), slow.duration_ns.tolist()) == ([400_000], [250_000])


def test_a_bank_under_refresh_lengthens_what_reads_much() -> None:
    found = one_event(["E0"], [1e9], [("W_E0_0", "read", 25_000_000)], [0])
    assert run(found)[0].compute.duration_ns.tolist() == [1_000_000]
    assert run(found, factor=0.5)[0].compute.duration_ns.tolist() == [2_000_000]


def test_a_part_on_a_far_core_starts_later_and_reads_over_the_network() -> None:
    found = one_event(["E0"], [1.0], [("W_E0_0", "read", 6_400_000)], [3])
    window = run(found)[0]
    assert window.compute.start_ns.tolist() == [10], "two hops of 5 ns from its home core"
    assert window.memory.hops.tolist() == [2]
    assert window.compute.duration_ns.tolist() == [256_000], "25 bytes per ns of the bank, a link has 64"
    assert window.link_bytes[:, :, :].sum() == window.byte_hops == 2 * 6_400_000
    assert window.link_bytes[0, 0, 0] == window.link_bytes[2, 0, 1] == 6_400_000, "east first, then south"
    assert window.noc_load == pytest.approx(6_400_000 / (64 * WINDOW_NS))


def test_the_way_alone_takes_time() -> None:
    found = one_event(["E0"], [1.0], [("W_E0_0", "read", 64)], [3])
    assert run(found)[0].compute.duration_ns.tolist() == [11], "two hops of 5 ns and 64 bytes over a link"


def test_sequences_of_two_micro_batches_live_on_different_cores() -> None:
    found = setting(workload(**{"sequence.micro_batch": 2, "sequence.steps": 3}))
    attention = np.flatnonzero(found.parts.expert < 0)
    assert found.home[attention].tolist() == [0, 1, 2, 3, 0, 1]
    banks = [found.chip.bank_names[int(found.initial.tensor_bank[found.tensors[f"KV_S{s}"]])] for s in range(4)]
    assert banks == ["B(1,1,1)", "B(3,1,1)", "B(1,3,1)", "B(3,3,1)"], "the last bank over the home core"


def test_memory_rows_may_stand_in_any_order() -> None:
    small = workload()
    compute, memory = tables(small)
    rows = np.random.default_rng(0).permutation(memory.count)
    shuffled = Table.of(memory.schema, [values[rows] for values in memory.columns])
    one, other = (LogicalParts.of(compute, table, 4) for table in (memory, shuffled))
    for part in range(len(one)):
        found = [
            sorted(
                (parts.tensors[int(parts.row_tensor[row])], int(parts.row_bytes[row]), int(parts.row_write[row]))
                for row in range(parts.row_starts[part], parts.row_starts[part + 1])
            )
            for parts in (one, other)
        ]
        assert found[0] == found[1] and len(found[0]) == (1 if one.expert[part] >= 0 else 2)
        if one.expert[part] >= 0:
            assert found[0][0][0].startswith(f"W_{one.experts[int(one.expert[part])]}_")


def test_writes_go_the_other_way() -> None:
    window = run(one_event(["E0"], [1.0], [("W_E0_0", "write", 640)], [3]))[0]
    assert window.link_bytes[1, 1, 1] == window.link_bytes[3, 1, 0] == 640


def test_what_does_not_fit_into_a_window_is_shared_out_by_time() -> None:
    found = one_event(["E0", "E1"], [2e10, 1e10], [("W_E0_0", "read", 1001)], [0, 0])
    windows = run(found)
    assert [len(w.compute.event) for w in windows] == [1, 1]
    assert [w.core_flops[0] for w in windows] == pytest.approx([1.5e10, 1.5e10])
    assert [w.utilisation[0] for w in windows] == [1.0, 1.0]
    assert [int(w.bank_bytes.sum()) for w in windows] == [1001 * 3 // 4, 1001 - 1001 * 3 // 4]
    assert [len(w.state.queue.part) for w in windows] == [1, 0]
    assert [w.finished_tokens.tolist() for w in windows] == [[], [0]]
    assert windows[1].latency_ns.tolist() == [6_000_000]


def test_parts_of_a_core_run_one_after_the_other() -> None:
    windows = run(setting())
    starts, ends, cores = (
        np.concatenate([getattr(w.compute, n) for w in windows]) for n in ("start_ns", "duration_ns", "core")
    )
    for core in range(4):
        order = np.flatnonzero(cores == core)
        assert (starts[order][1:] >= (starts + ends)[order][:-1]).all()


def reference_starts(found: EventSetting) -> dict[tuple[int, int], int]:
    """Start of every (event, core) on a chip where parts are served one by one, in a plain loop."""
    parts, chip = found.parts, found.chip
    free = [0] * chip.cores
    starts: dict[tuple[int, int], int] = {}
    queue = uncommitted_all(found)
    for part, core, ready in sorted(queue, key=lambda entry: (entry[2], entry[0])):
        rows = range(parts.row_starts[part], parts.row_starts[part + 1])
        banks = [found.initial.tensor_bank[parts.row_tensor[row]] for row in rows]
        bank_ns = sum(int(parts.row_bytes[row]) / 25.0 for row in rows)
        way = 0.0
        for row, bank in zip(rows, banks, strict=True):
            links = chip.arch.core_hops(core, chip.arch.core_at_bank(int(bank)))
            way += int(parts.row_bytes[row]) / 64 + 5 * links if links else 0
        cycles = np.ceil(parts.flops[part] / 2500)
        begin = max(ready, free[core])
        free[core] = begin + int(np.ceil(max(cycles / 2, bank_ns, way, 1)))
        starts[(part, core)] = begin
    return starts


def uncommitted_all(found: EventSetting) -> list[tuple[int, int, int]]:
    parts = found.parts
    entries: list[tuple[int, int, int]] = []
    for part in range(len(parts)):
        expert = int(parts.expert[part])
        home = int(parts.sequence[part]) % 4
        core = home if expert < 0 else int(parts.experts[expert].removeprefix("E")) % 4
        ready = int(parts.t_gen_ns[part]) + 5 * found.chip.arch.core_hops(home, core)
        entries.append((part, core, ready))
    return entries


def test_starts_are_those_of_a_plain_loop() -> None:
    found = setting(workload(**{"sequence.steps": 12, "sequence.micro_batch": 32}))
    windows = run(found)
    wanted = reference_starts(found)
    events = [
        (int(event), int(core), int(start))
        for w in windows
        for event, core, start in zip(w.compute.event, w.compute.core, w.compute.start_ns, strict=True)
    ]
    expected = sorted((int(found.parts.event[part]), core, start) for (part, core), start in wanted.items())
    assert sorted(events) == expected
    assert max(len(w.state.queue.part) for w in windows) > 0, "some must wait"


# -- conservation -----------------------------------------------------------------------------------------------


def totals(windows: list[PhysicalWindow]) -> tuple[float, int, list[int], int]:
    """FLOP, workload bytes by events and by banks, tokens."""
    flops = sum(float(w.core_flops.sum()) for w in windows)
    banks = sum(int(w.bank_bytes.sum()) - 2 * w.migrated_bytes for w in windows)
    tokens = sorted(t for w in windows for t in w.finished_tokens.tolist())
    events = sum(int(w.memory.bytes[w.memory.qos == 0].sum()) for w in windows)
    return flops, banks, tokens, events


def changing(state: EventState) -> Overlay | None:
    match state.window:
        case 1:
            return overlay(
                1, state.committed, [("mb", 0, 3, [0, 1, 2])], [("weight", "W_E0_0", "B(0,0,0)", "B(3,3,1)", 10**8)]
            )
        case 2:
            return overlay(
                2, state.committed, [("fc", 1, 2, [2]), ("E2", 2, 0, [2])], [("expert", "E5", "C1", "C2", 0)]
            )
        case 3:
            return overlay(
                3, state.committed, [], [("expert", "E0", "", "C3", 0), ("kv", "KV_S0", "B(1,1,1)", "B(0,0,1)", 4096)]
            )
        case 4:
            return overlay(4, state.committed, [], [("expert", "E0", "C0", "", 0)])
        case _:
            return None


@pytest.mark.parametrize("changes", [no_changes, changing])
@pytest.mark.parametrize(("ghz", "factor"), [(2.0, 1.0), (1.2, 0.3)])
def test_flops_bytes_and_tokens_are_those_of_the_trace(changes: Changes, ghz: float, factor: float) -> None:
    found = setting()
    windows = run(found, changes, ghz, factor)
    flops, banks, tokens, events = totals(windows)
    assert flops == pytest.approx(float(found.parts.flops.sum()), rel=1e-12)
    assert banks == events == int(found.parts.row_bytes.sum())
    assert tokens == found.parts.token_ids.tolist()
    assert sum(len(w.compute.event) for w in windows) == len(found.parts)
    assert sum(w.migrated_bytes for w in windows) == (10**8 + 4096 if changes is changing else 0)


def test_energy_of_links_follows_the_bytes() -> None:
    """Byte-hops of the links are the bytes of all messages times their hops."""
    windows = run(setting(), changing)
    by_links = sum(w.byte_hops for w in windows)
    by_events = sum(int((w.memory.bytes * w.memory.hops).sum()) for w in windows)
    assert by_links == by_events > 0
    assert sum(w.core_byte_hops.sum() for w in windows) == by_links


def test_an_empty_overlay_is_none_byte_for_byte() -> None:
    found = setting()
    plain, empty = run(found), run(found, Overlay.empty)
    assert [w.state.committed for w in plain] == [w.state.committed for w in empty]
    for a, b in zip(plain, empty, strict=True):
        assert a.compute.table(found.chip) == b.compute.table(found.chip)
        assert a.memory.table(found.chip) == b.memory.table(found.chip)
        assert np.array_equal(a.link_bytes, b.link_bytes) and np.array_equal(a.core_flops, b.core_flops)


def test_the_hash_follows_the_events() -> None:
    found = setting()
    plain, changed = run(found), run(found, changing)
    assert plain[0].state.committed == changed[0].state.committed
    assert plain[1].state.committed != changed[1].state.committed
    assert run(found)[-1].state.committed == plain[-1].state.committed
    assert len({w.state.committed for w in plain}) == len(plain)


# -- overlays ---------------------------------------------------------------------------------------------------


def test_a_reroute_moves_what_has_not_started() -> None:
    found = setting(workload(**{"operators.fc.flop_per_token": 2e10}))
    state = run(found)[0].state
    waits = uncommitted(found, state)
    named = np.isin(found.parts.mb[waits.part], [0])
    assert (named & (waits.core == 3)).any(), "parts of micro-batch 0 wait at core 3"
    window = physicalize_window(
        found, state, np.full(4, 2.0), np.ones(32), overlay(1, state.committed, [("mb", 3, 1, [0])])
    )
    moved = set(waits.part[named & (waits.core == 3)].tolist())
    after = {**dict(zip(window.state.queue.part.tolist(), window.state.queue.core.tolist(), strict=True))}
    started = {int(event) for event in window.compute.event[window.compute.core == 3]}
    assert all(after.get(part, 1) == 1 for part in moved)
    assert not started & {int(found.parts.event[part]) for part in moved}
    assert len(window.state.queue.part) + len(window.compute.event) == len(waits.part)


def test_a_moving_tensor_is_read_at_its_new_place_once_it_is_there() -> None:
    found = setting(workload(**{"routing.experts": 2, "routing.zipf_s": 0.0}))
    name = found.chip.bank_names

    def move(state: EventState) -> Overlay | None:
        row = ("weight", "W_E0_0", "B(0,0,0)", "B(3,3,1)", 100_000_000)
        return overlay(1, state.committed, [], [row]) if state.window == 1 else None

    windows = run(found, move)
    reads = [{name[int(bank)] for bank in w.memory.bank[(w.memory.qos == 0) & (w.memory.core == 0)]} for w in windows]
    assert "B(0,0,0)" in reads[2] and "B(3,3,1)" not in reads[2], "100 MB take 4 ms at 25 GB/s: two windows"
    assert "B(3,3,1)" in reads[3] and "B(0,0,0)" not in reads[3]
    assert [w.migrated_bytes for w in windows[:4]] == [0, 75_000_000, 25_000_000, 0]
    pieces = windows[1].memory.table(found.chip).rows()[-2:]
    assert [piece.split(" ", 2)[2] for piece in pieces] == [
        "0 'B(0,0,0)' 75000000 read 0 migration", "0 'B(3,3,1)' 75000000 write 2 migration",
    ]  # fmt: skip


def test_moves_share_banks_and_links() -> None:
    found = setting()

    def move(state: EventState) -> Overlay | None:
        rows = [("weight", f"W_E{e}_{s}", b, t, 10**9) for e, s, b, t in (
            (0, 0, "B(0,0,0)", "B(2,0,1)"), (0, 1, "B(1,0,0)", "B(2,0,1)"),
        )]  # fmt: skip
        return overlay(0, state.committed, [], rows) if state.window == 0 else None

    first = run(found, move)[0]
    assert first.migrated_bytes == 25 * WINDOW_NS, "both write into one bank of 25 GB/s"
    assert first.noc_load == pytest.approx(25 / 64, rel=0.05)


def test_moves_over_one_link_share_it() -> None:
    found = setting(workload(**{"tensors.shards_per_expert": 4}))
    ways = [(f"B({x},{y},0)", f"B({x + 2},{y},0)") for y in (0, 1) for x in (0, 1)]
    rows = [("weight", f"W_E0_{shard}", *way, 10**9) for shard, way in enumerate(ways)]
    first = physicalize_window(
        found, found.initial, np.full(4, 2.0), np.ones(32), overlay(0, found.initial.committed, [], rows)
    )
    assert first.migrated_bytes == 64 * WINDOW_NS, "four banks of 25 GB/s could send more than a link takes"


def test_an_expert_that_moves_takes_new_tokens_with_it() -> None:
    found = setting()
    number, parts = found.experts["E5"], found.parts

    def cores_of(window: PhysicalWindow, event: int) -> list[int]:
        return sorted(window.compute.core[window.compute.event == event].tolist())

    def wanted(event: int, e5: int) -> list[int]:
        experts = [parts.experts[int(e)] for e in parts.expert[parts.event == event]]
        return sorted(e5 if name == "E5" else int(name[1:]) % 4 for name in experts)

    def move(state: EventState) -> Overlay | None:
        return overlay(1, state.committed, [], [("expert", "E5", "C1", "C2", 0)]) if state.window == 1 else None

    windows = run(found, move)
    assert windows[1].state.expert_cores[number].tolist() == [2]
    events = parts.event[parts.expert == number].tolist()
    by_window = [(w, event) for w in windows for event in events if event in w.compute.event]
    assert {w.window for w, _ in by_window} > {1}
    for window, event in by_window:
        assert cores_of(window, event) == wanted(event, 2 if window.window else 1), (
            "from the first token of window 1 on"
        )


def test_replicas_take_turns_by_token() -> None:
    found = setting()

    def add(state: EventState) -> Overlay | None:
        return overlay(0, state.committed, [], [("expert", "E0", "", "C3", 0)]) if state.window == 0 else None

    state = run(found, add)[0].state
    assert state.replicas(found) == {"E0": ((0, 3), 0)}
    waits = uncommitted(found, state)
    own = np.flatnonzero(found.parts.expert[waits.part] == found.experts["E0"])
    token = found.parts.token_ids[found.parts.token[waits.part[own]]]
    assert len(own) and waits.core[own].tolist() == np.where(token % 2, 3, 0).tolist()


HERE, THERE = "B(0,0,0)", "B(0,0,1)"


@pytest.mark.parametrize(
    ("window", "reroute", "migrate", "message"),
    [
        (0, [], [], "the overlay is for window 0, the next is 1: what is committed stays"),
        (2, [], [], "the overlay is for window 2, the next is 1"),
        (1, [("mb", 0, 4, [0])], [], "core 4 of an overlay is outside of 0..3"),
        (1, [("E77", 0, 1, [0])], [], "the scope 'E77' of a reroute is neither"),
        (1, [], [("disk", "E1", "", "", 0)], "the migration of a 'disk'"),
        (1, [], [("weight", "W_E9_0", HERE, THERE, 1)], "W_E9_0, which there is not"),
        (1, [], [("weight", "W_E0_0", THERE, HERE, 1)], r"it lies in B\(0,0,0\)"),
        (1, [], [("weight", "W_E0_0", HERE, THERE, 0)], "moves 0 bytes"),
        (1, [], [("weight", "W_E0_0", HERE, "B(9,9,9)", 1)], r"no bank B\(9,9,9\)"),
        (1, [], [("weight", "W_E0_0", HERE, THERE, 9)] * 2, "on its way already"),
        (1, [], [("expert", "E9", "C0", "C1", 0)], "expert E9, which there is not"),
        (1, [], [("expert", "E0", "C1", "C2", 0)], r"from core 1: it is on \[0\]"),
        (1, [], [("expert", "E0", "", "C0", 0)], "to core 0, where it is already"),
        (1, [], [("expert", "E0", "C0", "", 0)], "leaves it without a core"),
        (1, [], [("expert", "E0", "B0", "C1", 0)], "'B0' is no core"),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused(
    window: int, reroute: list[tuple[Any, ...]], migrate: list[tuple[Any, ...]], message: str
) -> None:
    found = setting()
    state = run(found)[0].state
    with pytest.raises(PmcError, match=message):
        changes = overlay(window, state.committed, reroute, migrate)
        physicalize_window(found, state, np.full(4, 2.0), np.ones(32), changes)


def test_an_overlay_that_was_made_after_other_events_is_refused() -> None:
    found = setting()
    state = run(found)[0].state
    with pytest.raises(PmcError, match="was made after other events"):
        physicalize_window(found, state, np.full(4, 2.0), np.ones(32), overlay(1, "f" * 16))


def test_an_overlay_row_outside_of_its_window_is_refused() -> None:
    found = setting()
    late = overlay(1, "")
    with pytest.raises(PmcError, match=r"applies at 3000000 ns, window 0 is 0\.\.2999999 ns"):
        moved = overlay(1, found.initial.committed, [("mb", 0, 1, [0])])
        wrong = Overlay(0, found.initial.committed, moved.reroute, late.migrate)
        physicalize_window(found, found.initial, np.full(4, 2.0), np.ones(32), wrong)


def test_a_rerouted_part_starts_when_the_row_applies_or_later() -> None:
    found = setting()
    first = overlay(0, found.initial.committed, [("mb", 0, 3, [0])])
    later = table_of(REROUTE, (2_900_000, "mb", 0, 3, [0], "hot_core", 0.5))
    changes = Overlay(0, first.committed, later, first.migrate)
    plain, moved = (
        physicalize_window(found, found.initial, np.full(4, 2.0), np.ones(32), o).compute for o in (None, changes)
    )
    assert (plain.core == 0).any() and not (moved.core == 0).any()
    for event in plain.event[plain.core == 0].tolist():
        assert moved.start_ns[(moved.event == event) & (moved.core == 3)].max() >= 2_900_000


def test_weights_that_do_not_fit_are_refused_by_how_much() -> None:
    with pytest.raises(PmcError, match=r"the banks over core 0 of .* cannot hold .*: 128 MiB too many"):
        setting(workload(**{"tensors.shards_per_expert": 5}))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ((0, 3), "expert E. has no core in the placement"),
        ((1, 3), "tensor W_E._. has no bank in the placement"),
    ],
)
def test_a_placement_that_lacks_something_is_refused(cut: tuple[int, int], message: str) -> None:
    found = setting()
    placed = list(identity_placement(stack(), workload()))
    which, rows = cut
    placed[which] = Table.of(placed[which].schema, [values[np.arange(rows)] for values in placed[which].columns])
    with pytest.raises(PmcError, match=message):
        EventSetting.of(found.parts, found.chip, WINDOW_NS, *placed)


# -- the mesh ---------------------------------------------------------------------------------------------------


def test_links_carry_what_goes_over_them_one_by_one() -> None:
    random = np.random.default_rng(0)
    columns, rows = 5, 3
    source, target = random.integers(15, size=(2, 40))
    amount = random.integers(1, 10**9, size=40)
    wanted = np.zeros((4, rows, columns))
    for first, last, size in zip(source.tolist(), target.tolist(), amount.tolist(), strict=True):
        (y, x), (y1, x1) = divmod(first, columns), divmod(last, columns)
        while x != x1:
            wanted[0 if x1 > x else 1, y, x] += size
            x += 1 if x1 > x else -1
        while y != y1:
            wanted[2 if y1 > y else 3, y, x] += size
            y += 1 if y1 > y else -1
    assert np.array_equal(link_bytes(columns, rows, source, target, amount), wanted)
    assert wanted.sum() == (hops(columns, source, target) * amount).sum()
