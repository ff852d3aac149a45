"""How long may still be waited, as those who try again tell those who wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LEAST = 4.0
"""Seconds that a new attempt is given, however late it is."""
_until: ContextVar[float | None] = ContextVar("_until", default=None)


@contextmanager
def bounded(until: float | None) -> Iterator[None]:
    """Have what is waited for in the block fail by about this time of the monotonic clock."""
    before = _until.set(until)
    try:
        yield
    finally:
        _until.reset(before)


def left(timeout: float) -> float:
    """Return the seconds there are, of a timeout, to find out that a server is out of reach."""
    until = _until.get()
    return timeout if until is None else min(timeout, max(LEAST, until - time.monotonic()))
