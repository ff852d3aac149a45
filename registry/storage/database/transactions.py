"""Connections and transactions on an engine, with the driver's errors translated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from registry.errors import DatabaseUnavailableError
from registry.storage.database import fork_safety as forks
from registry.storage.database import interrupts
from registry.storage.database.driver_errors import translate
from registry.storage.database.engine import (
    Result,
)
from registry.storage.database.retry import PATIENCE, retrying

if TYPE_CHECKING:
    from registry.storage.database.postgresql import Connection as Driver


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Lend a connection for statements that only read.

    On PostgreSQL each statement is its own transaction, so that nothing is left idle in one,
    except through a pooler; on SQLite the block is one snapshot.
    """
    with lent(engine) as connection:
        if engine.dialect.name == "postgresql":
            if driver(connection).pooled:
                _set(connection, {})
            else:
                connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@contextmanager
def writing(engine: Engine, wait: float | None = None) -> Iterator[Connection]:
    """Lend a connection in a transaction that commits at the end of the block.

    On SQLite it begins IMMEDIATE. ``wait`` bounds the seconds spent on waiting for a lock.
    """
    with lent(engine) as connection:
        connection.execution_options(registry_writes=True, registry_wait=wait)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                _set(connection, {} if wait is None else {"lock_timeout": str(round(1000 * wait))})
            yield connection


def _set(connection: Connection, settings: Mapping[str, str]) -> None:
    """Set these for the transaction, and what else cannot be set for the session."""
    settings = {**driver(connection).for_transaction, **settings}
    if not settings:
        return
    each = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    connection.exec_driver_sql(f"SELECT {each}")


def pooled(engine: Engine) -> bool:
    """Tell whether a pooler lends out another session for every transaction."""
    if engine.dialect.name != "postgresql":
        return False
    with lent(engine) as connection:
        return driver(connection).pooled


def driver(connection: Connection) -> Driver:
    """Return the psycopg connection underneath, for COPY and binary results."""
    found: Driver | None = connection.connection.driver_connection
    assert found is not None
    return found


def read(
    engine: Engine, work: Callable[[Connection], Result], patience: float | None = PATIENCE
) -> Result:
    """Return what ``work`` reads, trying again while the database is out of reach."""
    for attempt in retrying(patience, engine):
        with attempt, reading(engine) as connection:
            return work(connection)
    raise AssertionError


def write(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """Return what ``work`` does in a transaction, which must be harmless if done twice."""
    for attempt in retrying(PATIENCE, engine):
        with attempt, writing(engine) as connection:
            return work(connection)
    raise AssertionError


@contextmanager
def lent(engine: Engine) -> Iterator[Connection]:
    """Lend a connection; raise the driver's errors as ours."""
    forks.check(engine)
    handled = sys.exception()
    errors: tuple[type[Exception], ...] = (engine.dialect.loaded_dbapi.Error,)
    try:
        connection = engine.connect()
        with interrupts.Guard(connection), interrupts.Guard(connection), connection:
            try:
                yield connection
            except BaseException as error:
                # A driver's own call may have lost the connection without SQLAlchemy's seeing it.
                postgresql = engine.dialect.name == "postgresql" and not connection.invalidated
                lost = isinstance(error, errors) and postgresql and driver(connection).closed
                if lost or not isinstance(error, Exception):
                    connection.invalidate()
                raise
    except Exception as error:
        if interrupt := interrupts.interrupt_behind(error, handled):
            raise interrupt from None
        if not isinstance(error, (SQLAlchemyError, *errors)):
            raise
        ours = translate(error, engine.url)
        if isinstance(ours, DatabaseUnavailableError):
            # The server went away: the pool's other connections have gone with it.
            engine.dispose()
        raise ours from error
