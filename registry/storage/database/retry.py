"""Retries after transient errors, with growing, jittered pauses; each retry is logged.

Each attempt but the first has a deadline (see `deadline`), so that it cannot wait for a whole
timeout again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from sqlalchemy import Engine
from tenacity import (
    AttemptManager,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_random,
)

from registry.errors import TransientError
from registry.storage.database.deadline import deadline_at
from registry.storage.database.url import masked

PATIENCE = 30.0
"""Seconds after which appends and page reads are no longer retried."""
_MARGIN = 5.0
"""Seconds before the end of a database's timeout in which no retry starts, at most."""

logger: logging.Logger = logging.getLogger("registry.storage.database.retry")
# Without a handler, Python prints warnings to stderr in a program that has not set up logging.
logger.addHandler(logging.NullHandler())


def retrying(patience: float | None = PATIENCE, engine: Engine | None = None) -> Iterator[Any]:
    """Yield attempts, context managers, until one does not raise a `TransientError`.

    No retry starts after ``patience`` seconds or near the end of the engine's timeout, and a retry
    waits no longer than that timeout; the last error is then raised. ``patience=None`` retries
    without limit. The block must be safe to run twice: a commit whose reply was lost is repeated.
    """
    start = time.monotonic()
    # The first attempt, most often the only one, may use the whole timeout. It is not tenacity's,
    # which takes longer than to read a head.
    first = _First()
    yield first
    if first.error is not None:
        yield from _retries(first.error, patience, engine, start)


def _retries(
    error: TransientError, patience: float | None, engine: Engine | None, start: float
) -> Iterator[Any]:
    """Yield the attempts after the first one, which began at ``start`` and raised an error."""
    until, longest = None, 2.0
    if patience is not None and engine is not None:
        timeout = engine.get_execution_options()["registry_timeout"]
        # An attempt that starts late would run past the timeout.
        patience = min(patience, max(0.55 * timeout, timeout - _MARGIN))
        longest = min(longest, timeout / 10)
        until = start + timeout - 1
    attempts = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=(
            stop_never
            if patience is None
            else stop_after_delay(patience - (time.monotonic() - start))
        ),
        # Jitter keeps processes that met in a conflict from meeting again.
        wait=wait_exponential(multiplier=0.05, max=longest) + wait_random(0, 0.2),
        before_sleep=lambda state: _log(state, engine),
        reraise=True,
    )
    for attempt in attempts:
        if attempt.retry_state.attempt_number == 1:
            attempt.retry_state.set_exception((type(error), error, error.__traceback__))
            continue
        # A retry may use what is left of the timeout.
        with deadline_at(until):
            yield _Attempt(attempt)


class _First:
    """The first attempt, which keeps a transient error."""

    error: TransientError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.error = error if isinstance(error, TransientError) else None
        return self.error is not None


class _Attempt:
    """An attempt that passes only transient errors to tenacity.

    tenacity keeps the error of an attempt. The error's traceback refers to the frames and so to
    an open transaction, which would live until the garbage collector breaks the cycle.
    """

    def __init__(self, attempt: AttemptManager) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        self._attempt.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if error is None or isinstance(error, TransientError):
            return self._attempt.__exit__(kind, error, traceback)
        return None


def _log(state: RetryCallState, engine: Engine | None) -> None:
    """Log a retry; the record has the attributes ``cause``, ``database`` and ``attempt``."""
    database = "the database" if engine is None else masked(engine.url)
    assert state.outcome is not None
    cause = state.outcome.exception()
    logger.warning(
        "%s: attempt %d failed, the next is in %.2f s: %s",
        database,
        state.attempt_number,
        state.upcoming_sleep,
        cause,
        extra={"database": database, "cause": cause, "attempt": state.attempt_number},
    )
