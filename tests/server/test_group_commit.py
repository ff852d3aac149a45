"""Group commit: which requests share a commit, and what one of them cannot do to the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from registry import Dataset
from registry.errors import InvalidSampleError, RegistryError
from registry.server.group_commit import GroupCommitter
from registry.server.metrics import Metrics
from registry.server.problems import Problem
from registry.server.settings import ServerSettings
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change
from tests.support.datasets import digit


def test_requests_during_a_commit_share_the_next_one(digits: Dataset) -> None:
    """Each has its own report or error, and nothing of a rejected one is stored."""
    may_commit = threading.Event()
    sizes: list[int] = []

    def apply(requests: Sequence[Sequence[Change]]) -> list[Report | RegistryError]:
        sizes.append(len(requests))
        assert may_commit.wait(30)
        return digits.apply(requests)

    async def run() -> list[Report | BaseException]:
        with ThreadPoolExecutor() as pool:
            committer = GroupCommitter(
                "digits",
                apply,
                pool,
                ServerSettings(commit_requests=16, queued_requests=40),
                Metrics(),
            )
            requests = [[Change(f"k{n}", digit(n)), Change(f"x{n}", digit(n))] for n in range(42)]
            requests[20].append(Change("bad", {"label": 11}))
            tasks = [asyncio.create_task(committer.commit(each)) for each in requests]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[5].cancel()
            may_commit.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(run())
    # Neither a cancelled request nor one that the queue had no room for is stored.
    assert sizes[0] in (1, 16)
    assert len(sizes) < 6
    assert isinstance(outcomes[5], asyncio.CancelledError)
    assert isinstance(outcomes[20], InvalidSampleError)
    rejected = [n for n, each in enumerate(outcomes) if isinstance(each, Problem)]
    stored = [n for n, each in enumerate(outcomes) if isinstance(each, Report)]
    assert rejected
    assert all(isinstance(outcomes[n], Problem) and outcomes[n].status == 503 for n in rejected)  # type: ignore[union-attr]
    assert sorted([*stored, *rejected, 5, 20]) == list(range(42))
    expected = {f"{letter}{n}" for n in stored for letter in "kx"}
    keys = {entry.key for entry in digits.entries()}
    assert expected <= keys <= expected | {"k5", "x5"}


def test_a_cancelled_request_leaves_the_queue_at_once(digits: Dataset) -> None:
    """Its samples do not stay in memory while the database keeps others waiting."""
    may_commit = threading.Event()

    def apply(requests: Sequence[Sequence[Change]]) -> list[Report | RegistryError]:
        assert may_commit.wait(30)
        return digits.apply(requests)

    async def run() -> int:
        with ThreadPoolExecutor() as pool:
            committer = GroupCommitter("digits", apply, pool, ServerSettings(), Metrics())
            ahead = asyncio.create_task(committer.commit([Change("ahead", digit(0))]))
            await asyncio.sleep(0.05)
            cancelled = asyncio.create_task(committer.commit([Change("cancelled", digit(1))]))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            left = len(committer._queue)
            may_commit.set()
            await ahead
            return left

    assert asyncio.run(run()) == 0
    assert [entry.key for entry in digits.entries()] == ["ahead"]


def test_an_error_of_one_request_spares_the_others(digits: Dataset) -> None:
    def apply(requests: Sequence[Sequence[Change]]) -> list[Report | RegistryError]:
        if any(change.key == "poison" for request in requests for change in request):
            raise ZeroDivisionError
        return digits.apply(requests)

    async def run() -> list[Report | BaseException]:
        with ThreadPoolExecutor() as pool:
            committer = GroupCommitter("digits", apply, pool, ServerSettings(), Metrics())
            keys = ["a", "poison", "b"]
            work = [committer.commit([Change(key, digit(1))]) for key in keys]
            return await asyncio.gather(*work, return_exceptions=True)

    a, poison, b = asyncio.run(run())
    assert isinstance(poison, ZeroDivisionError)
    assert isinstance(a, Report)
    assert isinstance(b, Report)
    assert [entry.key for entry in digits.entries()] == ["a", "b"]
