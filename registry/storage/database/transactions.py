"""Connections and transactions of an engine, with the drivers' errors translated.

`reading` and `writing` make one attempt; `read` and `write` retry after transient errors. All of
them borrow a connection by `open_connection`, which checks for forks, ends interrupted
transactions and translates errors. Autocommit is set on the driver's connection, which ends it when
it returns to the pool: SQLAlchemy's own setting takes longer than a read of the head. Engines are
thread-safe; a connection belongs to one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from registry.errors import DatabaseUnavailableError
from registry.storage.database import fork_safety, interrupts
from registry.storage.database.driver_errors import translate
from registry.storage.database.retry import PATIENCE, retrying

if TYPE_CHECKING:
    from registry.storage.database.postgresql import WatchedConnection

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection for statements that only read.

    On SQLite the block reads one snapshot. On PostgreSQL each statement is its own transaction and
    snapshot, so that no session stays idle in a transaction. Behind a pooler, the block is one
    transaction.
    """
    with open_connection(engine) as connection:
        if engine.dialect.name == "postgresql":
            # Behind a pooler, settings last for a transaction, so there must be one.
            if driver(connection).pooled:
                _set(connection, {})
            else:
                driver(connection).autocommit = True
        yield connection


@contextmanager
def writing(engine: Engine, wait: float | None = None) -> Iterator[Connection]:
    """Yield a connection in a transaction that commits at the end of the block.

    On SQLite it begins IMMEDIATE. ``wait`` is the limit for waiting for a lock, in seconds.
    """
    with open_connection(engine) as connection:
        postgresql = engine.dialect.name == "postgresql"
        if not postgresql:
            # Before begin(): the listener that sends SQLite's BEGIN reads these options.
            connection.execution_options(registry_writes=True, registry_wait=wait)
        with connection.begin():
            if postgresql:
                _set(connection, {} if wait is None else {"lock_timeout": str(round(1000 * wait))})
            yield connection


@contextmanager
def writing_once(engine: Engine) -> Iterator[Connection]:
    """Yield a connection for one statement that writes, after which others may read.

    On PostgreSQL the statement is its own transaction, which saves two exchanges with the server.
    """
    with open_connection(engine) as connection:
        if engine.dialect.name == "postgresql" and not driver(connection).pooled:
            driver(connection).autocommit = True
            yield connection
            return
    with writing(engine) as connection:
        yield connection


def _set(connection: Connection, settings: Mapping[str, str]) -> None:
    """Make settings for this transaction, and those that the session cannot keep.

    Names and values are not escaped: they must never come from a user.
    """
    settings = {**driver(connection).for_transaction, **settings}
    if not settings:
        return
    each = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    connection.exec_driver_sql(f"SELECT {each}")


def pooled(engine: Engine) -> bool:
    """Return whether a pooler is in between, which changes the session with every transaction."""
    if engine.dialect.name != "postgresql":
        return False
    with open_connection(engine) as connection:
        return driver(connection).pooled


def driver(connection: Connection) -> WatchedConnection:
    """Return the underlying psycopg connection, for COPY and binary results; PostgreSQL only."""
    driver_connection: WatchedConnection | None = connection.connection.driver_connection
    assert driver_connection is not None
    return driver_connection


def read(
    engine: Engine,
    work: Callable[[Connection, *Arguments], Result],
    *arguments: *Arguments,
    patience: float | None = PATIENCE,
) -> Result:
    """Return the result of ``work(connection, *arguments)``; retry after transient errors.

    ``work`` may run several times, each on a new connection, for ``patience`` seconds. None retries
    without limit.
    """
    for attempt in retrying(patience, engine):
        with attempt, reading(engine) as connection:
            return work(connection, *arguments)
    raise AssertionError


def write(
    engine: Engine, work: Callable[[Connection, *Arguments], Result], *arguments: *Arguments
) -> Result:
    """Return the result of ``work``, called as by `read`, in a transaction; retry as `read` does.

    ``work`` must be idempotent: if the connection is lost during COMMIT, the transaction may have
    been committed, and ``work`` runs again.
    """
    for attempt in retrying(PATIENCE, engine):
        with attempt, writing(engine) as connection:
            return work(connection, *arguments)
    raise AssertionError


def write_once(
    engine: Engine, work: Callable[[Connection, *Arguments], Result], *arguments: *Arguments
) -> Result:
    """Return the result of ``work`` as `write` does; only its first statement may write."""
    for attempt in retrying(PATIENCE, engine):
        with attempt, writing_once(engine) as connection:
            return work(connection, *arguments)
    raise AssertionError


@contextmanager
def open_connection(engine: Engine) -> Iterator[Connection]:
    """Yield a connection of the pool; raise the driver's errors as those of `registry.errors`."""
    fork_safety.check(engine)
    handled = sys.exception()
    errors: tuple[type[Exception], ...] = (engine.dialect.loaded_dbapi.Error,)
    try:
        connection = engine.connect()
        # Two guards: a second interrupt may stop the first one. The connection is the innermost,
        # so that it returns to its pool before the guards look whether it did.
        with interrupts.Guard(connection), interrupts.Guard(connection), connection:
            try:
                yield connection
            except BaseException as error:
                # SQLAlchemy does not notice a connection lost in a direct call of the driver, and
                # would return it to the pool. After an interrupt, its state is unknown.
                postgresql = engine.dialect.name == "postgresql" and not connection.invalidated
                lost = isinstance(error, errors) and postgresql and driver(connection).closed
                if lost or not isinstance(error, Exception):
                    connection.invalidate()
                raise
    except Exception as error:
        # An interrupt must stay one: as a transient error, it would be retried.
        if interrupt := interrupts.interrupt_behind(error, handled):
            raise interrupt from None
        if not isinstance(error, (SQLAlchemyError, *errors)):
            raise
        ours = translate(error, engine.url)
        if isinstance(ours, DatabaseUnavailableError):
            # The server is gone, and with it the other connections of the pool.
            engine.dispose()
        raise ours from error
