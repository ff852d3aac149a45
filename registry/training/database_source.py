"""Samples read from the database, for machines on which no mirror can be kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from registry.samples.arrays import Positions, Rows
from registry.storage.database.transactions import read
from registry.storage.log.erasures import erased_between
from registry.storage.log.reader import Log
from registry.storage.log.records import records_at
from registry.storage.mirror.index import Index, in_memory
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.repair import confirm
from registry.training.population import (
    Population,
    erased_in_database,
    live_in_database,
)
from registry.training.source import Record, drawn, refuse


class DatabaseSource:
    """A `Source` that queries the database for every read. It keeps no files, and is slow."""

    def __init__(self, log: Log, watermark: int, chain: bytes) -> None:
        self.log = log
        self._history = watermark, chain

    @property
    def record_bytes(self) -> int:
        return self.log.codec.header.itemsize

    def index(self, population: Population, size: int | None) -> Index:  # noqa: ARG002
        def live(after: int, until: int) -> Positions:
            return read(
                self.log.engine, live_in_database, self.log.dataset_id, population, after, until
            )

        positions = live(population.since, population.watermark)
        if population.draw is not None:
            older = live(0, population.since)
            # The drawn ones last, as in `MirrorSource`: a rank is the same sample in any source.
            positions = np.append(positions, older[drawn(population, len(positions), len(older))])
        return in_memory(iter([positions]))

    def take_rows(self, positions: Positions) -> Rows:
        records = self.take_records(positions)
        return np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)

    def take_records(self, positions: Positions) -> Sequence[Record]:
        wanted = positions.tolist()
        records = read(self.log.engine, records_at, self.log.dataset_id, wanted)
        # After the read: a database restored meanwhile may have other rows at these positions.
        confirm(self.log, *self._history)
        # An erased sample's record is empty, which no stored record is; decoding it would fail.
        if not all(records):
            after, until = min(wanted), max(wanted) + 1
            rows = read(self.log.engine, erased_between, self.log.dataset_id, after, until)
            refuse([(row.position, row.key) for row in rows if row.position in wanted])
        return records

    def local_files(self, index: Index) -> LocalFiles | None:
        pass

    def erased(self, population: Population) -> list[tuple[int, str]]:
        return read(self.log.engine, erased_in_database, self.log.dataset_id, population)
