"""A value that many requests need, read again only as often as a person could notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The last result of a function that reads, at most ``seconds`` old when it is asked for.

    Thread-safe. While one thread reads, others get the result from before.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._last: tuple[float, Value] | None = None

    def get(self, work: Callable[[], Value]) -> Value:
        """Return the last result of ``work``, or call it; an error is raised and not kept."""
        last = self._last
        if last is not None and time.monotonic() - last[0] < self._seconds:
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
            self._last = now, value
            return value
        finally:
            self._lock.release()
