"""The live samples of a dataset with their keys, in the order of the log, in pages.

The positions up to the head are divided into ranges. For each range, one query reads the keys and
record sizes of the live rows. The records follow in further queries, each for at most `PAGE_BYTES`
of records. Each query has its own short transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, func, select

from registry.catalog.dataset import Dataset
from registry.errors import ErasedError
from registry.samples.codec import Column
from registry.samples.schema import Schema
from registry.samples.splits import interval
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.entries import rows_at
from registry.storage.log.records import records_at
from registry.training.population import Population, live_in_database

RANGE_ROWS = 1 << 14
"""Positions in one query for live rows."""
_SEARCHED_ROWS = 1 << 18
"""Positions that one statement searches for a group."""
PAGE_BYTES = 8 << 20
"""Bytes of records in a page; a larger record is a page alone."""


class _LiveRow(NamedTuple):
    position: int
    key: str
    group: str | None
    size: int


class Samples(NamedTuple):
    """Keys, a column per feature with a value for each key, and the total bytes of the records.

    ``groups`` has the group of each key, or None.
    """

    keys: Sequence[str]
    columns: dict[str, Column]
    size: int
    groups: Sequence[str | None] = ()


def live_samples(engine: Engine, dataset: Dataset) -> Iterator[Samples]:
    """Yield the samples alive at the dataset's head, which is read at the first iteration.

    Raises `ErasedError` if some of them were erased meanwhile, or after the version at which the
    dataset was opened; `DatasetDroppedError` if it was dropped meanwhile; and `LogGapError` if
    rows are missing.
    """
    # The watermark is fixed here: rows appended during the export do not change what is live.
    population = Population(dataset.head.position, interval({}, None))
    schema = dataset.schema
    for after in range(0, population.watermark, RANGE_ROWS):
        until = min(population.watermark, after + RANGE_ROWS)
        query = partial(
            _live_rows, dataset_id=dataset.id, population=population, after=after, until=until
        )
        for page in _pages(read(engine, query)):
            yield _samples(engine, dataset, schema, page)


def has_groups(engine: Engine, dataset: Dataset) -> bool:
    """Return whether any row of the dataset, as it is opened, has a group."""
    head = dataset.head.position
    # In parts: a statement that searches the whole log could exceed the statement timeout.
    for after in range(0, head, _SEARCHED_ROWS):
        query = (
            select(SampleRow.position)
            .where(
                SampleRow.dataset_id == dataset.id,
                SampleRow.position >= after,
                SampleRow.position < min(head, after + _SEARCHED_ROWS),
                SampleRow.group_key.is_not(None),
            )
            .limit(1)
        )
        if read(engine, partial(_any, query=query)):
            return True
    return False


def _any(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query).first() is not None


def _samples(engine: Engine, dataset: Dataset, schema: Schema, page: Sequence[_LiveRow]) -> Samples:
    positions = [row.position for row in page]
    # A transaction for each page, so that none stays open while the caller writes the page. Rows
    # may be erased after `_live_rows` has read them; their records are empty then.
    records = read(engine, partial(records_at, dataset_id=dataset.id, positions=positions))
    if not all(records):
        raise ErasedError(
            repr(str(dataset.version)),
            [
                (row.position, row.key)
                for row, record in zip(page, records, strict=True)
                if not record
            ],
            "export a later version",
        )
    data = b"".join(dataset.schemas.brought(positions, records, schema))
    return Samples(
        [row.key for row in page],
        schema.codec.decode(data, len(records)),
        len(data),
        [row.group for row in page],
    )


def _live_rows(
    connection: Connection, dataset_id: int, population: Population, after: int, until: int
) -> list[_LiveRow]:
    """Return the live rows at positions ``[after, until)``, without reading their records."""
    # The record of a retraction is NULL.
    size = func.coalesce(func.length(SampleRow.record), 0)
    wanted = select(SampleRow.position, SampleRow.key, SampleRow.group_key, size)
    rows = rows_at(connection, wanted, dataset_id, after, until)
    live = {*live_in_database(connection, dataset_id, population, after, until).tolist()}
    return [row for row in starmap(_LiveRow, rows) if row.position in live]


def _pages(rows: Sequence[_LiveRow]) -> Iterator[list[_LiveRow]]:
    page: list[_LiveRow] = []
    size = 0
    for row in rows:
        # `page` may be empty here: a record larger than PAGE_BYTES must not yield an empty page.
        if page and size + row.size > PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(row)
        size += row.size
    if page:
        yield page
