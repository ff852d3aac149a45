"""From a URL to an engine: dialect settings, transactions, and driver errors made ours."""

from __future__ import annotations

import hashlib
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from registry import forks, interrupts
from registry.errors import DatabaseError, DatabaseUnavailableError, InvalidURLError
from registry.refusals import translate
from registry.retry import PATIENCE, retrying
from registry.urls import parse_url, secrets, shown, timeout_of

if TYPE_CHECKING:
    from registry.postgresql import Connection as Driver

Result = TypeVar("Result")
Insert = postgresql_dialect.Insert | sqlite_dialect.Insert

_urls: WeakKeyDictionary[Engine, URL] = WeakKeyDictionary()
"""The URLs that engines were made for, with what is secret in them."""


def make_engine(url: str | URL, timeout: float | None = None) -> Engine:
    """Return an engine for the URL, without connecting to it.

    ``timeout``, else the URL's ``timeout``, else 30, is how many seconds may pass from the moment
    that the database falls silent or cannot be reached, or a SQLite file is locked by others, until
    that is an error. Raises `InvalidURLError`.
    """
    parsed = parse_url(url)
    timeout = timeout_of(parsed) if timeout is None else timeout
    try:
        engine = (_sqlite if parsed.drivername == "sqlite" else _postgresql)(parsed, timeout)
    except (ArgumentError, NoSuchModuleError, TypeError) as error:
        raise InvalidURLError(f"{shown(parsed)} cannot be used: {error}") from error
    engine.update_execution_options(registry_timeout=timeout)
    _urls[engine] = parsed
    forks.watch(engine)
    interrupts.watch(engine)
    return engine


def url_of(engine: Engine) -> URL:
    """Return the URL that an engine was made for, with its passwords."""
    return _urls[engine]


def _postgresql(url: URL, timeout: float) -> Engine:
    from registry import postgresql  # noqa: PLC0415  # it loads psycopg; SQLite does without

    if not timeout >= postgresql.LEAST_TIMEOUT:
        raise InvalidURLError(
            f"a timeout of {timeout:g} seconds is too short for PostgreSQL; "
            f"give {postgresql.LEAST_TIMEOUT:g} or more"
        )
    hidden = secrets(url)
    engine = create_engine(
        url.difference_update_query(hidden),  # SQLAlchemy shows all of a query
        connect_args=hidden,
        max_overflow=-1,  # a waiting follower keeps its connection, however many there are
        isolation_level="READ COMMITTED",  # a role's default may be another
        use_native_hstore=False,  # spares looking for it
    )
    postgresql.check_arguments(engine.dialect.create_connect_args(url)[1])

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, ___: object, arguments: dict[str, Any]) -> object:
        return postgresql.connect(arguments, timeout)

    return engine


def _sqlite(url: URL, timeout: float) -> Engine:
    if sqlite3.sqlite_version_info < (3, 35):
        raise DatabaseError(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or later is needed")
    # With uri=true, SQLite itself reads what else there is.
    if unknown := secrets(url).keys() if "uri" in url.query else url.query.keys() - {"timeout"}:
        raise InvalidURLError(
            f"{shown(url)}: SQLite URLs have no {', '.join(sorted(unknown))}; leave it out, or "
            "write it for SQLite itself, as in sqlite:///file:path?mode=ro&uri=true"
        )
    engine = create_engine(url, connect_args={"timeout": timeout}, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def settings(connection: sqlite3.Connection, _: object) -> None:
        # Python's own transaction handling would begin late and DEFERRED: two writers could both
        # read, and one would fail on upgrading its lock instead of waiting for it.
        connection.isolation_level = None
        connection.create_function("sha256", 1, _sha256, deterministic=True)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        statement = "BEGIN IMMEDIATE" if options.get("registry_writes") else "BEGIN"
        if (wait := options.get("registry_wait")) is None:
            connection.exec_driver_sql(statement)
            return
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * wait)}")
        try:
            connection.exec_driver_sql(statement)
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * timeout)}")

    return engine


def _sha256(data: bytes | None) -> bytes | None:
    """What PostgreSQL's function of this name returns, for SQLite, which has none."""
    return None if data is None else hashlib.sha256(data).digest()


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


def insert_into(connection: Connection, table: Table) -> Insert:
    """Return the database's own INSERT, which can say what a conflict comes to."""
    if connection.dialect.name == "postgresql":
        return postgresql_dialect.insert(table)
    return sqlite_dialect.insert(table)


def insert_if_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key exists; tell whether it was inserted."""
    statement = insert_into(connection, table).values(values).on_conflict_do_nothing()
    return connection.execute(statement.returning(*table.primary_key)).first() is not None


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
