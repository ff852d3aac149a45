"""Populations: the same samples from the mirror and from the database, at every watermark."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import Dataset, Registry, Replay, Tensor
from registry.errors import FeatureError
from registry.samples.splits import BUCKETS, Interval
from registry.storage.database.transactions import read
from registry.storage.mirror.index import Index, in_memory
from registry.training import population as populations
from registry.training.mirror_source import MirrorSource
from registry.training.policy import LARGEST_RATIO, Policy, check_policy, parse_policy
from registry.training.population import (
    Draw,
    Population,
    contains,
    count_in_database,
    live_in_database,
    live_in_view,
)
from registry.training.source import drawn_ranks

Log = list[tuple[str, bool]]
"""The key of every row, and whether the row holds a sample; otherwise it is a retraction."""


@pytest.fixture
def dataset(reg: Registry) -> Dataset:
    """A dataset next to another one, whose rows supersede others at the same positions."""
    other = reg.create("other", {"n": Tensor("int64")})
    for n in range(2):
        other.insert([{"n": n}] * 20, keys=[f"k{key}" for key in range(20)])
    return reg.create("samples", {"n": Tensor("int64")}, splits={"one": 0.5, "two": 0.5})


def change(dataset: Dataset) -> Log:
    """Insert, revise and retract samples, and insert again some that were retracted."""
    rng = random.Random(3)
    log: Log = []
    for n in range(40):
        key = f"k{rng.randrange(12)}"
        if dict(log).get(key) and rng.random() < 0.5:
            dataset.retract(key)
            log.append((key, False))
        else:
            dataset.insert([{"n": n}], keys=[key])
            log.append((key, True))
    return log


def live(dataset: Dataset, log: Log, split: str | None, watermark: int) -> list[int]:
    """Return the positions of each key's last row before the watermark, if it is a sample."""
    last = {key: position for position, (key, _) in enumerate(log[:watermark])}
    return sorted(
        position
        for key, position in last.items()
        if log[position][1] and split in (None, dataset.split_of(key))
    )


@pytest.mark.parametrize("split", [None, "one", "two"])
def test_mirror_and_database_find_the_live_samples_at_every_watermark(
    dataset: Dataset, split: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(populations, "CHUNK", 7)
    log = change(dataset)
    engine, dataset_id = dataset.run("r").log.engine, dataset.run("r").log.dataset_id
    source = dataset.run("r").epoch(0).source
    assert isinstance(source, MirrorSource)
    interval: Interval = (0, BUCKETS)
    if split is not None:
        interval = dataset.splits[split]
    for watermark in range(len(log) + 1):
        population = Population(watermark, interval)
        expected = live(dataset, log, split, watermark)
        assert read(engine, count_in_database, dataset_id, population) == len(expected)
        for after, until in ((0, watermark), (watermark // 2, watermark), (0, watermark // 2)):
            inside = [position for position in expected if after <= position < until]
            parts = live_in_view(source.view, population, after, until)
            assert [int(n) for part in parts for n in part] == inside
            rows = read(engine, live_in_database, dataset_id, population, after, until)
            assert rows.tolist() == inside


def test_a_split_has_the_first_of_its_buckets_and_not_the_one_after_its_last(
    dataset: Dataset,
) -> None:
    dataset.insert([{"n": n} for n in range(20)], keys=[f"k{n}" for n in range(20)])
    log, source = dataset.run("r").log, dataset.run("r").epoch(0).source
    assert isinstance(source, MirrorSource)
    for position, bucket in enumerate(map(int, source.view.buckets)):
        for start, stop in ((bucket, bucket + 1), (bucket + 1, BUCKETS), (0, bucket)):
            population = Population(20, (start, stop))
            rows = read(log.engine, live_in_database, log.dataset_id, population, 0, 20)
            parts = live_in_view(source.view, population, 0, 20)
            assert (position in rows) == (start <= bucket < stop)
            assert rows.tolist() == [int(n) for part in parts for n in part]


@settings(max_examples=50, deadline=None)
@given(
    since=st.integers(0, 60),
    new=st.lists(st.integers(60, 120), unique=True),
    older=st.lists(st.integers(0, 59), unique=True),
    wanted=st.sets(st.integers(0, 130), min_size=1),
)
def test_an_index_says_which_positions_it_holds(
    since: int, new: list[int], older: list[int], wanted: set[int]
) -> None:
    """The new ones in the order of the log, then what a replay draws, in any order."""
    asked = np.array(sorted(wanted))
    drawn = [position for position in older if position < since]
    population = Population(130, (0, BUCKETS), since, Draw(Replay(1), 0, 0))
    index = in_memory(iter([np.array([*sorted(new), *drawn], np.int64)]))
    with mock.patch.object(populations, "CHUNK", 7):
        held = asked[contains(index, population, asked)]
    assert held.tolist() == sorted(wanted.intersection([*new, *drawn]))
    dense = Index(len(new), since)
    held = asked[contains(dense, Population(130, (0, BUCKETS)), asked)]
    assert held.tolist() == sorted(wanted.intersection(range(since, since + len(new))))


def test_every_population_has_its_own_name() -> None:
    """Two with one name would share the file of an index, and one would read the other's rows."""
    draws = [None] + [
        Draw(Replay(ratio), seed, epoch)
        for ratio, seed, epoch in itertools.product((0, 0.5, 0.05, 1), (1, 11), (1, 11))
    ]
    everything = [
        Population(watermark, interval, since, draw)
        for watermark, since in itertools.product((12, 112), (1, 2, 11))
        for interval in ((0, 5), (0, BUCKETS), (5, BUCKETS), (1, 15))
        for draw in draws
    ]
    assert len({population.name for population in everything}) == len(everything)


FROZEN = {
    # (new, older, seed, epoch): ranks
    (10, 20, 7, 3): [9, 11, 4, 16, 6],
    (10, 300, 7, 3): [229, 36, 148, 35, 98],
    (10, 300, 8, 3): [122, 26, 286, 197, 157],
    (10, 300, 7, 4): [10, 150, 93, 142, 43],
    (10, 4, 7, 3): [3, 1, 2, 0],
    (10, 0, 7, 3): [],
    (0, 10, 7, 3): [],
}
"""The ranks that a replay of ratio 0.5 draws. They never change: pinned epochs replay by them."""


@pytest.mark.parametrize("arguments", FROZEN)
def test_the_samples_that_a_replay_draws_never_change(arguments: tuple[int, int, int, int]) -> None:
    new, older, seed, epoch = arguments
    population = Population(100, (0, BUCKETS), 50, Draw(Replay(0.5), seed, epoch))
    assert drawn_ranks(population, new, older).tolist() == FROZEN[arguments]


@pytest.mark.parametrize(
    ("ratio", "new", "older"),
    [
        (0.5, 0, 0),
        (0.5, 1, 1),
        (0.5, 2, 1),
        (0.5, 3, 2),
        (0.5, 5, 3),
        (0.25, 1, 0),
        (0.49, 1, 0),
        (0, 9, 0),
        (1, 9, 9),
        (1.5, 3, 5),
        (LARGEST_RATIO, 2, 2 * LARGEST_RATIO),
    ],
)
def test_a_replay_rounds_halves_up(ratio: float, new: int, older: int) -> None:
    assert Replay(ratio).draws(new) == older


@pytest.mark.parametrize("ratio", [-1e-9, LARGEST_RATIO + 1, math.nextafter(LARGEST_RATIO, 2e6)])
def test_a_ratio_just_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(FeatureError, match="a number from 0 to 1,000,000"):
        Replay(ratio)


@settings(deadline=None)
@given(ratio=st.floats(0, LARGEST_RATIO) | st.integers(0, LARGEST_RATIO))
def test_a_policy_is_stored_without_loss(ratio: float) -> None:
    policies: tuple[Policy, ...] = ("all", "new", Replay(ratio))
    for policy in policies:
        check_policy(policy)
        assert parse_policy(str(policy)) == policy


def test_what_is_no_policy_is_refused(dataset: Dataset) -> None:
    others: list[Any] = ["", "ALL", "replay:0.5", "replay", 0.5, True, Replay]
    for policy in others:
        with pytest.raises(FeatureError, match="is not known; use 'all', 'new' or Replay"):
            dataset.run("r", policy=policy)
    assert dataset.runs() == []
