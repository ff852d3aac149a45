"""The schedule of a mix: shares that are right in every window, and an order that is frozen."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.training.schedule import BLOCK, SMALL_PARTS, Schedule, small

WINDOW = 10_000
MOST = WINDOW // 1000
"""How many places a window's share may differ by: 0.1 %."""

SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def weights(draw: st.DrawFn) -> list[float]:
    """Draw weights of any sizes, some of them 0 or tiny; often there is one that is much larger."""
    count = draw(st.one_of(st.integers(1, 12), st.integers(1, 1000)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    drawn = 10 ** rng.uniform(-draw(st.integers(0, 3)), 0, count)
    drawn[rng.random(count) < draw(st.sampled_from([0, 0.3]))] = 0
    tiny = rng.permutation(count)[: draw(st.integers(0, SMALL_PARTS))]
    drawn[tiny] = 1e-12
    drawn[rng.integers(count)] = draw(st.sampled_from([1.0, drawn.sum() + 1]))
    return list(map(float, drawn * draw(st.sampled_from([1.0, 1e-300, 1e300]))))


def largest_error(schedule: Schedule, sizes: list[float], places: int) -> float:
    """Return by how many places a part's share of a window differs at most."""
    parts, _ = schedule.locate(np.arange(places))
    exact = np.array(sizes) / max(sizes)
    exact *= WINDOW / exact.sum()
    by_part = np.split(np.argsort(parts, kind="stable"), np.cumsum(np.bincount(parts))[:-1])
    worst = 0.0
    for own, due in zip(by_part, exact, strict=False):  # without the last parts, if they have none
        # The windows with most places of a part begin at one of them, those with fewest after one.
        for starts in (own, np.append(0, own + 1)):
            inside = starts[starts <= places - WINDOW]
            counts = np.searchsorted(own, inside + WINDOW) - np.searchsorted(own, inside)
            worst = max(worst, np.abs(counts - due).max(initial=0))
    return worst


@given(sizes=weights(), seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_in_every_window_the_shares_are_the_weights(sizes: list[float], seed: int) -> None:
    if len(small(sizes)) > SMALL_PARTS:
        return
    schedule = Schedule.of(sizes, seed)
    assert sum(schedule.counts) == BLOCK
    assert [count > 0 for count in schedule.counts] == [weight > 0 for weight in sizes]
    assert largest_error(schedule, sizes, BLOCK + 2 * WINDOW) <= MOST


def test_the_worst_weights_are_within_the_bound() -> None:
    for sizes in ([1.0, *[1e-12] * SMALL_PARTS], [1.0, *[1e-3] * 999], [1.0] * 999):
        assert largest_error(Schedule.of(sizes, 0), sizes, BLOCK + WINDOW) <= MOST
    assert small([1.0, 1 / BLOCK, 0.9 / BLOCK, 0.0]) == [1, 2], "the sum is above 1"


@given(sizes=weights(), seed=SEEDS, start=st.integers(0, 2**40))
@settings(max_examples=8, deadline=None)
def test_each_place_has_the_next_sample_of_its_part(
    sizes: list[float], seed: int, start: int
) -> None:
    schedule = Schedule.of(sizes, seed)
    reached = schedule.before(start)
    assert sum(reached) == start
    parts, ranks = schedule.locate(np.arange(start, start + 500))
    for place, (part, rank) in enumerate(zip(parts.tolist(), ranks.tolist(), strict=True), start):
        assert rank == reached[part]
        if place % 50 == 0:
            assert schedule.place(part, rank) == place
            assert schedule.before(place) == reached
        reached[part] += 1


@pytest.mark.parametrize(
    ("sizes", "seed", "first", "digest"),
    [
        ([0.7, 0.3], 0, "0 1 0 0 1 0 0 0 1 0 0 1", "0a5ad4c3266ca3f8"),
        ([0.7, 0.3], 1, "1 0 0 0 1 0 0 1 0 0 1 0", "3c6641274ba73f9c"),
        ([1, 1, 1], 7, "1 0 2 1 0 2 1 0 2 1 0 2", "836b05b660a0352f"),
        ([5, 0, 0.25, 1e-9], 2**63 - 1, "0 0 2 0 0 0 0 0 0 0 0 0", "cd31ab4956ee6f3a"),
        (
            [1 / n for n in range(1, 1001)],
            3,
            "1 3 70 6 0 16 20 88 173 819 798 0",
            "4ef1790610d25df9",
        ),
    ],
)
def test_the_schedule_is_frozen(sizes: list[float], seed: int, first: str, digest: str) -> None:
    """Mixes that later versions continue must have the same order."""
    parts, _ = Schedule.of(sizes, seed).locate(np.arange(BLOCK))
    assert " ".join(map(str, parts[:12].tolist())) == first
    assert blake2b(parts.astype("<u2").tobytes(), digest_size=8).hexdigest() == digest
