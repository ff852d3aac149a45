"""Rejected rows: inbox rows that do not fit their dataset, kept with the reason up to limits.

A process that drains an inbox also removes the rejected rows that are past the dataset's limits, at
most once a minute and without the lock on the head. Rows that another transaction has locked are
left for later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    null,
    or_,
    select,
    type_coerce,
    update,
)

from registry.errors import DatasetDroppedError, RegistryError
from registry.storage.database.models import DatasetRow, InboxRow, SampleRow, UtcDateTime
from registry.storage.database.transactions import read, write
from registry.storage.log.raw_text import RawText, raw, readable

logger: logging.Logger = logging.getLogger("registry.storage.log.inbox")

SOURCE = "inbox"
"""The source of rows whose ``source`` is NULL."""
_PAGE = 1000
"""Rows that one statement lists, at most."""
_BATCH = 1000
"""Rows that one transaction removes for each limit, at most."""
_EVERY = 60.0
"""Seconds between two searches for rows that are past the limits."""
_LONGEST = timedelta(days=36500)

_pruned: WeakKeyDictionary[Engine, dict[int, float]] = WeakKeyDictionary()
"""When, by the monotonic clock, each dataset's limits were last applied by this process."""


@dataclass(frozen=True)
class Refused:
    """A rejected row of the inbox; ``created_at`` is in UTC, ``error`` the reason."""

    id: int
    key: str | None
    action: str
    source: str | None
    created_at: datetime
    error: str
    group: str | None = None


@dataclass(frozen=True)
class Limits:
    """How long a dataset's rejected rows are kept, and how many; above that, the newest are."""

    retention: timedelta
    quota: int


@dataclass(frozen=True)
class LeftOut:
    """How many rows to insert a retry leaves out: those without fields, and outdated ones."""

    empty: int
    outdated: int


class LimitsError(RegistryError):
    """The limits are out of range.

    Remedy: give a whole number in the range that the message names.
    """


def listed(engine: Engine, dataset_id: int, after: int, limit: int | None) -> Iterator[Refused]:
    """Yield rejected rows with ids greater than ``after``, in order, at most ``limit`` of them."""
    while limit is None or limit > 0:
        count = _PAGE if limit is None else min(limit, _PAGE)
        rows = read(engine, _page, dataset_id, after, count)
        yield from map(_refused, rows)
        if len(rows) < count:
            return
        after = rows[-1].id
        limit = None if limit is None else limit - count


def retry(engine: Engine, dataset_id: int, ids: Sequence[int] | None) -> int:
    """Let rejected rows wait again, all or those with the given ids; return their number.

    See `Inbox.retry` for the rows that stay rejected.
    """
    wanted = (*rejected(dataset_id, ids), *retriable(ids))
    change = update(InboxRow).where(*wanted).values(error=None, rejected_at=None)
    return write(engine, lambda connection: connection.execute(change).rowcount)


def retriable(ids: Sequence[int] | None) -> list[ColumnElement[bool]]:
    """Return the WHERE conditions for the rejected rows that another attempt is made of."""
    # Rows that are named by their ids were looked at.
    return [~without_fields()] if ids is not None else [~without_fields(), ~_outdated()]


def left_out(engine: Engine, dataset_id: int, ids: Sequence[int] | None) -> LeftOut:
    """Return how many rejected rows `retry` leaves out, all or of those with the given ids."""
    count = select(func.count()).select_from(InboxRow)
    conditions = (without_fields(), ~without_fields() & _outdated())
    empty, outdated = (
        read(engine, lambda connection, one: connection.scalar(one), count.where(*where)) or 0
        for where in ((*rejected(dataset_id, ids), each) for each in conditions)
    )
    return LeftOut(empty, 0 if ids is not None else outdated)


def without_fields() -> ColumnElement[bool]:
    """Return the condition for rows to insert without any field, of which no attempt is made."""
    # A file's row of which nothing could be read: its reason would become "missing …".
    nothing = or_(InboxRow.fields.is_(null()), InboxRow.fields == JSON.NULL, InboxRow.fields == {})
    return and_(InboxRow.action == "insert", nothing)


def _outdated() -> ColumnElement[bool]:
    """Return the condition for rows to insert whose key has a newer revision in the log."""
    # An update keeps what others changed, and often waits for its sample.
    newer = exists().where(
        SampleRow.dataset_id == InboxRow.dataset_id,
        SampleRow.key == InboxRow.key,
        SampleRow.created_at > InboxRow.created_at,
    )
    return and_(InboxRow.action == "insert", InboxRow.key.is_not(None), newer)


def discard(
    engine: Engine, dataset_id: int, ids: Sequence[int] | None, source: str | None = None
) -> int:
    """Remove rejected rows, all or those with the given ids and source; return their number."""
    removal = delete(InboxRow).where(*rejected(dataset_id, ids), *of_source(source))
    return write(engine, lambda connection: connection.execute(removal).rowcount)


def rejected(dataset_id: int, ids: Sequence[int] | None = None) -> list[ColumnElement[bool]]:
    """Return the WHERE conditions for rejected rows, all or those with the given ids."""
    conditions = [InboxRow.dataset_id == dataset_id, InboxRow.error.is_not(None)]
    if ids is None:
        return conditions
    # A number that does not fit a bigint is no row's id, and as a parameter would raise an error.
    return [*conditions, InboxRow.id.in_([number for number in ids if abs(number) < 1 << 63])]


def of_source(source: str | None) -> list[ColumnElement[bool]]:
    """Return the WHERE conditions for rows of a source or of a part of it; None takes all rows.

    Annotators are parts of their tool: ``label-studio/7`` is one of ``label-studio``.
    """
    if source is None:
        return []
    # Not LIKE, which on SQLite takes "A" and "a" for the same.
    part = func.substr(InboxRow.source, 1, len(source) + 1) == f"{source}/"
    return [or_(InboxRow.source == source, part)]


def limits(engine: Engine, dataset_id: int) -> Limits:
    """Return a dataset's limits; raises `DatasetDroppedError`."""
    return read(engine, _limits, dataset_id)


def set_limits(
    engine: Engine, dataset_id: int, retention: timedelta | None, quota: int | None
) -> Limits:
    """Change the limits that are not None, and return both.

    Raises `LimitsError` where one is out of range.
    """
    if retention is not None and not timedelta(seconds=1) <= retention <= _LONGEST:
        raise LimitsError(f"a retention of {retention} is not between 1 second and 36,500 days")
    if quota is not None and not 0 <= quota < 1 << 63:
        raise LimitsError(f"a quota of {quota} rows is not a whole number from 0 on")
    seconds = None if retention is None else int(retention.total_seconds())
    settings = {"rejected_retention": seconds, "rejected_quota": quota}
    values = {name: value for name, value in settings.items() if value is not None}
    if values:
        change = update(DatasetRow).where(DatasetRow.id == dataset_id).values(values)
        write(engine, lambda connection: connection.execute(change))
    return limits(engine, dataset_id)


def prune_sometimes(engine: Engine, dataset_id: int) -> int:
    """Apply the limits as `prune` does, at most once a minute; return the number of rows removed.

    Errors are logged and not raised: the next call after a minute tries again.
    """
    pruned = _pruned.setdefault(engine, {})
    now = time.monotonic()
    if now - pruned.get(dataset_id, -_EVERY) < _EVERY:
        return 0
    # Before the attempt: a removal that fails must not be repeated by every drain.
    pruned[dataset_id] = now
    try:
        return prune(engine, dataset_id)
    except RegistryError as error:
        logger.warning("the rejected rows of dataset %d are not pruned: %s", dataset_id, error)
        return 0


def prune(engine: Engine, dataset_id: int) -> int:
    """Remove rejected rows that are past the dataset's limits; return their number."""
    # The retention begins when a row is first seen here as rejected. From ``created_at`` on, a row
    # that had waited for long would be removed before anyone could see its error.
    new = _unlocked(dataset_id, InboxRow.rejected_at.is_(None))
    begin_retention = update(InboxRow).where(InboxRow.id.in_(new)).values(rejected_at=func.now())
    write(engine, lambda connection: connection.execute(begin_retention))
    removed = 0
    # In short transactions: a long one would keep the locks of all that it removes.
    while count := write(engine, _remove, dataset_id):
        removed += count
    if removed:
        logger.warning(
            "removed %d rejected rows past the limits of dataset %d", removed, dataset_id
        )
    return removed


def _remove(connection: Connection, dataset_id: int) -> int:
    """Remove some of the rows that are past the limits; return their number, 0 at the end."""
    limits = _limits(connection, dataset_id)
    # By the database's clock, which set the times: this machine's clock may differ.
    now = connection.execute(select(type_coerce(func.now(), UtcDateTime))).scalar_one()
    ids = select(InboxRow.id).where(*rejected(dataset_id)).order_by(InboxRow.id.desc())
    # The newest row above the quota, and all before it. The subquery is NULL within the quota: no
    # id is less than that.
    surplus = InboxRow.id <= ids.offset(limits.quota).limit(1).scalar_subquery()
    removed = 0
    for past in (InboxRow.rejected_at < now - limits.retention, surplus):
        some = _unlocked(dataset_id, past).limit(_BATCH)
        removed += connection.execute(delete(InboxRow).where(InboxRow.id.in_(some))).rowcount
    return removed


def _unlocked(dataset_id: int, condition: ColumnElement[bool]) -> Select[int]:
    """Select and lock the ids of rejected rows, without those that others have locked."""
    # Without SKIP LOCKED, two processes that prune at once would wait for each other's rows.
    ids = select(InboxRow.id).where(*rejected(dataset_id), condition)
    return ids.with_for_update(skip_locked=True)


def _limits(connection: Connection, dataset_id: int) -> Limits:
    row = connection.execute(
        select(DatasetRow.rejected_retention, DatasetRow.rejected_quota).where(
            DatasetRow.id == dataset_id
        )
    ).one_or_none()
    if row is None:
        raise DatasetDroppedError
    return Limits(timedelta(seconds=row.rejected_retention), row.rejected_quota)


def _page(
    connection: Connection, dataset_id: int, after: int, count: int
) -> Sequence[Row[*tuple[Any, ...]]]:
    columns = (InboxRow.key, InboxRow.action, InboxRow.source, InboxRow.group_key)
    texts = [raw(column, connection.dialect.name).label(column.name) for column in columns]
    return connection.execute(
        select(InboxRow.id, *texts, InboxRow.created_at, InboxRow.error)
        .where(*rejected(dataset_id), InboxRow.id > max(-1, min(after, (1 << 63) - 1)))
        .order_by(InboxRow.id)
        .limit(count)
    ).all()


# Id, key, action, source, group, creation and error.
_RejectedRow = Row[
    int, RawText | None, RawText, RawText | None, RawText | None, datetime, str | None
]


def _refused(row: _RejectedRow) -> Refused:
    return Refused(
        row.id,
        readable(row.key),
        readable(row.action) or "",
        readable(row.source),
        row.created_at,
        row.error,
        readable(row.group_key),
    )
