"""A dataset's properties and its state, as the commands and the HTTP server show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.catalog.dataset import Dataset
from registry.samples.schema_text import history
from registry.samples.splits import BUCKETS, Interval
from registry.storage.log.head import Head
from registry.storage.log.version import Version


def version_at(name: str, head: Head) -> Version:
    """Return the version of a dataset at a head; ``name`` may itself be that of a version."""
    return Version(name.partition("@")[0], head.position, head.chain.hex())


@dataclass(frozen=True)
class HeadSummary:
    """The end of a log; ``chain`` is in hex, and ``version`` names the dataset as it is here."""

    position: int
    live: int
    chain: str
    version: str

    @classmethod
    def of(cls, name: str, head: Head) -> HeadSummary:
        return cls(head.position, head.live, head.chain.hex(), str(version_at(name, head)))


@dataclass(frozen=True)
class SchemaChange:
    """A schema, the position from which on it is in force, and what it adds to the one before."""

    schema: int
    since: int
    added: str


@dataclass(frozen=True)
class DatasetSummary:
    """A dataset: ``features`` are JSON, ``splits`` are intervals of hash buckets.

    ``schema`` is the number of the schema in force, whose features these are, with the defaults of
    those that have one. ``changes`` are the schemas after the first one.
    """

    name: str
    description: str
    features: Any
    schema: int
    changes: Sequence[SchemaChange]
    splits: Mapping[str, Interval]
    created_at: datetime
    head: HeadSummary

    @classmethod
    def of(cls, dataset: Dataset, head: Head) -> DatasetSummary:
        """Return the summary of a dataset; its ``head`` is passed, since reading it is a query."""
        # That of the head, which may be older than the newest one by now.
        schema = dataset.schemas.numbered(head.schema)
        schemas = [*dataset.schemas][: schema.number + 1]
        return cls(
            name=dataset.name,
            description=dataset.description,
            features=schema.to_json(),
            schema=schema.number,
            changes=[SchemaChange(s.number, s.since, added) for s, added in history(schemas)],
            splits=dataset.splits,
            created_at=dataset.created_at,
            head=HeadSummary.of(dataset.name, head),
        )

    @property
    def shares(self) -> dict[str, float]:
        """The share of each split, which differs from the given one by rounding to buckets."""
        return {
            name: round((stop - start) / BUCKETS, 4) for name, (start, stop) in self.splits.items()
        }
