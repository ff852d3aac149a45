"""Notifications of commits to the log, and waiting for them.

On PostgreSQL a writer sends NOTIFY after its commit and followers LISTEN. On SQLite followers poll
``PRAGMA data_version``. A notification is only a hint: one may be lost or never sent, so followers
read the head after `LONGEST_POLL` in any case.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from registry.errors import ReadOnlyError, RegistryError
from registry.storage.database.driver_errors import translate
from registry.storage.database.transactions import driver, pooled, reading

if TYPE_CHECKING:
    import psycopg

LEAST_INTERVAL = 0.05
"""Seconds between two notifications of one process about one dataset, at least."""
LONGEST_POLL = 1.0
"""Seconds after which a follower reads the head in any case."""
_FIRST_POLL = 0.005
_SQLITE_POLL = 0.005

_last: dict[tuple[str, int], float] = {}
"""When, by the monotonic clock, a dataset (URL and id) was last notified about."""

Wait = Callable[[float], None]
"""Waits for a commit, for at most the given number of seconds; may return early."""


def notify(engine: Engine, dataset_id: int) -> None:
    """Wake the dataset's followers, at most once per `LEAST_INTERVAL`; those who miss it poll.

    A transaction with a NOTIFY takes one lock for the whole cluster when it commits. Inside an
    append, writers of all datasets would queue for it. So it is sent after the append, in a
    separate transaction, and seldom. The rows are committed by then: a failure is ignored.
    """
    if engine.dialect.name != "postgresql":
        return
    now = time.monotonic()
    dataset = (str(engine.url), dataset_id)
    if now - _last.get(dataset, -LEAST_INTERVAL) < LEAST_INTERVAL:
        return
    _last[dataset] = now
    with suppress(RegistryError), reading(engine) as connection:
        connection.exec_driver_sql(f"NOTIFY {_channel(dataset_id)}")


@contextmanager
def listening(engine: Engine, dataset_id: int) -> Iterator[Wait]:
    """Yield a function that waits for commits to the dataset from now on.

    The function uses the connection of this block and is not thread-safe.
    """
    if pooled(engine):
        # A pooler gives each transaction another session, so that LISTEN would have no effect.
        yield time.sleep
        return
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            # The driver's connection: a statement through SQLAlchemy would begin a transaction.
            file = connection.connection.driver_connection
            assert isinstance(file, sqlite3.Connection)
            yield _Commits(file, _data_version(file))
            return
        try:
            connection.exec_driver_sql(f"LISTEN {_channel(dataset_id)}")
        except DBAPIError as error:
            if not isinstance(translate(error, engine.url), ReadOnlyError):
                raise
            yield time.sleep  # a standby refuses LISTEN
            return
        try:
            yield lambda seconds: _notified(driver(connection), seconds)
        except BaseException:
            # If the network was lost, UNLISTEN would fail as well. A connection that went back to
            # the pool while it listens would collect notifications that nobody reads.
            connection.invalidate()
            raise
        connection.exec_driver_sql(f"UNLISTEN {_channel(dataset_id)}")


class Pause:
    """Intervals between reads of the head, in seconds: short at first, then longer.

    They are jittered, so that a thousand followers do not read it at the same moment.
    """

    def __init__(self) -> None:
        self._seconds = _FIRST_POLL

    def next(self) -> float:
        now = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311  # not a secret
        self._seconds = min(self._seconds * 1.5, LONGEST_POLL)
        return now


class _Commits:
    """Waits until another connection has committed to the SQLite file.

    SQLite has no notifications, but ``PRAGMA data_version`` shows within microseconds whether the
    file has changed. It must be read outside of a transaction, since it does not change inside one.
    """

    def __init__(self, file: sqlite3.Connection, version: int) -> None:
        self._file = file
        self._version = version

    def __call__(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (version := _data_version(self._file)) == self._version:
            if time.monotonic() >= deadline:
                break
            time.sleep(_SQLITE_POLL)
        self._version = version


def _data_version(file: sqlite3.Connection) -> int:
    version: int = file.execute("PRAGMA data_version").fetchone()[0]
    return version


def _notified(connection: psycopg.Connection[Any], seconds: float) -> None:
    for _ in connection.notifies(timeout=seconds, stop_after=1):
        pass


def _channel(dataset_id: int) -> str:
    return f"registry_{dataset_id}"
