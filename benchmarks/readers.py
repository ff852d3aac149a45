"""Readers of all rows of a dataset: our pages, and other ways to read the same rows.

Each opens its connection beforehand, and returns or yields only the work to be timed, since our own
connections are open by then, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from sqlalchemy import select

from benchmarks.measure import Work
from benchmarks.server import Database
from registry import Dataset, Registry
from registry.samples.codec import Codec
from registry.storage.database.models import DatasetRow, SampleRow


def records_query(reg: Registry, dataset: Dataset) -> str:
    """Return the SQL that every reader but ours runs; tools differ in how they pass parameters."""
    with reg.engine.connect() as connection:
        query = select(DatasetRow.id).where(DatasetRow.name == dataset.name)
        dataset_id = connection.execute(query).scalar_one()
    return (
        f"SELECT record FROM samples WHERE dataset_id = {dataset_id} AND position >= 0 "
        f"AND position < {dataset.head.position} ORDER BY position"
    )


def page_reader(dataset: Dataset) -> Work:
    """Read every column of every page."""
    names = list(dataset.features)

    def work() -> int:
        return sum(min(len(page[name]) for name in names) for page in dataset.pages())

    return work


def span_reader(dataset: Dataset, span: int, times: int) -> Work:
    """Read ``times`` ranges of ``span`` rows, whose starts are drawn with a fixed seed."""
    span = min(span, len(dataset))
    starts = np.random.default_rng(0).integers(0, len(dataset) - span, times, endpoint=True)

    def work() -> int:
        rows = 0
        for start in starts.tolist():
            for page in dataset.pages(start, start + span):
                rows += min(len(page[name]) for name in dataset.features)
        return rows

    return work


@contextmanager
def adbc_reader(database: Database, query: str, dataset: Dataset) -> Iterator[Work]:
    """Read Arrow batches as structured arrays."""
    layout = Codec(dataset.features).header
    fields = list(layout.names or ())
    with dbapi.connect(database.url, autocommit=True) as connection, connection.cursor() as cursor:

        def work() -> int:
            rows = 0
            cursor.execute(query)
            with cursor.fetch_record_batch() as batches:
                for batch in batches:
                    records = as_records(batch.column(0), layout)
                    rows += min(len(records[field]) for field in fields)
            return rows

        yield work


def as_records(column: pa.Array, layout: np.dtype[Any]) -> npt.NDArray[Any]:
    """View an Arrow binary column as records without a copy: its values are contiguous."""
    _, offsets, data = column.buffers()
    first = np.frombuffer(offsets, np.int32, 1, 4 * column.offset)[0] if len(column) else 0
    return np.frombuffer(data, layout, len(column), int(first))


@contextmanager
def copy_reader(database: Database, query: str, dataset: Dataset) -> Iterator[Work]:
    """Read a binary COPY to its end. Rows have one width, so they are counted by their bytes."""
    # A row has a field count, the record's length, and the record. A header and a trailer surround
    # all rows.
    width = 2 + 4 + Codec(dataset.features).header.itemsize
    with psycopg.connect(database.url, autocommit=True) as connection:

        def work() -> int:
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy,
            ):
                size = sum(map(len, copy))
            return (size - 19 - 2) // width

        yield work


@contextmanager
def core_reader(reg: Registry, dataset: Dataset) -> Iterator[Work]:
    """Stream with SQLAlchemy Core, and view the records of a partition at a time."""
    layout = Codec(dataset.features).header
    dataset_id = select(DatasetRow.id).where(DatasetRow.name == dataset.name).scalar_subquery()
    statement = (
        select(SampleRow.record)
        .where(SampleRow.dataset_id == dataset_id, SampleRow.position >= 0)
        .where(SampleRow.position < dataset.head.position)
        .order_by(SampleRow.position)
    )
    with reg.engine.connect().execution_options(yield_per=10_000) as connection:

        def work() -> int:
            partitions = connection.execute(statement).scalars().partitions()
            return sum(
                len(np.frombuffer(b"".join(filter(None, part)), layout)) for part in partitions
            )

        yield work
