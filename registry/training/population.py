"""Which samples an epoch draws on, and how to find them in the database or in a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Select, and_, exists, func, select
from sqlalchemy.orm import aliased

from registry.samples.arrays import Positions
from registry.samples.splits import BUCKETS, Interval
from registry.storage.database.models import SampleRow
from registry.storage.log.erasures import erased_between
from registry.storage.log.standby import chain_reached
from registry.storage.mirror.snapshot import View
from registry.training.policy import Replay

CHUNK = 1 << 20
TOGETHER = 1000
"""Parameters in one statement, at most."""


@dataclass(frozen=True)
class Draw:
    """A draw of older samples beside the new ones, by the seed of a run and an epoch's number."""

    replay: Replay
    seed: int
    epoch: int


@dataclass(frozen=True)
class Population:
    """The samples of a split that are alive at a watermark, with those that were erased since.

    Of those, the ones whose latest revision stands at ``since`` or later; a ``draw`` adds some of
    the others.
    """

    watermark: int
    interval: Interval
    since: int = 0
    draw: Draw | None = None

    @property
    def name(self) -> str:
        """A name that no other population of the dataset has."""
        fields: list[object] = [self.watermark, self.since, *self.interval]
        if self.draw:
            fields += [self.draw.replay, self.draw.seed, self.draw.epoch]
        return "-".join(map(str, fields))


def live_in_view(view: View, population: Population, after: int, until: int) -> Iterator[Positions]:
    """Yield the positions in ``[after, until)`` that are alive, in order, some at a time."""
    changes = view.changes[: np.searchsorted(view.changes["position"], population.watermark)]
    retractions = changes["position"][changes["retracted"]]
    dead = np.concatenate([changes["supersedes"], retractions])
    dead = np.sort(dead[(dead >= after) & (dead < until)])
    start, stop = population.interval
    for low in range(after, until, CHUNK):
        high = min(until, low + CHUNK)
        alive: npt.NDArray[np.bool_] = np.ones(high - low, bool)
        if (start, stop) != (0, BUCKETS):
            buckets = view.buckets[low:high]
            alive = (buckets >= start) & (buckets < stop)
        alive[dead[slice(*np.searchsorted(dead, [low, high]))] - low] = False
        yield np.flatnonzero(alive) + low


def live_in_database(
    connection: Connection, dataset_id: int, population: Population, after: int, until: int
) -> Positions:
    """Read the positions in ``[after, until)`` that are alive, in order."""
    _await_watermark(connection, dataset_id, population)
    found = connection.execute(_live(dataset_id, population, after, until))
    return np.array(found.scalars().all(), np.int64)


def count_in_database(connection: Connection, dataset_id: int, population: Population) -> int:
    """Count the samples alive at the watermark."""
    _await_watermark(connection, dataset_id, population)
    alive = _live(dataset_id, population, 0, population.watermark).order_by(None)
    return connection.execute(alive.with_only_columns(func.count())).scalar_one()


def erased_in_database(
    connection: Connection, dataset_id: int, population: Population
) -> list[tuple[int, str]]:
    """Return the positions and keys of the samples that were erased, in order.

    Of the older ones that a draw may add, all are returned.
    """
    _await_watermark(connection, dataset_id, population)
    after = 0 if population.draw is not None else population.since
    rows = erased_between(connection, dataset_id, after, population.watermark)
    positions = sorted(row.position for row in rows)
    keys = {row.position: row.key for row in rows}
    alive = _live(dataset_id, population, after, population.watermark)
    found: list[int] = []
    for start in range(0, len(positions), TOGETHER):
        some = alive.where(SampleRow.position.in_(positions[start : start + TOGETHER]))
        found += connection.execute(some).scalars()
    return [(position, keys[position]) for position in found]


def _await_watermark(connection: Connection, dataset_id: int, population: Population) -> None:
    # A standby that has not come so far would return too few samples, or superseded ones.
    chain_reached(connection, dataset_id, population.watermark)


def _live(dataset_id: int, population: Population, after: int, until: int) -> Select[Any]:
    newer = aliased(SampleRow, name="newer")
    superseded = exists().where(
        newer.dataset_id == SampleRow.dataset_id,
        newer.supersedes == SampleRow.position,
        newer.position < population.watermark,
    )
    start, stop = population.interval
    alive = and_(
        SampleRow.dataset_id == dataset_id,
        SampleRow.position >= after,
        SampleRow.position < until,
        SampleRow.record.is_not(None),
        SampleRow.bucket >= start,
        SampleRow.bucket < stop,
        ~superseded,
    )
    return select(SampleRow.position).where(alive).order_by(SampleRow.position)
