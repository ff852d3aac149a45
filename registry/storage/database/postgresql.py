"""Connections to PostgreSQL that fail in bounded time, and know whether a pooler is in between.

A network that swallows packets, or a proxy that takes them and stays silent, looks to a client
like a server at work; TCP tells of neither in useful time. So a connection on which nothing came
for a third of its timeout asks the server over another one. A statement at which the server still
works may go on, for hours if need be; else the connection is closed and the error says so.

A pooler in transaction mode (PgBouncer, say) lends out another session for every transaction. It
gives itself away by a session's number other than the one it named, and needs no settings here
or there: then no state is left in the session (settings last for a transaction, statements are
not prepared, followers poll instead of listening), and since it cannot be asked about the session,
a statement that stays silent for the timeout fails. Migrations must bypass it.
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
from sqlalchemy.exc import ArgumentError

from registry.errors import EncodingError
from registry.storage.database.deadline import left

LEAST_TIMEOUT = 10.0
"""Seconds; libpq takes two to give up connecting, and there must be time to ask and try again."""
ENCODING = "UTF8"
"""Of the client, whatever the environment says, and of the database: the keys' text is that of
Python's strings only so."""
_CONNECT_TIMEOUT = 10
_OURS = {"context", "timeout"}
_UNANSWERED = "nothing came from the server for {:.0f} seconds"

_PLANS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
"""Every query on a log goes by an index in order. While a new table has no statistics, PostgreSQL
cannot know that, and may read all of it instead."""
_DURABLE = {"synchronous_commit": "on"}
"""A commit is durable when it returns, even where the default is weaker than this."""
_STRONGEST = "remote_apply"
_FOR_SESSION = {
    # For statements outside of a transaction: any other level is slower, and fails reads.
    "default_transaction_isolation": "read committed",
    # A client that has vanished must not keep its locks.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_FOR_TRANSACTION = _PLANS | {
    "idle_in_transaction_session_timeout": "60s",
    "client_encoding": ENCODING,
}
"""Settings of a transaction, where the session is a pooler's."""
# Settings that the URL, $PGOPTIONS, the role or the database give stay as they are, but for two.
_SETTLE = """
    SELECT pg_backend_pid(), current_database(), getdatabaseencoding(),
        current_setting('synchronous_commit'),
        count(set_config(
            asked.key,
            CASE setting WHEN 'remote_apply' THEN setting ELSE asked.value END,
            false
        ))
    FROM json_each_text(%s) AS asked JOIN pg_settings ON name = asked.key
    WHERE (
        source NOT IN ('client', 'user', 'database', 'database user')
        OR name IN ('synchronous_commit', 'default_transaction_isolation')
    ) AND pg_backend_pid() = %s
"""
_AT_WORK = """
    SELECT state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'
    FROM pg_stat_activity WHERE pid = %s
"""


class Connection(psycopg.Connection[Any]):
    """A connection with a limit to the server's silence."""

    pooled = False
    """Whether its session is a pooler's, and another one in the next transaction."""
    for_transaction: Mapping[str, str] = {}
    """Settings to make in every transaction."""
    _timeout = LEAST_TIMEOUT
    _place: Mapping[str, Any] | None = None

    def wait(self, gen: PQGen[RV], *args: Any, **options: Any) -> RV:
        return super().wait(self._watched(gen), *args, **options)

    def __del__(self, *_: Any) -> None:
        # psycopg warns here of what was not closed. A pool that was given up lets go of its
        # connections, and libpq closes those that this process has opened; after a fork, the
        # others are the parent's.
        pass

    def limit(self, timeout: float) -> None:
        """Wait so many seconds for an answer."""
        self._timeout = timeout

    def settle(self, place: Mapping[str, Any]) -> None:
        """Prepare the session of a new connection, which was made with these arguments."""
        named = self.pgconn.backend_pid
        settings = json.dumps(_PLANS | _DURABLE | _FOR_SESSION)
        row = self.execute(_SETTLE, (settings, named), prepare=False).fetchone()
        assert row is not None
        pid, database, encoding, commit, _ = row
        if encoding != ENCODING:
            raise EncodingError(database, encoding)
        self.pooled = pid != named
        if self.pooled:
            self.prepare_threshold = None
            durable = {"synchronous_commit": commit} if commit == _STRONGEST else _DURABLE
            self.for_transaction = {**_FOR_TRANSACTION, **durable}
        else:
            self._place = place

    def _watched(self, gen: PQGen[RV]) -> PQGen[RV]:
        """Pass on what is waited for and what is ready, unless that is nothing for too long."""
        since = time.monotonic()
        budget = left(self._timeout)
        patience = budget / 3 if self._place else 0.9 * budget
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    since = time.monotonic()
                elif time.monotonic() - since > patience:
                    self._check_at_work(wanted, budget, since)
                    since = time.monotonic()
                wanted = gen.send(ready)
        except StopIteration as stop:
            found: RV = stop.value
            return found

    def _check_at_work(self, wanted: int, budget: float, since: float) -> None:
        """Close the connection, with an error, unless the server still works for it."""
        if self._place is not None:
            with suppress(psycopg.Error), _ask(self._place, budget / 3) as other:
                pid = (self.pgconn.backend_pid,)
                row = other.execute(_AT_WORK, pid).fetchone()
                if (row and row[0]) or self._ready(wanted):
                    return
                # It holds locks for as long as it waits for what was lost on the way.
                other.execute("SELECT pg_terminate_backend(%s)", pid)
        # Else the rollback that follows would wait as long again.
        self.pgconn.finish()
        raise psycopg.OperationalError(_UNANSWERED.format(time.monotonic() - since))

    def _ready(self, wanted: int) -> bool:
        """Tell whether the answer came while the server was asked."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pgconn.socket, wanted)
            return bool(selector.select(timeout=0.1))


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` for one that libpq does not know."""
    try:
        make_conninfo(**{name: arguments[name] for name in arguments.keys() - _OURS})
    except psycopg.Error as error:
        raise ArgumentError(str(error)) from error


def connect(arguments: Mapping[str, Any], timeout: float) -> Connection:
    """Connect as libpq does: what is not given comes from services, ``PG…`` variables and files."""
    options: dict[str, Any] = {
        "fallback_application_name": "registry",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        # For each of a name's addresses, of which there are often two.
        most = min(_CONNECT_TIMEOUT, left(timeout) / 3)
        options["connect_timeout"] = max(2, int(most))
    options |= {name: arguments[name] for name in arguments.keys() - {"timeout"}}
    options["client_encoding"] = ENCODING  # later than `options`, and above a role's settings
    connection = Connection.connect(**options, autocommit=True)
    try:
        connection.limit(timeout)
        connection.settle(options)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _ask(place: Mapping[str, Any], seconds: float) -> Iterator[Connection]:
    """Lend another connection, which gives up sooner."""
    options = {**place, "connect_timeout": max(2, int(seconds))}
    connection = Connection.connect(**options, autocommit=True)
    try:
        connection.limit(max(2.0, seconds))
        yield connection
    finally:
        connection.close()
