"""The deadline of the current retry, which limits how long a connection waits for its server.

`retry` sets it around each attempt but the first; `postgresql` reads it when it connects and waits.
A context variable carries it, so that each thread and each task has its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LEAST = 4.0
"""Seconds that an attempt gets at least, even after the deadline: less than this cannot connect."""
_until: ContextVar[float | None] = ContextVar("_until", default=None)


@contextmanager
def deadline_at(until: float | None) -> Iterator[None]:
    """Set a deadline for the block, in seconds of `time.monotonic`; None sets no deadline."""
    before = _until.set(until)
    try:
        yield
    finally:
        # By token, since deadlines nest: None would remove that of an enclosing block.
        _until.reset(before)


def seconds_left(timeout: float) -> float:
    """Return the seconds left to detect an unreachable server, at most ``timeout``."""
    until = _until.get()
    return timeout if until is None else min(timeout, max(LEAST, until - time.monotonic()))
