"""From a URL to an engine: dialect settings, transactions, and driver errors made ours."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from registry.errors import DatabaseError, InvalidURLError
from registry.storage.database import fork_safety as forks
from registry.storage.database import interrupts
from registry.storage.database.url import parse_url, secrets, shown, timeout_of

if TYPE_CHECKING:
    pass

Result = TypeVar("Result")

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
    # It loads psycopg, which SQLite does without.
    from registry.storage.database import postgresql  # noqa: PLC0415

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
