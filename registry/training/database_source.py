"""Samples read from the database, for machines on which no mirror can be kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Column
from registry.samples.schema import Schema
from registry.storage.database.transactions import read
from registry.storage.log.erasures import erased_at
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.records import records_at
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.index import Index, in_memory
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.packed import Packed
from registry.storage.mirror.repair import confirm
from registry.training.filters import filters
from registry.training.population import (
    Population,
    erased_in_database,
    live_in_database,
)
from registry.training.source import drawn_ranks, refuse_erased
from registry.training.value_columns import ValueColumn, Values, page_values


class DatabaseSource:
    """A `Source` that queries the database for every read. It keeps no files, and is slow."""

    def __init__(self, log: Log, watermark: Watermark) -> None:
        self.log = log
        self._watermark = watermark

    @property
    def record_bytes(self) -> int:
        return self.log.schemas.newest.codec.header.itemsize

    def index(
        self,
        population: Population,
        size: int | None,  # noqa: ARG002
        older: int | None = None,  # noqa: ARG002
        *,
        follow: bool = True,  # noqa: ARG002
    ) -> Index:
        positions = self._live(population, population.since, population.watermark)
        if population.draw is None:
            return in_memory(iter([positions]))
        before = self._live(population, 0, population.since)
        # The drawn ones last, as in `MirrorSource`: a rank is the same sample in any source.
        ranks = drawn_ranks(population, len(positions), len(before))
        index = in_memory(iter([positions, before[ranks]]))
        return replace(index, older=len(before)) if population.conditions else index

    def values(self, feature: str, positions: Positions) -> Values:
        schema = self.log.schemas.newest
        records = self._records(positions, schema)
        return ValueColumn.of(feature, schema.features).of_records(schema.codec, records)

    def take_rows(self, positions: Positions, schema: Schema) -> Rows:
        records = self._records(positions, schema)
        return np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)

    def take_columns(self, positions: Positions, schema: Schema) -> dict[str, Column]:
        return schema.codec.decode_rows(self.take_rows(positions, schema))

    def take_packed(self, positions: Positions, schema: Schema) -> Packed:
        records = self._records(positions, schema)
        sizes = np.fromiter(map(len, records), np.int64, len(records))
        return Packed.of_records(schema.codec, b"".join(records), sizes)

    def _records(self, positions: Positions, schema: Schema) -> Sequence[bytes]:
        wanted = positions.tolist()
        records = read(self.log.engine, records_at, self.log.dataset_id, wanted)
        # After the read: a database restored meanwhile may have other rows at these positions.
        confirm(self.log, self._watermark)
        # An erased sample's record is empty, which no stored record is; decoding it would fail.
        if not all(records):
            rows = read(self.log.engine, erased_at, self.log.dataset_id, wanted)
            refuse_erased([(row.position, row.key) for row in rows])
        return self._projected(records, wanted, schema)

    def local_files(self, index: Index) -> LocalFiles | None:
        pass

    def erased(self, population: Population) -> Positions:
        return read(self.log.engine, erased_in_database, self.log.dataset_id, population)

    def _projected(
        self, records: Sequence[bytes], positions: Sequence[int], schema: Schema
    ) -> Sequence[bytes]:
        """Return records, as they are stored at positions, as those of a schema."""
        if not positions:
            return records
        last = self.log.schemas.at(max(positions))
        newest = last if last.number > schema.number else schema
        brought = self.log.schemas.brought(positions, records, newest)
        projection = newest.projection(schema)
        return brought if projection.identical else [projection.back(record) for record in brought]

    def _live(self, population: Population, after: int, until: int) -> Positions:
        dataset = self.log.dataset_id
        live = read(self.log.engine, live_in_database, dataset, population, after, until)
        if not population.conditions:
            return live
        matching = [np.empty(0, np.int64), *self._matching(population, after, until)]
        confirm(self.log, self._watermark)
        return np.intersect1d(live, np.concatenate(matching), assume_unique=True)

    def _matching(self, population: Population, after: int, until: int) -> Iterator[Positions]:
        """Yield the positions in ``[after, until)`` whose records meet the conditions, in order."""
        tests = filters(population.conditions, self.log.codec.features)
        for page in pages(self.log, after, until):
            mask = page.held
            for each in tests:
                mask &= each(page_values(self.log, each.column, page))
            yield np.flatnonzero(mask) + page.start
