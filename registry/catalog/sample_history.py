"""A sample as people look at it: its newest revisions, and the epochs that held each one.

Every call does a bounded amount of work, whatever the log and the runs have, and writes nothing:
rows that wait in the inbox stay there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from sqlalchemy import Connection, func, select

from registry.catalog.dataset import Dataset
from registry.samples.arrays import Positions
from registry.samples.keys import check_key
from registry.samples.splits import BUCKETS
from registry.storage.database.models import EpochRow
from registry.storage.database.transactions import read
from registry.storage.log import key_lookup
from registry.storage.log.entries import LAST, Entry, bucket_of
from registry.training import run_store
from registry.training.filters import filters
from registry.training.policy import Replay
from registry.training.run_store import RunSettings
from registry.training.value_columns import SOURCES, text_hash

_Stored: TypeAlias = tuple[key_lookup.StoredRevision, int | None]
"""A revision, and the position of the one that replaced it."""

MOST_BYTES = 32 << 20
"""Bytes of records that one call reads, together."""
LARGEST_VALUE = 64 << 20
"""Bytes of the largest record of which `value_at` returns a value."""
MOST_RUNS = 20
"""Runs whose epochs are searched: the newest ones."""
MOST_EPOCHS = 1000
"""Epochs of each run that are searched: the newest ones."""


@dataclass(frozen=True)
class ListedRevision:
    """A revision of a sample.

    ``sample`` has its values by feature, in the schema of the dataset; None for a retraction, for
    an erased row, and where the record, of ``size`` bytes, is too large to be read with the others.
    ``superseded_at`` is the position of the revision that replaced it, if there is one.
    """

    entry: Entry
    size: int
    sample: dict[str, Any] | None
    superseded_at: int | None


@dataclass(frozen=True)
class HoldingEpochs:
    """The epochs ``first`` to ``last`` of a run, all of which held a revision.

    If not ``certain``, they may have held it: a replay draws older samples at random, and whether
    an erased sample met a run's conditions is not known any more.
    """

    run: str
    first: int
    last: int
    certain: bool


def newest_revisions(
    dataset: Dataset, key: str, *, before: int | None = None, limit: int = 10
) -> list[ListedRevision]:
    """Return a key's newest revisions before a position, the newest first.

    Raises `InvalidSampleError` for a text that is no key.
    """
    check_key(key)
    log, end = dataset.log, dataset.extent.stored_end()
    until = end if before is None else min(before, end)

    def work(connection: Connection) -> list[_Stored]:
        positions = key_lookup.newest_positions(connection, log.dataset_id, key, until, limit)
        rows = key_lookup.stored_revisions(connection, log.dataset_id, positions, MOST_BYTES)
        newer = None
        if positions:
            newer = key_lookup.superseded_at(connection, log.dataset_id, positions[0])
        followers = [newer if newer is not None and newer < end else None, *positions]
        return list(zip(rows, followers, strict=False))

    return _listed(dataset, read(log.engine, work))


def newest_of_keys(dataset: Dataset, keys: Sequence[str]) -> list[ListedRevision]:
    """Return the newest revision of each key that the dataset, or the version, has."""
    log, end = dataset.log, dataset.extent.stored_end()

    def work(connection: Connection) -> list[_Stored]:
        positions = [
            position
            for key in keys
            for position in key_lookup.newest_positions(connection, log.dataset_id, key, end, 1)
        ]
        rows = key_lookup.stored_revisions(connection, log.dataset_id, positions, MOST_BYTES)
        return [(row, None) for row in rows]

    return _listed(dataset, read(log.engine, work))


def _listed(dataset: Dataset, rows: Sequence[_Stored]) -> list[ListedRevision]:
    schema = dataset.schema
    held = [(row.entry.position, row.record) for row, _ in rows if row.record is not None]
    brought = dataset.log.schemas.brought([p for p, _ in held], [r for _, r in held], schema)
    samples = dict(zip((p for p, _ in held), map(schema.codec.decode_one, brought), strict=True))
    return [
        ListedRevision(row.entry, row.size, samples.get(row.entry.position), superseded)
        for row, superseded in rows
    ]


def find_keys(dataset: Dataset, start: str, *, limit: int = 24) -> list[str]:
    """Return the first keys of a dataset that begin with a text, in their order.

    They include keys that were retracted. Raises `InvalidSampleError` for a text that no key has.
    """
    if start:
        check_key(start)
    log = dataset.log
    return read(log.engine, key_lookup.keys_beginning, log.dataset_id, start, limit)


def chain_of_value(dataset: Dataset, position: int) -> bytes | None:
    """Return what identifies the values at a position of the log; None where there are none."""
    log = dataset.log
    if not 0 <= position < dataset.extent.stored_end():
        return None
    return read(log.engine, key_lookup.chain_of_record, log.dataset_id, position)


def value_at(dataset: Dataset, position: int, feature: str) -> Any:
    """Return the value of a feature at a position of the log.

    None if there is none: the row is a retraction, was erased, is not in the dataset, or has no
    such feature.
    """
    schema, log = dataset.schema, dataset.log
    if feature not in schema.features or not 0 <= position < dataset.extent.stored_end():
        return None
    (row,) = read(
        log.engine, key_lookup.stored_revisions, log.dataset_id, [position], LARGEST_VALUE
    )
    if row.record is None:
        return None
    (record,) = log.schemas.brought([position], [row.record], schema)
    return schema.codec.decode_one(record)[feature]


def epochs_holding(
    dataset: Dataset, revisions: Sequence[ListedRevision]
) -> list[list[HoldingEpochs]]:
    """Return, for each revision of one key, the epochs that held it, by run.

    The newest `MOST_EPOCHS` epochs of the `MOST_RUNS` newest runs are searched.
    """
    if not revisions:
        return []
    log = dataset.log
    settings = run_store.all_settings(log.engine, log.dataset_id)
    runs = sorted(settings, key=lambda run: run.created_at, reverse=True)[:MOST_RUNS]

    def work(connection: Connection) -> list[tuple[RunSettings, Positions]]:
        bucket = bucket_of(connection, log.dataset_id, revisions[0].entry.key)
        assert bucket is not None
        inside = [run for run in runs if _in_split(dataset, run, bucket)]
        return [(run, _newest_pins(connection, run)) for run in inside]

    pins = read(log.engine, work)
    return [
        [held for run, ends in pins for held in _holding(dataset, run, ends, revision)]
        for revision in revisions
    ]


def _newest_pins(connection: Connection, run: RunSettings) -> Positions:
    """Read the numbers, the beginnings and the watermarks of epochs, int64 ``(count, 3)``."""
    newest = select(func.max(EpochRow.number)).where(EpochRow.run_id == run.id).scalar_subquery()
    query = (
        select(EpochRow.number, EpochRow.since, EpochRow.watermark)
        .where(EpochRow.run_id == run.id, EpochRow.number > newest - MOST_EPOCHS)
        .order_by(EpochRow.number)
    )
    rows = [tuple(row) for row in connection.execute(query)]
    return np.array(rows, np.int64).reshape(-1, 3)


def _holding(
    dataset: Dataset, run: RunSettings, pins: Positions, revision: ListedRevision
) -> Iterator[HoldingEpochs]:
    met = None if revision.entry.action == "retract" else _meets(dataset, run, revision)
    if revision.entry.action == "retract" or met is False:
        return
    numbers, since, watermarks = pins.T
    position, end = revision.entry.position, revision.superseded_at
    live = (watermarks > position) & (watermarks <= (LAST if end is None else end))
    new = live if run.policy == "all" else live & (since <= position)
    # Both watermarks and numbers ascend, so that each of these is a range.
    if new.any():
        first, last = numbers[new][[0, -1]].tolist()
        yield HoldingEpochs(run.name, first, last, certain=met is not None)
    if isinstance(run.policy, Replay) and (live & ~new).any():
        first, last = numbers[live & ~new][[0, -1]].tolist()
        yield HoldingEpochs(run.name, first, last, certain=False)


def _in_split(dataset: Dataset, run: RunSettings, bucket: int) -> bool:
    start, stop = (0, BUCKETS) if run.split is None else dataset.splits.get(run.split, (0, 0))
    return start <= bucket < stop


def _meets(dataset: Dataset, run: RunSettings, revision: ListedRevision) -> bool | None:
    """Return whether a revision meets a run's conditions; None if it is not known any more."""
    if not run.conditions:
        return True
    if revision.sample is None:
        return None
    # In the run's own schema the features that it names are the same.
    record = dataset.schema.codec.encode(
        {name: [value] for name, value in revision.sample.items()}, stored=revision.sample
    )
    for each in filters(run.conditions, dataset.features):
        if each.column is SOURCES:
            source = revision.entry.source
            value = text_hash(None if source is None else source.encode())
            values = np.array([value], np.uint64)
        else:
            values = each.column.of_records(dataset.schema.codec, record)
        if not each(values)[0]:
            return False
    return True
