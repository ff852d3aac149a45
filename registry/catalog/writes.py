"""What changes a dataset: its samples, and its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from registry.samples.keys import Groups, Keys
from registry.samples.schema import Schema
from registry.storage.log import alter, erase
from registry.storage.log.append import amend, append, append_all
from registry.storage.log.batch import Batch, Outcome, Report
from registry.storage.log.changes import Change, merge
from registry.storage.log.erase import Erasure
from registry.storage.log.insertions import Data, insertions
from registry.storage.log.reader import Log
from registry.storage.log.requests import append_prepared, append_requests


@dataclass(frozen=True)
class Writes:
    """The changes of a log; see the methods of `Dataset` for what these do."""

    log: Log

    def insert(
        self, data: Data, keys: Keys | None, source: str | None, groups: Groups | None
    ) -> Report:
        return append_all(
            self.log.schemas, insertions(self.log.schemas, data, keys, source, groups)
        )

    def append(self, batch: Batch) -> Report:
        return append(self.log.schemas, batch)

    def update(self, key: str, fields: Mapping[str, Any], source: str | None) -> Report:
        return amend(self.log.schemas, key, merge(key, fields), source)

    def retract(self, key: str, source: str | None) -> Report:
        return amend(self.log.schemas, key, None, source)

    def apply(self, requests: Sequence[Sequence[Change]]) -> list[Outcome]:
        return append_requests(self.log.schemas, requests)

    def amend_together(
        self, prepare: Callable[[Connection], Sequence[Sequence[Change]]]
    ) -> list[Outcome]:
        return append_prepared(self.log.schemas, prepare)

    def alter(self, change: Callable[[Schema], Schema]) -> Schema:
        return alter.alter(self.log.schemas, change)

    def erase(self, keys: Sequence[str], *, full: bool) -> Erasure:
        return erase.erase(self.log.engine, self.log.dataset_id, keys, full=full)
