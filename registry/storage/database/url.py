"""Database URLs: which kinds there are, and how they are shown."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from registry.errors import InvalidURLError
from registry.samples.text import fault

TIMEOUT = 30.0
"""Seconds until a database that is out of reach is an error, where nothing else is said."""
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")
_SECRET = ("password", "secret", "scram_")


def parse_url(url: str | URL) -> URL:
    """Return the URL with its driver named; every PostgreSQL form means psycopg 3.

    ``%`` escapes are undone in user, password, host and database. A host that begins with ``/`` is
    the folder of a Unix socket, as in ``?host=/run/postgresql``.
    """
    if isinstance(url, str):
        if wrong := fault(url) or fault(unquote(url)):
            raise InvalidURLError(f"a database URL {wrong}")
        if url.startswith("postgres"):
            _refuse_bare_at(url)
    parsed = None
    with suppress(ArgumentError, ValueError):
        parsed = make_url(url)
    if parsed is None:  # raised out here, since the other error may quote a password
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
                f"{shown(parsed)} names no file to share; write sqlite:///path/to/file.db"
            )
        return parsed.set(drivername="sqlite")
    raise InvalidURLError(
        f"{parsed.drivername}:// databases are not supported; use postgresql:// or sqlite:///"
    )


def shown(url: URL) -> str:
    """Return the URL's text without its passwords, which may also stand in its query."""
    return url.difference_update_query(secrets(url)).render_as_string(hide_password=True)


def is_there(url: URL) -> bool:
    """Tell whether a SQLite database's file exists, which connecting would make."""
    path = url.database or ""
    try:
        return url.drivername != "sqlite" or path.startswith("file:") or Path(path).exists()
    except OSError:  # no file can have that name
        return False


def secrets(url: URL) -> dict[str, str | tuple[str, ...]]:
    """Return what is secret of the URL's query."""
    return {
        name: value
        for name, value in url.query.items()
        if any(part in name.lower() for part in _SECRET)
    }


def timeout_of(url: URL) -> float:
    """Return the seconds in the URL's ``timeout``, else `TIMEOUT`."""
    given = url.query.get("timeout", TIMEOUT)
    try:
        return float(given)  # type: ignore[arg-type]  # a tuple where it is there twice
    except (TypeError, ValueError):
        raise InvalidURLError(f"timeout={given!r}: give seconds, as in ?timeout=30") from None


def _refuse_bare_at(url: str) -> None:
    # What follows the first @ would be taken for the host, and so be shown in every message.
    if url.partition("?")[0].count("@") > 1:
        raise InvalidURLError(
            "the database URL has more than one @; write %40 for one in a user or password "
            "(and %2F for /, %3A for :, %25 for %)"
        )


def _check_hosts(url: URL) -> None:
    for host in f"{url.host or ''},{url.query.get('host', '')}".split(","):
        try:
            if not host.startswith(("/", "%2F", "%2f")):
                host.encode("idna")  # as looking it up would, in words of Python's own
        except UnicodeError:
            raise InvalidURLError(f"{host!r:.200} is no name of a host") from None


def _with_socket(url: URL) -> URL:
    host = unquote(url.host or "")
    if host.startswith("/"):
        return url._replace(host=None).update_query_dict({"host": host})
    return url
