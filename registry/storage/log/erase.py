"""Erasure: a sample's content is removed permanently, while its rows keep their positions.

The rows' records become empty, which no stored record is. Positions, keys, buckets and chain values
stay, so that the rest of the log can be verified as before. A retraction is appended for each key,
so that the log records every erasure. Mirrors overwrite the rows in their next update.

An erasure has three steps: rows of the inbox are deleted, then the log's records are emptied under
the lock on the head, then the database is made to release the bytes from its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, delete, insert, update

from registry.errors import RegistryError, SampleNotFoundError
from registry.samples.keys import check_key
from registry.storage.database.models import (
    ErasureRow,
    InboxRow,
    SampleRow,
    ToolAnnotationRow,
)
from registry.storage.database.transactions import driver, open_connection, write
from registry.storage.log.batch import Plan
from registry.storage.log.entries import revision_sizes
from registry.storage.log.head import store_erased_count
from registry.storage.log.raw_text import raw
from registry.storage.log.writer import Writer, transact

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

SOURCE = "erase"
"""The source that the appended retractions carry."""
_PARAMETERS = 1000
"""Positions in one statement, at most: databases limit the number of parameters."""


@dataclass(frozen=True)
class Erasure:
    """What was erased: rows of the log, and waiting or rejected rows of the inbox.

    ``remains`` says where the database's own files may still contain the bytes and what to do about
    it; None where they do not.
    """

    rows: int
    inbox_rows: int
    remains: str | None


def erase(engine: Engine, dataset_id: int, keys: Sequence[str], *, full: bool) -> Erasure:
    """Erase all content that a dataset ever had under some keys.

    The log is changed for all of the keys or for none. With ``full``, PostgreSQL rewrites its
    tables. Raises `SampleNotFoundError` for a key that the dataset never had.
    """
    for key in keys:
        check_key(key)
    distinct = list(dict.fromkeys(keys))
    # Before the head is locked: a tool's transaction may hold these rows for any time, and every
    # writer of the dataset would wait for it.
    waiting = write(engine, _empty_inbox, dataset_id, distinct)
    rows = transact(engine, dataset_id, partial(_erase, keys=distinct, waiting=waiting))
    return Erasure(rows, sum(waiting.values()), _purge(engine, full=full))


def _empty_inbox(connection: Connection, dataset_id: int, keys: Sequence[str]) -> dict[str, int]:
    """Delete the inbox's rows of each key; return their number by key."""
    # SQLite may hold a key as a blob, which equals no text. Compared as bytes, it is found, too.
    dialect = connection.dialect.name
    stored_key = raw(InboxRow.key, dialect)
    counts = {}
    for key in keys:
        same_key = stored_key == (key.encode() if dialect == "sqlite" else key)
        rows = delete(InboxRow).where(InboxRow.dataset_id == dataset_id, same_key)
        counts[key] = connection.execute(rows).rowcount
    return counts


def _erase(writer: Writer, keys: Sequence[str], waiting: dict[str, int]) -> int:
    """Erase keys under the lock on the head; return how many rows lost their records."""
    revisions = {key: revision_sizes(writer.connection, writer.dataset_id, key) for key in keys}
    for key in keys:
        if not revisions[key] and not waiting[key]:
            raise SampleNotFoundError(key)
    # A size of 0 is a row that was erased before, None a retraction: neither has a record to lose.
    stored = {key: [row.position for row in rows if row.size] for key, rows in revisions.items()}
    last = {key: revisions[key][-1] for key, positions in stored.items() if positions}
    if not last:
        return 0
    # A key that is already retracted gets another retraction, which does not change the live count.
    groups = [row.group for row in last.values()]
    writer.write(
        [
            Plan(
                list(last),
                [None] * len(last),
                [row.position for row in last.values()],
                [SOURCE] * len(last),
                inserted=0,
                retracted=sum(row.size is not None for row in last.values()),
                groups=groups if any(groups) else None,
            )
        ]
    )
    positions = list(chain.from_iterable(stored.values()))
    _blank(writer, positions)
    forget_answers(writer.connection, writer.dataset_id, keys)
    return len(positions)


def forget_answers(connection: Connection, dataset_id: int, tasks: Sequence[str]) -> None:
    """Remove the annotators' answers of tasks that have one sample each, and the tasks' data."""
    for start in range(0, len(tasks), _PARAMETERS):
        some = tasks[start : start + _PARAMETERS]
        connection.execute(
            update(ToolAnnotationRow)
            .where(ToolAnnotationRow.dataset_id == dataset_id, ToolAnnotationRow.task.in_(some))
            .values(fields=None)
        )


def _blank(writer: Writer, positions: Sequence[int]) -> None:
    """Empty the rows' records, and number the rows among the dataset's erasures.

    The numbers continue those of earlier erasures. A mirror asks for the ones after its last.
    """
    connection, dataset_id = writer.connection, writer.dataset_id
    for start in range(0, len(positions), _PARAMETERS):
        some = positions[start : start + _PARAMETERS]
        connection.execute(
            update(SampleRow)
            .where(SampleRow.dataset_id == dataset_id, SampleRow.position.in_(some))
            .values(record=b"")
        )
    first = writer.head.erased
    connection.execute(
        insert(ErasureRow),
        [
            {"dataset_id": dataset_id, "number": number, "position": position}
            for number, position in enumerate(positions, start=first)
        ],
    )
    store_erased_count(connection, dataset_id, first + len(positions))


_FREE_SPACE = (
    "PostgreSQL keeps the bytes, out of SQL's reach, in free space of its files until that is used "
    "again; `registry erase --full` rewrites the files"
)


def _purge(engine: Engine, *, full: bool) -> str | None:
    """Make the database release the freed bytes; return what remains in its files, if anything."""
    try:
        if engine.dialect.name == "postgresql":
            return _vacuum(engine, full=full)
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


def _vacuum(engine: Engine, *, full: bool) -> str | None:
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
