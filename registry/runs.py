"""Runs and epochs as the database holds them: named settings and pinned watermarks.

Epoch n of a run is pinned once, by whoever reaches it first; everybody else, and every replay
later, reads that row. So workers agree by construction, and rows that come later belong to a
later epoch by construction.
"""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass
from typing import Any, SupportsIndex

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, exists, func, select

from registry import heads
from registry.engine import insert_if_new, read, write
from registry.errors import EpochError, FeatureError, RunMismatchError
from registry.models import epochs, runs, samples
from registry.splits import Interval


@dataclass(frozen=True)
class Settings:
    """A run's row. ``split`` None means all splits; ``policy`` "all" means every live sample."""

    id: int
    name: str
    seed: int
    split: str | None
    policy: str


@dataclass(frozen=True)
class Pin:
    """An epoch's row: what the epoch holds, for ever.

    Positions ``[0, watermark)`` with ``chain`` (16 bytes) at their end; those from ``since`` on
    came after the epoch before. ``size`` samples, of which the first is sample ``start`` of the
    run as a whole.
    """

    number: int
    since: int
    watermark: int
    chain: bytes
    size: int
    start: int


@dataclass(frozen=True)
class Population:
    """Which samples an epoch draws on: those of one dataset alive at a watermark, in a split."""

    dataset_id: int
    interval: Interval
    watermark: int

    def count(self, connection: Connection) -> int:
        """Count the samples."""
        newer = samples.alias("newer")
        superseded = exists().where(
            newer.c.dataset_id == samples.c.dataset_id,
            newer.c.supersedes == samples.c.position,
            newer.c.position < self.watermark,
        )
        start, stop = self.interval
        counted = connection.execute(
            select(func.count()).where(
                samples.c.dataset_id == self.dataset_id,
                samples.c.position < self.watermark,
                samples.c.record.is_not(None),
                samples.c.bucket >= start,
                samples.c.bucket < stop,
                ~superseded,
            )
        )
        return counted.scalar_one()

    def superseded(self, after: int, until: int, connection: Connection) -> list[int]:
        """Return the positions in ``[after, until)`` whose key has a newer revision."""
        found = connection.execute(
            select(samples.c.supersedes).where(
                samples.c.dataset_id + 0 == self.dataset_id,  # keeps it off the primary key
                samples.c.supersedes >= after,
                samples.c.supersedes < until,
                samples.c.position < self.watermark,
            )
        )
        return [position for position in found.scalars() if position is not None]


def get_or_create(
    engine: Engine,
    dataset_id: int,
    name: str,
    *,
    seed: SupportsIndex | None,
    split: str | None,
    policy: str | None,
) -> Settings:
    """Return the run of this name, made with the settings given if there is none.

    Settings left None are taken from the run that exists; others must equal its own, or
    `RunMismatchError` is raised.
    """
    if policy not in (None, "all"):
        raise FeatureError(f"policy {policy!r} is not known; use 'all'")
    if not isinstance(name, str) or not name or "\0" in name:
        raise FeatureError(f"a run's name is non-empty text, not {name!r}")
    if seed is not None and not 0 <= (seed := operator.index(seed)) < 2**63:
        raise FeatureError(f"seed {seed} is not in [0, 2**63)")
    mine = and_(runs.c.dataset_id == dataset_id, runs.c.name == name)

    def find(connection: Connection) -> Row[Any] | None:
        return connection.execute(select(runs).where(mine)).one_or_none()

    def create(connection: Connection) -> Row[Any]:
        made = {"seed": seed or 0, "split": split, "policy": policy or "all"}
        insert_if_new(connection, runs, {"dataset_id": dataset_id, "name": name, **made})
        return connection.execute(select(runs).where(mine)).one()

    row = read(engine, find) or write(engine, create)
    for setting, asked in (("seed", seed), ("split", split), ("policy", policy)):
        if asked is not None and asked != getattr(row, setting):
            raise RunMismatchError(
                f"run {name!r} has {setting} {getattr(row, setting)!r}, not {asked!r}; "
                "leave it out to go on with that run, or choose another name"
            )
    return Settings(row.id, row.name, row.seed, row.split, row.policy)


def pin(engine: Engine, run: Settings, number: int, dataset_id: int, interval: Interval) -> Pin:
    """Pin an epoch at the dataset's head, or read back what it was pinned at.

    Raises `EpochError` if the epoch before it is not pinned, or there is no sample to train on.
    """
    if (number := operator.index(number)) < 0:
        raise EpochError(f"epoch {number}: epochs count from 0")
    found = read(engine, lambda connection: _find(connection, run, number))
    if found is not None:
        return found
    proposed = read(
        engine, lambda connection: _propose(connection, run, number, dataset_id, interval)
    )

    def store(connection: Connection) -> Pin | None:
        insert_if_new(connection, epochs, {"run_id": run.id, **asdict(proposed)})
        return _find(connection, run, number)

    pinned = write(engine, store)
    assert pinned is not None
    return pinned


def _propose(
    connection: Connection, run: Settings, number: int, dataset_id: int, interval: Interval
) -> Pin:
    """Return the epoch as it would be if it were pinned at the head that is read here."""
    before = _find(connection, run, number - 1)
    if before is None and number:
        raise EpochError(
            f"epoch {number} of run {run.name!r} cannot begin before epoch {number - 1} has"
        )
    head = heads.read(connection, dataset_id)
    size = Population(dataset_id, interval, head.position).count(connection)
    if not size:
        place = "dataset" if run.split is None else f"split {run.split!r}"
        raise EpochError(f"epoch {number} of run {run.name!r}: the {place} holds no sample yet")
    return Pin(
        number=number,
        since=before.watermark if before else 0,
        watermark=head.position,
        chain=head.chain,
        size=size,
        start=before.start + before.size if before else 0,
    )


def _find(connection: Connection, run: Settings, number: int) -> Pin | None:
    wanted: ColumnElement[bool] = and_(epochs.c.run_id == run.id, epochs.c.number == number)
    row = connection.execute(select(epochs).where(wanted)).one_or_none()
    if row is None:
        return None
    return Pin(row.number, row.since, row.watermark, row.chain, row.size, row.start)
