"""Group commit: requests that arrive during a commit share the next one.

How it works: each dataset has a `Committer` with a queue. Its task takes requests from the queue,
commits them in one transaction in a thread, answers them, and continues until the queue is empty.

A commit costs a flush to disk and a few round trips, for one sample as for hundreds. No request
waits on purpose for others: the first one commits at once, and the busier a dataset is, the more
requests share a commit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from registry.errors import RegistryError, TransientError
from registry.server.metrics import Metrics
from registry.server.problems import Problem
from registry.server.settings import Settings
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change

Apply = Callable[[Sequence[Sequence[Change]]], Sequence[Report | RegistryError]]

ROWS = 1 << 16
"""Samples in one commit, at most, so that the lock on the head is held for a short time. A single
request may have more."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    changes: Sequence[Change]
    answer: asyncio.Future[Report]


class Committer:
    """Commits the requests to one dataset, in order; for one event loop, and not thread-safe."""

    def __init__(
        self, name: str, apply: Apply, pool: Executor, settings: Settings, metrics: Metrics
    ) -> None:
        self._apply = apply
        self._pool = pool
        self._settings = settings
        self._waiting: deque[_Waiting] = deque()
        self._running: asyncio.Task[None] | None = None
        self._seconds = metrics.commits.labels(name)
        self._gathered = metrics.gathered.labels(name)
        self._depth = metrics.waiting.labels(name)
        self._samples = {
            outcome: metrics.samples.labels(name, outcome)
            for outcome in ("inserted", "revised", "retracted", "unchanged")
        }

    async def commit(self, changes: Sequence[Change]) -> Report:
        """Store all changes or none, and return after the commit.

        Raises `Problem` if the queue is full, and the errors of `Dataset.apply`. Cancelling removes
        the request from the queue, but does not roll back a commit that has begun.
        """
        if len(self._waiting) >= self._settings.waiting:
            raise Problem(503, "too many requests to this dataset are waiting; send it again")
        waiting = _Waiting(changes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._depth.set(len(self._waiting))
        if self._running is None:
            # Kept in an attribute: the event loop refers to its tasks only weakly.
            self._running = asyncio.create_task(self._run())
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            # Removed, so that the samples of a client that left do not stay in memory.
            with suppress(ValueError):  # its commit has begun
                self._waiting.remove(waiting)
            raise

    async def _run(self) -> None:
        while taken := self._take():
            self._depth.set(len(self._waiting))
            await self._commit(taken)
        # No await since the queue was empty: a request queued in between would see a task that is
        # about to end, start no other, and wait until the next request.
        self._running = None

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        rows = 0
        while self._waiting and len(taken) < self._settings.gather:
            rows += len(self._waiting[0].changes)
            if taken and rows > ROWS:
                break
            first = self._waiting.popleft()
            if not first.answer.done():  # otherwise the request was cancelled
                taken.append(first)
        return taken

    async def _commit(self, taken: list[_Waiting]) -> None:
        requests = [each.changes for each in taken]
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        try:
            outcomes = await loop.run_in_executor(self._pool, self._apply, requests)
        except Exception as error:  # noqa: BLE001  # it is the answer to each of these requests
            # A transient error would meet each of them again, one timeout after the other.
            if len(taken) == 1 or isinstance(error, TransientError):
                for each in taken:
                    _fail(each, error)
                return
            # One request may have caused the error. None was stored, so each is committed alone.
            for each in taken:
                await self._commit([each])
            return
        self._seconds.observe(time.perf_counter() - began)
        self._gathered.observe(len(taken))
        for each, outcome in zip(taken, outcomes, strict=True):
            self._answer(each, outcome)

    def _answer(self, waiting: _Waiting, outcome: Report | RegistryError) -> None:
        if not isinstance(outcome, Report):
            _fail(waiting, outcome)
            return
        # Counted even if the request was cancelled: its samples are stored.
        for name, counter in self._samples.items():
            if count := getattr(outcome, name):
                counter.inc(count)
        if not waiting.answer.done():  # set_result() raises on a future that was cancelled
            waiting.answer.set_result(outcome)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
