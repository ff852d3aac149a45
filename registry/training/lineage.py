"""What an epoch was made of: its version and schema, and its samples by origin, source and class.

All of it follows from the pin, the log and the schema, so that it can be said of any epoch at any
time. Samples that were erased since are counted, but have no class any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, select

from registry.samples.arrays import Positions
from registry.samples.features import ClassLabel
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.entries import Entry, entries_among, sources_among
from registry.storage.log.tags import all_tags
from registry.storage.log.version import Version
from registry.training.epoch import Epoch
from registry.training.pin_store import PinnedEpoch

_ROWS = 4096
"""Rows that are read from the database at a time."""
_CHUNK = 1 << 16
"""Positions that are examined at a time."""


@dataclass(frozen=True)
class EpochLineage:
    """What an epoch of a run was made of.

    ``version`` names the log that it was pinned at, with the number of the ``schema`` that its
    samples have; ``tags`` are those of this version. Of its ``size`` samples, ``new`` have keys
    that came since the epoch before and ``revised`` others that were changed since; the rest are as
    they were. ``erased`` samples have lost their content since the epoch was pinned.

    ``sources`` counts the samples by where they came from, ``classes`` those of each `ClassLabel`
    by the name or number of their class, without those that were erased.
    """

    run: str
    number: int
    pinned_at: datetime
    version: Version
    schema: int
    tags: list[str]
    since: int
    start: int
    size: int
    new: int
    revised: int
    erased: int
    sources: Mapping[str | None, int]
    classes: Mapping[str, Mapping[str, int]]


def lineage_of(epoch: Epoch, pinned: PinnedEpoch, dataset: str) -> EpochLineage:
    """Return what a pinned epoch was made of; ``dataset`` is the dataset's name.

    Raises `DivergenceError` if the log has other samples for it, and `ErasedError` if samples that
    may have met the run's conditions were erased.
    """
    log, pin = epoch.source.log, pinned.pin
    version = Version(dataset, pin.watermark, pin.chain.hex(), pin.schema)
    tags = [
        tag.name
        for tag in all_tags(log, dataset)
        if (tag.position, tag.version.chain) == (pin.watermark, version.chain)
    ]
    erased = epoch.erased_positions()
    recent, sources = 0, Counter[str | None]()
    for positions in epoch.ranked(_ROWS):
        recent += int(np.count_nonzero(positions >= pin.since))
        sources.update(dict(read(log.engine, sources_among, log.dataset_id, positions)))
    revised = _revised(epoch, pin.since, pin.watermark) if pin.since else 0
    return EpochLineage(
        run=epoch.run.name,
        number=pin.number,
        pinned_at=pinned.pinned_at,
        version=version,
        schema=pin.schema,
        tags=tags,
        since=pin.since,
        start=pin.start,
        size=pin.size,
        new=recent - revised,
        revised=revised,
        erased=len(erased),
        # Databases disagree on where NULL sorts; equal counts are in the order of their names.
        sources=dict(sorted(sources.items(), key=lambda pair: (-pair[1], pair[0] or ""))),
        classes={
            name: _classes(epoch, name, feature, erased)
            for name, feature in epoch.features.items()
            if isinstance(feature, ClassLabel)
        },
    )


def entries_of(epoch: Epoch) -> Iterator[Entry]:
    """Yield the rows of an epoch's samples, in the order of the log; a replay's drawn ones last."""
    log = epoch.source.log
    for positions in epoch.ranked(_ROWS):
        rows = read(log.engine, entries_among, log.dataset_id, positions)
        by_position = {row.position: row for row in rows}
        yield from (by_position[position] for position in positions.tolist())


def _classes(epoch: Epoch, name: str, label: ClassLabel, erased: Positions) -> dict[str, int]:
    counts = np.zeros(label.count, np.int64)
    for positions in epoch.ranked(_CHUNK):
        # An erased sample has no value, and reading it would be an error.
        kept = np.setdiff1d(positions, erased, assume_unique=True) if len(erased) else positions
        counts += np.bincount(epoch.source.values(name, kept), minlength=label.count)
    names = label.names or tuple(map(str, range(label.count)))
    return dict(zip(names, counts.tolist(), strict=True))


def _revised(epoch: Epoch, since: int, until: int) -> int:
    """Return how many of an epoch's samples revise a key that has a row before ``since``."""
    log = epoch.source.log
    parts: list[npt.NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    for after in range(since, until, _CHUNK):
        end = min(until, after + _CHUNK)
        parts.append(read(log.engine, _supersessions, log.dataset_id, after, end))
    positions, supersedes = np.concatenate(parts).T
    # Each row points to the one that it supersedes, if that is also since then, and else to itself.
    index = np.searchsorted(positions, supersedes)
    index = np.minimum(index, max(0, len(positions) - 1))
    first = np.where(positions[index] == supersedes, index, np.arange(len(positions)))
    while not np.array_equal(again := first[first], first):
        first = again
    # The first of them since then: does it supersede a row from before?
    changed = positions[supersedes[first] < since]
    return len(epoch.held(changed))


def _supersessions(
    connection: Connection, dataset_id: int, after: int, until: int
) -> npt.NDArray[np.int64]:
    """Read which rows at ``[after, until)`` supersede which, of shape ``(count, 2)``."""
    query = select(SampleRow.position, SampleRow.supersedes).where(
        SampleRow.dataset_id == dataset_id,
        SampleRow.position >= after,
        SampleRow.position < until,
        SampleRow.supersedes.is_not(None),
    )
    rows = [tuple(row) for row in connection.execute(query.order_by(SampleRow.position))]
    return np.array(rows, np.int64).reshape(-1, 2)
