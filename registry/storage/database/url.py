"""Database URLs: parsing, validation, and display without secrets."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from registry.errors import InvalidURLError
from registry.samples.text import text_problem

TIMEOUT = 30.0
"""Default timeout in seconds, after which an unreachable database is an error."""
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")
_SECRET = ("password", "secret", "scram_")
"""Parts of the names of query parameters that hold secrets."""


def parse_url(url: str | URL) -> URL:
    """Return the URL with its driver name; every form of PostgreSQL URL selects psycopg 3.

    ``%`` escapes are decoded in user, password, host and database. A host that begins with ``/`` is
    the directory of a Unix socket, as in ``?host=/run/postgresql``. Raises `InvalidURLError`.
    """
    if isinstance(url, str):
        if problem := text_problem(url) or text_problem(unquote(url)):
            raise InvalidURLError(f"a database URL {problem}")
        if url.startswith("postgres"):
            _check_for_bare_at(url)
    parsed = None
    with suppress(ArgumentError, ValueError):
        parsed = make_url(url)
    if parsed is None:  # outside the block: SQLAlchemy's error may quote a password
        raise InvalidURLError(
            "the database URL cannot be read; write postgresql://user@host/database "
            "or sqlite:///path/to/file.db"
        )
    if parsed.drivername in _POSTGRESQL:
        _check_hosts(parsed)
        return _with_socket(parsed.set(drivername="postgresql+psycopg"))
    if parsed.drivername in _SQLITE:
        if parsed.database in (None, "", ":memory:"):
            raise InvalidURLError(
                f"{masked(parsed)} names no file to share; write sqlite:///path/to/file.db"
            )
        return parsed.set(drivername="sqlite")
    raise InvalidURLError(
        f"{parsed.drivername}:// databases are not supported; use postgresql:// or sqlite:///"
    )


def masked(url: URL) -> str:
    """Return the URL as text without its secrets, some of which may be in its query."""
    return url.difference_update_query(secrets(url)).render_as_string(hide_password=True)


def may_exist(url: URL) -> bool:
    """Return False if this is a SQLite file that does not exist: connecting would create it."""
    path = url.database or ""
    try:
        return url.drivername != "sqlite" or path.startswith("file:") or Path(path).exists()
    except OSError:  # no file can have that name
        return False


def secrets(url: URL) -> dict[str, str | tuple[str, ...]]:
    """Return the parameters of the URL's query that hold secrets."""
    return {
        name: value
        for name, value in url.query.items()
        if any(part in name.lower() for part in _SECRET)
    }


def timeout_of(url: URL) -> float:
    """Return the URL's ``timeout`` in seconds, or `TIMEOUT`; raises `InvalidURLError`."""
    value = url.query.get("timeout", TIMEOUT)
    try:
        return float(value)  # type: ignore[arg-type]  # a tuple if given twice
    except (TypeError, ValueError):
        raise InvalidURLError(f"timeout={value!r}: give seconds, as in ?timeout=30") from None


def _check_for_bare_at(url: str) -> None:
    # The text after the first @ would be parsed as the host: the rest of a password would then be
    # part of every message.
    if url.partition("?")[0].count("@") > 1:
        raise InvalidURLError(
            "the database URL has more than one @; write %40 for one in a user or password "
            "(and %2F for /, %3A for :, %25 for %)"
        )


def _check_hosts(url: URL) -> None:
    for host in f"{url.host or ''},{url.query.get('host', '')}".split(","):
        try:
            if not host.startswith(("/", "%2F", "%2f")):
                host.encode("idna")  # a lookup would, and raise a bare UnicodeError
        except UnicodeError:
            raise InvalidURLError(f"{host!r:.200} is no name of a host") from None


def _with_socket(url: URL) -> URL:
    host = unquote(url.host or "")
    if host.startswith("/"):
        return url._replace(host=None).update_query_dict({"host": host})
    return url
