"""Group commit: requests that arrive during a commit share the next one.

How it works: each dataset has a `GroupCommitter` with a queue. Its task takes requests from the
queue, commits them in one transaction in a thread, answers them, and continues until the queue is
empty.

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
from registry.server.settings import ServerSettings
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change

Apply = Callable[[Sequence[Sequence[Change]]], Sequence[Report | RegistryError]]

MOST_ROWS = 1 << 16
"""Samples in one commit, at most, so that the lock on the head is held for a short time. A single
request may have more."""


@dataclass(frozen=True, eq=False)
class _QueuedRequest:
    changes: Sequence[Change]
    report: asyncio.Future[Report]


class GroupCommitter:
    """Commits the requests to one dataset, in order; for one event loop, and not thread-safe."""

    def __init__(
        self, name: str, apply: Apply, pool: Executor, settings: ServerSettings, metrics: Metrics
    ) -> None:
        self._apply = apply
        self._pool = pool
        self._settings = settings
        self._queue: deque[_QueuedRequest] = deque()
        self._task: asyncio.Task[None] | None = None
        self._commit_seconds = metrics.commit_seconds.labels(name)
        self._commit_requests = metrics.commit_requests.labels(name)
        self._queue_length = metrics.queued_requests.labels(name)
        self._sample_counters = {
            outcome: metrics.samples.labels(name, outcome)
            for outcome in ("inserted", "revised", "retracted", "unchanged")
        }

    async def commit(self, changes: Sequence[Change]) -> Report:
        """Store all changes or none, and return after the commit.

        Raises `Problem` if the queue is full, and the errors of `Dataset.apply`. Cancelling removes
        the request from the queue, but does not roll back a commit that has begun.
        """
        # Without a limit, a database that is down would fill the memory with samples.
        if len(self._queue) >= self._settings.queued_requests:
            raise Problem(503, "too many requests to this dataset are waiting; send it again")
        request = _QueuedRequest(changes, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self._queue_length.set(len(self._queue))
        if self._task is None:
            # Kept in an attribute: the event loop refers to its tasks only weakly.
            self._task = asyncio.create_task(self._run())
        try:
            return await request.report
        except asyncio.CancelledError:
            # Removed, so that the samples of a client that left do not stay in memory.
            with suppress(ValueError):  # its commit has begun
                self._queue.remove(request)
            raise

    async def _run(self) -> None:
        while requests := self._take():
            self._queue_length.set(len(self._queue))
            await self._commit(requests)
        # No await since the queue was empty: a request queued in between would see a task that is
        # about to end, start no other, and wait until the next request.
        self._task = None

    def _take(self) -> list[_QueuedRequest]:
        """Remove the requests of the next commit from the queue."""
        requests: list[_QueuedRequest] = []
        rows = 0
        while self._queue and len(requests) < self._settings.commit_requests:
            rows += len(self._queue[0].changes)
            if requests and rows > MOST_ROWS:
                break
            first = self._queue.popleft()
            if not first.report.done():  # otherwise the request was cancelled
                requests.append(first)
        return requests

    async def _commit(self, requests: list[_QueuedRequest]) -> None:
        changes = [request.changes for request in requests]
        loop, started = asyncio.get_running_loop(), time.perf_counter()
        try:
            outcomes = await loop.run_in_executor(self._pool, self._apply, changes)
        except Exception as error:  # noqa: BLE001  # it is the answer to each of these requests
            # A transient error would meet each of them again, one timeout after the other.
            if len(requests) == 1 or isinstance(error, TransientError):
                for request in requests:
                    _fail(request, error)
                return
            # One request may have caused the error. None was stored, so each is committed alone.
            for request in requests:
                await self._commit([request])
            return
        self._commit_seconds.observe(time.perf_counter() - started)
        self._commit_requests.observe(len(requests))
        for request, outcome in zip(requests, outcomes, strict=True):
            self._answer(request, outcome)

    def _answer(self, request: _QueuedRequest, outcome: Report | RegistryError) -> None:
        if not isinstance(outcome, Report):
            _fail(request, outcome)
            return
        # Counted even if the request was cancelled: its samples are stored.
        for name, counter in self._sample_counters.items():
            if count := getattr(outcome, name):
                counter.inc(count)
        if not request.report.done():  # set_result() raises on a future that was cancelled
            request.report.set_result(outcome)


def _fail(request: _QueuedRequest, error: Exception) -> None:
    if not request.report.done():
        request.report.set_exception(error)
