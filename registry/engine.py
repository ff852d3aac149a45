"""From a URL to an engine: dialect settings, transactions, and driver errors made ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import stamina
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from registry.errors import (
    ConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    DiskFullError,
    InvalidURLError,
    PermissionDeniedError,
    ReadOnlyError,
    RegistryError,
    TransientError,
)

if TYPE_CHECKING:
    import psycopg

Result = TypeVar("Result")

CONNECT_TIMEOUT = 10
"""Seconds to wait for a connection, and for a lock on a SQLite file three times as long."""
PATIENCE = 30.0
"""Seconds for which appends and page reads try again after a transient error."""

_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")


def parse_url(url: str | URL) -> URL:
    """Return the URL with its driver named; every PostgreSQL form means psycopg 3."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidURLError(
            "the database URL cannot be read; write postgresql://user@host/database "
            "or sqlite:///path/to/file.db"
        ) from (None if "@" in str(url) else error)
    if parsed.drivername in _POSTGRESQL:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in _SQLITE:
        if parsed.database in (None, "", ":memory:"):
            raise InvalidURLError(
                f"{parsed} names no file; write sqlite:///path/to/file.db (processes share it)"
            )
        return parsed.set(drivername="sqlite")
    raise InvalidURLError(
        f"{parsed.drivername}:// databases are not supported; use postgresql:// or sqlite:///"
    )


def make_engine(url: str | URL) -> Engine:
    """Return an engine for the URL, without connecting to it."""
    parsed = parse_url(url)
    try:
        if parsed.drivername == "sqlite":
            return _sqlite(parsed)
        return create_engine(
            parsed,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "application_name": "registry",
                **parsed.query,
            },
        )
    except (ArgumentError, NoSuchModuleError, TypeError) as error:
        raise InvalidURLError(f"{parsed!r} cannot be used: {error}") from error


def _sqlite(url: URL) -> Engine:
    if sqlite3.sqlite_version_info < (3, 35):
        raise DatabaseError(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or later is needed")
    engine = create_engine(url, connect_args={"timeout": 3 * CONNECT_TIMEOUT})

    @event.listens_for(engine, "connect")
    def settings(connection: sqlite3.Connection, _: object) -> None:
        # Python's own transaction handling would begin late and DEFERRED: two writers could both
        # read, and one would fail on upgrading its lock instead of waiting for it.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("registry_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Lend a connection for statements that only read.

    On PostgreSQL each statement is its own transaction, so that nothing is left idle in one; on
    SQLite the block is one snapshot.
    """
    with _lent(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Lend a connection in a transaction that commits at the end of the block.

    On SQLite it begins IMMEDIATE; on PostgreSQL a commit is durable when it returns, even where
    the server's default is otherwise.
    """
    with _lent(engine) as connection:
        connection.execution_options(registry_writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            yield connection


def driver(connection: Connection) -> psycopg.Connection[Any]:
    """Return the psycopg connection underneath, for COPY and binary results."""
    found: psycopg.Connection[Any] | None = connection.connection.driver_connection
    assert found is not None
    return found


def insert_if_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless its key exists; tell whether it was inserted."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(values).on_conflict_do_nothing()
    return connection.execute(statement.returning(*table.primary_key)).first() is not None


def read(
    engine: Engine, work: Callable[[Connection], Result], patience: float | None = PATIENCE
) -> Result:
    """Return what ``work`` reads, trying again while the database is out of reach."""
    for attempt in retrying(patience):
        with attempt, reading(engine) as connection:
            return work(connection)
    raise AssertionError


def write(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """Return what ``work`` does in a transaction, which must be harmless if done twice."""
    for attempt in retrying():
        with attempt, writing(engine) as connection:
            return work(connection)
    raise AssertionError


def retrying(patience: float | None = PATIENCE) -> Iterator[Any]:
    """Attempts, with growing and jittered pauses, while `TransientError` is raised in them."""
    return iter(
        stamina.retry_context(
            on=TransientError,
            attempts=None,
            timeout=patience,
            wait_initial=0.05,
            wait_max=2.0,
            wait_jitter=0.2,
        )
    )


@contextmanager
def _lent(engine: Engine) -> Iterator[Connection]:
    """Lend a connection; raise the driver's errors as ours."""
    errors = _driver_errors(engine)
    try:
        with engine.connect() as connection:
            try:
                yield connection
            except errors:
                # A driver's own call may have lost the connection without SQLAlchemy's seeing it.
                if engine.dialect.name == "postgresql" and driver(connection).closed:
                    connection.invalidate()
                raise
    except (SQLAlchemyError, *errors) as error:
        ours = translate(error, engine.url)
        if isinstance(ours, DatabaseUnavailableError):
            # The server went away: the pool's other connections have gone with it.
            engine.dispose()
        raise ours from error


def _driver_errors(engine: Engine) -> tuple[type[Exception], ...]:
    return (engine.dialect.loaded_dbapi.Error,)


def translate(error: Exception, url: URL) -> RegistryError:
    """Return the error of `errors.py` that a driver's error means."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    said = str(original).strip().partition("\n")[0] or type(original).__name__
    place = url.render_as_string(hide_password=True)
    if isinstance(original, sqlite3.Error):
        return _from_sqlite(original, said, place)
    if hasattr(original, "sqlstate"):
        return _from_postgresql(original, said, place)
    return DatabaseError(f"{place}: {said}")


def _from_sqlite(error: sqlite3.Error, said: str, place: str) -> RegistryError:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ConflictError(f"{place} is locked by another process ({said}); try again")
    if code.startswith("SQLITE_READONLY"):
        return ReadOnlyError(f"{place} can only be read; check the rights of the file and folder")
    if code.startswith("SQLITE_FULL"):
        return DiskFullError(f"{place}: {said}; free some space and try again")
    if code.startswith("SQLITE_CANTOPEN"):
        return DatabaseError(f"{place}: {said}; check that its folder exists and may be written")
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DatabaseError(f"{place}: {said}; name another file, or restore a backup")
    return DatabaseError(f"{place}: {said}")


def _from_postgresql(error: Any, said: str, place: str) -> RegistryError:
    import psycopg  # noqa: PLC0415  # loaded by now; importing it takes a tenth of a second

    state = error.sqlstate or ""
    if state in ("40001", "40P01", "55P03"):
        return ConflictError(f"{place}: {said}; try again")
    if state == "42501":
        return PermissionDeniedError(f"{place}: {said}; ask its owner to grant this right")
    if state == "25006":
        return ReadOnlyError(f"{place}: {said}; connect to the primary server to write")
    if state == "53100":
        return DiskFullError(f"{place}: {said}; free some space and try again")
    # libpq gives no state where a connection is refused, only what the server said.
    if state.startswith("28") or "authentication failed" in said:
        return DatabaseError(f"{place}: {said}; check the user and password")
    if state.startswith("3D") or ("FATAL" in said and "does not exist" in said):
        return DatabaseError(f"{place}: {said}; create it first (createdb), then `registry init`")
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state
    if lost or state.startswith(("08", "57P", "53300")):
        return DatabaseUnavailableError(f"{place}: {said}; check that the server is up")
    return DatabaseError(f"{place}: {said}")
