"""Connecting to a database that exists already."""

from __future__ import annotations

from pathlib import Path

from registry.catalog.registry import DEFAULT_URL, Registry, connect
from registry.errors import RegistryError
from registry.storage.database.engine import make_engine
from registry.storage.database.schema import revision


def connect_existing(url: str | None, timeout: float | None = None) -> Registry:
    """Open a registry as `connect` does, but create neither a SQLite file nor its tables.

    Raises `RegistryError` if there is no registry.
    """
    url = url or DEFAULT_URL
    engine = make_engine(url, timeout)
    if engine.dialect.name == "sqlite":
        path = engine.url.database or ""
        try:
            # A URI, ``file:…``, is left to SQLite.
            if not (path.startswith("file:") or _has_content(path)) or revision(engine) is None:
                raise RegistryError(f"{url} holds no registry; name the database by --url")
        finally:
            engine.dispose()
    return connect(url, timeout=timeout)


def _has_content(path: str) -> bool:
    """Return whether there is a file that is not empty: SQLite would write into an empty one."""
    try:
        return Path(path).is_file() and Path(path).stat().st_size > 0
    except OSError:  # no file can have this name, such as one that is too long
        return False
