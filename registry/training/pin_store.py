"""The pins of epochs in the database.

Epoch n of a run is a row, inserted once by the worker that reaches the epoch first. All other
workers, and every later replay, read that row. Workers therefore always agree on an epoch, and rows
that are appended after it was pinned belong to a later epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    func,
    join,
    select,
)
from sqlalchemy.exc import IntegrityError

from registry.errors import DatabaseError, EpochError
from registry.storage.database.models import EpochRow, HeadRow, RunRow, SampleRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write_once
from registry.storage.log.standby import refuse_if_behind
from registry.storage.log.watermark import Watermark
from registry.training import pin_queries, run_store
from registry.training.run_request import END
from registry.training.run_store import RunSettings

# Statements are built once: SQLAlchemy takes as long to build one as SQLite to run it.
_LAST = (
    select(EpochRow)
    .where(EpochRow.run_id == bindparam("run"))
    .order_by(EpochRow.number.desc())
    .limit(1)
)
_NUMBER = _LAST.where(EpochRow.number == bindparam("number"))
_BEGUN = _LAST.where(EpochRow.start <= bindparam("sample"))
_COVERING = (
    select(EpochRow)
    .where(EpochRow.run_id == bindparam("run"), EpochRow.watermark >= bindparam("watermark"))
    .order_by(EpochRow.number)
    .limit(1)
)
# A subquery for each run: its highest number is found by the primary key, without reading the rest.
_NEWEST_OF_RUNS = select(
    RunRow.name,
    select(func.max(EpochRow.number)).where(EpochRow.run_id == RunRow.id).scalar_subquery(),
).where(RunRow.dataset_id == bindparam("dataset"))
# A subquery, not a join: the plan of a join, made while the log is short, may read all of it. A
# server that caches the plan would still use it when the log has grown.
_CHAIN = (
    select(SampleRow.chain)
    .where(SampleRow.dataset_id == RunRow.dataset_id, SampleRow.position == EpochRow.watermark - 1)
    .scalar_subquery()
)
_WITH_LOG = (
    select(EpochRow, _CHAIN.label("log_chain"), HeadRow.erased)
    .select_from(join(join(EpochRow, RunRow), HeadRow, HeadRow.dataset_id == RunRow.dataset_id))
    .where(
        EpochRow.run_id == bindparam("run"),
        EpochRow.number.in_([bindparam(name, type_=BigInteger) for name in ("one", "other")]),
    )
)


@dataclass(frozen=True)
class Pin:
    """An epoch's row, which never changes.

    The epoch was pinned when the log had ``watermark`` rows, after which its chain is ``chain`` (16
    bytes). Rows from ``since`` on were added after the previous epoch. The epoch has ``size``
    samples; its first one is sample ``start`` of the whole run. ``older`` is the number of older
    samples that a replay of a run with conditions draws from, None for other epochs. They have the
    features of the schema numbered ``schema``.
    """

    number: int
    since: int
    watermark: int
    chain: bytes
    size: int
    start: int
    older: int | None = None
    schema: int = 0

    @property
    def end(self) -> int:
        """The sample of the whole run that the next epoch begins with."""
        return self.start + self.size

    @property
    def log_end(self) -> Watermark:
        """Where the log ended when the epoch was pinned."""
        return Watermark(self.watermark, self.chain)


@dataclass(frozen=True)
class PinInLog:
    """An epoch's row, and the state of the log in the same snapshot.

    ``chain`` is the log's at the epoch's watermark, None if the log has fewer rows. ``erased`` is
    the number of rows that have lost their records.
    """

    pin: Pin
    chain: bytes | None
    erased: int


@dataclass(frozen=True)
class PinnedEpoch:
    """An epoch's row, and when it was inserted, in UTC."""

    pin: Pin
    pinned_at: datetime


def find(engine: Engine, run: RunSettings, number: int) -> Pin | None:
    """Read an epoch's row; None while it is not pinned."""
    if abs(number) >= END:  # drivers raise an error for what is no 64-bit integer
        return None
    return read(engine, _find, _NUMBER, run, {"number": number})


def pinned(engine: Engine, run: RunSettings, number: int) -> PinnedEpoch:
    """Read an epoch's row, and when it was inserted; raises `EpochError` if it is not pinned."""
    row = None
    if abs(number) < END:
        parameters = {"run": run.id, "number": number}
        row = read(engine, lambda connection: connection.execute(_NUMBER, parameters).one_or_none())
    if row is None:
        newest = last(engine, run)
        held = "none yet" if newest is None else f"epochs 0 to {newest.number}"
        raise EpochError(f"run {run.name!r} has not pinned epoch {number}; it has {held}")
    return PinnedEpoch(_pin(row), row.pinned_at)


def find_before(engine: Engine, run: RunSettings, number: int) -> Pin | None:
    """Read the row of the epoch before ``number``; None while it is not pinned.

    Waits for a standby that has not received it yet.
    """

    def find(connection: Connection) -> Pin | None:
        pin = _find(connection, _NUMBER, run, {"number": number - 1})
        if pin is None:
            refuse_if_behind(connection, f"epoch {number - 1} of run {run.name!r}")
        return pin

    return read(engine, find) if 0 < number < END else None


def find_with_log(
    engine: Engine, run: RunSettings, number: int, known: int | None
) -> dict[int, PinInLog]:
    """Read the rows of epochs ``number`` and ``known``, if they are pinned, and their log's state.

    Returns them by number. Waits for a standby that has not received the ``known`` epoch or its
    part of the log.
    """
    # The statement always has two parameters; the same number twice returns one row.
    numbers = {"one": _as_int64(number), "other": _as_int64(number if known is None else known)}
    parameters = {"run": run.id, **numbers}

    def find(connection: Connection) -> dict[int, PinInLog]:
        if connection.dialect.name == "postgresql":
            stored = pin_queries.with_log(connection, run.id, *numbers.values())
            pins = {row[0]: PinInLog(Pin(*row[:-2]), *row[-2:]) for row in stored}
        else:
            rows = connection.execute(_WITH_LOG, parameters).all()
            pins = {row.number: PinInLog(_pin(row), row.log_chain, row.erased) for row in rows}
        if known is not None and (known not in pins or pins[known].chain is None):
            refuse_if_behind(connection, f"epoch {known} of run {run.name!r}")
        return pins

    return read(engine, find)


def _as_int64(number: int) -> int:
    """Return the nearest 64-bit integer: drivers raise an error for others."""
    return max(-END, min(number, END - 1))


def last(engine: Engine, run: RunSettings) -> Pin | None:
    """Read the row of the last pinned epoch; None before the first."""
    return read(engine, _find, _LAST, run, {})


def newest(
    engine: Engine, run: RunSettings, count: int, before: int | None = None
) -> list[PinnedEpoch]:
    """Read the rows of the last ``count`` epochs before a number, in their order."""
    query = (
        select(EpochRow)
        .where(
            EpochRow.run_id == run.id, EpochRow.number <= (END if before is None else before) - 1
        )
        .order_by(EpochRow.number.desc())
        .limit(count)
    )
    rows = read(engine, lambda connection: connection.execute(query).all())
    return [PinnedEpoch(_pin(row), row.pinned_at) for row in reversed(rows)]


def newest_of_runs(engine: Engine, dataset_id: int) -> dict[str, int]:
    """Read the number of the last pinned epoch of each run of a dataset that has one."""
    parameters = {"dataset": dataset_id}
    rows = read(engine, lambda connection: connection.execute(_NEWEST_OF_RUNS, parameters).all())
    return {name: number for name, number in rows if number is not None}


def find_at(engine: Engine, run: RunSettings, sample: int) -> Pin | None:
    """Read the row of the last epoch that begins at or before a sample of the run.

    Waits for a standby that has not received the epochs before that sample.
    """

    def find(connection: Connection) -> Pin | None:
        pin = _find(connection, _BEGUN, run, {"sample": _as_int64(sample)})
        if sample > (pin.end if pin else 0):
            refuse_if_behind(connection, f"the epoch before sample {sample} of run {run.name!r}")
        return pin

    return read(engine, find)


def find_covering(engine: Engine, run: RunSettings, watermark: int) -> Pin | None:
    """Read the row of the first epoch that was pinned at or after a watermark."""
    return read(engine, _find, _COVERING, run, {"watermark": _as_int64(watermark)})


def insert_or_find(engine: Engine, run: RunSettings, proposed: Pin) -> Pin:
    """Insert an epoch's row unless another worker was faster; return the row that is stored.

    Raises `RunNotFoundError` if the run was removed, and `DatasetDroppedError`.
    """

    def store(connection: Connection) -> Pin | None:
        if connection.dialect.name == "postgresql":
            return Pin(*pin_queries.insert_or_find(connection, run.id, vars(proposed)))
        # Not an upsert: the first row must stay, since other workers may train on it already.
        if insert_if_new(connection, EpochRow, {"run_id": run.id, **vars(proposed)}):
            return proposed
        # The INSERT has waited for the other worker's commit, which this statement sees at READ
        # COMMITTED. In a snapshot of the whole transaction, the row would be missing.
        return _find(connection, _NUMBER, run, {"number": proposed.number})

    try:
        stored = write_once(engine, store)
    except DatabaseError as error:
        errors = IntegrityError, engine.dialect.loaded_dbapi.IntegrityError
        if isinstance(error.__cause__, errors):
            run_store.consumed(engine, run)  # raises the error for a run that was removed
        raise
    assert stored is not None
    return stored


def _find(
    connection: Connection, query: Select[Any], run: RunSettings, parameters: Mapping[str, int]
) -> Pin | None:
    row = connection.execute(query, {"run": run.id, **parameters}).one_or_none()
    return _pin(row) if row else None


def _pin(row: Row[EpochRow, *tuple[Any, ...]]) -> Pin:
    return Pin(
        row.number,
        row.since,
        row.watermark,
        row.chain,
        row.size,
        row.start,
        older=row.older,
        schema=row.schema,
    )
