"""Notifications of commits to the log, and waiting for them.

On PostgreSQL a writer sends NOTIFY after its commit and followers LISTEN. On SQLite followers poll
``PRAGMA data_version``. A notification is only a hint: one may be lost or never sent, so followers
read the head after `LONGEST_POLL` in any case.

A session that listens continues to when its connection returns to the pool. A follower therefore
needs one connection: the one that it waits on is also the one that it then reads by, and waits on
again. Notifications that arrive while other statements are executed are remembered (`_Notified`).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

from registry.errors import ReadOnlyError, RegistryError
from registry.storage.database.driver_errors import translate
from registry.storage.database.exchange import TEXT, Query, Statement
from registry.storage.database.transactions import driver, reading

if TYPE_CHECKING:
    from psycopg import Notify

    from registry.storage.database.postgresql import WatchedConnection

LEAST_INTERVAL = 0.05
"""Seconds between two notifications of one process about one dataset, at least."""
LONGEST_POLL = 1.0
"""Seconds after which a follower reads the head in any case."""
_FIRST_POLL = 0.005
_SQLITE_POLL = 0.005

_NOTIFIED = "registry_notified"
"""Key of a connection's `_Notified` in what SQLAlchemy keeps with it."""
_last: WeakKeyDictionary[Engine, dict[int, float]] = WeakKeyDictionary()
"""When, by the monotonic clock, each dataset was last notified about through an engine."""

# Asynchronously: a notification is assigned a transaction ID, so that its commit would wait for the
# disk. The setting lasts for this transaction.
_NOTIFY = Statement(
    b"SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, '')", (TEXT,)
)


class Watch(Protocol):
    """A wait for commits to a dataset. Not thread-safe."""

    @property
    def connection(self) -> Connection | None:
        """The connection that waits, to read the head by; None where another one must be used."""

    @property
    def first_poll(self) -> float:
        """Seconds after which the head is to be read for the first time in any case."""

    def wait(self, seconds: float) -> None:
        """Wait for a commit, for at most so many seconds; may return early.

        A commit since the last call counts, too.
        """


def due(engine: Engine, dataset_id: int) -> Sequence[Query]:
    """Return what wakes the dataset's followers, if the last time is `LEAST_INTERVAL` ago.

    It is sent after the commit, in a separate transaction; followers who miss it poll. A
    transaction with a notification takes one lock for the whole cluster when it commits: inside an
    append, writers of all datasets would queue for it. After it was sent, `note` must be called.
    """
    if engine.dialect.name != "postgresql":
        return ()
    last = _last.get(engine, {}).get(dataset_id, -LEAST_INTERVAL)
    if time.monotonic() - last < LEAST_INTERVAL:
        return ()
    return (Query(_NOTIFY, (_channel(dataset_id).encode(),)),)


def note(engine: Engine, dataset_id: int) -> None:
    """Note that the dataset's followers were notified now."""
    _last.setdefault(engine, {})[dataset_id] = time.monotonic()


def notify(engine: Engine, dataset_id: int) -> None:
    """Wake the dataset's followers after a commit, as `due` says; a failure is ignored."""
    if queries := due(engine, dataset_id):
        note(engine, dataset_id)
        with suppress(RegistryError), reading(engine) as connection:
            driver(connection).exchange(queries)


@contextmanager
def listening(engine: Engine, dataset_id: int) -> Iterator[Watch]:
    """Yield what waits for commits to the dataset from now on.

    It uses the connection of this block.
    """
    if engine.dialect.name == "sqlite":
        with reading(engine) as connection:
            # The driver's connection: a statement through SQLAlchemy would begin a transaction.
            file = connection.connection.driver_connection
            assert isinstance(file, sqlite3.Connection)
            yield _Commits(file, _data_version(file))
        return
    # A pooler gives each transaction another session, so that LISTEN would have no effect.
    with reading(engine) as connection:
        if not driver(connection).pooled and _listens(connection, dataset_id):
            yield _Notifications(connection, dataset_id)
            return
    yield _Polling()


def _listens(connection: Connection, dataset_id: int) -> bool:
    """Have a session listen, if it does not yet; return False where it cannot, on a standby."""
    notified: _Notified | None = connection.info.get(_NOTIFIED)
    if notified is None:
        notified = connection.info[_NOTIFIED] = _Notified()
        # Without a handler, psycopg would keep all notifications that nobody reads.
        driver(connection).add_notify_handler(notified)
    if (channel := _channel(dataset_id)) not in notified.channels:
        session = driver(connection)
        try:
            session.exchange([Query(Statement(b"LISTEN " + channel.encode()))])
        except connection.dialect.loaded_dbapi.Error as error:
            if not isinstance(translate(error, connection.engine.url), ReadOnlyError):
                raise
            return False
        notified.channels.add(channel)
    return True


class _Notified:
    """The channels that a session listens to, and those that a notification has come from."""

    def __init__(self) -> None:
        self.channels: set[str] = set()
        self.pending: set[str] = set()

    def __call__(self, notification: Notify) -> None:
        self.pending.add(notification.channel)


class _Notifications:
    """Waits until the session is notified of a commit."""

    # Followers that are notified need not poll, except for what comes right after a notification,
    # of which no other one is sent.
    first_poll = LEAST_INTERVAL

    def __init__(self, connection: Connection, dataset_id: int) -> None:
        self.connection = connection
        self._session: WatchedConnection = driver(connection)
        self._pending: set[str] = connection.info[_NOTIFIED].pending
        self._channel = _channel(dataset_id)
        # The head is read after this: what was committed before needs no notification.
        self._pending.discard(self._channel)

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._channel not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not self._session.receive_notifications(left):
                break
        self._pending.discard(self._channel)


class _Polling:
    """Waits without a connection, where commits cannot be noticed."""

    connection = None
    first_poll = _FIRST_POLL

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


class Pause:
    """Intervals between reads of the head, in seconds: short at first, then longer.

    They are jittered, so that a thousand followers do not read it at the same moment.
    """

    def __init__(self, first: float = _FIRST_POLL) -> None:
        self._seconds = first

    def next(self) -> float:
        now = self._seconds * random.uniform(1.0, 1.5)  # noqa: S311  # not a secret
        self._seconds = min(self._seconds * 1.5, LONGEST_POLL / 1.5)
        return now


class _Commits:
    """Waits until another connection has committed to the SQLite file.

    SQLite has no notifications, but ``PRAGMA data_version`` shows within microseconds whether the
    file has changed. It must be read outside of a transaction, since it does not change inside one.
    """

    connection = None
    first_poll = _FIRST_POLL

    def __init__(self, file: sqlite3.Connection, version: int) -> None:
        self._file = file
        self._version = version

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (version := _data_version(self._file)) == self._version:
            if time.monotonic() >= deadline:
                break
            time.sleep(_SQLITE_POLL)
        self._version = version


def _data_version(file: sqlite3.Connection) -> int:
    version: int = file.execute("PRAGMA data_version").fetchone()[0]
    return version


def _channel(dataset_id: int) -> str:
    return f"registry_{dataset_id}"
