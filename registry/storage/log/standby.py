"""Standbys: rows that a server has not received yet are waited for, not taken for lost.

A URL may name several servers, and a connection be to any of them: the head is then read from one,
and a page from another that has not come so far.
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
from registry.storage.database.url import shown
from registry.storage.log.head import chain_at


def in_recovery(connection: Connection) -> bool:
    """Tell whether the server is a standby."""
    found: bool = connection.execute(select(_recovery(connection))).scalar_one()
    return found


def refuse_if_behind(connection: Connection, lacking: str) -> None:
    """Raise `ReplicaBehindError` where a standby lacks what the primary has."""
    if in_recovery(connection):
        raise _behind(connection, lacking)


def chain_reached(connection: Connection, dataset_id: int, watermark: int) -> bytes | None:
    """Return the chain after the log's first ``watermark`` rows, which the log has.

    None if this database has not so many, unless it is a standby: then raises `ReplicaBehindError`.
    """
    chain = chain_at(connection, dataset_id, watermark)
    if chain is None:
        refuse_if_behind(connection, f"position {watermark - 1} of the log")
    return chain


def missing_rows(
    connection: Connection, dataset_id: int, after: int, until: int, found: int
) -> RegistryError:
    """Return the error that says why only ``found`` of the rows at ``[after, until)`` were there.

    `ReplicaBehindError` where a standby has yet to receive them, `DivergenceError` where the log of
    any other server ends before, `DatasetDroppedError` where it has no head, `LogGapError` where
    rows are missing from within it.
    """
    inside = [SampleRow.dataset_id == dataset_id, SampleRow.position.between(after, until - 1)]
    end = select(HeadRow.position).where(HeadRow.dataset_id == dataset_id).scalar_subquery()
    count = select(func.count()).select_from(SampleRow).where(*inside).scalar_subquery()
    # One statement: one snapshot, of one server, even where a pooler spreads statements.
    position, there, recovery = connection.execute(select(end, count, _recovery(connection))).one()
    if there == until - after or (recovery and (position or 0) < until):
        return _behind(connection, f"positions [{after}, {until}) of the log")
    if position is None:
        return DatasetDroppedError()
    if position < until:
        return DivergenceError(
            f"rows of the log up to position {until} were to be read, but it ends at position "
            f"{position} in {shown(connection.engine.url)}: was the database restored, or did it "
            "fail over to a server that had not received them? Read again from its head"
        )
    return LogGapError(after, until, found)


def _behind(connection: Connection, lacking: str) -> ReplicaBehindError:
    # The next attempt makes another connection, perhaps to another of the URL's servers.
    connection.invalidate()
    return ReplicaBehindError(
        f"{shown(connection.engine.url)} is a standby that has not received {lacking} yet; wait "
        "until it has caught up, or connect to the primary server"
    )


def _recovery(connection: Connection) -> ColumnElement[bool]:
    if connection.dialect.name != "postgresql":
        return false()
    return func.pg_is_in_recovery()
