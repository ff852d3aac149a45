"""Which samples an epoch holds, and how to find them in the database or in a mirror.

A row is live at a watermark if it is no retraction and no row before the watermark supersedes it.
Rows that were erased count as live, so that an epoch keeps its size; reading one is an error.
"""

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
"""Positions of a mirror that are examined at a time."""
PARAMETERS = 1000
"""The largest number of positions in one statement's parameters."""


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
    the older ones. ``interval`` are the buckets ``[start, stop)`` of the split.
    """

    watermark: int
    interval: Interval
    since: int = 0
    draw: Draw | None = None

    @property
    def name(self) -> str:
        """A name, unique among the populations of the dataset, for the file of the index."""
        fields: list[object] = [self.watermark, self.since, *self.interval]
        if self.draw:
            fields += [self.draw.replay, self.draw.seed, self.draw.epoch]
        return "-".join(map(str, fields))


def live_in_view(view: View, population: Population, after: int, until: int) -> Iterator[Positions]:
    """Yield the positions in ``[after, until)`` that are live, in order, a chunk at a time."""
    # The view may hold rows past the watermark, and what they supersede is still live at it.
    changes = view.changes[: np.searchsorted(view.changes["position"], population.watermark)]
    retractions = changes["position"][changes["retracted"]]
    dead = np.concatenate([changes["supersedes"], retractions])
    # Sorted, so that each chunk finds its own by bisection.
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
    """Read the positions in ``[after, until)`` that are live, in order."""
    _await_watermark(connection, dataset_id, population)
    positions = connection.execute(_live(dataset_id, population, after, until)).scalars()
    return np.array(positions.all(), np.int64)


def count_in_database(connection: Connection, dataset_id: int, population: Population) -> int:
    """Count the samples of the split that are live at the watermark, whatever ``since`` is."""
    _await_watermark(connection, dataset_id, population)
    # Without the order, or PostgreSQL would sort what is only counted.
    alive = _live(dataset_id, population, 0, population.watermark).order_by(None)
    return connection.execute(alive.with_only_columns(func.count())).scalar_one()


def erased_in_database(
    connection: Connection, dataset_id: int, population: Population
) -> list[tuple[int, str]]:
    """Return the positions and keys of erased samples of the population, in order.

    With a draw, all erased older samples are returned, drawn or not.
    """
    _await_watermark(connection, dataset_id, population)
    after = 0 if population.draw is not None else population.since
    # From the few erasures to their rows: most logs have none, and no query follows.
    rows = erased_between(connection, dataset_id, after, population.watermark)
    positions = sorted(row.position for row in rows)
    keys = {row.position: row.key for row in rows}
    alive = _live(dataset_id, population, after, population.watermark)
    inside: list[int] = []
    for start in range(0, len(positions), PARAMETERS):
        some = alive.where(SampleRow.position.in_(positions[start : start + PARAMETERS]))
        inside += connection.execute(some).scalars()
    return [(position, keys[position]) for position in inside]


def _await_watermark(connection: Connection, dataset_id: int, population: Population) -> None:
    # A standby that has not replayed the log up to here would return too few samples, or superseded
    # ones. This raises an error, and the read is tried again.
    chain_reached(connection, dataset_id, population.watermark)


def _live(dataset_id: int, population: Population, after: int, until: int) -> Select[Any]:
    newer = aliased(SampleRow, name="newer")
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
