"""A dataset's head: one row with the next position, live and erased counts, chain and schema.

Writers lock this row, give positions to their rows and store the new head, all in one transaction.
Readers read it without a lock, and find every row before its position committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    and_,
    bindparam,
    exists,
    select,
    update,
)
from sqlalchemy.sql import func

from registry.errors import DatasetDroppedError
from registry.storage.database.exchange import BYTEA, INT4, INT8, Query, Statement, int4, int8
from registry.storage.database.models import HeadRow, InboxRow, SampleRow
from registry.storage.log.watermark import GENESIS

# Built once: SQLAlchemy needs as long to construct such a statement as SQLite to execute it.
_DATASET: BindParameter[int] = bindparam("dataset")
_LAST: BindParameter[int] = bindparam("last")
_HEAD = select(HeadRow.position, HeadRow.live, HeadRow.chain, HeadRow.erased, HeadRow.schema).where(
    HeadRow.dataset_id == _DATASET
)
# EXISTS, not a count: an inbox may have a million rows, and every reader asks.
_WAITING = exists().where(InboxRow.dataset_id == _DATASET, InboxRow.error.is_(None))
_HEAD_AND_WAITING = _HEAD.add_columns(_WAITING.label("waiting"))
# FOR NO KEY UPDATE is the lock that an UPDATE of the head takes. On SQLite the clause is left out:
# there, BEGIN IMMEDIATE has locked the whole file.
_LOCKED = _HEAD.with_for_update(key_share=True)
_CHAIN = select(SampleRow.chain).where(
    SampleRow.dataset_id == _DATASET, SampleRow.position == _LAST
)
# An outer join: the head is returned even where the log has not so many rows.
_CHAIN_AND_ERASURES = (
    select(SampleRow.chain, HeadRow.erased)
    .join_from(
        HeadRow,
        SampleRow,
        and_(SampleRow.dataset_id == HeadRow.dataset_id, SampleRow.position == _LAST),
        isouter=True,
    )
    .where(HeadRow.dataset_id == _DATASET)
)


_ADVANCE = (
    update(HeadRow)
    .where(HeadRow.dataset_id == _DATASET)
    .values(
        position=bindparam("position"),
        live=bindparam("live"),
        chain=bindparam("chain"),
        updated_at=func.now(),
    )
)
_READ_POSTGRESQL = Statement(
    b"SELECT position, live, chain, erased, schema, EXISTS"
    b" (SELECT FROM inbox WHERE dataset_id = $1 AND error IS NULL)"
    b" FROM heads WHERE dataset_id = $1",
    (INT4,),
)
_CHAIN_POSTGRESQL = Statement(
    b"SELECT chain FROM samples WHERE dataset_id = $1 AND position = $2", (INT4, INT8)
)
_LOCK_POSTGRESQL = Statement(
    b"SELECT position, live, chain, erased, schema FROM heads WHERE dataset_id = $1"
    b" FOR NO KEY UPDATE",
    (INT4,),
)


_ADVANCE_POSTGRESQL = Statement(
    b"UPDATE heads SET position = $2, live = $3, chain = $4, updated_at = now()"
    b" WHERE dataset_id = $1",
    (INT4, INT8, INT8, BYTEA),
)


@dataclass(frozen=True)
class Head:
    """Where a dataset's log ends: a watermark.

    ``position`` is the next row's, so the log is the positions ``[0, position)``; ``live`` counts
    the live samples there; ``chain`` (16 bytes) is the hash of everything before it; ``erased``
    counts the rows whose records have been erased so far (0 for a version of a dataset); ``schema``
    is the number of the schema in force.
    """

    position: int
    live: int
    chain: bytes
    erased: int = 0
    schema: int = 0


def read_head(connection: Connection, dataset_id: int) -> tuple[Head, bool]:
    """Read the head, up to which the log is complete, and whether rows wait in the inbox.

    Raises `DatasetDroppedError` where there is none.
    """
    row = connection.execute(_HEAD_AND_WAITING, {"dataset": dataset_id}).one_or_none()
    return _head(row), bool(row and row.waiting)


def reading_head(dataset_id: int) -> Query:
    """Return PostgreSQL's query that does as `read_head`; `head_read` reads its result."""
    return Query(_READ_POSTGRESQL, (int4(dataset_id),))


def head_read(rows: Sequence[tuple[Any, ...]]) -> tuple[Head, bool]:
    """Return the head that the query of `reading_head` has read, and whether rows wait."""
    if not rows:
        raise DatasetDroppedError
    *values, waiting = rows[0]
    return Head(*values), waiting


def reading_chain(dataset_id: int, position: int) -> Query:
    """Return PostgreSQL's query that does as `chain_at`, at a position after 0."""
    return Query(_CHAIN_POSTGRESQL, (int4(dataset_id), int8(position - 1)))


def refuse_if_dropped(connection: Connection, dataset_id: int) -> None:
    """Raise `DatasetDroppedError` where there is no head.

    The dataset's row outlives a drop: without this, rows that refer to it could still be inserted.
    """
    head = select(HeadRow.dataset_id).where(HeadRow.dataset_id == dataset_id)
    if connection.execute(head).first() is None:
        raise DatasetDroppedError


def chain_at(connection: Connection, dataset_id: int, position: int) -> bytes | None:
    """Return the chain after the log's first ``position`` rows; None if it has fewer."""
    if position == 0:
        return GENESIS
    parameters = {"dataset": dataset_id, "last": position - 1}
    chain: bytes | None = connection.execute(_CHAIN, parameters).scalar_one_or_none()
    return chain


def was_committed(
    connection: Connection, dataset_id: int, position: int, chain: bytes, key: str
) -> bool:
    """Return whether a commit whose answer was lost is in the log.

    It would have left this chain at this position, and given the last row this key. The chain
    covers every row up to its own, so that the same value at the same position is the same log. A
    search by keys could not tell that from a later revision by another writer, which a second
    append would then undo.
    """
    row = connection.execute(
        select(SampleRow.chain, SampleRow.key).where(
            SampleRow.dataset_id == dataset_id, SampleRow.position == position - 1
        )
    ).one_or_none()
    return row is not None and (row.chain, row.key) == (chain, key)


def chain_and_erasures(
    connection: Connection, dataset_id: int, position: int
) -> tuple[bytes | None, int]:
    """Return the chain as `chain_at` does, and the erased count, from one statement.

    Two statements could see an erasure that was committed between them. Raises
    `DatasetDroppedError` where there is no head.
    """
    parameters = {"dataset": dataset_id, "last": position - 1}
    row = connection.execute(_CHAIN_AND_ERASURES, parameters).one_or_none()
    if row is None:
        raise DatasetDroppedError
    return (row.chain if position else GENESIS), row.erased


def lock_head(connection: Connection, dataset_id: int) -> Head:
    """Lock the head and return it; other writers of this dataset wait until the transaction ends.

    This lock makes position order the commit order: it is held from before a position is given
    until its row is visible to all. Without it a reader could pass a position whose row is
    committed later, and would never see that row. The lock makes writers of one dataset run one
    after another, so it is taken last and held for one short group of statements.
    """
    return _head(connection.execute(_LOCKED, {"dataset": dataset_id}).one_or_none())


def lock(dataset_id: int) -> Query:
    """Return PostgreSQL's query that does as `lock_head`; `locked` reads its result."""
    return Query(_LOCK_POSTGRESQL, (int4(dataset_id),))


def locked(rows: Sequence[tuple[Any, ...]]) -> Head:
    """Return the head that the query of `lock` has locked."""
    if not rows:
        raise DatasetDroppedError
    return Head(*rows[0])


def advance_head(connection: Connection, dataset_id: int, head: Head) -> None:
    """Store a new head; the transaction must hold the lock."""
    # After the rows: on PostgreSQL, triggers refuse rows that do not continue the stored head, and
    # a head that does not end at the last row.
    values = {"position": head.position, "live": head.live, "chain": head.chain}
    connection.execute(_ADVANCE, {"dataset": dataset_id, **values})


def advancement(dataset_id: int, head: Head) -> Query:
    """Return PostgreSQL's query that does as `advance_head`."""
    values = (int4(dataset_id), int8(head.position), int8(head.live), head.chain)
    return Query(_ADVANCE_POSTGRESQL, values)


def store_erased_count(connection: Connection, dataset_id: int, erased: int) -> None:
    """Store how many rows are erased; the transaction must hold the lock."""
    connection.execute(
        update(HeadRow).where(HeadRow.dataset_id == dataset_id).values(erased=erased)
    )


def store_schema(connection: Connection, dataset_id: int, number: int) -> None:
    """Store the number of the schema in force; the transaction must hold the lock."""
    connection.execute(
        update(HeadRow).where(HeadRow.dataset_id == dataset_id).values(schema=number)
    )


def _head(row: Row[*tuple[Any, ...]] | None) -> Head:
    if row is None:
        raise DatasetDroppedError
    return Head(row.position, row.live, row.chain, row.erased, row.schema)
