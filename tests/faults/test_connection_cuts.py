"""A connection cut at any moment: nothing lost, nothing doubled, nothing hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url

import registry
from registry import Dataset
from registry.errors import DatasetExistsError
from registry.server import tokens
from tests.support.datasets import FIXED, digit
from tests.support.figures import Figure, rounds
from tests.support.proxy import DIRECTIONS, Direction, Proxy, proxied

EVERY = 10**6
"""More cuts than there are bytes."""
HANG = 10.0
"""Seconds that nothing should ever take."""


@pytest.fixture
def near(postgresql_url: str) -> Iterator[Dataset]:
    """The dataset seen straight from the server."""
    with registry.connect(postgresql_url) as reg:
        yield reg.create("digits", FIXED)


@pytest.fixture
def through(
    postgresql_url: str, near: Dataset
) -> Iterator[tuple[Proxy, Dataset, registry.Registry]]:
    """The same dataset through a proxy, on a connection that is open already."""
    with (
        proxied(make_url(postgresql_url)) as (proxy, url),
        registry.connect(url.render_as_string(hide_password=False)) as reg,
    ):
        dataset = reg.open(near.name)
        dataset.insert([digit(0)], keys=["first"])
        yield proxy, dataset, reg


def _exchange(proxy: Proxy, dataset: Dataset) -> dict[Direction, int]:
    """Count the bytes of one insert in each direction."""
    before = dict(proxy.forwarded)
    dataset.insert([digit(1), digit(2)], keys=["w1", "w2"])
    return {direction: proxy.forwarded[direction] - before[direction] for direction in DIRECTIONS}


@rounds(25, EVERY)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_batch_retried_after_a_cut_at_any_byte_is_there_once(
    through: tuple[Proxy, Dataset, registry.Registry],
    near: Dataset,
    direction: Direction,
    rounds: int,
    figure: Figure,
) -> None:
    proxy, dataset, _ = through
    total = _exchange(proxy, dataset)[direction]
    expected = [entry.key for entry in near.entries()]
    step = max(1, total // rounds)
    longest = 0.0
    for number, after in enumerate([*range(0, total, step), *range(total - 12, total)]):
        keys = [f"{number}-a", f"{number}-b"]
        made = number % 2 == 0
        since = time.monotonic()
        proxy.arm(direction, after)
        report = dataset.insert([digit(1), digit(2)], keys=None if made else keys)
        proxy.disarm()
        longest = max(longest, time.monotonic() - since)
        assert (report.inserted, report.unchanged) == (2, 0)
        entries = near.entries(len(expected))
        assert len(entries) == 2, f"cut after byte {after} {direction}"
        if not made:
            assert [entry.key for entry in entries] == keys
        expected += [entry.key for entry in entries]
    assert proxy.cuts >= 20  # made keys need no look-up, so some cuts come too late
    assert len(near) == len(expected)
    assert longest < HANG
    figure(
        f"insert of {total} bytes {direction} cut off, every {step} bytes",
        f"0 lost, 0 doubled, 0 hangs in {proxy.cuts} cuts; the longest took {longest:.1f} s",
    )


@rounds(3, 50)
def test_a_commit_whose_answer_was_lost_does_not_undo_what_came_after_it(
    through: tuple[Proxy, Dataset, registry.Registry], near: Dataset, rounds: int, figure: Figure
) -> None:
    proxy, dataset, reg = through
    for number in range(rounds):
        _lose_an_answer(proxy, dataset, reg, near, f"k{number}")
    assert proxy.cuts == rounds
    assert len(near) == rounds + 1
    figure(f"COMMIT reply lost, {rounds} times", "0 lost, 0 doubled, no later change undone")


def test_a_dataset_whose_commit_was_not_answered_is_created_once(
    through: tuple[Proxy, Dataset, registry.Registry],
) -> None:
    proxy, _, reg = through

    @event.listens_for(reg.engine, "commit", once=True)
    def lose_the_answer(_: Connection) -> None:
        proxy.arm("to client", 0)

    created = reg.create("other", FIXED)
    assert proxy.cuts == 1
    created.insert([digit(0)])
    with pytest.raises(DatasetExistsError):
        reg.create("other", FIXED)
    assert reg.names() == ["digits", "other"]


def test_a_token_whose_commit_was_not_answered_is_the_one_that_is_handed_out(
    through: tuple[Proxy, Dataset, registry.Registry],
) -> None:
    proxy, _, reg = through

    def lose_the_next_answer() -> None:
        event.listen(reg.engine, "commit", lambda _: proxy.arm("to client", 0), once=True)

    lose_the_next_answer()
    secret = tokens.create(reg.engine, "tool")
    assert tokens.check(reg.engine, tokens.digest(secret))
    lose_the_next_answer()
    rotated = tokens.rotate(reg.engine, "tool", grace=timedelta(hours=1))
    assert tokens.check(reg.engine, tokens.digest(rotated))
    assert proxy.cuts == 2
    assert len(tokens.tokens_of(reg.engine)) == 2


def _lose_an_answer(
    proxy: Proxy, dataset: Dataset, reg: registry.Registry, near: Dataset, key: str
) -> None:
    """Between the lost answer and the retry somebody corrects the label: it must stay so."""
    begun = 0
    position = near.head.position

    @event.listens_for(reg.engine, "commit")
    def lose_the_answer(_: Connection) -> None:
        proxy.arm("to client", 0)

    @event.listens_for(reg.engine, "begin")
    def correct_before_the_retry(_: Connection) -> None:
        nonlocal begun
        begun += 1
        if begun == 2:
            event.remove(reg.engine, "commit", lose_the_answer)
            near.update(key, label=9)

    report = dataset.insert([digit(3)], keys=[key])
    event.remove(reg.engine, "begin", correct_before_the_retry)
    assert begun == 2
    assert (report.inserted, report.head.position) == (1, position + 1)
    assert [revision.entry.action for revision in near.history(key)] == ["insert", "revise"]
    assert near.get(key)["label"] == 9


@rounds(12, EVERY)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_reader_cut_off_at_any_byte_reads_on_without_a_gap(
    through: tuple[Proxy, Dataset, registry.Registry],
    near: Dataset,
    direction: Direction,
    rounds: int,
    figure: Figure,
) -> None:
    proxy, dataset, _ = through
    near.insert([digit(n) for n in range(100)])
    for _ in range(2):  # the first sends statements that the server then remembers
        before = proxy.forwarded[direction]
        assert [page.stop for page in dataset.pages()] == [101]
    total = proxy.forwarded[direction] - before
    cuts = range(0, total, max(1, total // rounds))
    longest = 0.0
    for after in cuts:
        since = time.monotonic()
        proxy.arm(direction, after)
        pages = list(dataset.pages())
        assert [(page.start, page.stop) for page in pages] == [(0, 101)]
        longest = max(longest, time.monotonic() - since)
    assert proxy.cuts == len(cuts)
    assert longest < HANG
    figure(
        f"page read of {total} bytes {direction} cut off, every {cuts.step} bytes",
        f"0 lost, 0 doubled, 0 hangs in {proxy.cuts} cuts; the longest took {longest:.1f} s",
    )


def test_a_follower_that_loses_its_connection_goes_on_without_a_gap(
    through: tuple[Proxy, Dataset, registry.Registry], near: Dataset
) -> None:
    proxy, dataset, _ = through
    pages = dataset.follow()
    stop = next(pages).stop
    for number in range(5):
        for direction in DIRECTIONS:
            proxy.arm(direction, 20 * number)
            near.insert([digit(number)])
            page = next(pages)
            assert (page.start, page.stop) == (stop, stop + 1)
            stop = page.stop
    pages.close()
    assert proxy.cuts >= 8
