"""Translation of the drivers' errors to those of `registry.errors`.

SQLite's errors are distinguished by name, PostgreSQL's by SQLSTATE. Each message says what
happened, in which database, and what to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from registry.errors import (
    ConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    DiskFullError,
    LockTimeoutError,
    PermissionDeniedError,
    ReadOnlyError,
    RegistryError,
    StatementTimeoutError,
)
from registry.storage.database.url import masked


def translate(error: Exception, url: URL) -> RegistryError:
    """Return the package's error for an error of SQLAlchemy, psycopg or sqlite3; raises nothing."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig else error
    message = str(original).strip().partition("\n")[0] or type(original).__name__
    database = masked(url)
    if isinstance(original, sqlite3.Error):
        return _from_sqlite(original, message, database)
    # By attribute, not by type: that would import psycopg, which SQLite does not need.
    if hasattr(original, "sqlstate"):
        return _from_postgresql(original, message, database)
    return DatabaseError(f"{database}: {message}")


def _from_sqlite(error: sqlite3.Error, message: str, database: str) -> RegistryError:
    code = getattr(error, "sqlite_errorname", "")
    # Prefixes: SQLite has extended codes, such as SQLITE_BUSY_SNAPSHOT.
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ConflictError(f"{database} is locked by another process ({message}); try again")
    if code.startswith("SQLITE_READONLY"):
        return ReadOnlyError(
            f"{database} can only be read; check the rights of the file and folder, or open a file "
            "that nobody writes to as sqlite:///file:path?immutable=1&uri=true"
        )
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")):  # the WAL index does not fit
        return DiskFullError(f"{database}: {message}; free some space and try again")
    if code.startswith("SQLITE_CANTOPEN"):
        return DatabaseError(
            f"{database}: {message}; check that its folder exists and may be written"
        )
    if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DatabaseError(f"{database}: {message}; name another file, or restore a backup")
    return DatabaseError(f"{database}: {message}")


# SQLSTATEs, or prefixes of them: see "PostgreSQL Error Codes" in its documentation. The first match
# counts, so a state comes before a prefix of it.
_STATES: dict[str, tuple[Callable[[str], RegistryError], str]] = {
    "40001": (ConflictError, "try again"),
    "40P01": (ConflictError, "try again"),
    "55P03": (
        LockTimeoutError,
        "another transaction held a lock for longer than lock_timeout; try again, or raise it",
    ),
    "57014": (
        StatementTimeoutError,
        "unless somebody cancelled it, raise statement_timeout, as by ALTER ROLE … SET",
    ),
    "25P03": (
        partial(StatementTimeoutError, setting="idle_in_transaction_session_timeout"),
        "raise idle_in_transaction_session_timeout, as by ALTER ROLE … SET",
    ),
    "25P04": (
        partial(StatementTimeoutError, setting="transaction_timeout"),
        "raise transaction_timeout, as by ALTER ROLE … SET",
    ),
    "42501": (PermissionDeniedError, "ask its owner to grant this right"),
    "25006": (ReadOnlyError, "connect to the primary server to write"),
    "53100": (DiskFullError, "free some space and try again"),
    "28": (DatabaseError, "check the user, its rights and the password"),
    "3D": (DatabaseError, "create it first (createdb), then `registry init`"),
    "08": (DatabaseUnavailableError, "check that the server is up, and the URL"),
    "57P": (DatabaseUnavailableError, "check that the server is up"),
    "53300": (DatabaseUnavailableError, "raise max_connections, or end some of its clients"),
}


def _from_postgresql(error: Any, message: str, database: str) -> RegistryError:
    # By name, for the same reason. Only these two can mean that no connection was established.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    lost = not kinds.isdisjoint(("OperationalError", "InterfaceError"))
    state = error.sqlstate or (_connection_state(message) if lost else "")
    for prefix, (make, remedy) in _STATES.items():
        if state.startswith(prefix):
            return make(f"{database}: {message}; {remedy}")
    return DatabaseError(f"{database}: {message}")


def is_from_full_server(error: BaseException) -> bool:
    """Return whether a connection failed because the server or pooler has no other one free."""
    return hasattr(error, "sqlstate") and any(part in str(error) for part in _FULL)


_FULL = (
    "too many clients already",
    "too many connections for",  # a role or a database that has its own limit
    "connection slots are reserved",
    "no more connections allowed",  # PgBouncer
)
_WRONG_PASSWORD = ("authentication failed", "no password supplied", "no pg_hba.conf entry")


def _connection_state(message: str) -> str:
    """Derive a SQLSTATE from the message: if a connection fails, libpq reports text only.

    An unknown message results in 08006, connection failure, which is retried.
    """
    if any(part in message for part in _WRONG_PASSWORD):
        return "28P01"
    if 'role "' in message:
        return "28000"
    if "FATAL" in message and "does not exist" in message:
        return "3D000"
    if any(part in message for part in _FULL):
        return "53300"
    if "No space left on device" in message:  # for the cache file that a new session may write
        return "53100"
    return "08006"
