"""The live samples of a dataset, in the order of the log, in pages.

The positions up to the head are divided into ranges. For each range, one query reads which rows are
superseded; then the pages of the range are read, except long stretches without a live row. Each
query has its own short transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Select, select

from registry.errors import ErasedError
from registry.samples.arrays import Positions
from registry.samples.codec import Codec, Column
from registry.samples.fields import Fields
from registry.samples.projection import Projection
from registry.samples.schema import Schema
from registry.storage.database.models import SampleRow
from registry.storage.database.transactions import read
from registry.storage.log.erasures import erased_at
from registry.storage.log.page import Page
from registry.storage.log.row_texts import RowText, row_texts
from registry.storage.log.superseded import superseded

if TYPE_CHECKING:
    from registry.catalog.dataset import Dataset

RANGE_ROWS = 1 << 20
"""Positions in one query for superseded rows."""
_LONG_STRETCH = 1 << 12
"""Superseded rows in succession from which on their pages are not read."""
_SEARCHED_ROWS = 1 << 18
"""Positions that one statement searches for a group."""

KEYS_AND_GROUPS: tuple[RowText, ...] = ("key", "group_key")


@dataclass(frozen=True)
class Samples:
    """Live samples in the order of the log.

    ``data`` has their records of one codec, one after another, and ``sizes`` the lengths of these
    in bytes, None where all have the codec's fixed width. ``positions`` (int64), ``buckets``
    (uint16) and ``texts`` have a value for each sample: those that were asked for of keys, groups
    and sources.
    """

    codec: Codec
    positions: Positions
    buckets: npt.NDArray[np.uint16]
    data: bytes | memoryview
    sizes: Positions | None
    texts: Mapping[RowText, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def size(self) -> int:
        """The total length of the records in bytes."""
        return len(self.data)

    @property
    def keys(self) -> Sequence[str]:
        return self.texts["key"]

    @property
    def groups(self) -> Sequence[str | None]:
        """The group of each sample, or None."""
        return self.texts["group_key"]

    @property
    def fields(self) -> Fields:
        """The records taken apart."""
        return Fields.of_records(self.codec, self.data, self.sizes)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """A column per feature with a value for each sample, as `Codec.decode` returns it."""
        return self.codec.decode(self.data, len(self))


def live_samples(dataset: Dataset, texts: Sequence[RowText] = KEYS_AND_GROUPS) -> Iterator[Samples]:
    """Yield the samples alive at the dataset's head, which is read at the first iteration.

    ``texts`` are the columns of the log that are read with them. Raises `ErasedError` if some of
    the samples were erased meanwhile, or after the version at which the dataset was opened;
    `DatasetDroppedError` if it was dropped meanwhile; and `LogGapError` if rows are missing.
    """
    # The watermark is fixed here: rows appended meanwhile do not change what is live.
    dataset = dataset.snapshot()
    head = dataset.head
    for after in range(0, head.position, RANGE_ROWS):
        until = min(head.position, after + RANGE_ROWS)
        dead: Positions = np.empty(0, np.int64)
        if head.live < head.position:  # otherwise no row is superseded
            engine = dataset.schemas.engine
            dead = read(engine, superseded, dataset.id, after, until, head.position)
        for start, stop in _stretches(after, until, dead):
            for page in dataset.pages(start, stop):
                here = dead[slice(*np.searchsorted(dead, [page.start, page.stop]))]
                if len(samples := _samples(dataset, page, here, texts)):
                    yield samples


def has_groups(dataset: Dataset) -> bool:
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
        if read(dataset.schemas.engine, partial(_any, query=query)):
            return True
    return False


def _any(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query).first() is not None


def _stretches(after: int, until: int, dead: Positions) -> Iterator[tuple[int, int]]:
    """Yield the parts of ``[after, until)`` between long runs of positions that are all dead."""
    edges = np.flatnonzero(np.diff(dead, prepend=-2) != 1)
    for first, end in zip(edges, np.append(edges, len(dead))[1:], strict=True):
        if end - first >= _LONG_STRETCH:
            if after < dead[first]:
                yield after, int(dead[first])
            after = int(dead[end - 1]) + 1
    if after < until:
        yield after, until


def _samples(dataset: Dataset, page: Page, dead: Positions, texts: Sequence[RowText]) -> Samples:
    """Return a page's live samples in the dataset's schema."""
    _refuse_erased(dataset, page, dead)
    alive = ~np.isin(page.positions, dead, assume_unique=True)
    data, sizes = _records(page, alive)
    if page.schema.layout != dataset.schema.layout:
        projection = dataset.schema.projection(page.schema)
        data, sizes = _projected(projection, page.schema, dataset.schema, data, sizes)
    positions = page.positions[alive]
    columns: list[Sequence[Any]] = [()] * len(texts)
    if texts and len(positions):
        arguments = dataset.id, texts, page.start, page.stop
        columns = [*read(dataset.schemas.engine, row_texts, *arguments)]
        if len(positions) < len(page):
            wanted = (positions - page.start).tolist()
            columns = [[column[row] for row in wanted] for column in columns]
    named = dict(zip(texts, columns, strict=True))
    buckets = page.buckets[positions - page.start]
    return Samples(dataset.schema.codec, positions, buckets, data, sizes, named)


def _refuse_erased(dataset: Dataset, page: Page, dead: Positions) -> None:
    # A row that was erased is retracted later, and is dead from then on.
    if len(lost := np.setdiff1d(page.erased, dead)):
        rows = read(dataset.schemas.engine, erased_at, dataset.id, lost.tolist())
        named = [(row.position, row.key) for row in rows]
        raise ErasedError(repr(str(dataset.version)), named, "read a later version")


def _records(
    page: Page, alive: npt.NDArray[np.bool_]
) -> tuple[bytes | memoryview, Positions | None]:
    """Return the records of a page that are ``alive``, one after another, and their sizes."""
    if alive.all():
        return page.data, page.sizes
    if page.sizes is None:
        rows = np.frombuffer(page.data, f"V{page.codec.header.itemsize}")[alive]
        return rows.view(np.uint8).data, None
    ends = np.cumsum(page.sizes)
    # Runs of live rows are copied in one piece each.
    edges = np.flatnonzero(np.diff(alive, prepend=False, append=False)).reshape(-1, 2)
    bounds = np.append(0, ends)[edges].tolist()
    view = memoryview(page.data)
    return b"".join([view[start:stop] for start, stop in bounds]), page.sizes[alive]


def _projected(
    projection: Projection,
    older: Schema,
    newer: Schema,
    data: bytes | memoryview,
    sizes: Positions | None,
) -> tuple[bytes | memoryview, Positions | None]:
    """Bring records to a newer schema."""
    if sizes is None:
        rows = np.frombuffer(data, np.uint8).reshape(-1, older.codec.header.itemsize)
        brought = projection.forward_rows(rows)
        widths = None if newer.codec.fixed_width else np.full(len(rows), brought.shape[1])
        return brought.reshape(-1).data, widths
    ends = np.cumsum(sizes).tolist()
    view = memoryview(data)
    ranges = zip([0, *ends], ends, strict=False)
    records = [projection.forward(view[start:stop]) for start, stop in ranges]
    return b"".join(records), np.array([*map(len, records)], np.int64)
