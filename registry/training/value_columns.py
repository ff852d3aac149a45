"""Columns of values, one per row of a log, for conditions and for counts.

A value is a number, or stands for a text: conditions on texts and sources compare hashes of 8
bytes.
Rows without a value, which are retractions and erased rows, have 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, func, or_, select

from registry.samples.arrays import Rows
from registry.samples.codec import Codec
from registry.samples.features import ClassLabel, Features, FixedFeature, Tensor
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.page import Page
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.standby import chain_reached
from registry.storage.mirror.layouts import in_layout
from registry.storage.mirror.snapshot import View

Values = npt.NDArray[Any]
SOURCE_ROWS = 1 << 18
"""Rows whose sources are read by one query."""


@dataclass(frozen=True)
class ValueColumn:
    """The values of a feature, or with None the hashes of the rows' sources; and their dtype."""

    feature: str | None
    dtype: str

    @classmethod
    def of(cls, name: str, features: Features) -> ValueColumn:
        """Return the column of a feature: a `ClassLabel`, a `Text` or a scalar `Tensor`."""
        feature = features[name]
        if isinstance(feature, Tensor):
            return cls(name, np.dtype(feature.dtype).newbyteorder("<").str)
        return cls(name, "<i4" if isinstance(feature, ClassLabel) else "<u8")

    @property
    def name(self) -> str:
        """A name for files, unique among the columns of a dataset."""
        # Hashed, as a feature's name may hold characters that no file name can.
        if self.feature is None:
            return "source"
        return blake2b(self.feature.encode(), digest_size=16).hexdigest()

    def of_rows(self, codec: Codec, rows: Rows) -> Values:
        """Return the values in fixed-width records, uint8 rows that begin with them."""
        assert self.feature is not None
        return codec.layout.fixed_column(self.feature, rows)

    def of_view(self, view: View, after: int, until: int) -> tuple[Values, npt.NDArray[np.bool_]]:
        """Return the values of a mirror's rows, whose width varies, and which rows are broken.

        The values of broken rows have no meaning, and those of retractions are 0.
        """
        assert self.feature is not None
        if isinstance(view.schema.features[self.feature], FixedFeature):
            rows, broken = view.sealed_rows(np.arange(after, until))
            return self.of_rows(view.schema.codec, rows), broken
        hashes, mask = np.zeros(until - after, np.uint64), np.zeros(until - after, bool)
        for part in view.parts(after, until):
            values, mask[part - after] = view.take_values(part, self.feature)
            hashes[part - after] = [*map(text_hash, values)]
        return hashes, mask

    def of_records(self, codec: Codec, records: Sequence[bytes | memoryview]) -> Values:
        """Return the values in whole records."""
        assert self.feature is not None
        if isinstance(codec.features[self.feature], FixedFeature):
            size = codec.header.itemsize
            headers = np.frombuffer(b"".join([record[:size] for record in records]), np.uint8)
            return self.of_rows(codec, headers.reshape(-1, size))
        texts = codec.layout.variable_bytes(self.feature, records)
        return np.array([text_hash(text) for text in texts], np.uint64)


SOURCES = ValueColumn(None, "<u8")
"""The hashes of the rows' sources."""


def text_hash(text: bytes | memoryview | None) -> int:
    """Return the hash that stands for a text in UTF-8; 0 for None."""
    # Of a cryptographic hash: nobody can write a text that counts as another one.
    if text is None:
        return 0
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def values_in_database(log: Log, column: ValueColumn, after: int, until: int) -> Values:
    """Read the values of the rows at positions ``[after, until)`` from the database."""
    if column.feature is None:
        return sources_in_database(log, after, until)
    parts = [page_values(log, column, page) for page in pages(log, after, until)]
    return np.concatenate([np.empty(0, column.dtype), *parts])


def page_values(log: Log, column: ValueColumn, page: Page) -> Values:
    """Return the values of a page's rows, shape ``(len(page),)``; the sources are read."""
    if column.feature is None:
        return sources_in_database(log, page.start, page.stop)
    # An older page may lack the feature: its rows have the default.
    page = in_layout(page, log.schemas.newest)
    values = np.zeros(len(page), column.dtype)
    data, width = memoryview(page.data), page.codec.header.itemsize
    if page.sizes is None:
        rows = np.frombuffer(data, np.uint8).reshape(-1, width)
        values[page.held] = column.of_rows(page.codec, rows)
    else:
        stops = np.cumsum(page.sizes)
        ranges = zip((stops - page.sizes).tolist(), stops.tolist(), strict=True)
        records = [data[start:stop] for start, stop in ranges]
        values[page.held] = column.of_records(page.codec, records)
    return values


def sources_in_database(log: Log, after: int, until: int) -> npt.NDArray[np.uint64]:
    """Read the hashes of the sources of the rows at positions ``[after, until)``."""
    hashes = np.zeros(until - after, np.uint64)
    for start in range(after, until, SOURCE_ROWS):
        stop = min(until, start + SOURCE_ROWS)
        for position, source in read(log.engine, source_changes, log.dataset_id, start, stop):
            # Up to the next change of source, which overwrites the rest.
            value = text_hash(None if source is None else source.encode())
            hashes[position - after : stop - after] = value
    return hashes


def source_changes(
    connection: Connection, dataset_id: int, after: int, until: int
) -> Sequence[tuple[int, str | None]]:
    """Read the positions at which the source changes, in order, and the source from there on."""
    chain_reached(connection, dataset_id, until)
    inside = (
        SampleRow.dataset_id == dataset_id,
        SampleRow.position >= after,
        SampleRow.position < until,
    )
    # Most ranges have one source, which this finds several times as fast as the changes.
    named, low, high = connection.execute(
        select(
            func.count(SampleRow.source), func.min(SampleRow.source), func.max(SampleRow.source)
        ).where(*inside)
    ).one()
    if named == 0 or (named == until - after and low == high):
        return [(after, low)]
    rows = select(
        SampleRow.position,
        SampleRow.source,
        func.lag(SampleRow.source).over(order_by=SampleRow.position).label("before"),
    ).where(*inside)
    ranked = rows.subquery()
    changes = (
        select(ranked.c.position, ranked.c.source)
        .where(or_(ranked.c.position == after, ranked.c.source.is_distinct_from(ranked.c.before)))
        .order_by(ranked.c.position)
    )
    return [(position, source) for position, source in connection.execute(changes)]
