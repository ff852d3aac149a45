"""Appends to a log in one call: of batches, which are divided into chunks, and of one amendment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from registry.errors import RegistryError
from registry.samples.keys import check_key, check_source
from registry.storage.log.batch import Amend, Batch, Outcome, Report
from registry.storage.log.schemas import Schemas
from registry.storage.log.writer import transact_in

CHUNK_ROWS = 1 << 16
CHUNK_BYTES = 64 << 20
"""A larger insert takes several transactions, so that other writers get the lock in between."""


def append(schemas: Schemas, batch: Batch) -> Report:
    """Append a batch: all of it or, on an error, nothing.

    A batch over `CHUNK_ROWS` or `CHUNK_BYTES` is divided into chunks, each of which is appended
    completely or not at all. If one fails, appending the same keys again completes the batch: rows
    that are already stored count as unchanged.
    """
    total: Report | None = None
    for chunk in _chunks(batch):
        try:
            report = _append_one(schemas, chunk)
        except RegistryError as error:
            if total is not None:
                error.add_note(f"the first chunks are stored, up to position {total.head.position}")
            raise
        total = total + report if total else report
    assert total is not None
    return total


def append_all(schemas: Schemas, batches: Iterable[Batch]) -> Report:
    """Append batches one after another, each as `append` does; there must be at least one.

    An error has a note of how many rows the batches before it had.
    """
    total: Report | None = None
    rows = 0
    try:
        for batch in batches:
            report = append(schemas, batch)
            total = total + report if total else report
            rows += len(batch.keys)
    except RegistryError as error:
        if rows:
            error.add_note(f"the first {rows:,} rows are stored")
        raise
    assert total is not None
    return total


def amend(schemas: Schemas, key: str, change: Amend | None, source: str | None) -> Report:
    """Replace a key's latest record by the result of ``change``, or retract it if that is None.

    The record is read under the lock on the head, so that no concurrent revision is lost. Raises
    `SampleNotFoundError` where the dataset never had the key, and `InvalidSampleError` for a text
    that cannot be a key or a source.
    """
    # The database's error for a NUL would not name the key.
    check_key(key)
    check_source(source)
    return _append_one(schemas, Batch([key], [change], [source]))


def append_each(schemas: Schemas, batches: Sequence[Batch | RegistryError]) -> list[Outcome]:
    """Append batches in one transaction; return a report or an error for each.

    A batch that fails does not affect the others.
    """
    return transact_in(schemas, lambda writer: writer.append(batches), batches=batches)


def _append_one(schemas: Schemas, batch: Batch) -> Report:
    (outcome,) = append_each(schemas, [batch])
    if isinstance(outcome, RegistryError):
        raise outcome
    return outcome


def _chunks(batch: Batch) -> Iterator[Batch]:
    """Divide a batch by rows and bytes; an empty batch is one chunk, which results in a report."""
    if len(batch.records) <= 1:
        yield batch
        return
    count = len(batch.records)
    try:
        sizes = np.fromiter(map(len, batch.records), np.int64, count)  # type: ignore[arg-type]
    except TypeError:
        # A retraction has no bytes, and the size of an amended record is not known yet.
        known = (len(record) if isinstance(record, bytes) else 0 for record in batch.records)
        sizes = np.fromiter(known, np.int64, count)
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        fitting = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        # At least one row: a record may be larger than a chunk.
        stop = min(max(fitting, start + 1), start + CHUNK_ROWS)
        yield _cut(batch, start, stop)
        start = stop


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    part = slice(start, stop)
    return replace(
        batch,
        keys=batch.keys[part],
        records=batch.records[part],
        sources=batch.sources[part],
        groups=None if batch.groups is None else batch.groups[part],
        default_groups=None if batch.default_groups is None else batch.default_groups[part],
        first_row=batch.first_row + start,
    )
