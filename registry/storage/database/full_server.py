"""Servers that have no connection free: connecting is tried again for some seconds.

PostgreSQL allows a number of connections (``max_connections``), and rejects others. The processes
of this package soon close what they do not use (`pool`), so one is usually free within seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from registry.storage.database.driver_errors import is_from_full_server

_LONGEST_PAUSE = 1.0
"""Seconds. Each attempt costs the server a new process, even if it is rejected."""

logger: logging.Logger = logging.getLogger("registry.storage.database.full_server")
# Without a handler, Python prints warnings to stderr in a program that has not set up logging.
logger.addHandler(logging.NullHandler())

Connection = TypeVar("Connection")


def connected(connect: Callable[[], Connection], seconds: float, database: str) -> Connection:
    """Return the result of ``connect``; call it again, for so long, while the server is full.

    This is logged once. ``database`` is the name for it, without secrets. Raises what ``connect``
    does.
    """

    def log(state: RetryCallState) -> None:
        if state.attempt_number > 1:
            return
        assert state.outcome is not None
        cause = state.outcome.exception()
        logger.warning(
            "%s: no connection is free, trying again for %.0f s: %s",
            database,
            seconds,
            cause,
            extra={"database": database, "cause": cause},
        )

    attempts = Retrying(
        retry=retry_if_exception(is_from_full_server),
        stop=stop_before_delay(seconds),
        # Jitter spreads the attempts of many processes that were started together.
        wait=wait_exponential(multiplier=0.05, max=_LONGEST_PAUSE) + wait_random(0, 0.2),
        before_sleep=log,
        reraise=True,
    )
    return attempts(connect)
