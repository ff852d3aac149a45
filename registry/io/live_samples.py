"""The live samples of a dataset with their keys, in the order of the log, in pages.

Of each range of positions, the sizes and keys of the live rows are read first, and then the
records, as many as `PAGE_BYTES` allows. Each query has its own short transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import starmap
from typing import NamedTuple

from sqlalchemy import Connection, Engine, func, select

from registry.catalog.dataset import Dataset
from registry.errors import ErasedError
from registry.samples.codec import Codec, Column
from registry.samples.splits import interval
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.records import records_at
from registry.storage.log.standby import missing_rows
from registry.training.population import Population, live_in_database

RANGE_ROWS = 1 << 14
"""Positions in one query for live rows."""
PAGE_BYTES = 8 << 20
"""Bytes of records in a page; a larger record is a page alone."""


class _Place(NamedTuple):
    position: int
    key: str
    size: int


class Samples(NamedTuple):
    """Keys, a column per feature with a value for each key, and the total bytes of the records."""

    keys: Sequence[str]
    columns: dict[str, Column]
    size: int


def live_samples(engine: Engine, dataset: Dataset) -> Iterator[Samples]:
    """Yield the samples alive at the dataset's head, which is read at the first iteration.

    Raises `ErasedError` if some of them were erased meanwhile, or after the version at which the
    dataset was opened; `DatasetDroppedError` if it was dropped meanwhile; and `LogGapError` if
    rows are missing.
    """
    codec = Codec(dataset.features)
    # The watermark is fixed here: rows appended during the export do not change what is live.
    everything = Population(dataset.head.position, interval({}, None))
    for after in range(0, everything.watermark, RANGE_ROWS):
        until = min(everything.watermark, after + RANGE_ROWS)
        find = partial(
            _places, dataset_id=dataset.id, population=everything, after=after, until=until
        )
        for page in _pages(read(engine, find)):
            positions = [place.position for place in page]
            fetch = partial(records_at, dataset_id=dataset.id, positions=positions)
            # A second transaction, so that none stays open while the caller writes a page. Rows
            # may be erased between the two; their records are empty then.
            records = read(engine, fetch)
            if not all(records):
                rows = zip(page, records, strict=True)
                raise ErasedError(
                    repr(str(dataset.version)),
                    [(place.position, place.key) for place, record in rows if not record],
                    "export a later version",
                )
            data = b"".join(records)
            columns = codec.decode(data, len(records))
            yield Samples([place.key for place in page], columns, len(data))


def _places(
    connection: Connection, dataset_id: int, population: Population, after: int, until: int
) -> list[_Place]:
    """Return the live rows at positions ``[after, until)``, without reading their records."""
    # The record of a retraction is NULL.
    size = func.coalesce(func.length(SampleRow.record), 0)
    rows = connection.execute(
        select(SampleRow.position, SampleRow.key, size)
        .where(
            SampleRow.dataset_id == dataset_id,
            SampleRow.position >= after,
            SampleRow.position < until,
        )
        .order_by(SampleRow.position)
    ).all()
    # Positions have no gaps: fewer rows are an error, which `missing_rows` identifies.
    if len(rows) != until - after:
        raise missing_rows(connection, dataset_id, after, until, len(rows))
    live = {*live_in_database(connection, dataset_id, population, after, until).tolist()}
    return [place for place in starmap(_Place, rows) if place.position in live]


def _pages(rows: Sequence[_Place]) -> Iterator[list[_Place]]:
    page: list[_Place] = []
    size = 0
    for row in rows:
        if page and size + row.size > PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(row)
        size += row.size
    if page:
        yield page
