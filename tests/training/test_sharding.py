"""Shares and batches: every sample in one worker's batches, at every size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import FeatureError
from registry.training.batching import batches
from registry.training.sharding import CHUNK_ROWS, LARGEST, Share

SHARES = [(batch_size, count) for batch_size in (1, 2, 3) for count in (1, 2, 3, 4)]


def slices(step: list[int], batch_size: int, count: int) -> list[list[int]]:
    """Return each worker's slice of a step, which is whole or the last."""
    if len(step) == batch_size * count:
        return [step[i * batch_size : (i + 1) * batch_size] for i in range(count)]
    cuts = [len(step) * i // count for i in range(count + 1)]
    return [step[start:stop] for start, stop in itertools.pairwise(cuts)]


def shares_of(length: int, batch_size: int, count: int, *, drop: bool) -> list[list[int]]:
    """Return the offsets of each worker, step by step as documented."""
    whole = batch_size * count
    steps = [list(range(at, min(length, at + whole))) for at in range(0, length, whole)]
    if drop and steps and len(steps[-1]) < whole:
        steps.pop()
    parts = [slices(step, batch_size, count) for step in steps]
    return [[n for part in parts for n in part[index]] for index in range(count)]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("batch_size", "count"), SHARES)
def test_workers_divide_every_step_of_an_epoch_at_every_length(
    batch_size: int, count: int, drop: bool
) -> None:
    for length in range(2 * batch_size * count + 2):
        expected = shares_of(length, batch_size, count, drop=drop)
        for index, offsets in enumerate(expected):
            share = Share.of(batch_size, (index, count))
            assert share.size(length, drop_remainder=drop) == len(offsets)
            for after, until in itertools.combinations(range(len(offsets) + 1), 2):
                part = share.epoch_offsets(after, until, length)
                assert part.tolist() == offsets[after:until]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("batch_size", "count"), SHARES)
def test_the_processes_of_a_worker_have_its_batches_in_turn_from_any_one_on(
    batch_size: int, count: int, drop: bool
) -> None:
    length = 5 * batch_size * count + 2
    for index, processes in itertools.product(range(count), (1, 2, 3, 7)):
        share = Share.of(batch_size, (index, count))
        whole = share.epoch_offsets(0, share.size(length, drop_remainder=drop), length).tolist()
        batches = [whole[at : at + batch_size] for at in range(0, len(whole), batch_size)]
        for process, skip in itertools.product(range(processes), (0, 1, 2, 9)):
            expected = itertools.chain(*batches[process::processes][skip:])
            parts = share.worker_offsets(
                (process, processes), length, skip=skip, drop_remainder=drop
            )
            assert [n for part in parts for n in part.tolist()] == [*expected]


@pytest.mark.parametrize(("batch_size", "count"), SHARES)
def test_workers_divide_every_step_of_an_endless_sequence(batch_size: int, count: int) -> None:
    expected = shares_of(3 * batch_size * count, batch_size, count, drop=False)
    for index, offsets in enumerate(expected):
        share = Share.of(batch_size, (index, count))
        for after, until in itertools.combinations(range(len(offsets) + 1), 2):
            assert share.stream_offsets(after, until).tolist() == offsets[after:until]


@pytest.mark.parametrize(
    ("batch_size", "shard"),
    [(1, (0, 1)), (LARGEST, (0, 1)), (1, (LARGEST - 1, LARGEST)), (LARGEST, (0, LARGEST))],
)
def test_the_largest_shares_are_exact(batch_size: int, shard: tuple[int, int]) -> None:
    share = Share.of(batch_size, shard)
    index, count = shard
    assert share.step == batch_size * count
    assert share.stream_offsets(batch_size, batch_size + 1) == [share.step + index * batch_size]


@pytest.mark.parametrize("batch_size", [-1, 0, LARGEST + 1, 2**64])
def test_a_batch_size_out_of_range_is_refused(batch_size: int) -> None:
    with pytest.raises(FeatureError, match=f"batch_size {batch_size} is not a whole number from 1"):
        Share.of(batch_size, (0, 1))


@pytest.mark.parametrize("shard", [(-1, 2), (2, 2), (0, 0), (0, LARGEST + 1), (2**64, 2**64 + 1)])
def test_a_shard_out_of_range_is_refused(shard: tuple[int, int]) -> None:
    with pytest.raises(FeatureError, match=r"shard \(.*\): the index counts from 0"):
        Share.of(1, shard)


@settings(deadline=None)
@given(batch_size=st.integers(1, 2 * CHUNK_ROWS))
def test_as_many_whole_batches_as_fit_are_located_at_a_time(batch_size: int) -> None:
    chunk = Share.of(batch_size, (0, 1)).chunk
    assert chunk % batch_size == 0
    assert chunk == batch_size or chunk <= CHUNK_ROWS
    assert chunk + batch_size > CHUNK_ROWS


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 9)), batch_size=st.integers(1, 5), drop=st.booleans())
def test_batches_hold_all_rows_of_parts_of_any_lengths(
    lengths: list[int], batch_size: int, drop: bool
) -> None:
    rows = np.arange(sum(lengths))
    cuts = np.cumsum(lengths)[:-1]
    parts = [{"n": part, "text": part.astype("O")} for part in np.split(rows, cuts)]
    expected = [rows[at : at + batch_size].tolist() for at in range(0, len(rows), batch_size)]
    if drop and expected and len(expected[-1]) < batch_size:
        expected.pop()
    read = list(batches(parts if lengths else [], batch_size, drop_remainder=drop))
    assert [batch["n"].tolist() for batch in read] == expected
    assert [batch["text"].tolist() for batch in read] == expected
    assert all(list(batch) == ["n", "text"] for batch in read)
