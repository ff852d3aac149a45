"""Creates SQLAlchemy engines, with the settings that each database needs.

All connections that SQLAlchemy opens get their settings here, by event listeners: PostgreSQL's in
`postgresql.connect`, SQLite's as PRAGMAs. Transactions are in `transactions`.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from registry.errors import DatabaseError, InvalidURLError
from registry.storage.database import fork_safety, interrupts
from registry.storage.database.pool import ExpiringPool
from registry.storage.database.url import masked, parse_url, secrets, timeout_of

_urls: WeakKeyDictionary[Engine, URL] = WeakKeyDictionary()
"""The engines' URLs, with their secrets, which ``Engine.url`` lacks."""


def make_engine(url: str | URL, timeout: float | None = None) -> Engine:
    """Return an engine for the URL, without connecting.

    ``timeout`` is in seconds; it defaults to the URL's ``timeout``, and that to 30. An error is
    raised when the database has been silent or unreachable, or a SQLite file locked, for this long.
    Raises `InvalidURLError`.
    """
    parsed = parse_url(url)
    timeout = timeout_of(parsed) if timeout is None else timeout
    try:
        engine = (_sqlite if parsed.drivername == "sqlite" else _postgresql)(parsed, timeout)
    except (ArgumentError, NoSuchModuleError, TypeError) as error:
        raise InvalidURLError(f"{masked(parsed)} cannot be used: {error}") from error
    engine.update_execution_options(registry_timeout=timeout)
    _urls[engine] = parsed
    fork_safety.watch(engine)
    interrupts.watch(engine)
    return engine


def url_of(engine: Engine) -> URL:
    """Return the URL of an engine that `make_engine` created, with its passwords."""
    return _urls[engine]


def _postgresql(url: URL, timeout: float) -> Engine:
    # The module imports psycopg, which SQLite does not need.
    from registry.storage.database import postgresql  # noqa: PLC0415

    # "not >=" instead of "<" so that NaN is rejected, too.
    if not timeout >= postgresql.LEAST_TIMEOUT:
        raise InvalidURLError(
            f"a timeout of {timeout:g} seconds is too short for PostgreSQL; "
            f"give {postgresql.LEAST_TIMEOUT:g} or more"
        )
    hidden = secrets(url)
    engine = create_engine(
        url.difference_update_query(hidden),  # str(engine.url) masks no secrets in a query
        connect_args=hidden,
        poolclass=ExpiringPool,
        isolation_level="READ COMMITTED",  # a role may have another default
        use_native_hstore=False,  # saves a query per new connection
    )
    postgresql.check_arguments(engine.dialect.create_connect_args(url)[1])

    @event.listens_for(engine, "do_connect")
    def connect(_: object, __: object, ___: object, arguments: dict[str, Any]) -> object:
        return postgresql.connect(arguments, timeout, masked(url))

    return engine


def _sqlite(url: URL, timeout: float) -> Engine:
    if sqlite3.sqlite_version_info < (3, 35):
        raise DatabaseError(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or later is needed")
    # With uri=true, SQLite itself interprets the other parameters.
    if unknown := secrets(url).keys() if "uri" in url.query else url.query.keys() - {"timeout"}:
        raise InvalidURLError(
            f"{masked(url)}: SQLite URLs have no {', '.join(sorted(unknown))}; leave it out, or "
            "write it for SQLite itself, as in sqlite:///file:path?mode=ro&uri=true"
        )
    engine = create_engine(url, connect_args={"timeout": timeout}, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def settings(connection: sqlite3.Connection, _: object) -> None:
        # sqlite3's own transaction handling would begin late, and DEFERRED: two writers could both
        # read first, and one of them would then fail to upgrade its lock instead of waiting.
        connection.isolation_level = None
        connection.create_function("sha256", 1, _sha256, deterministic=True)
        connection.execute("PRAGMA foreign_keys = ON")
        # In WAL mode, NORMAL could lose the last commits in a power failure.
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        # IMMEDIATE takes the write lock at once. A deferred transaction that has read before it
        # writes fails with SQLITE_BUSY, without waiting, if another one has written since.
        statement = "BEGIN IMMEDIATE" if options.get("registry_writes") else "BEGIN"
        if (wait := options.get("registry_wait")) is None:
            connection.exec_driver_sql(statement)
            return
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * wait)}")
        try:
            connection.exec_driver_sql(statement)
        finally:
            # The connection returns to the pool, where the next user expects the full timeout.
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * timeout)}")

    return engine


def _sha256(data: bytes | None) -> bytes | None:
    """The equivalent of PostgreSQL's ``sha256``, which SQLite lacks."""
    return None if data is None else hashlib.sha256(data).digest()
