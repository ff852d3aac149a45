"""Trying again while an error is transient, with pauses that grow; each retry is logged."""

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
from registry.storage.database.deadline import bounded
from registry.storage.database.url import shown

PATIENCE = 30.0
"""Seconds for which appends and page reads try again after a transient error, at most."""
_MARGIN = 5.0
"""Seconds before the end of a database's timeout in which nothing is tried again, at most."""

logger = logging.getLogger("registry.storage.database.retry")
# Else Python would print the records of a program that has set up no logging.
logger.addHandler(logging.NullHandler())


def retrying(patience: float | None = PATIENCE, engine: Engine | None = None) -> Iterator[Any]:
    """Attempts, with growing and jittered pauses, while `TransientError` is raised in them.

    Nothing is tried again when ``patience`` seconds have passed, or the engine's timeout is nearly
    over, and what is tried again is waited for no longer than that. None tries without end.
    """
    until, longest = None, 2.0
    if patience is not None and engine is not None:
        timeout = engine.get_execution_options()["registry_timeout"]
        patience = min(patience, max(0.55 * timeout, timeout - _MARGIN))
        longest = min(longest, timeout / 10)
        until = time.monotonic() + timeout - 1
    database = "the database" if engine is None else shown(engine.url)
    attempts = Retrying(
        retry=retry_if_exception_type(TransientError),
        stop=stop_never if patience is None else stop_after_delay(patience),
        wait=wait_exponential(multiplier=0.05, max=longest) + wait_random(0, 0.2),
        before_sleep=lambda state: _log(state, database),
        reraise=True,
    )
    for attempt in attempts:
        with bounded(None if attempt.retry_state.attempt_number == 1 else until):
            yield _Attempt(attempt)


class _Attempt:
    """An attempt that keeps no error but those after which there is another attempt.

    Kept, one would keep its traceback, and that an open transaction, until cycles are collected.
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


def _log(state: RetryCallState, database: str) -> None:
    """Log a retry; the record's ``cause``, ``database`` and ``attempt`` say more to a handler."""
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
