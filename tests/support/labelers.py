"""Labelers who change a dataset in any order, for tests of what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from registry import ClassLabel, Dataset, Tensor, Text
from registry.catalog import epoch_changes
from registry.catalog.statistics import (
    report,
    row_counter,
    row_search,
    row_store,
    version_counts,
)
from registry.samples.features import Feature
from tests.support import counted_rows

KINDS: dict[str, dict[str, Feature]] = {
    "fixed": {"n": Tensor("int16", (3,)), "label": ClassLabel(3)},
    "variable": {"note": Text(), "label": ClassLabel(["cat", "dog", "lynx"]), "n": Tensor("int8")},
    "unlabelled": {"note": Text()},
}
SOURCES = [None, "team-a", "team-b", "", "tool", "other", "last"]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows be several blocks, reads and kept sources."""
    for module in (row_store, version_counts, row_search, epoch_changes):
        monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(version_counts, "KEPT_VERSIONS", 3)
    monkeypatch.setattr(row_counter, "READ_ROWS", {"sqlite": 7, "postgresql": 7})
    for module in (row_counter, counted_rows):
        monkeypatch.setattr(module, "KEPT_SOURCES", 5)
        monkeypatch.setattr(module, "MOST_CLASSES_BY_DAY", 6)
        monkeypatch.setattr(module, "MOST_CLASSES", 8)
        monkeypatch.setattr(module, "MOST_GROUPS", 3)
    for module in (report, counted_rows):
        monkeypatch.setattr(module, "MOST_SOURCES", 3)


@dataclass
class Labelers:
    """Several labelers of one dataset, who do anything in any order."""

    dataset: Dataset
    kind: str
    random: Random
    keys: set[str] = field(default_factory=set)
    added: int = 0

    def step(self) -> None:
        actions = [self.insert, self.insert, self.update, self.retract, self.erase, self.alter]
        weights = [4, 4, 3, 2, 1, 1 if self.kind != "unlabelled" else 0]
        end = self.dataset.head.position
        self.random.choices(actions, weights)[0]()
        # Not a row that may be counted already.
        if self.dataset.head.position > end and self.random.random() < 0.3:
            backdate(self.dataset, self.random.randrange(1, 40))

    def sample(self) -> dict[str, Any]:
        label = self.dataset.features.get("label")
        count = label.count if isinstance(label, ClassLabel) else 1
        whole: dict[str, Any] = {
            "n": self.random.randrange(100),
            "note": "ä" * self.random.randrange(9),
            "label": self.random.randrange(count),
        }
        if self.kind == "fixed":
            whole["n"] = [whole["n"]] * 3
        sample = {name: whole[name] for name in KINDS[self.kind]}
        for name in self.dataset.features:
            if name.startswith("added") and self.random.random() < 0.5:
                sample[name] = self.random.randrange(2)
        return sample

    def insert(self) -> None:
        keys = [f"k{self.random.randrange(20)}" for _ in range(self.random.randrange(1, 12))]
        groups = [None if key > "k5" else f"patient-{key[:2]}" for key in keys]
        source = self.random.choice(SOURCES) or None
        samples = [self.sample() for _ in keys]
        self.dataset.insert(samples, keys=keys, source=source, groups=groups)
        self.keys |= {*keys}

    def add(self, count: int) -> None:
        """Insert samples with new keys."""
        first = self.dataset.head.position
        for number in range(count):
            source = self.random.choice(SOURCES[:3])
            self.dataset.insert([self.sample()], keys=[f"new-{first + number}"], source=source)

    def where(self, dataset: Dataset) -> dict[str, Any]:
        """Conditions that some samples meet."""
        labels = {name: [0, 1] for name in dataset.features if name.startswith("added")}
        note = {"note": ["", "ä", "äää"]} if self.kind == "variable" else {}
        whole = {**labels, **note, "label": [0, 2], "source": [None, "team-a", "tool"]}
        return {name: whole[name] for name in whole if self.random.random() < 0.4}

    def update(self) -> None:
        revisions = {key: self.dataset.latest(key) for key in sorted(self.keys)}
        live = [key for key, last in revisions.items() if last and last.sample is not None]
        if live and self.kind != "unlabelled":
            source = self.random.choice(SOURCES) or None
            label = self.random.randrange(3)
            self.dataset.update(self.random.choice(live), label=label, source=source)

    def retract(self) -> None:
        if self.keys:
            self.dataset.retract(self.random.choice(sorted(self.keys)))

    def erase(self) -> None:
        if self.keys:
            self.dataset.erase(self.random.choice(sorted(self.keys)))

    def alter(self) -> None:
        if self.random.random() < 0.5:
            self.added += 1
            label = ClassLabel(2 + self.added % 2)
            self.dataset.add_feature(f"added{self.added}", label, self.added % 2)
        else:
            classes: Any = [f"c{self.added}"] if self.kind == "variable" else 1
            self.added += 1
            self.dataset.add_classes("label", classes)


def backdate(dataset: Dataset, days: int) -> None:
    """Let the last row be from another day."""
    then = datetime.now(UTC) - timedelta(days=days)
    with dataset.log.engine.begin() as connection:
        if dataset.log.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        else:
            connection.exec_driver_sql("DROP TRIGGER IF EXISTS samples_never_change")
        when = then.replace(tzinfo=None).isoformat(" ")
        connection.exec_driver_sql(
            f"UPDATE samples SET created_at = '{when}' WHERE dataset_id = {dataset.id} "
            f"AND position = (SELECT max(position) FROM samples WHERE dataset_id = {dataset.id})"
        )
