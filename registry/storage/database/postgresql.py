"""Connections to PostgreSQL that fail in bounded time and detect a pooler.

How a silent server is detected: when nothing has arrived on a connection for a third of its
timeout, a second connection asks ``pg_stat_activity`` whether the first one's backend is still
working. If it is, the statement may continue, for hours if necessary. Otherwise the connection is
closed and an error raised. This is needed because a network that drops packets, or a proxy that
accepts them and does not answer, looks to a client like a busy server, and TCP reports neither in
useful time.

How a pooler is detected: in transaction mode, a pooler such as PgBouncer uses another server
session for every transaction, so that ``pg_backend_pid()`` differs from the process ID sent when
the connection was opened. No setting is needed on either side. Behind a pooler, no state is left in
the session: settings last for a transaction, statements are not prepared, and followers poll
instead of using LISTEN. The session's backend is unknown, so a statement that is silent for the
timeout fails. Migrations must bypass a pooler.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Wait
from sqlalchemy.exc import ArgumentError

from registry.errors import EncodingError
from registry.storage.database.deadline import seconds_left
from registry.storage.database.full_server import connected
from registry.storage.database.pipeline import PipelinedConnection

LEAST_TIMEOUT = 10.0
"""Seconds. libpq waits two or more to connect, and time to ask and to retry must be left."""
ENCODING = "UTF8"
"""The encoding of the client, whatever the environment says, and of the database. With any other,
keys would not be stored as Python's strings are."""
_CONNECT_TIMEOUT = 10
_MARGIN = 1.0
"""Seconds before the end of the timeout in which a server without a free connection is given up."""
_OURS = {"context", "timeout"}
"""Arguments that libpq does not know."""
_UNANSWERED = "nothing came from the server for {:.0f} seconds"

_PLANS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
"""Every query on a log scans an index in order. Without statistics on a new table, PostgreSQL would
choose a sequential scan of the whole table."""
_DURABLE = {"synchronous_commit": "on"}
"""A commit is durable when it returns, even if the server's default is weaker."""
_STRONGEST = "remote_apply"
"""The one value of ``synchronous_commit`` that is stronger than "on", and is kept."""
_FOR_SESSION = {
    # For autocommitted statements: stricter levels are slower, and reads fail with 40001.
    "default_transaction_isolation": "read committed",
    # A client that has disappeared must not keep its locks.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_FOR_TRANSACTION = _PLANS | {
    "idle_in_transaction_session_timeout": "60s",
    "client_encoding": ENCODING,
}
"""Settings of each transaction behind a pooler, whose sessions other clients share."""
# Settings from the URL, $PGOPTIONS, the role or the database are kept, except for two. The last
# condition sets nothing behind a pooler: another client would inherit the settings.
_SET_UP = """
    SELECT pg_backend_pid(), current_database(), getdatabaseencoding(),
        current_setting('synchronous_commit'),
        count(set_config(
            wanted.key,
            CASE setting WHEN 'remote_apply' THEN setting ELSE wanted.value END,
            false
        ))
    FROM json_each_text(%s) AS wanted JOIN pg_settings ON name = wanted.key
    WHERE (
        source NOT IN ('client', 'user', 'database', 'database user')
        OR name IN ('synchronous_commit', 'default_transaction_isolation')
    ) AND pg_backend_pid() = %s
"""
# "Client": the backend waits for this client, so the network has lost a message.
_AT_WORK = """
    SELECT state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'
    FROM pg_stat_activity WHERE pid = %s
"""


class WatchedConnection(PipelinedConnection):
    """A psycopg connection that fails if its server is silent for too long."""

    for_transaction: Mapping[str, str] = {}
    """Settings that every transaction must make, as the session cannot keep them."""
    _timeout = LEAST_TIMEOUT
    _arguments: Mapping[str, Any] | None = None
    """Arguments to open a second connection; None behind a pooler and while connecting."""

    # psycopg runs every exchange with the server as a generator that this method drives.
    def wait(self, gen: PQGen[RV], *args: Any, **options: Any) -> RV:
        try:
            readiness = next(gen)
        except StopIteration as stop:  # most settings of the connection need no exchange
            done: RV = stop.value
            return done
        return super().wait(self._watched(gen, readiness), *args, **options)

    def __del__(self, *_: Any) -> None:
        # psycopg issues a ResourceWarning here for a connection that was not closed. A disposed
        # pool drops its connections, and libpq closes those that this process opened; after a
        # fork, the others belong to the parent.
        pass

    def limit(self, timeout: float) -> None:
        """Set the seconds that the server may be silent before the connection fails."""
        self._timeout = timeout

    def set_up(self, arguments: Mapping[str, Any]) -> None:
        """Set up the session of a new connection, opened with these arguments.

        Raises `EncodingError` if the database is not in UTF8.
        """
        announced = self.pgconn.backend_pid
        settings = json.dumps(_PLANS | _DURABLE | _FOR_SESSION)
        # Unprepared: behind a pooler, the next statement would not find it in its session.
        row = self.execute(_SET_UP, (settings, announced), prepare=False).fetchone()
        assert row is not None
        pid, database, encoding, commit, _ = row
        if encoding != ENCODING:
            raise EncodingError(database, encoding)
        self.pooled: bool = pid != announced
        if self.pooled:
            self.prepare_threshold = None
            durable = {"synchronous_commit": commit} if commit == _STRONGEST else _DURABLE
            self.for_transaction = {**_FOR_TRANSACTION, **durable}
        else:
            self._arguments = arguments

    def _watched(self, gen: PQGen[RV], readiness: Wait) -> PQGen[RV]:
        """Wrap a generator of psycopg; check on the server when nothing is ready for too long.

        ``readiness`` is what it has yielded first.
        """
        since = time.monotonic()
        budget = seconds_left(self._timeout)
        # A third each: for the silence, to connect a second time, and for its answer.
        limit = budget / 3 if self._arguments else 0.9 * budget
        try:
            while True:
                ready = yield readiness  # 0 at each of psycopg's wait intervals without data
                if ready:
                    since = time.monotonic()
                elif time.monotonic() - since > limit:
                    self._check_at_work(readiness, budget, since)
                    since = time.monotonic()
                readiness = gen.send(ready)
        except StopIteration as stop:
            result: RV = stop.value
            return result

    def _check_at_work(self, readiness: int, budget: float, since: float) -> None:
        """Return if the server is still working for this connection; else close it and raise."""
        if self._arguments is not None:
            with suppress(psycopg.Error), _second_connection(self._arguments, budget / 3) as other:
                pid = (self.pgconn.backend_pid,)
                row = other.execute(_AT_WORK, pid).fetchone()
                if (row and row[0]) or self._ready(readiness):
                    return
                # The backend would hold its locks while it waits for the lost message.
                other.execute("SELECT pg_terminate_backend(%s)", pid)
        # If left open, the rollback that follows would wait for the whole timeout again.
        self.pgconn.finish()
        raise psycopg.OperationalError(_UNANSWERED.format(time.monotonic() - since))

    def _ready(self, readiness: int) -> bool:
        """Return whether data has arrived while the second connection asked."""
        return self._select(readiness, 0.1)

    def receive_notifications(self, seconds: float) -> bool:
        """Wait for data, for so many seconds at most; return whether any arrived.

        Notifications in it are passed to the handlers.
        """
        # Some may have come with the answer to a query.
        if self._pass_notifications():
            return True
        # `Connection.notifies` would wake ten times a second.
        if not self._select(selectors.EVENT_READ, seconds):
            return False
        self.pgconn.consume_input()
        self._pass_notifications()
        return True

    def _pass_notifications(self) -> bool:
        handle, passed = self.pgconn.notify_handler, False
        while handle and (notification := self.pgconn.notifies()) is not None:
            handle(notification)
            passed = True
        return passed

    def _select(self, readiness: int, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.pgconn.socket, readiness)
            return bool(selector.select(seconds))


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for a connection parameter that libpq does not know."""
    try:
        make_conninfo(**{name: arguments[name] for name in arguments.keys() - _OURS})
    except psycopg.Error as error:
        raise ArgumentError(str(error)) from error


def connect(arguments: Mapping[str, Any], timeout: float, database: str) -> WatchedConnection:
    """Open a connection whose server may be silent for ``timeout`` seconds.

    Tries again, for almost as long, while the server has no connection free; ``database`` is the
    name for it in the log.
    As usual with libpq, missing arguments come from service files, ``PG…`` variables and the
    password file.
    """
    options: dict[str, Any] = {
        "fallback_application_name": "registry",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        # The limit applies to each address of a host name, often an IPv6 and an IPv4 one.
        most = min(_CONNECT_TIMEOUT, seconds_left(timeout) / 3)
        options["connect_timeout"] = max(2, int(most))
    options |= {name: arguments[name] for name in arguments.keys() - {"timeout"}}
    options["client_encoding"] = ENCODING  # overrides `options` and the role's setting
    # Autocommit, or set_config would be undone by the pool's first rollback.
    connection = connected(
        lambda: WatchedConnection.connect(**options, autocommit=True),
        seconds_left(timeout) - _MARGIN,
        database,
    )
    try:
        connection.limit(timeout)
        connection.set_up(options)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _second_connection(arguments: Mapping[str, Any], seconds: float) -> Iterator[WatchedConnection]:
    """Yield a second connection to the same server, with a shorter timeout, in seconds."""
    options = {**arguments, "connect_timeout": max(2, int(seconds))}
    connection = connected(
        lambda: WatchedConnection.connect(**options, autocommit=True), seconds / 2, "the database"
    )
    try:
        connection.limit(max(2.0, seconds))
        yield connection
    finally:
        connection.close()
