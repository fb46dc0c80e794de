"""Lifetimes, and addresses that follow from them."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from pmc.dialects.analyses.dram_placement import most_alive, place_by_lifetime, place_in_turn
from pmc.dialects.analyses.liveness import Lifetime, Timeline


def test_arrays_that_stay_are_aligned_one_after_the_other() -> None:
    placed = place_in_turn([5, 32, 1], 10, 32)
    assert (placed.addresses, placed.end) == ((32, 64, 96), 97)
    assert place_in_turn([], 10, 32).end == 10


def test_an_array_takes_the_place_of_one_that_is_dead() -> None:
    lives = [Lifetime(0, 1), Lifetime(1, 2), Lifetime(2, 3)]
    placed = place_by_lifetime([32, 64, 32], lives, 3, 32)
    assert (placed.addresses, placed.end) == ((32, 64, 32), 128)


def test_an_order_that_leaves_no_gap_is_found() -> None:
    """By first use b stands above a, where c finds no room below it; the largest first, c and a share and b is above.

    Step 0: a of 64 bytes and b of 32; step 1: b and c of 96.  128 are alive at once.
    """
    lives = [Lifetime(0, 0), Lifetime(0, 1), Lifetime(1, 1)]
    assert place_by_lifetime([64, 32, 96], lives, 0, 32).end == most_alive([64, 32, 96], lives) == 128


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9), st.integers(0, 5)), max_size=12),
    st.integers(0, 100),
    st.sampled_from([1, 16, 32]),
)
def test_what_lives_at_once_is_apart_and_no_less_than_alive(
    arrays: list[tuple[int, int, int]], base: int, alignment: int
) -> None:
    sizes = [size for size, _, _ in arrays]
    lives = [Lifetime(first, first + more) for _, first, more in arrays]
    placed = place_by_lifetime(sizes, lives, base, alignment)
    assert all(at % alignment == 0 and at >= base for at in placed.addresses)
    assert placed.end == max((at + size for at, size in zip(placed.addresses, sizes, strict=True)), default=base)
    assert placed.end - base >= most_alive(sizes, lives)
    for (a, x, life), (b, y, other) in combinations(zip(placed.addresses, sizes, lives, strict=True), 2):
        if life.first <= other.last and other.first <= life.last:
            assert a + x <= b or b + y <= a or not x or not y


def test_scratch_lives_for_its_step_and_what_crosses_iterations_for_all_of_them() -> None:
    timeline = Timeline[str]()
    timeline.add([], ["x"], ())
    timeline.add(["x"], ["t"], ("loop",), scratch=["s"])
    timeline.add(["t"], ["u"], ("loop",))
    timeline.add(["u"], [], ())
    assert timeline.lifetimes() == {
        "x": (0, 2), "t": (1, 2), "s": (1, 1), "u": (1, 3),
    }  # fmt: skip
