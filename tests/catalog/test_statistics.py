"""Statistics: what is counted of a log as it grows, compared with a count of all its rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Registry, Tensor, Text
from registry.catalog import browse
from registry.catalog.browse import ListedSample, find_samples
from registry.catalog.statistics import report, row_counter, row_store, version_counts
from registry.catalog.statistics.count import statistics_of
from registry.catalog.statistics.model import Statistics
from registry.samples.features import Feature
from tests.support import counted_rows
from tests.support.counted_rows import counted

KINDS: dict[str, dict[str, Feature]] = {
    "fixed": {"n": Tensor("int16", (3,)), "label": ClassLabel(3)},
    "variable": {"note": Text(), "label": ClassLabel(["cat", "dog", "lynx"]), "n": Tensor("int8")},
    "unlabelled": {"note": Text()},
}
SOURCES = [None, "team-a", "team-b", "", "tool", "other", "last"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows be several blocks, reads and kept sources."""
    for module in (row_store, version_counts):
        monkeypatch.setattr(module, "BLOCK", 4)
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


def counts(statistics: Statistics) -> Statistics:
    """Return statistics without the time at which they were counted."""
    return replace(statistics, counted_at=datetime.min.replace(tzinfo=UTC))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_as_a_log_grows_is_what_all_its_rows_are(reg: Registry, kind: str) -> None:
    random = Random(kind)
    dataset = reg.create("digits", KINDS[kind], splits={"train": 0.6, "test": 0.4})
    labelers = Labelers(dataset, kind, random)
    for _ in range(30):
        labelers.step()
        if random.random() < 0.3:
            partly = statistics_of(reg.open("digits"), most=random.randrange(1, 9))
            assert partly.until == dataset.head.position
            continue
        opened = random.choice([dataset, reg.open("digits")])
        assert counts(statistics_of(opened)) == counts(counted(opened))
        position = random.randrange(opened.head.position + 1)
        version = reg.open(f"digits@{position}")
        at_version = replace(counts(counted(version)), groups=None)
        assert counts(statistics_of(version)) == at_version
        assert counts(statistics_of(version)) == at_version, "from its file"


@pytest.mark.parametrize("kind", ["fixed", "variable"])
def test_pages_of_samples_join_up_to_all_that_meet_the_conditions(
    reg: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "SEARCHED_ROWS", 20)
    monkeypatch.setattr(browse, "READ_COST", 2)
    monkeypatch.setattr(browse, "READ_SAMPLES", 10)
    monkeypatch.setattr(browse, "READ_BYTES", 60)
    random = Random(kind)
    dataset = reg.create("digits", KINDS[kind], splits={"train": 0.6, "test": 0.4})
    labelers = Labelers(dataset, kind, random)
    for _ in range(20):
        labelers.step()
        if random.random() < 0.5:
            statistics_of(dataset, most=random.randrange(1, 30))
        position = random.choice([None, random.randrange(dataset.head.position + 1)])
        opened = dataset if position is None else reg.open(f"digits@{position}")
        where = labelers.where(opened)
        split = random.choice([None, "train", "test"])
        limit = random.randrange(1, 9)
        found, cursor = [], None
        for _ in range(1000):
            page = find_samples(opened, where=where, split=split, before=cursor, limit=limit)
            assert len(page.samples) <= limit
            found += [plain(sample) for sample in page.samples]
            if (cursor := page.cursor) is None:
                break
        assert cursor is None
        assert found == expected(opened, where, split)


def plain(sample: ListedSample) -> tuple[Any, ...]:
    values = {name: np.asarray(value).tolist() for name, value in sample.values.items()}
    return sample.position, sample.key, sample.source, sample.group, sample.split, values


def expected(dataset: Dataset, where: dict[str, Any], split: str | None) -> list[tuple[Any, ...]]:
    """The live samples that meet the conditions, from the history of each key."""
    entries = dataset.entries(0, dataset.head.position)
    rows = []
    for entry in reversed(list({entry.key: entry for entry in entries}.values())):
        last = dataset.latest(entry.key)
        assert last is not None
        if last.sample is None or split not in (None, dataset.split_of(entry.key)):
            continue
        sample = ListedSample(
            entry.position,
            entry.key,
            entry.source,
            entry.group,
            dataset.split_of(entry.key),
            entry.created_at,
            last.sample,
        )
        values = {**plain(sample)[-1], "source": entry.source}
        if all(values[name] in allowed for name, allowed in where.items()):
            rows.append(plain(sample))
    return sorted(rows, key=lambda row: -row[0])
