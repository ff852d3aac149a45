"""What inserting would do, found out without writing."""

from __future__ import annotations

import hashlib
import sqlite3

from sqlalchemy import Engine

from registry.dataset import Dataset
from registry.engine import read
from registry.features import Features
from registry.heads import Head
from registry.plan import Batch, Report, resolve
from registry.revisions import Latest, latest


class Rehearsal:
    """Takes samples as a dataset does, checks them, and reports what it would do with them.

    What came before counts as stored. That is kept as hashes in a temporary file, so that a
    rehearsal of any length takes little memory.
    """

    def __init__(self, engine: Engine, dataset: Dataset) -> None:
        self.features: Features = dataset.features
        self._engine = engine
        self.dataset = dataset
        self._seen = sqlite3.connect("")  # a temporary file, gone when it is closed
        self._seen.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, digest BLOB) WITHOUT ROWID")

    @property
    def head(self) -> Head:
        return self.dataset.head

    def append(self, batch: Batch) -> Report:
        """Return the report that `Dataset.append` would; raises as it does."""
        digests = [_digest(record) for record in batch.records if isinstance(record, bytes)]
        known = self._known(list(batch.keys))
        plan = resolve(Batch(batch.keys, digests, batch.sources), known, 0)
        self._seen.executemany(
            "INSERT OR REPLACE INTO seen VALUES (?, ?)", zip(plan.keys, plan.records, strict=True)
        )
        return plan.report(self.head)

    def close(self) -> None:
        self._seen.close()

    def _known(self, keys: list[str]) -> dict[str, Latest]:
        """Return the latest revision of each key, with a hash in the record's place."""
        found = read(self._engine, lambda connection: latest(connection, self.dataset.id, keys))
        known = {
            key: Latest(old.position, None if old.record is None else _digest(old.record))
            for key, old in found.items()
        }
        for key in keys:
            row = self._seen.execute("SELECT digest FROM seen WHERE key = ?", (key,)).fetchone()
            if row is not None:
                known[key] = Latest(0, row[0])
        return known


def _digest(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=16).digest()
