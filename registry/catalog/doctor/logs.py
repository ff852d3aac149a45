"""Checking datasets: that heads, logs and epochs agree, and that rows do not stay in the inbox."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, and_, case, func, or_, select

from registry.catalog.doctor.finding import Finding, ask
from registry.samples.splits import interval
from registry.storage.database.models import (
    NOT_DROPPED,
    DatasetRow,
    EpochRow,
    ErasureRow,
    HeadRow,
    InboxRow,
    RunRow,
    SampleRow,
)
from registry.storage.database.transactions import reading
from registry.storage.log.watermark import GENESIS
from registry.training.population import Population, count_in_database

WAITING = timedelta(hours=1)
"""How long rows may wait in the inbox. Any read of the head moves them to the log."""
_BACKUP = "restore the database from a backup; `registry verify {}` says from which position"


def check_logs(engine: Engine) -> Iterator[Finding]:
    """Find heads that are missing or disagree with their logs."""
    for head in ask(engine, _heads()):  # an outer join: a dataset without a head has NULLs
        if head.position is None:
            said = "it has no head, so that nothing can be read or written"
            yield _damaged(head.name, said)
            continue
        yield from _check_end(head)
        yield from _check_counts(engine, head)


# Dataset, its name, its head's position, live and erased counts and chain; then what its log has:
# the last position, the chain there and the number of erasures.
_HeadAndLog = Row[int, str, int, int, bytes, int, int | None, bytes | None, int]


def _heads() -> Any:
    """Select the heads, and the same values computed from the logs.

    One statement, so that both are of one moment. Otherwise a concurrent insert would be reported
    as a head that disagrees.
    """
    last = select(func.max(SampleRow.position)).where(SampleRow.dataset_id == DatasetRow.id)
    chain = select(SampleRow.chain).where(
        SampleRow.dataset_id == DatasetRow.id, SampleRow.position == HeadRow.position - 1
    )
    count = select(func.count()).where(ErasureRow.dataset_id == DatasetRow.id)
    return (
        select(
            DatasetRow.id,
            DatasetRow.name,
            HeadRow.position,
            HeadRow.live,
            HeadRow.chain,
            HeadRow.erased,
            last.scalar_subquery().label("last"),
            chain.scalar_subquery().label("chain_there"),
            count.scalar_subquery().label("erasures"),
        )
        .outerjoin(HeadRow, HeadRow.dataset_id == DatasetRow.id)
        .where(NOT_DROPPED)
        .order_by(DatasetRow.name)
    )


def _check_end(head: _HeadAndLog) -> Iterator[Finding]:
    end = 0 if head.last is None else head.last + 1
    if end != head.position:
        yield _damaged(head.name, f"its head is at position {head.position}, its log ends at {end}")
    # Compared only where the ends agree: otherwise the chain is another row's.
    elif head.chain != (GENESIS if end == 0 else head.chain_there):
        yield _damaged(head.name, f"head and log have different chains at position {end}")
    if head.erased != head.erasures:
        said = f"its head counts {head.erased} erased rows, and {head.erasures} are known"
        yield _damaged(head.name, said)


def _check_counts(engine: Engine, head: _HeadAndLog) -> Iterator[Finding]:
    with reading(engine) as connection:
        # Only rows before the head that was read: rows may have been appended since.
        of_log = (SampleRow.dataset_id == head.id, SampleRow.position < head.position)
        count = connection.execute(select(func.count()).where(*of_log)).scalar_one()
        everything = Population(head.position, interval({}, None))
        live = count_in_database(connection, head.id, everything)
        # The first row whose rank is not its position comes after the first missing position.
        if count != head.position:
            ranked = select(
                SampleRow.position,
                (func.row_number().over(order_by=SampleRow.position) - 1).label("rank"),
            ).where(*of_log)
            ranks = ranked.subquery()
            query = select(func.min(ranks.c.rank)).where(ranks.c.rank != ranks.c.position)
            gap = connection.execute(query).scalar()
            # Without a gap between rows, those at the end are missing.
            first = count if gap is None else gap
            missing = head.position - count
            said = f"{missing} rows are missing from its log, the first at {first}"
            yield _damaged(head.name, said)
    # With rows missing, the count of live samples is wrong for that reason, and must not be set.
    if live != head.live and count == head.position:
        yield Finding(
            "error",
            f"dataset {head.name}",
            f"its head counts {head.live} live samples, its log has {live}",
            f"UPDATE heads SET live = live {live - head.live:+d} WHERE dataset_id = {head.id}",  # noqa: S608  # it is shown
        )


def check_epochs(engine: Engine) -> Iterator[Finding]:
    """Find epochs whose chain value is not the log's at their watermark; the first of each run."""
    query = (
        select(
            DatasetRow.name,
            RunRow.name.label("run"),
            EpochRow.number,
            EpochRow.watermark,
            SampleRow.chain,
        )
        .select_from(EpochRow)
        .join(RunRow, RunRow.id == EpochRow.run_id)
        .join(DatasetRow, DatasetRow.id == RunRow.dataset_id)
        .outerjoin(
            SampleRow,
            and_(
                SampleRow.dataset_id == DatasetRow.id,
                SampleRow.position == EpochRow.watermark - 1,
            ),
        )
        .where(NOT_DROPPED, or_(SampleRow.chain.is_(None), SampleRow.chain != EpochRow.chain))
        .order_by(DatasetRow.name, RunRow.name, EpochRow.number)
    )
    # Only the first epoch of a run is reported: later ones disagree for the same reason.
    reported = set()
    for epoch in ask(engine, query):
        if (epoch.name, epoch.run) in reported:
            continue
        reported.add((epoch.name, epoch.run))
        why = "ends before" if epoch.chain is None else "has another chain there"
        yield Finding(
            "error",
            f"run {epoch.run} of {epoch.name}",
            f"epoch {epoch.number} is pinned at position {epoch.watermark}, but the log {why}",
            "restore the newer database, or continue with a run of another name",
        )


def check_drops(engine: Engine) -> Iterator[Finding]:
    """Find dropped datasets that still have rows."""
    for row in ask(engine, select(DatasetRow).where(~NOT_DROPPED).order_by(DatasetRow.id)):
        yield Finding(
            "warning",
            f"dataset {row.name}",
            f"it was dropped at {row.dropped_at:%Y-%m-%d %H:%M} UTC, and rows of it are left: "
            "their removal is under way, was interrupted, or waits for an open transaction",
            "registry doctor --fix",
        )


def check_inbox(engine: Engine) -> Iterator[Finding]:
    """Find rejected rows, and rows that have waited in the inbox for more than `WAITING`."""
    # By this machine's clock: it differs from the database's by less than an hour.
    waits = and_(InboxRow.error.is_(None), InboxRow.created_at < datetime.now(UTC) - WAITING)
    query = (
        select(
            DatasetRow.name,
            func.count(InboxRow.error).label("refused"),
            func.coalesce(func.sum(case((waits, 1), else_=0)), 0).label("waiting"),
        )
        .join(InboxRow, InboxRow.dataset_id == DatasetRow.id)
        .where(NOT_DROPPED)
        .group_by(DatasetRow.name)
        .order_by(DatasetRow.name)
    )
    for row in ask(engine, query):
        if row.refused:
            yield Finding(
                "warning",
                f"inbox of {row.name}",
                f"{row.refused} rows do not fit and never reach a trainer",
                f"registry inbox ls {row.name}",
            )
        if row.waiting:
            yield Finding(
                "warning",
                f"inbox of {row.name}",
                f"{row.waiting} rows have waited for over {WAITING.total_seconds() / 3600:g} h",
                f"registry drain {row.name}",
            )


def _damaged(name: str, said: str) -> Finding:
    return Finding("error", f"dataset {name}", said, _BACKUP.format(name))
