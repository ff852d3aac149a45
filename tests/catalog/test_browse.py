"""Browsing: pages of samples, and what changed between two epochs of a run."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, SupportsIndex

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Registry, Replay, Run, Tensor
from registry.catalog import browse
from registry.catalog import epoch_changes as epoch_changes_module
from registry.catalog.browse import ListedSample, epoch_changes, find_samples
from registry.catalog.statistics.count import statistics_of
from registry.errors import ErasedError
from registry.samples.arrays import Positions
from registry.storage.log.entries import Entry
from registry.training.conditions import Where
from tests.support.labelers import KINDS, Labelers

pytestmark = pytest.mark.usefixtures("small_parts")


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
    for _ in range(12):
        labelers.step()
        if random.random() < 0.5:
            statistics_of(dataset, most=random.randrange(1, 30))
        position = random.choice([None, random.randrange(dataset.head.position + 1)])
        opened = dataset if position is None else reg.open(f"digits@{position}")
        where = labelers.where(opened)
        split = random.choice([None, "train", "test"])
        limit = random.randrange(1, 9)
        listed, cursor, seconds = [], None, random.choice([None, 0, 60])
        for _ in range(1000):
            page = find_samples(
                opened, where=where, split=split, before=cursor, limit=limit, seconds=seconds
            )
            assert len(page.samples) <= limit
            listed += [plain(sample) for sample in page.samples]
            if (cursor := page.cursor) is None:
                break
        assert cursor is None
        assert listed == expected(opened, where, split)


def test_a_search_ends_with_its_time_where_it_can_be_continued(reg: Registry) -> None:
    dataset = reg.create("digits", KINDS["fixed"])
    dataset.insert([{"n": [0, 0, 0], "label": 0}] * 30)
    where = {"source": ["nobody"]}
    assert find_samples(dataset, where=where).cursor is None
    cursor = find_samples(dataset, where=where, seconds=0).cursor
    assert cursor is not None
    assert 0 < cursor < 30


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


@pytest.mark.parametrize("kind", ["fixed", "variable"])
def test_changes_between_epochs_are_those_of_their_rows(
    reg: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(kind)
    dataset = reg.create("digits", KINDS[kind], splits={"train": 0.6, "test": 0.4})
    labelers = Labelers(dataset, kind, random)
    labelers.add(20)
    note = {"note": ["", "ä", "äää", "ääää"]} if kind == "variable" else {"n": [0]}
    runs = [
        dataset.run("all"),
        dataset.run("new", split="train", policy="new"),
        dataset.run("replay", policy=Replay(0.5), seed=3),
        dataset.run("some", where={"label": [0, 2], "source": [None, "team-a", "tool"]}),
        dataset.run("text", where=note if kind == "variable" else {"label": [0, 1]}),
    ]
    held: dict[tuple[str, int], dict[int, Entry]] = {}
    for number in range(3):
        for run in runs:
            run.epoch(number, timeout=0)
            held[run.name, number] = {row.position: row for row in run.entries(number)}
        for _ in range(4):
            random.choice([labelers.insert, labelers.update, labelers.retract])()
        labelers.add(20)
        if number == 1:
            labelers.alter()
    indexed = Run.positions

    def refused(run: Run, number: SupportsIndex) -> Iterator[Positions]:
        assert run.name == "text", "the facts of rows do not say what the epoch holds"
        return indexed(run, number)

    monkeypatch.setattr(Run, "positions", refused)
    for run in runs:
        before, after = random.choice([(0, 1), (1, 2), (0, 2), (2, 0), (1, 1)])
        changes = epoch_changes(run, before, after)
        first, second = held[run.name, before], held[run.name, after]
        assert changes.kept == len(first.keys() & second.keys())
        for composition, rows in (
            (changes.came, {p: row for p, row in second.items() if p not in first}),
            (changes.went, {p: row for p, row in first.items() if p not in second}),
        ):
            assert composition.size == len(rows)
            assert composition.other_sources == 0
            assert composition.sources == Counter(row.source for row in rows.values())
            assert composition.classes["label"] == classes_of(dataset, rows)


def classes_of(dataset: Dataset, rows: dict[int, Entry]) -> dict[str, int]:
    label = dataset.features["label"]
    assert isinstance(label, ClassLabel)
    revisions = [dataset.history(row.key) for row in rows.values()]
    samples = {each.entry.position: each.sample for history in revisions for each in history}
    indexes = [int(sample["label"]) for p in rows if (sample := samples[p]) is not None]
    return Counter(str(each) if label.names is None else label.names[each] for each in indexes)


def test_changes_name_the_sources_with_most_samples(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_changes_module, "NAMED_SOURCES", 2)
    dataset = reg.create("digits", {"n": Tensor("int8")})
    run = dataset.run("r")
    dataset.insert([{"n": 1}], source="first")
    run.epoch(0)
    for number in range(12):
        source = "most" if number % 2 else f"tool-{number}"
        dataset.insert([{"n": number}], source=source, keys=[f"k{number}"])
    dataset.insert([{"n": 1}, {"n": 2}], source="tool-10", keys=["x", "y"])
    run.epoch(1)
    came = epoch_changes(run, 0, 1).came
    assert (came.size, came.other_sources) == (14, 5)
    assert came.sources == {"most": 6, "tool-10": 3}
    assert came.classes == {}


def test_an_epoch_that_lost_samples_to_an_erasure_says_so(reg: Registry, cache: Path) -> None:
    dataset = reg.create("digits", KINDS["fixed"])
    dataset.insert(
        [{"n": [n] * 3, "label": n % 3} for n in range(9)], keys=[f"k{n}" for n in range(9)]
    )
    dataset.insert([{"n": [9] * 3, "label": 0}], source="tool")
    conditions: dict[str, Where] = {"labels": {"label": [1]}, "sources": {"source": [None]}}
    some = [dataset.run(name, where=where) for name, where in conditions.items()]
    runs = [dataset.run("plain"), *some]
    for run in runs:
        run.epoch(0)
    dataset.erase("k1")
    for run in runs:
        run.epoch(1)
    for run in runs:
        changes = epoch_changes(run, 0, 1)
        assert (changes.went.size, changes.went.classes) == (1, {"label": {}})
    # On another machine, nobody knows which of the erased samples met the conditions.
    shutil.rmtree(cache)
    for name in conditions:
        with pytest.raises(ErasedError, match="k1"):
            epoch_changes(reg.open("digits").find_run(name), 0, 1)
