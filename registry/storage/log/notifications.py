"""Telling followers of a commit, and waiting to be told."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from registry.errors import ReadOnlyError, RegistryError
from registry.storage.database.driver_errors import translate
from registry.storage.database.transactions import driver, pooled, reading

if TYPE_CHECKING:
    import psycopg

LEAST_INTERVAL = 0.05
"""Seconds between two notifications of one process about one dataset."""
LONGEST_POLL = 1.0
"""Seconds after which a follower looks at the head in any case."""
_FIRST_POLL = 0.005
_SQLITE_POLL = 0.005

_last: dict[tuple[str, int], float] = {}

Wait = Callable[[float], None]
"""Waits for a commit, for at most so many seconds; may return early."""


def notify(engine: Engine, dataset_id: int) -> None:
    """Wake the dataset's followers, at most once per `LEAST_INTERVAL`; those who miss it poll.

    NOTIFY takes a lock that all committing transactions of the cluster queue for if they notify
    too. So it is never sent inside an append, but after it, on its own and seldom. The rows are
    safe by then: a failure here is nobody's business.
    """
    if engine.dialect.name != "postgresql":
        return
    now = time.monotonic()
    place = (str(engine.url), dataset_id)
    if now - _last.get(place, -LEAST_INTERVAL) < LEAST_INTERVAL:
        return
    _last[place] = now
    with suppress(RegistryError), reading(engine) as connection:
        connection.exec_driver_sql(f"NOTIFY {_channel(dataset_id)}")


@contextmanager
def listening(engine: Engine, dataset_id: int) -> Iterator[Wait]:
    """Lend a function that waits for commits to the dataset, from this moment on."""
    if pooled(engine):
        yield time.sleep  # nobody listens in a session that is another in the next transaction
        return
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            yield _Changes(connection)
            return
        try:
            connection.exec_driver_sql(f"LISTEN {_channel(dataset_id)}")
        except DBAPIError as error:
            if not isinstance(translate(error, engine.url), ReadOnlyError):
                raise
            yield time.sleep  # a standby has no notifications
            return
        try:
            yield lambda seconds: _notified(driver(connection), seconds)
        except BaseException:
            # If the network was lost, this connection cannot be told to stop, either.
            connection.invalidate()
            raise
        connection.exec_driver_sql(f"UNLISTEN {_channel(dataset_id)}")


class Pause:
    """How long to wait for a notification before looking: short after news, then longer.

    Jittered, so that a thousand followers do not look at the same moment.
    """

    def __init__(self) -> None:
        self._seconds = _FIRST_POLL

    def next(self) -> float:
        now = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311  # not a secret
        self._seconds = min(self._seconds * 1.5, LONGEST_POLL)
        return now


class _Changes:
    """Waits until another connection has committed to the SQLite file.

    SQLite cannot notify, but its ``data_version`` tells in microseconds whether anything changed.
    It must be asked outside of a transaction, where it would stand still.
    """

    def __init__(self, connection: Connection) -> None:
        self._driver = connection.connection.driver_connection
        self._seen = self._version()

    def __call__(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (version := self._version()) == self._seen and time.monotonic() < deadline:
            time.sleep(_SQLITE_POLL)
        self._seen = version

    def _version(self) -> int:
        assert isinstance(self._driver, sqlite3.Connection)
        found: int = self._driver.execute("PRAGMA data_version").fetchone()[0]
        return found


def _notified(connection: psycopg.Connection[Any], seconds: float) -> None:
    for _ in connection.notifies(timeout=seconds, stop_after=1):
        pass


def _channel(dataset_id: int) -> str:
    return f"registry_{dataset_id}"
