"""The live samples of a dataset with their keys, in order, some at a time."""

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
"""Positions that are looked through at a time."""
PAGE_BYTES = 8 << 20
"""Bytes of records that are taken into memory at a time, about."""


class _Place(NamedTuple):
    position: int
    key: str
    size: int


class Samples(NamedTuple):
    """Keys, a column of as many values for each feature, and the bytes of their records."""

    keys: Sequence[str]
    columns: dict[str, Column]
    size: int


def live_samples(engine: Engine, dataset: Dataset) -> Iterator[Samples]:
    """Yield the samples alive at the dataset's head, as it is when the first are asked for.

    Raises `ErasedError` where some of them were erased meanwhile, or since the version that the
    dataset was opened at, `DatasetDroppedError` where it was dropped meanwhile, and `LogGapError`
    where rows are missing.
    """
    codec = Codec(dataset.features)
    everything = Population(dataset.head.position, interval({}, None))
    for after in range(0, everything.watermark, RANGE_ROWS):
        until = min(everything.watermark, after + RANGE_ROWS)
        find = partial(
            _places, dataset_id=dataset.id, population=everything, after=after, until=until
        )
        for page in _pages(read(engine, find)):
            positions = [place.position for place in page]
            fetch = partial(records_at, dataset_id=dataset.id, positions=positions)
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
    """Return where the live rows are; sizes are known without reading the records."""
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
