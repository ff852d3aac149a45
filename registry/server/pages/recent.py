"""A value that many requests need, read again only as often as a person could notice."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")

_REST = 100
"""How many times as long as it took to read is a value kept, within the limits. Where there are
several values, all of them take this part of the time together."""


class Recent(Generic[Value]):
    """The last result of a function that reads, at most ``seconds`` old when it is asked for.

    With ``longest``, one that took long to read is kept for up to this time, so that reading takes
    a small share of all time. Thread-safe. While one thread reads, others get the result from
    before.
    """

    def __init__(self, seconds: float, longest: float | None = None) -> None:
        self._seconds = seconds
        self._longest = seconds if longest is None else longest
        self._lock = threading.Lock()
        self._last: tuple[float, Value] | None = None
        """Until when it is kept, and the result."""

    def kept(self) -> Value | None:
        """Return the last result unless it is too old."""
        last = self._last
        return None if last is None or time.monotonic() >= last[0] else last[1]

    def get(self, work: Callable[[], Value], values: int = 1) -> Value:
        """Return the last result of ``work``, or call it; an error is raised and not kept.

        ``values`` is how many are read and kept in this way.
        """
        last = self._last
        if last is not None and time.monotonic() < last[0]:
            return last[1]
        if not self._lock.acquire(blocking=last is None):
            assert last is not None
            return last[1]
        try:
            # Another thread has read it, while this one waited for the lock.
            if self._last is not None and self._last is not last:
                return self._last[1]
            # The time before the work: what is committed while it reads must not count as read.
            now = time.monotonic()
            value = work()
            rest = _REST * values * (time.monotonic() - now)
            self._last = now + min(max(self._seconds, rest), self._longest), value
            return value
        finally:
            self._lock.release()


class RecentOf(Generic[Value]):
    """The `Recent` of each key that was asked for in the last seconds, at most ``most`` of them.

    Thread-safe.
    """

    def __init__(self, seconds: float, most: int, longest: float | None = None) -> None:
        self._seconds = seconds
        self._longest = seconds if longest is None else longest
        self._most = most
        self._lock = threading.Lock()
        self._used: OrderedDict[Hashable, tuple[float, Recent[Value]]] = OrderedDict()
        """When each was asked for, the last one last."""

    def kept(self, key: Hashable) -> Value | None:
        """Return the last result for a key unless it is too old; never waits for ``work``."""
        with self._lock:
            _, recent = self._used.get(key, (0, None))
        return None if recent is None else recent.kept()

    def get(self, key: Hashable, work: Callable[[], Value]) -> Value:
        """Return the last result of ``work`` for a key, or call it, as `Recent.get` does."""
        now = time.monotonic()
        with self._lock:
            _, recent = self._used.pop(key, (now, None))
            if recent is None:
                recent = Recent(self._seconds, self._longest)
            self._used[key] = now, recent
            # Also the unused ones: they may hold what is erased by now.
            while len(self._used) > self._most or self._oldest() < now - self._longest:
                self._used.popitem(last=False)
            values = len(self._used)
        return recent.get(work, values)

    def clear(self) -> None:
        """Forget all results, also those that are being read now."""
        with self._lock:
            self._used.clear()

    def _oldest(self) -> float:
        return next(iter(self._used.values()))[0]
