"""Erasure: a sample's content is removed for good, while its rows keep their places in the log.

The rows' records become empty, which no stored record is; positions, keys, buckets and chain values
stay, so that the rest of the log is proven as before. A retraction follows them, so that the log
tells of every erasure. Mirrors overwrite the rows when they are brought up to date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, LargeBinary, Text, cast, delete, insert, update

from registry.errors import RegistryError, SampleNotFoundError
from registry.samples.keys import check_key
from registry.storage.database.models import ErasureRow, InboxRow, SampleRow
from registry.storage.database.transactions import driver, lent, write
from registry.storage.log import head as heads
from registry.storage.log.batch import Plan
from registry.storage.log.entries import places
from registry.storage.log.writer import Writer, transact

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

SOURCE = "erase"
"""The source of the retractions."""
_TOGETHER = 1000
"""Parameters in one statement, at most."""


@dataclass(frozen=True)
class Erasure:
    """What was erased: rows of the log, and rows that waited or were refused in the inbox.

    ``remains`` says where the content may still lie in the database's own files, and what to do
    about it; None where it is gone from them.
    """

    rows: int
    inbox_rows: int
    remains: str | None


def erase(engine: Engine, dataset_id: int, keys: Sequence[str], *, full: bool) -> Erasure:
    """Erase what a dataset ever held of some keys: all of them, or nothing from the log.

    ``full`` has PostgreSQL write its tables anew. Raises `SampleNotFoundError` for a key that the
    dataset never had.
    """
    for key in keys:
        check_key(key)
    wanted = list(dict.fromkeys(keys))
    # Before the head is locked: a tool may hold these rows for as long as it likes.
    waiting = write(engine, partial(_empty_inbox, dataset_id=dataset_id, keys=wanted))
    rows = transact(engine, dataset_id, partial(_erase, keys=wanted, waiting=waiting))
    return Erasure(rows, sum(waiting.values()), _purge(engine, full=full))


def _empty_inbox(connection: Connection, dataset_id: int, keys: Sequence[str]) -> dict[str, int]:
    """Remove the inbox's rows of each key, and count them."""
    raw = connection.dialect.name == "sqlite"  # where a key need not be text
    found = {}
    for key in keys:
        same = (
            cast(InboxRow.key, LargeBinary) == key.encode()
            if raw
            else cast(InboxRow.key, Text) == key
        )
        gone = delete(InboxRow).where(InboxRow.dataset_id == dataset_id, same)
        found[key] = connection.execute(gone).rowcount
    return found


def _erase(writer: Writer, keys: Sequence[str], waiting: dict[str, int]) -> int:
    """Erase keys under the head's lock; return how many rows lost their records."""
    found = {key: places(writer.connection, writer.dataset_id, key) for key in keys}
    for key in keys:
        if not found[key] and not waiting[key]:
            raise SampleNotFoundError(key)
    held = {key: [p for p, size in rows if size] for key, rows in found.items()}
    last = {key: found[key][-1] for key, positions in held.items() if positions}
    if not last:
        return 0
    writer.write(
        [
            Plan(
                list(last),
                [None] * len(last),
                [position for position, _ in last.values()],
                [SOURCE] * len(last),
                inserted=0,
                retracted=sum(size is not None for _, size in last.values()),
            )
        ]
    )
    positions = list(chain.from_iterable(held.values()))
    _blank(writer, positions)
    return len(positions)


def _blank(writer: Writer, positions: Sequence[int]) -> None:
    """Take the records away, and number the rows among the dataset's erasures."""
    connection, dataset_id = writer.connection, writer.dataset_id
    for start in range(0, len(positions), _TOGETHER):
        some = positions[start : start + _TOGETHER]
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
    heads.count_erased(connection, dataset_id, first + len(positions))


_FREE_SPACE = (
    "PostgreSQL keeps the bytes, out of SQL's reach, in free space of its files until that is used "
    "again; `registry erase --full` writes the files anew"
)


def _purge(engine: Engine, *, full: bool) -> str | None:
    """Remove what has become free from the database's files; say what of it is left."""
    try:
        if engine.dialect.name == "postgresql":
            return _vacuum(engine, full=full)
        with lent(engine) as connection:
            file = connection.connection.driver_connection
            assert file is not None
            # Zeros over what was deleted would spare copies that SQLite once moved within pages.
            file.execute("VACUUM")
            if not file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return None
            said = "another process was reading the file"
    except RegistryError as error:
        said = str(error)
    return f"the database's files may still hold the bytes: {said}; erase the key again later"


def _vacuum(engine: Engine, *, full: bool) -> str | None:
    said: list[str] = []

    def note(found: Diagnostic) -> None:  # its text is only there until this returns
        said.append(found.message_primary or "VACUUM was refused")

    with lent(engine) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        session = driver(connection)
        session.add_notice_handler(note)
        try:
            connection.exec_driver_sql(f"VACUUM {'(FULL) ' if full else ''}samples, inbox")
        finally:
            session.remove_notice_handler(note)
    if said:  # the right is lacking, which is no error to PostgreSQL
        return f"the database's files still hold the bytes: {said[0]}; have its owner run VACUUM"
    return None if full else _FREE_SPACE
