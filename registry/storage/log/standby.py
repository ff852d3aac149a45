"""Standbys: rows that a server has not received yet are waited for, not reported as lost.

A URL may name several servers, and each connection may be to any of them. The head may then be read
from one server, and a page from another that is behind it.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, false, func, select

from registry.errors import (
    DatasetDroppedError,
    DivergenceError,
    LogGapError,
    RegistryError,
    ReplicaBehindError,
)
from registry.storage.database.models import HeadRow, SampleRow
from registry.storage.database.url import masked
from registry.storage.log.head import chain_at


def in_recovery(connection: Connection) -> bool:
    """Return whether the connection is to a standby; always False on SQLite."""
    recovery: bool = connection.execute(select(_recovery(connection))).scalar_one()
    return recovery


def refuse_if_behind(connection: Connection, lacking: str) -> None:
    """Raise `ReplicaBehindError`, which is retried, if the connection is to a standby.

    ``lacking`` names in its message what was not found.
    """
    if in_recovery(connection):
        raise _behind(connection, lacking)


def chain_reached(connection: Connection, dataset_id: int, position: int) -> bytes | None:
    """Return the chain after the first ``position`` rows of a log that is known to have them.

    If this server has fewer, raises `ReplicaBehindError` on a standby and returns None elsewhere.
    """
    chain = chain_at(connection, dataset_id, position)
    if chain is None:
        refuse_if_behind(connection, f"position {position - 1} of the log")
    return chain


def missing_rows(
    connection: Connection, dataset_id: int, after: int, until: int, found: int
) -> RegistryError:
    """Return the error for a read that found only ``found`` rows at positions ``[after, until)``.

    It is `ReplicaBehindError` where a standby has not received them yet, `DivergenceError` where
    the log of any other server ends before ``until``, `DatasetDroppedError` where there is no head,
    and `LogGapError` where rows are missing inside the log.
    """
    inside = [SampleRow.dataset_id == dataset_id, SampleRow.position.between(after, until - 1)]
    end = select(HeadRow.position).where(HeadRow.dataset_id == dataset_id).scalar_subquery()
    count = select(func.count()).select_from(SampleRow).where(*inside).scalar_subquery()
    # One statement reads one snapshot of one server. A pooler could send several statements to
    # different servers, and their answers would not belong together.
    position, now, recovery = connection.execute(select(end, count, _recovery(connection))).one()
    reached = (position or 0) >= until
    # If all rows are there now, they arrived after the read that missed them. Rows past the head
    # did not: they are never read, however long one waits.
    if (reached and now == until - after) or (recovery and not reached):
        return _behind(connection, f"positions [{after}, {until}) of the log")
    if position is None:
        return DatasetDroppedError()
    if position < until:
        return DivergenceError(
            f"rows of the log up to position {until} were to be read, but it ends at position "
            f"{position} in {masked(connection.engine.url)}: was the database restored, or did it "
            "fail over to a server that had not received them? Read again from its head"
        )
    return LogGapError(after, until, found)


def _behind(connection: Connection, lacking: str) -> ReplicaBehindError:
    # Closed and not returned to the pool: the next attempt opens a connection, perhaps to another
    # server of the URL, and does not get the same standby from the pool.
    connection.invalidate()
    return ReplicaBehindError(
        f"{masked(connection.engine.url)} is a standby that has not received {lacking} yet; wait "
        "until it has caught up, or connect to the primary server"
    )


def _recovery(connection: Connection) -> ColumnElement[bool]:
    if connection.dialect.name != "postgresql":
        return false()
    return func.pg_is_in_recovery()
