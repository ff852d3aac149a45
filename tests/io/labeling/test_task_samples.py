"""Tasks with one sample each: what becomes of it, of the answers, and of what is not agreed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry import Bytes, ClassLabel, Dataset, Registry, Text
from registry.errors import SampleNotFoundError
from registry.io.labeling import mapping_store
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.webhook import apply_event
from registry.samples.features import Feature
from registry.storage.database.models import ToolAnnotationRow
from tests.support.commands import run
from tests.support.labeling_events import at, deletion, rejected_rows

TASK = "label-studio:2:task:19"
Send = Callable[..., Outcome]


@pytest.fixture
def moods(reg: Registry) -> Dataset:
    classes = ClassLabel(["bad", "good"])
    features: dict[str, Feature] = {"text": Text(), "scan": Bytes(), "mood": classes}
    return reg.create("moods", features, splits={"train": 0.5, "test": 0.5})


@pytest.fixture
def send(reg: Registry, url: str, moods: Dataset) -> Send:
    """Apply an event of an annotation of task 19, with the settings of the command."""
    options = ("--per", "task", "--consensus", "majority", "--min-annotators", "2")
    run("webhook", "moods", "label-studio", "--map", "mood=result.mood", *options, url=url)

    def send(annotator: int, mood: str, second: int = 0, text: str = "a", **task: Any) -> Outcome:
        answer = {"from_name": "mood", "to_name": "text", "type": "choices"}
        data = {"text": text, "scan": base64.b64encode(b"scan").decode()}
        return apply(
            reg,
            moods,
            {
                "action": "ANNOTATION_UPDATED",
                "annotation": {
                    "id": annotator + 16,
                    "completed_by": annotator,
                    "updated_at": at(second),
                    "result": [{**answer, "value": {"choices": [mood]}}],
                },
                "task": {"id": 19, "project": 2, "data": data, **task},
            },
        )

    return send


def apply(reg: Registry, dataset: Dataset, event: Any) -> Outcome:
    settings = mapping_store.settings_of(reg.engine, dataset.id, "label-studio")
    return apply_event(dataset, settings.mapping, event, consensus=settings.consensus)


def answers(reg: Registry) -> list[Any]:
    query = select(ToolAnnotationRow.fields).where(ToolAnnotationRow.fields.is_not(None))
    with reg.engine.connect() as connection:
        return list(connection.execute(query.order_by(ToolAnnotationRow.annotation)).scalars())


def test_a_task_has_a_sample_while_its_annotators_agree(
    reg: Registry, moods: Dataset, send: Send
) -> None:
    assert send(1, "good") == Outcome(unchanged=1)
    assert (len(moods), rejected_rows(moods, reg)) == (0, [])
    assert send(2, "good", 1) == Outcome(inserted=1)
    assert moods.get(TASK) == {"text": "a", "scan": b"scan", "mood": 1}
    (entry,) = moods.entries()
    assert (entry.group, entry.source) == (TASK, "label-studio")
    assert send(1, "bad", 2) == Outcome(quarantined=1)
    assert len(moods) == 0
    (row,) = rejected_rows(moods, reg)
    assert (row.key, row.source, row.group_key) == (TASK, "label-studio", TASK)
    assert row.error.endswith('the consensus is majority; mood: "bad" by 1, "good" by 2')
    # It has no fields, so that another attempt cannot make a sample of it.
    assert row.fields == {}
    # Of two texts of the task, the newer counts.
    assert send(3, "bad", 3, text="b") == Outcome(inserted=1)
    assert moods.get(TASK) == {"text": "b", "scan": b"scan", "mood": 0}
    assert rejected_rows(moods, reg) == []
    assert apply(reg, moods, deletion()) == Outcome(quarantined=1)
    assert apply(reg, moods, deletion()) == Outcome(unchanged=1)


@pytest.mark.parametrize(
    "deleted",
    [
        {"action": "TASKS_DELETED", "tasks": [{"id": 19}], "project": {"id": 2}},
        {"action": "PROJECT_DELETED", "project": {"id": 2}},
    ],
    ids=lambda event: event["action"],
)
def test_nothing_of_a_deleted_task_or_an_erased_sample_is_kept(
    reg: Registry, moods: Dataset, send: Send, deleted: dict[str, Any]
) -> None:
    send(1, "good")
    send(2, "good")
    # What came with the task is stored once.
    assert sorted(map(sorted, answers(reg))) == [["mood"], ["mood"], ["scan", "text"]]
    moods.erase(TASK)
    assert answers(reg) == []
    send(1, "good", 1)
    send(2, "good", 1)
    assert moods.get(TASK)["mood"] == 1
    assert apply(reg, moods, deleted) == Outcome(retracted=1)
    assert answers(reg) == []
    with pytest.raises(SampleNotFoundError):
        moods.get(TASK)


def test_a_rejected_annotation_never_becomes_a_sample_by_a_retry(
    reg: Registry, url: str, moods: Dataset, send: Send
) -> None:
    assert send(1, "awful").quarantined == 1
    (row,) = rejected_rows(moods, reg)
    assert (row.key, row.fields) == ("label-studio:2:17", {})
    run("inbox", "retry", "moods", url=url)
    assert (len(moods), len(rejected_rows(moods, reg))) == (0, 1)
    assert send(1, "good", 1) == Outcome(unchanged=1)
    assert rejected_rows(moods, reg) == []


def test_settings_of_consensus_are_checked_and_kept(
    reg: Registry, url: str, moods: Dataset, send: Send
) -> None:
    shown = run("webhook", "moods", "label-studio", "--consensus", "latest", url=url).stdout
    assert shown.split()[:8] == [
        *("mood", "result.mood", "per", "task"),
        *("consensus", "latest", "min-annotators", "2"),
    ]
    send(1, "good")
    send(2, "bad", 1)
    assert moods.get(TASK)["mood"] == 0
    assert moods.entries()[0].source == "label-studio/2"
    refused = run("webhook", "moods", "label-studio", "--per", "annotation", url=url, code=2)
    assert "annotations have arrived already" in refused.stderr
    reg.create("scans", {"scan": Bytes()})
    command = ("webhook", "scans", "label-studio")
    assert "go" in run(*command, "--min-annotators", "2", url=url, code=2).stderr
    only_data = run(*command, "--per", "task", "--map", "scan=data.scan", url=url, code=1).stderr
    assert "majority compares the values of ClassLabel and Text features" in only_data


def test_an_export_decides_as_events_do(
    url: str, moods: Dataset, send: Send, tmp_path: Path
) -> None:
    send(1, "good")
    send(2, "good")
    path = tmp_path / "export.json"
    # Annotator 1 corrected the answer and 3 agrees, and no event came.
    path.write_text(
        f"""[{{"id": 19, "project": 2, "updated_at": "{at(9)}",
        "data": {{"text": "c", "scan": "c2Nhbg=="}}, "annotations": ["""
        + ",".join(
            f"""{{"id": {16 + number}, "completed_by": {number}, "updated_at": "{at(8)}", "result":
            [{{"from_name": "mood", "type": "choices", "value": {{"choices": ["{mood}"]}}}}]}}"""
            for number, mood in ((1, "bad"), (2, "good"), (3, "bad"))
        )
        + "]}]"
    )
    form = ("--format", "label-studio")
    inserted = run("insert", "moods", path, *form, url=url).stdout
    assert "0 inserted, 1 revised, 0 unchanged" in inserted
    assert moods.get(TASK) == {"text": "c", "scan": b"scan", "mood": 0}
    assert (
        "0 inserted, 0 revised, 1 unchanged" in run("insert", "moods", path, *form, url=url).stdout
    )
    # An event that is older than the export changes neither the answer nor the text.
    assert send(2, "bad", 7) == Outcome(unchanged=1)
    assert moods.get(TASK)["text"] == "c"
