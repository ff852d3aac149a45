"""Runs and epochs in the database: named settings and pinned watermarks.

Epoch n of a run is a row, inserted once by the worker that reaches the epoch first. All other
workers, and every later replay, read that row. Workers therefore always agree on an epoch, and rows
that are appended after it was pinned belong to a later epoch.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, SupportsIndex

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    bindparam,
    join,
    select,
    update,
)

from registry.errors import DatasetDroppedError, FeatureError, RunMismatchError
from registry.samples.text import name_problem
from registry.storage.database.models import EpochRow, HeadRow, RunRow, SampleRow
from registry.storage.database.sql import insert_if_new
from registry.storage.database.transactions import read, write, writing
from registry.storage.log.standby import refuse_if_behind
from registry.training import policy as policies
from registry.training.policy import Policy

END = 2**63
"""One more than the largest integer that the database can hold."""
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
# A subquery, not a join: the plan of a join, made while the log is short, may read all of it. A
# server that caches the plan would still use it when the log has grown.
_CHAIN = (
    select(SampleRow.chain)
    .where(SampleRow.dataset_id == RunRow.dataset_id, SampleRow.position == EpochRow.watermark - 1)
    .scalar_subquery()
)
_SEEN = (
    select(EpochRow, _CHAIN.label("found"), HeadRow.erased)
    .select_from(join(join(EpochRow, RunRow), HeadRow, HeadRow.dataset_id == RunRow.dataset_id))
    .where(
        EpochRow.run_id == bindparam("run"),
        EpochRow.number.in_([bindparam(name, type_=BigInteger) for name in ("one", "other")]),
    )
)


@dataclass(frozen=True)
class Settings:
    """A run's row. A ``split`` of None means all splits."""

    id: int
    name: str
    seed: int
    split: str | None
    policy: Policy


@dataclass(frozen=True)
class Pin:
    """An epoch's row, which never changes.

    The epoch was pinned when the log had ``watermark`` rows, after which its chain is ``chain`` (16
    bytes). Rows from ``since`` on were added after the previous epoch. The epoch has ``size``
    samples; its first one is sample ``start`` of the whole run.
    """

    number: int
    since: int
    watermark: int
    chain: bytes
    size: int
    start: int


@dataclass(frozen=True)
class Seen:
    """An epoch's row, and the state of the log in the same snapshot.

    ``chain`` is the log's at the epoch's watermark, None if the log has fewer rows. ``erased`` is
    the number of rows that have lost their records.
    """

    pin: Pin
    chain: bytes | None
    erased: int


def get_or_create(
    engine: Engine,
    dataset_id: int,
    name: str,
    *,
    seed: SupportsIndex | None,
    split: str | None,
    policy: Policy | None,
) -> Settings:
    """Return the run of this name; create it with these settings if there is none.

    A setting of None matches whatever an existing run has. Raises `RunMismatchError` if another
    setting differs from the run's, `FeatureError` if a name or a setting is not valid.
    """
    if policy is not None:
        policies.check(policy)
    if problem := name_problem(name):
        raise FeatureError(f"a run's name {problem}")
    if seed is not None and not 0 <= (seed := operator.index(seed)) < END:
        raise FeatureError(f"seed {seed} is not in [0, 2**63)")
    mine = and_(RunRow.dataset_id == dataset_id, RunRow.name == name)

    def find(connection: Connection) -> Row[Any] | None:
        return connection.execute(select(RunRow).where(mine)).one_or_none()

    def create(connection: Connection) -> Row[Any]:
        held = select(HeadRow.dataset_id).where(HeadRow.dataset_id == dataset_id)
        if connection.execute(held).first() is None:
            raise DatasetDroppedError
        made = {"seed": seed or 0, "split": split, "policy": str(policy or "all")}
        # Another worker may create the run at the same moment; what it stored is then read below.
        insert_if_new(connection, RunRow, {"dataset_id": dataset_id, "name": name, **made})
        return connection.execute(select(RunRow).where(mine)).one()

    row = read(engine, find) or write(engine, create)
    found = _settings(row)
    for setting, asked in (("seed", seed), ("split", split), ("policy", policy)):
        if asked is not None and asked != getattr(found, setting):
            raise RunMismatchError(
                f"run {name!r} has {setting} {getattr(found, setting)!r}, not {asked!r}; "
                "leave it out to go on with that run, or choose another name"
            )
    return found


def settings(engine: Engine, dataset_id: int) -> list[Settings]:
    """Read the settings of every run of a dataset, in the order of their names."""
    wanted = select(RunRow).where(RunRow.dataset_id == dataset_id).order_by(RunRow.name)
    return [_settings(row) for row in read(engine, lambda c: c.execute(wanted).all())]


def find(engine: Engine, run: Settings, number: int) -> Pin | None:
    """Read an epoch's row; None while it is not pinned."""
    if abs(number) >= END:  # drivers raise an error for what is no 64-bit integer
        return None
    return read(engine, _find, _NUMBER, run, {"number": number})


def find_before(engine: Engine, run: Settings, number: int) -> Pin | None:
    """Read the row of the epoch before ``number``; None while it is not pinned.

    Waits for a standby that has not received it yet.
    """

    def find(connection: Connection) -> Pin | None:
        pin = _find(connection, _NUMBER, run, {"number": number - 1})
        if pin is None:
            refuse_if_behind(connection, f"epoch {number - 1} of run {run.name!r}")
        return pin

    return read(engine, find) if 0 < number < END else None


def look(engine: Engine, run: Settings, number: int, known: int | None) -> dict[int, Seen]:
    """Read the rows of epochs ``number`` and ``known``, if they are pinned, and their log's state.

    Returns them by number. Waits for a standby that has not received the ``known`` epoch or its
    part of the log.
    """
    # The statement always has two parameters; the same number twice returns one row.
    other = number if known is None else known
    place = {"run": run.id, "one": min(number, END - 1), "other": min(other, END - 1)}

    def find(connection: Connection) -> dict[int, Seen]:
        rows = connection.execute(_SEEN, place).all()
        seen = {row.number: Seen(_pin(row), row.found, row.erased) for row in rows}
        if known is not None and (known not in seen or seen[known].chain is None):
            refuse_if_behind(connection, f"epoch {known} of run {run.name!r}")
        return seen

    return read(engine, find)


def last(engine: Engine, run: Settings) -> Pin | None:
    """Read the row of the last pinned epoch; None before the first."""
    return read(engine, _find, _LAST, run, {})


def find_at(engine: Engine, run: Settings, sample: int) -> Pin | None:
    """Read the row of the last epoch that begins at or before a sample of the run.

    Waits for a standby that has not received the epochs before that sample.
    """

    def find(connection: Connection) -> Pin | None:
        pin = _find(connection, _BEGUN, run, {"sample": min(sample, END - 1)})
        if sample > (pin.start + pin.size if pin else 0):
            refuse_if_behind(connection, f"the epoch before sample {sample} of run {run.name!r}")
        return pin

    return read(engine, find)


def find_covering(engine: Engine, run: Settings, watermark: int) -> Pin | None:
    """Read the row of the first epoch that was pinned at or after a watermark."""
    return read(engine, _find, _COVERING, run, {"watermark": watermark})


def pin(engine: Engine, run: Settings, proposed: Pin) -> Pin:
    """Insert an epoch's row unless another worker was faster; return the row that is stored."""

    def store(connection: Connection) -> Pin | None:
        # Not an upsert: the first row must stay, since other workers may train on it already.
        if insert_if_new(connection, EpochRow, {"run_id": run.id, **asdict(proposed)}):
            return proposed
        return _find(connection, _NUMBER, run, {"number": proposed.number})

    pinned = write(engine, store)
    assert pinned is not None
    return pinned


def consumed(engine: Engine, run: Settings) -> int:
    """Read how many of the run's samples are recorded as trained on."""
    return read(engine, _consumed, run)


def record(engine: Engine, run: Settings, samples: int, *, rewind: bool = False) -> int:
    """Store how many of the run's samples have been trained on, unless more are recorded.

    With ``rewind``, store it in any case. Returns the number that is stored in the end.
    """
    stored = update(RunRow).where(RunRow.id == run.id).values(consumed=samples)
    if not rewind:
        # In the same statement: between a read and a write another worker may record more.
        stored = stored.where(RunRow.consumed <= samples)

    def store(connection: Connection) -> int:
        if connection.execute(stored).rowcount:
            return samples
        return _consumed(connection, run)

    return write(engine, store)


def advance(engine: Engine, run: Settings, samples: int) -> int | None:
    """Add to the number of the run's samples that have been trained on; return the new number.

    None if it would reach `END`. Not retried if the connection is lost, since the samples may have
    been added already.
    """
    added = (
        update(RunRow)
        .where(RunRow.id == run.id, RunRow.consumed < END - samples)
        .values(consumed=RunRow.consumed + samples)
        .returning(RunRow.consumed)
    )
    # Not `write`, which would repeat the addition after a lost connection.
    with writing(engine) as connection:
        return connection.execute(added).scalar()


def _consumed(connection: Connection, run: Settings) -> int:
    samples: int | None = connection.execute(
        select(RunRow.consumed).where(RunRow.id == run.id)
    ).scalar_one_or_none()
    if samples is None:
        raise DatasetDroppedError
    return samples


def _settings(row: Row[Any]) -> Settings:
    return Settings(row.id, row.name, row.seed, row.split, policies.parse(row.policy))


def _find(
    connection: Connection, query: Select[Any], run: Settings, parameters: Mapping[str, int]
) -> Pin | None:
    row = connection.execute(query, {"run": run.id, **parameters}).one_or_none()
    return _pin(row) if row else None


def _pin(row: Row[Any]) -> Pin:
    return Pin(row.number, row.since, row.watermark, row.chain, row.size, row.start)
