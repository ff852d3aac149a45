"""A dataset's properties and its state, as the commands and the HTTP server show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from registry.catalog.dataset import Dataset
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
class DatasetSummary:
    """A dataset: ``features`` are JSON, ``splits`` are intervals of hash buckets."""

    name: str
    description: str
    features: Any
    splits: Mapping[str, Interval]
    created_at: datetime
    head: HeadSummary

    @classmethod
    def of(cls, dataset: Dataset, head: Head) -> DatasetSummary:
        """Return the summary of a dataset; its ``head`` is passed, since reading it is a query."""
        return cls(
            name=dataset.name,
            description=dataset.description,
            features=dataset.features.to_json(),
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
