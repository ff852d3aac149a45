"""Files name the groups of their samples, and tools' files have the groups of what was labeled."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Registry, Text
from registry.errors import ExportFileError, ImportFileError
from registry.io.dry_run import DryRun
from registry.io.export_file import export_file
from registry.io.import_file import insert_file
from registry.samples.features import Feature
from tests.support.commands import run

ROWS: list[tuple[str, int, str | int | None]] = [("a", 1, "p1"), ("b", 2, None), ("c", 3, "7")]


@pytest.fixture
def labels(reg: Registry) -> Dataset:
    return reg.create("labels", {"label": ClassLabel(10)})


def write_jsonl(path: Path, rows: list[tuple[str, int, Any]]) -> None:
    objects = [{"key": key, "label": label, "patient": group} for key, label, group in rows]
    path.write_text("\n".join(map(json.dumps, objects)))


def write_csv(path: Path, rows: list[tuple[str, int, Any]]) -> None:
    lines = [f"{key},{label},{'' if group is None else group}" for key, label, group in rows]
    path.write_text("\n".join(["key,label,patient", *lines]))


def write_json(path: Path, rows: list[tuple[str, int, Any]]) -> None:
    objects = [{"key": key, "label": label, "patient": group} for key, label, group in rows]
    path.write_text(json.dumps(objects))


def write_npz(path: Path, rows: list[tuple[str, int, Any]]) -> None:
    keys, labels, groups = zip(*rows, strict=True)
    texts = ["" if group is None else group for group in groups]
    np.savez(path, key=np.array(keys), label=np.array(labels), patient=np.array(texts))


@pytest.mark.parametrize(
    ("suffix", "write"),
    [("jsonl", write_jsonl), ("csv", write_csv), ("json", write_json), ("npz", write_npz)],
)
def test_a_file_names_groups_and_a_wrong_one_by_its_line(
    reg: Registry,
    labels: Dataset,
    tmp_path: Path,
    suffix: str,
    write: Callable[[Path, list[tuple[str, int, Any]]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, options = tmp_path / f"d.{suffix}", {"group": "patient"}
    write(path, ROWS)
    insert_file(labels, path, key="key", options=options)
    assert [(entry.key, entry.group) for entry in labels.entries()] == [
        ("a", "p1"),
        ("b", None),
        ("c", "7"),
    ]
    assert insert_file(labels, path, key="key", options=options).unchanged == 3
    with pytest.raises(ImportFileError, match=r"(missing|there is no) 'doctor'"):
        insert_file(labels, path, key="key", options={"group": "doctor"})
    monkeypatch.setattr("registry.io.batching.PIECE_ROWS", 1)
    monkeypatch.setattr("registry.io.batching.BATCH_ROWS", 1)
    write(path, [("d", 4, "p1"), ("b", 5, None), ("d", 6, "p2")])
    with closing(DryRun(reg.engine, labels)) as dry:
        for target in (dry, labels):
            with pytest.raises(ImportFileError, match="is in group 'p1' and cannot move") as caught:
                insert_file(target, path, key="key", options=options)
            assert (caught.value.line, caught.value.key) == (4 if suffix == "csv" else 3, "d")
    assert labels.head.position == 5
    assert insert_file(labels, path, key="key", mapping={"label": "label"}).revised == 1


def test_values_that_are_no_groups_are_refused(labels: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for group, reason in (
        ("", "a group cannot be empty"),
        (1.5, "the group in 'patient' is neither text nor a whole number"),
        ("é" * 257, "a group of 514 bytes is too long"),
    ):
        write_jsonl(path, [*ROWS, ("d", 4, group)])
        with pytest.raises(ImportFileError, match=reason) as caught:
            insert_file(labels, path, key="key", options={"group": "patient"})
        assert (caught.value.line, caught.value.key) == (4, "d")
    assert labels.head.position == 0
    write_jsonl(path, [("a", 1, 7)])
    insert_file(labels, path, key="key", options={"group": "patient"})
    assert labels.entries()[0].group == "7"
    with pytest.raises(ImportFileError, match="images has no option 'group'; formats that have"):
        insert_file(labels, tmp_path, form="images", options={"group": "class"})


def test_an_export_has_groups_only_if_there_are_any(
    reg: Registry, labels: Dataset, tmp_path: Path, url: str
) -> None:
    path = tmp_path / "d.jsonl"
    labels.insert([{"label": 1}], keys=["a"])
    before = str(labels.version)
    export_file(labels, path)
    assert json.loads(path.read_text()) == {"key": "a", "label": 1}
    labels.insert({"label": [2, 2]}, keys=["b", "c"], groups=["p1", None])
    run("export", "labels", path, "--group=patient", url=url)
    assert [json.loads(line)["patient"] for line in path.read_text().splitlines()] == [
        None,
        "p1",
        None,
    ]
    run("create", "copy", "--feature", "label=class:10", url=url)
    run("insert", "copy", path, "--key=key", "--group=patient", url=url)
    assert reg.open("copy").head == labels.head
    with pytest.raises(ExportFileError, match="'label' is a feature; choose another name for the"):
        export_file(labels, path, group="label")
    with pytest.raises(ExportFileError, match="'key' is the name of the keys; choose another"):
        export_file(labels, path, group="key")
    export_file(reg.open(before), path, group="label")
    assert path.read_text() == '{"key": "a", "label": 1}\n'


TASKS = [
    {"text": "x", "_input_hash": 7, "_task_hash": 1, "label": "A", "answer": "accept"},
    {"text": "x", "_input_hash": 7, "_task_hash": 2, "label": "B", "answer": "accept"},
    {"text": "y", "_input_hash": 8, "_task_hash": 1, "label": "B", "answer": "accept"},
]


def test_answers_about_one_text_are_in_one_group(reg: Registry, tmp_path: Path) -> None:
    features: dict[str, Feature] = {"text": Text(), "label": ClassLabel(["A", "B"])}
    path, options = tmp_path / "d.jsonl", {"group": "text"}
    path.write_text("\n".join(map(json.dumps, TASKS)))
    dataset = reg.create("prodigy", features)
    # A dataset that was filled before there were groups is updated, and its keys do not move.
    dataset.insert([{"text": "old", "label": 1}], keys=["prodigy:7:1"])
    insert_file(dataset, path, form="prodigy")
    assert {entry.key: entry.group for entry in dataset.entries()} == {
        "prodigy:7:1": None,
        "prodigy:7:2": "prodigy:7",
        "prodigy:8:1": "prodigy:8",
    }
    with pytest.raises(ImportFileError, match="line 1, key 'prodigy:7:1': the key has no group"):
        insert_file(dataset, path, form="prodigy", options=options)
    other = reg.create("named", features)
    insert_file(other, path, form="prodigy", options=options)
    assert [entry.group for entry in other.entries()] == ["x", "x", "y"]
    documents = [{"id": 5, "text": "x", "label": ["A"], "who": who} for who in ("ann", "bob")]
    path.write_text("\n".join(map(json.dumps, documents)))
    insert_file(other, path, form="doccano", key="who")
    assert [entry.group for entry in other.entries(3)] == ["doccano:5", "doccano:5"]
