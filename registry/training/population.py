"""Which samples an epoch holds, and how to find them in the database or in a mirror.

A row is live at a watermark if it is no retraction and no row before the watermark supersedes it.
Rows that were erased count as live, so that an epoch keeps its size; reading one is an error. Where
there are conditions they are left out, since nobody knows what their values were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Select, and_, exists, func, select

from registry.samples.arrays import Positions
from registry.samples.splits import BUCKETS, Interval
from registry.storage.database.models import SampleRow
from registry.storage.log.erasures import erased_positions
from registry.storage.log.standby import chain_reached
from registry.storage.mirror.index import Index
from registry.storage.mirror.snapshot import View
from registry.training.conditions import Conditions
from registry.training.filters import Matches
from registry.training.policy import Replay

CHUNK = 1 << 20
"""Positions of a mirror that are examined at a time."""


@dataclass(frozen=True)
class Draw:
    """A draw of older samples, determined by the seed of a run and the number of an epoch."""

    replay: Replay
    seed: int
    epoch: int


@dataclass(frozen=True)
class Population:
    """The samples of a split that are live at a watermark, including those erased since.

    Only samples whose latest revision is at position ``since`` or later; a ``draw`` adds some of
    the older ones. ``interval`` are the buckets ``[start, stop)`` of the split. All samples meet
    the ``conditions``.
    """

    watermark: int
    interval: Interval
    since: int = 0
    draw: Draw | None = None
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def name(self) -> str:
        """A name, unique among the populations of the dataset, for the file of the index."""
        return f"{self.watermark}{self.family}"

    @property
    def family(self) -> str:
        """The name without the watermark at its beginning."""
        fields: list[object] = [self.since, *self.interval]
        if self.draw:
            fields += [self.draw.replay, self.draw.seed, self.draw.epoch]
        if self.conditions:
            fields.append(self.conditions.digest)
        return "-" + "-".join(map(str, fields))

    @property
    def share(self) -> float:
        """The share of the dataset's groups that are in the split."""
        start, stop = self.interval
        return (stop - start) / BUCKETS


def dead_in_view(view: View, after: int, watermark: int) -> Positions:
    """Return the positions, in order, that are superseded or retracted by the rows in a range."""
    part = slice(*np.searchsorted(view.changes["position"], [after, watermark]))
    changes = view.changes[part]
    retractions = changes["position"][changes["retracted"]]
    return np.sort(np.concatenate([changes["supersedes"], retractions]))


def live_in_view(
    view: View,
    population: Population,
    after: int,
    until: int,
    matches: Matches | None = None,
) -> Iterator[Positions]:
    """Yield the positions in ``[after, until)`` that are live, in order, a chunk at a time.

    Only those that ``matches`` has, the conditions of the population.
    """
    # The view may hold rows past the watermark, and what they supersede is still live at it. A row
    # is superseded by a later one, so that those before ``after`` do not matter.
    # Sorted, so that each chunk finds its own by bisection.
    dead = dead_in_view(view, after, population.watermark)
    start, stop = population.interval
    for low in range(after, until, CHUNK):
        high = min(until, low + CHUNK)
        alive: npt.NDArray[np.bool_] = np.ones(high - low, bool)
        if (start, stop) != (0, BUCKETS):
            buckets = view.buckets[low:high]
            alive = (buckets >= start) & (buckets < stop)
        alive[dead[slice(*np.searchsorted(dead, [low, high]))] - low] = False
        if matches is not None:
            alive &= matches(low, high)
        yield np.flatnonzero(alive) + low


def live_in_database(
    connection: Connection, dataset_id: int, population: Population, after: int, until: int
) -> Positions:
    """Read the positions in ``[after, until)`` that are live, in order, whatever the conditions."""
    _await_watermark(connection, dataset_id, population)
    positions = connection.execute(_live(dataset_id, population, after, until)).scalars()
    return np.array(positions.all(), np.int64)


def count_in_database(connection: Connection, dataset_id: int, population: Population) -> int:
    """Count the samples of the split that are live at the watermark, whatever ``since`` is."""
    _await_watermark(connection, dataset_id, population)
    # Without the order, or PostgreSQL would sort what is only counted.
    alive = _live(dataset_id, population, 0, population.watermark).order_by(None)
    return connection.execute(alive.with_only_columns(func.count())).scalar_one()


def contains(index: Index, population: Population, positions: Positions) -> npt.NDArray[np.bool_]:
    """Return which of these positions, in ascending order, are in the population's index.

    It takes logarithmic time for each, and for a draw also reads the positions that are drawn.
    """
    new = index.size
    if population.draw is not None:
        # The new samples come first, in the order of the log, and then the drawn ones, in none.
        def drawn(rank: int) -> bool:
            return int(index.positions(np.array([rank]))[0]) < population.since

        new = bisect_left(range(index.size), True, key=drawn)
    inside = index.contains(positions, 0, new)
    for after in range(new, index.size, CHUNK):
        part = index.positions(np.arange(after, min(index.size, after + CHUNK)))
        ranks = np.minimum(np.searchsorted(positions, part), len(positions) - 1)
        inside[ranks[positions[ranks] == part]] = True
    return inside


def erased_in_database(
    connection: Connection, dataset_id: int, population: Population
) -> Positions:
    """Read the positions of erased rows in the population's range, in order, live or not."""
    _await_watermark(connection, dataset_id, population)
    after = 0 if population.draw is not None else population.since
    return erased_positions(connection, dataset_id, after, population.watermark)


def _await_watermark(connection: Connection, dataset_id: int, population: Population) -> None:
    # A standby that has not replayed the log up to here would return too few samples, or superseded
    # ones. This raises an error, and the read is tried again.
    chain_reached(connection, dataset_id, population.watermark)


def _live(dataset_id: int, population: Population, after: int, until: int) -> Select[Any]:
    newer = SampleRow.__table__.alias("newer").c
    superseded = exists().where(
        newer.dataset_id == SampleRow.dataset_id,
        newer.supersedes == SampleRow.position,
        # A newer revision after the watermark does not count: the epoch was pinned without it.
        newer.position < population.watermark,
    )
    start, stop = population.interval
    alive = and_(
        SampleRow.dataset_id == dataset_id,
        SampleRow.position >= after,
        SampleRow.position < until,
        # NULL is a retraction. The record of an erased row is empty, not NULL.
        SampleRow.record.is_not(None),
        SampleRow.bucket >= start,
        SampleRow.bucket < stop,
        ~superseded,
    )
    return select(SampleRow.position).where(alive).order_by(SampleRow.position)
