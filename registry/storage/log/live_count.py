"""How many samples are live at a position of a log: stored with some rows, and counted in between.

The last row of a commit carries the number of live samples after it, and so does the last one of
each block of a large commit. At any other position, the count is the nearest one before, and the
change by the rows since. Rows that are older than this column carry none: then all rows before the
position are counted.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, exists, select
from sqlalchemy.sql import func

from registry.storage.database.models import SampleRow
from registry.storage.log.standby import missing_rows

SEARCHED = 4096
"""Rows that are searched for a stored count: no block (see `bulk_insert.BLOCK`) ever had more."""

_DATASET = SampleRow.dataset_id == bindparam("dataset")
# Built once: SQLAlchemy needs as long to construct a statement as a database to execute this one.
_AT = select(SampleRow.live).where(_DATASET, SampleRow.position == bindparam("last"))
_NEAREST = (
    select(SampleRow.position, SampleRow.live)
    .where(
        _DATASET,
        SampleRow.position >= bindparam("first"),
        SampleRow.position < bindparam("last"),
        SampleRow.live.is_not(None),
    )
    .order_by(SampleRow.position.desc())
    .limit(1)
)


def live_count(connection: Connection, dataset_id: int, position: int) -> int:
    """Return how many samples are live after the log's first ``position`` rows.

    Erased samples count until they were retracted. Raises the error that `missing_rows` returns if
    the log has fewer rows.
    """
    if position == 0:
        return 0
    last = {"dataset": dataset_id, "last": position - 1}
    row = connection.execute(_AT, last).one_or_none()
    if row is None:
        raise missing_rows(connection, dataset_id, position - 1, position, 0)
    if row.live is not None:
        live: int = row.live
        return live
    searched = {**last, "first": max(0, position - SEARCHED)}
    nearest = connection.execute(_NEAREST, searched).one_or_none()
    start, before = (nearest.position + 1, nearest.live) if nearest else (0, 0)
    between = {"dataset": dataset_id, "after": start, "until": position}
    gain: int = connection.execute(_GAIN_FROM_ROW if start else _GAIN_FROM_0, between).scalar_one()
    return before + gain


def _gain(restored: ColumnElement[bool]) -> Select[Any]:
    """Select the change of the number of live samples by the rows at ``[after, until)``.

    A record adds a sample, and its row takes away the one that it supersedes, if that is one: a
    ``restored`` one supersedes a retraction.
    """
    return select(
        func.count(SampleRow.record)
        - func.count(SampleRow.supersedes)
        + func.count().filter(restored)
    ).where(
        _DATASET,
        SampleRow.position >= bindparam("after"),
        SampleRow.position < bindparam("until"),
    )


_old = SampleRow.__table__.alias("old").c
_new = SampleRow.__table__.alias("new").c
_GAIN_FROM_ROW = _gain(
    SampleRow.supersedes.is_not(None)
    & exists().where(
        _old.dataset_id == SampleRow.dataset_id,
        _old.position == SampleRow.supersedes,
        _old.record.is_(None),
    )
)
# From the start of the log on, every superseded row is in the range: only the retractions, few of
# all rows, are looked up.
_GAIN_FROM_0 = _gain(
    SampleRow.record.is_(None)
    & exists().where(
        _new.dataset_id == SampleRow.dataset_id,
        _new.supersedes == SampleRow.position,
        _new.position < bindparam("until"),
    )
)
