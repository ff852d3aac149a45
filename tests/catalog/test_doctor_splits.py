"""`registry doctor` finds what is in two splits: annotations of one task, and equal records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry import ClassLabel, Registry, Text
from registry.catalog.doctor import splits
from registry.catalog.doctor.examine import examine
from registry.catalog.doctor.finding import Finding
from registry.io.labeling.label_studio.export import insert_export
from registry.samples.features import Feature
from tests.support.label_studio_project import choice, write_export

FEATURES: dict[str, Feature] = {"text": Text(), "mood": ClassLabel(["good", "bad"])}
SPLITS = {"train": 0.5, "test": 0.5}


def said_of(url: str, name: str) -> list[Finding]:
    findings = [finding for finding in examine(url) if finding.subject != "SQLite"]
    assert {each.subject.partition(" ")[0] for each in findings} <= {"dataset", "setting"}, findings
    return [finding for finding in findings if finding.subject == f"dataset {name}"]


def task(number: int, annotators: int) -> dict[str, Any]:
    annotations = [
        {
            "id": number * 10 + annotator,
            "updated_at": "2021-01-31T12:00:00Z",
            "result": [choice("bad")],
        }
        for annotator in range(annotators)
    ]
    return {
        "id": number,
        "project": 2,
        "data": {"text": f"the text of task {number}"},
        "annotations": annotations,
    }


def test_tasks_of_a_dataset_from_before_groups_are_found_in_two_splits(
    reg: Registry, url: str, tmp_path: Path
) -> None:
    path = write_export(tmp_path / "export.json", [task(number, 3) for number in range(1, 21)])
    sound = reg.create("sound", FEATURES, splits=SPLITS)
    insert_export(sound, path, {"text": "data.text", "mood": "result.mood"})
    assert said_of(url, "sound") == []
    # As an import before there were groups: the same keys and records, each its own bucket.
    old = reg.create("old", FEATURES, splits=SPLITS)
    for entry in sound.entries():
        old.insert([sound.get(entry.key)], keys=[entry.key])
    assert all(entry.group is None for entry in old.entries())
    found = {finding.said.split(" have ")[0] for finding in said_of(url, "old")}
    assert len(found) == 1  # equal records; no task is known yet
    report = insert_export(old, path, {"text": "data.text", "mood": "result.mood"})
    assert report.unchanged == 60
    homes: dict[str | None, set[str | None]] = {}
    for entry in sound.entries():
        homes.setdefault(entry.group, set()).add(old.split_of(entry.key))
    divided = [group for group, each in homes.items() if len(each) > 1]
    assert len(divided) > 5
    by_task, by_record = said_of(url, "old")
    assert by_task.severity == "warning"
    assert by_task.said.startswith(f"{len(divided)} of 20 tasks have annotations in two splits: ")
    assert by_task.said.count("'label-studio:2:task:") == 3
    assert by_record.said.startswith(f"of 60 live samples that were compared, {3 * len(divided)} ")
    assert "docs/groups.md" in by_task.remedy
    for entry in old.entries():
        if old.split_of(entry.key) == "test":
            old.retract(entry.key)
    assert said_of(url, "old") == []


def test_only_the_newest_samples_are_compared_and_their_number_is_said(
    reg: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "_RANGE_ROWS", 7)
    monkeypatch.setattr(splits, "_HASHED_BYTES", 100)
    dataset = reg.create("d", FEATURES, splits=SPLITS)
    train = [f"k{n}" for n in range(200) if dataset.split_of(f"k{n}") == "train"][:20]
    test = [f"k{n}" for n in range(200) if dataset.split_of(f"k{n}") == "test"][:20]

    def rows(texts: list[str]) -> dict[str, Any]:
        return {"text": texts, "mood": [0] * len(texts)}

    words = [f"a text of some length, number {n}" for n in range(20)]
    dataset.insert(rows(words), keys=train)
    # Superseded, retracted, erased and short records are not compared, nor those of one split.
    dataset.insert(rows(words), keys=test)
    dataset.insert(rows(["short"] * 20), keys=test)
    dataset.insert(rows(["short"] * 20), keys=[f"{key} short" for key in train])
    dataset.insert(rows(words[:1]), keys=["extra"], groups=[train[0]])
    dataset.insert(rows(words[:2]), keys=test[:2])
    dataset.retract(test[0])
    dataset.erase(test[1])
    assert said_of(url, "d") == []
    dataset.insert(rows([words[3], words[3], words[4]]), keys=[test[3], test[4], test[5]])
    (finding,) = said_of(url, "d")
    assert finding.said == (
        "of 24 live samples that were compared, 5 have the record of a sample in another split: "
        f"{train[3]!r} in train equals {test[3]!r} in test; "
        f"{train[4]!r} in train equals {test[5]!r} in test"
    )
    for limit, pairs in ((23, 2), (21, 2), (20, 1)):
        monkeypatch.setattr(splits, "COMPARED_ROWS", limit)
        (finding,) = said_of(url, "d")
        assert finding.said.startswith(f"of {limit} newest live samples that were compared")
        assert finding.said.count(" equals ") == pairs
    monkeypatch.setattr(splits, "COMPARED_ROWS", 19)
    assert said_of(url, "d") == []
    monkeypatch.setattr(splits, "COMPARED_ROWS", 24)
    monkeypatch.setattr(splits, "COMPARED_BYTES", 150)
    assert said_of(url, "d") == []
    monkeypatch.setattr(splits, "COMPARED_BYTES", 1 << 20)
    assert "of 24 live samples" in said_of(url, "d")[0].said
