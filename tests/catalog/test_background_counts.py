"""Counting in the background of a server: no request waits for it, and many requests count once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from registry import Dataset, Registry
from registry.catalog.statistics import background
from registry.catalog.statistics.background import BackgroundCounts
from registry.catalog.statistics.count import last_counted, statistics_of
from registry.catalog.statistics.model import Statistics
from tests.support.counted_rows import counted
from tests.support.datasets import digit
from tests.support.servers import eventually


@pytest.fixture
def counts() -> Iterator[BackgroundCounts]:
    background_counts = BackgroundCounts()
    yield background_counts
    background_counts.close(wait=True)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "COUNTED_AT_ONCE", 5)
    monkeypatch.setattr(background, "COUNTED_BEHIND", 7)


def fill(dataset: Dataset, count: int) -> None:
    dataset.insert([digit(number) for number in range(count)])


def test_what_a_request_does_not_count_is_counted_behind_it(
    reg: Registry, digits: Dataset, counts: BackgroundCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FRESH", 0.0)
    monkeypatch.setattr(background, "BUSY", 0.0)
    fill(digits, 60)
    assert counts.last(reg.open("digits")) is None
    first = counts.of(digits)
    assert first.until == 60
    eventually(lambda: counts.of(digits).complete)
    assert counts.of(digits).classes == counted(digits).classes
    version = reg.open("digits@33")
    eventually(lambda: counts.of(version).complete)
    assert counts.of(version).live == 33
    fill(digits, 1)
    assert counts.of(digits).live == 61, "a few rows are counted by the request"
    last = counts.last(digits)
    assert last is not None
    assert last.live == 61


def test_many_requests_count_once(
    digits: Dataset, counts: BackgroundCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FRESH", 3600.0)
    fill(digits, 3)
    before = counts.of(digits)
    fill(digits, 3)
    threads = [threading.Thread(target=counts.of, args=(digits,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.of(digits) is before
    last = last_counted(digits)
    assert last is not None
    assert last.position == 3


def test_a_dataset_that_was_dropped_ends_nothing_else(
    reg: Registry, digits: Dataset, counts: BackgroundCounts
) -> None:
    other = reg.create("other", digits.features)
    fill(digits, 20)
    fill(other, 20)
    reg.drop("digits")
    counts.request(digits)
    counts.request(other)
    eventually(lambda: (last := counts.last(other)) is not None and last.live == 20)


def test_a_request_soon_after_another_has_new_rows_counted_behind_it(
    digits: Dataset, counts: BackgroundCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FRESH", 0.0)
    monkeypatch.setattr(background, "BUSY", 3600.0)
    fill(digits, 3)
    assert counts.of(digits).live == 3
    fill(digits, 3)
    assert counts.of(digits).live == 3
    eventually(lambda: counts.of(digits).live == 6)


def test_a_large_dataset_does_not_keep_others_waiting(
    reg: Registry, digits: Dataset, counts: BackgroundCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = reg.create("other", digits.features)
    fill(digits, 60)
    fill(other, 10)
    parts: list[str] = []

    def noted(dataset: Dataset, *, most: int | None) -> Statistics:
        # Until the other dataset waits, too.
        waiting.wait(10)
        parts.append(dataset.name)
        return statistics_of(dataset, most=most)

    waiting = threading.Event()
    monkeypatch.setattr(background, "statistics_of", noted)
    counts.request(digits)
    counts.request(other)
    waiting.set()
    eventually(lambda: (last := last_counted(digits)) is not None and last.live == 60)
    assert parts[:2] == ["digits", "other"]
    assert parts.count("digits") > 5
