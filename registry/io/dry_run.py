"""A report of what an import would do, without writing to the database."""

from __future__ import annotations

import sqlite3
from hashlib import sha256

from sqlalchemy import Engine

from registry.catalog.dataset import Dataset
from registry.samples.schema import Schema
from registry.storage.database.transactions import read
from registry.storage.log.batch import Batch, Report, resolve
from registry.storage.log.head import Head
from registry.storage.log.lookup import Latest, Stored, latest


class DryRun:
    """Accepts samples as a dataset does, checks them, and reports what the dataset would do.

    Samples of earlier calls count as stored. Their sizes and hashes are kept in a temporary SQLite
    database, so that a dry run of any length takes little memory. Only the thread that made the
    object may use it, as SQLite's connection belongs to that thread.
    """

    def __init__(self, engine: Engine, dataset: Dataset) -> None:
        self.schema: Schema = dataset.schema
        self._engine = engine
        self.dataset = dataset
        self._accepted = sqlite3.connect("")  # a temporary file, deleted when it is closed
        self._accepted.execute(
            "CREATE TABLE accepted (key TEXT PRIMARY KEY, size INTEGER, digest BLOB,"
            " group_key TEXT) WITHOUT ROWID"
        )

    @property
    def head(self) -> Head:
        return self.dataset.head

    def append(self, batch: Batch) -> Report:
        """Return the report that `Dataset.append` would return; raises as it does."""
        # The position is arbitrary: nothing is written, and the report has counts only. Without
        # `read`, an amendment could not be resolved; files only insert.
        plan = resolve(batch, self._latest(batch), 0, self.schema)
        groups = plan.groups or [None] * len(plan.keys)
        self._accepted.executemany(
            "INSERT OR REPLACE INTO accepted VALUES (?, ?, ?, ?)",
            [
                (key, len(record), _digest(record), group)
                for key, record, group in zip(plan.keys, plan.records, groups, strict=True)
                if record is not None
            ],
        )
        return plan.report(self.head)

    def close(self) -> None:
        self._accepted.close()

    def _latest(self, batch: Batch) -> dict[str, Latest]:
        """Return the latest revision of each key, with earlier calls counted as stored."""
        compared = list(batch.compared())
        older = self.dataset.schemas.older(self.schema)
        revisions = read(self._engine, latest, self.dataset.id, {*batch.keys}, compared, older)
        replaced: set[str] = set()
        for key, record in batch.compared():
            row = self._accepted.execute(
                "SELECT size, digest, group_key FROM accepted WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                continue
            size, digest, group = row
            # `resolve` compares records by value, and only hashes are kept here. A record with the
            # same hash stands for the stored one, and `Stored` for one that differs.
            if record is not None and _digest(record) == digest:
                revisions[key] = Latest(0, record, group)
            # A batch may have a key twice: a match with its first row must not be replaced.
            elif key not in replaced:
                revisions[key] = Latest(0, Stored(size), group)
            replaced.add(key)
        return revisions


def _digest(record: bytes) -> bytes:
    return sha256(record).digest()
