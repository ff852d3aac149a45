"""Release of the bytes of erased records from the database's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Engine

from registry.errors import RegistryError
from registry.storage.database.transactions import driver, open_connection

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

_FREE_SPACE = (
    "PostgreSQL keeps the bytes, out of SQL's reach, in free space of its files until that is used "
    "again; `registry erase --full` rewrites the files"
)


def vacuum(engine: Engine, *, full: bool) -> str | None:
    """Make the database release the bytes of records that were emptied.

    With ``full``, PostgreSQL rewrites its tables. SQLite rewrites its file each time, and nobody
    can write meanwhile. Returns where the files may still contain the bytes and what to do about
    it; None where they do not.
    """
    try:
        if engine.dialect.name == "postgresql":
            return _postgresql(engine, full=full)
        with open_connection(engine) as connection:
            file = connection.connection.driver_connection
            assert file is not None
            # PRAGMA secure_delete would not be enough: it overwrites what is deleted, but not the
            # copies that SQLite left behind when it moved content within pages.
            file.execute("VACUUM")
            # The old pages are in the write-ahead log, too, until it is truncated.
            if not file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return None
            reason = "another process was reading the file"
    except RegistryError as error:
        reason = str(error)
    return f"the database's files may still hold the bytes: {reason}; erase the key again later"


def _postgresql(engine: Engine, *, full: bool) -> str | None:
    warnings: list[str] = []

    # The diagnostic is valid only during the call, so that its text is copied here.
    def note(notice: Diagnostic) -> None:
        warnings.append(notice.message_primary or "VACUUM was refused")

    with open_connection(engine) as connection:
        # VACUUM cannot run inside a transaction.
        connection.execution_options(isolation_level="AUTOCOMMIT")
        session = driver(connection)
        session.add_notice_handler(note)
        try:
            connection.exec_driver_sql(f"VACUUM {'(FULL) ' if full else ''}samples, inbox")
        finally:
            session.remove_notice_handler(note)
    # Without the right to vacuum a table, PostgreSQL skips it with a warning and no error.
    if warnings:
        return (
            f"the database's files still hold the bytes: {warnings[0]}; have its owner run VACUUM"
        )
    return None if full else _FREE_SPACE
