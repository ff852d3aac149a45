"""A connection that is cut at any byte: no row is lost or stored twice, and nothing hangs."""

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
from registry.storage.log import few_rows
from tests.support.datasets import FIXED, digit
from tests.support.figures import Figure, rounds
from tests.support.proxy import DIRECTIONS, Direction, Proxy, proxied

EVERY = 10**6
"""A number of cuts above the number of bytes, so that there is one at every byte."""
HANG = 10.0
"""Seconds after which a call counts as hanging."""


@pytest.fixture
def direct(postgresql_url: str) -> Iterator[Dataset]:
    """The dataset, opened without the proxy."""
    with registry.connect(postgresql_url) as reg:
        yield reg.create("digits", FIXED)


@pytest.fixture
def through(
    postgresql_url: str, direct: Dataset
) -> Iterator[tuple[Proxy, Dataset, registry.Registry]]:
    """The proxy, and the same dataset and its registry, opened through it and connected."""
    with (
        proxied(make_url(postgresql_url)) as (proxy, url),
        registry.connect(url.render_as_string(hide_password=False)) as reg,
    ):
        dataset = reg.open(direct.name)
        dataset.insert([digit(0)], keys=["first"])
        yield proxy, dataset, reg


def _exchange(proxy: Proxy, dataset: Dataset, key: str) -> dict[Direction, int]:
    """Count the bytes of one insert in each direction."""
    for number in range(2):  # the first one also prepares the statements
        before = dict(proxy.forwarded)
        dataset.insert([digit(1), digit(2)], keys=[f"{key}{number}a", f"{key}{number}b"])
    return {direction: proxy.forwarded[direction] - before[direction] for direction in DIRECTIONS}


@rounds(25, EVERY)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_batch_retried_after_a_cut_at_any_byte_is_stored_once(
    through: tuple[Proxy, Dataset, registry.Registry],
    direct: Dataset,
    direction: Direction,
    rounds: int,
    figure: Figure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By turns with the commit and by COPY, with keys and without."""
    proxy, dataset, _ = through
    sizes = [0, few_rows.ROWS]
    totals = []
    for size in sizes:
        monkeypatch.setattr(few_rows, "ROWS", size)
        totals.append(_exchange(proxy, dataset, f"{size}-")[direction])
    total = max(totals)
    expected = [entry.key for entry in direct.entries()]
    step = max(1, total // rounds)
    longest = 0.0
    for number, after in enumerate([*range(0, total, step), *range(total - 12, total)]):
        keys = [f"{number}-a", f"{number}-b"]
        generated = number % 2 == 0
        monkeypatch.setattr(few_rows, "ROWS", sizes[number // 2 % 2])
        since = time.monotonic()
        proxy.arm(direction, after)
        report = dataset.insert([digit(1), digit(2)], keys=None if generated else keys)
        proxy.disarm()
        longest = max(longest, time.monotonic() - since)
        assert (report.inserted, report.unchanged) == (2, 0)
        entries = direct.entries(len(expected))
        assert len(entries) == 2, f"cut after byte {after} {direction}"
        if not generated:
            assert [entry.key for entry in entries] == keys
        expected += [entry.key for entry in entries]
    assert proxy.cuts >= 20  # generated keys need no query, so some cuts come too late
    assert len(direct) == len(expected)
    assert longest < HANG
    figure(
        f"insert of {total} bytes {direction} cut off, every {step} bytes",
        f"0 lost, 0 doubled, 0 hangs in {proxy.cuts} cuts; the longest took {longest:.1f} s",
    )


@rounds(3, 50)
def test_a_commit_whose_reply_was_lost_does_not_undo_later_commits(
    through: tuple[Proxy, Dataset, registry.Registry], direct: Dataset, rounds: int, figure: Figure
) -> None:
    proxy, dataset, reg = through
    for number in range(rounds):
        _lose_a_reply(proxy, dataset, reg, direct, f"k{number}")
    assert proxy.cuts == rounds
    assert len(direct) == rounds + 1
    figure(f"COMMIT reply lost, {rounds} times", "0 lost, 0 doubled, no later change undone")


def test_a_dataset_whose_commit_reply_was_lost_is_created_once(
    through: tuple[Proxy, Dataset, registry.Registry],
) -> None:
    proxy, _, reg = through

    @event.listens_for(reg.engine, "commit", once=True)
    def lose_the_reply(_: Connection) -> None:
        proxy.arm("to client", 0)

    created = reg.create("other", FIXED)
    assert proxy.cuts == 1
    created.insert([digit(0)])
    with pytest.raises(DatasetExistsError):
        reg.create("other", FIXED)
    assert reg.names() == ["digits", "other"]


def test_a_token_whose_commit_reply_was_lost_is_the_one_that_is_returned(
    through: tuple[Proxy, Dataset, registry.Registry],
) -> None:
    proxy, _, reg = through

    def lose_the_next_reply() -> None:
        event.listen(reg.engine, "commit", lambda _: proxy.arm("to client", 0), once=True)

    lose_the_next_reply()
    secret = tokens.create(reg.engine, "tool")
    assert tokens.check(reg.engine, tokens.digest(secret))
    lose_the_next_reply()
    rotated = tokens.rotate(reg.engine, "tool", grace=timedelta(hours=1))
    assert tokens.check(reg.engine, tokens.digest(rotated))
    assert proxy.cuts == 2
    assert len(tokens.tokens_of(reg.engine)) == 2


def _lose_a_reply(
    proxy: Proxy, dataset: Dataset, reg: registry.Registry, direct: Dataset, key: str
) -> None:
    """Correct the label between the lost reply and the retry, which must not undo that."""
    transactions = 0
    position = direct.head.position

    @event.listens_for(reg.engine, "commit")
    def lose_the_reply(_: Connection) -> None:
        proxy.arm("to client", 0)

    @event.listens_for(reg.engine, "begin")
    def correct_before_the_retry(_: Connection) -> None:
        nonlocal transactions
        transactions += 1
        if transactions == 2:
            event.remove(reg.engine, "commit", lose_the_reply)
            direct.update(key, label=9)

    report = dataset.insert([digit(3)], keys=[key])
    event.remove(reg.engine, "begin", correct_before_the_retry)
    assert transactions == 2
    assert (report.inserted, report.head.position) == (1, position + 1)
    assert [revision.entry.action for revision in direct.history(key)] == ["insert", "revise"]
    assert direct.get(key)["label"] == 9


@rounds(12, EVERY)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_reader_cut_off_at_any_byte_continues_without_a_gap(
    through: tuple[Proxy, Dataset, registry.Registry],
    direct: Dataset,
    direction: Direction,
    rounds: int,
    figure: Figure,
) -> None:
    proxy, dataset, _ = through
    direct.insert([digit(n) for n in range(100)])
    for _ in range(2):  # the first one also prepares the statements
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


def test_a_follower_that_loses_its_connection_continues_without_a_gap(
    through: tuple[Proxy, Dataset, registry.Registry], direct: Dataset
) -> None:
    proxy, dataset, _ = through
    pages = dataset.follow()
    stop = next(pages).stop
    for number in range(5):
        for direction in DIRECTIONS:
            proxy.arm(direction, 20 * number)
            direct.insert([digit(number)])
            page = next(pages)
            assert (page.start, page.stop) == (stop, stop + 1)
            stop = page.stop
    pages.close()
    assert proxy.cuts >= 8
