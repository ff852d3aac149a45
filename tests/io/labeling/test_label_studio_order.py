"""Events and exports of Label Studio together: which state of an annotation wins."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from registry import ClassLabel, Dataset, Registry, Text
from registry.errors import ImportFileError
from registry.io.faults import Faults
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.webhook import apply_event, apply_events
from registry.storage.database.models import InboxRow
from tests.support.label_studio_project import (
    FEATURES,
    MAPPING,
    MOODS,
    choice,
    samples,
    write_export,
    yes,
)
from tests.support.labeling_events import KEY, TASK, annotation, at, event, rejected_rows


@pytest.fixture
def cars(reg: Registry) -> Dataset:
    return reg.create("cars", FEATURES)


def test_a_late_event_does_not_restore_what_an_export_lacks(cars: Dataset, tmp_path: Path) -> None:
    # 17 was created and deleted before the export, and both events come late or never.
    tasks = [{**TASK, "annotations": [annotation(9, id=18)]}]
    path = write_export(tmp_path / "e.json", tasks)
    insert_export(cars, path, MAPPING)
    assert apply_event(cars, MAPPING, event(5)) == Outcome(unchanged=1)
    assert apply_event(cars, MAPPING, event(10)) == Outcome(inserted=1)
    # An old export that is imported by mistake leaves it, as does a copy of its file.
    notes: list[str] = []
    assert insert_export(cars, path, MAPPING, note=notes.append).retracted == 0
    assert "1 samples that the export lacks changed after its newest update" in notes[0]
    both = [{**TASK, "annotations": [annotation(10), annotation(9, id=18)]}]
    assert insert_export(cars, write_export(tmp_path / "f.json", both), MAPPING).unchanged == 2
    assert sorted(samples(cars)) == [KEY, "label-studio:2:18"]


def test_an_export_leaves_other_projects_and_later_changes_unchanged(
    cars: Dataset, tmp_path: Path
) -> None:
    later = datetime(2021, 3, 1, tzinfo=UTC)
    apply_events(
        cars,
        MAPPING,
        [event(1), event(1, id=18, project=3), event(1, id=19, updated_at=later.isoformat())],
    )
    # The newest update is that of a task, of which the annotation was deleted.
    task = {**TASK, "updated_at": "2021-02-01T00:00:00Z", "annotations": []}
    path = write_export(tmp_path / "e.json", [task])
    dry = insert_export(cars, path, MAPPING, dry=True, confirm=yes)
    assert (dry.retracted, len(cars)) == (1, 3)
    assert insert_export(cars, path, MAPPING, confirm=yes).retracted == 1
    assert sorted(samples(cars)) == ["label-studio:2:19", "label-studio:3:18"]


def test_an_older_export_does_not_restore_what_a_newer_one_lacks(
    cars: Dataset, tmp_path: Path
) -> None:
    newer, older = (
        write_export(
            tmp_path / f"{second}.json", [{**TASK, "annotations": [annotation(second, id=18)]}]
        )
        for second in (9, 3)
    )
    insert_export(cars, newer, MAPPING)
    insert_export(cars, older, MAPPING)
    assert [sample["id"] for sample in samples(cars).values()] == [18]
    for second in (5, 9):
        assert apply_event(cars, MAPPING, event(second)) == Outcome(unchanged=1), second
    assert apply_event(cars, MAPPING, event(10)) == Outcome(inserted=1)


@pytest.mark.parametrize("moods", [["good", "bad"], ["bad", "good"], ["awful", "good"]])
def test_an_export_wins_over_an_event_of_the_same_time(
    cars: Dataset, tmp_path: Path, moods: list[str]
) -> None:
    by_event, by_export = moods
    apply_event(cars, MAPPING, event(5, choice(by_event)))
    tasks = [{**TASK, "annotations": [annotation(5, choice(by_export))]}]
    insert_export(cars, write_export(tmp_path / "e.json", tasks), MAPPING)
    assert [MOODS[sample["mood"]] for sample in samples(cars).values()] == [by_export]


def test_events_of_one_time_do_not_restore_a_sample(cars: Dataset) -> None:
    apply_events(cars, MAPPING, [event(5), event(5, was_cancelled=True)])
    for late in (event(5), event(5, choice("good")), event(5, choice("awful"))):
        assert apply_event(cars, MAPPING, late) == Outcome(unchanged=1)
    assert len(cars) == 0


@pytest.mark.parametrize("length", [1, 100_000])  # a record that long is not read at first
@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_of_two_samples_of_one_time_the_greater_record_wins(
    cars: Dataset, order: tuple[str, ...], length: int
) -> None:
    task = {**TASK, "data": {"text": "x" * length}}
    for mood in order:
        apply_event(cars, MAPPING, event(1, choice(mood)) | {"task": task})
    assert [MOODS[sample["mood"]] for sample in samples(cars).values()] == ["bad"]


def test_a_newer_state_removes_only_its_own_rejected_rows(reg: Registry, cars: Dataset) -> None:
    other = reg.create("other", FEATURES)
    unfit = event(1, choice("awful"))
    apply_event(other, MAPPING, unfit)
    apply_events(cars, MAPPING, [unfit, event(1, choice("awful"), id=18)])
    with reg.engine.begin() as connection:
        for source in ("argilla", "my-tool", None):
            connection.execute(
                insert(InboxRow).values(dataset_id=cars.id, key=KEY, source=source, error="unfit")
            )
    assert apply_event(cars, MAPPING, event(2)) == Outcome(inserted=1)
    kept = [(row.key, row.source) for row in rejected_rows(cars, reg)]
    of_other_sources = [(KEY, source) for source in ("argilla", "my-tool", None)]
    assert kept == [("label-studio:2:18", "label-studio/1"), *of_other_sources]
    assert [row.key for row in rejected_rows(other, reg)] == [KEY]


def exported(*annotations: dict[str, Any], text: str = "a car", at: str) -> list[dict[str, Any]]:
    """Return an export of task 19, which was last updated at a time."""
    return [{**TASK, "data": {"text": text}, "updated_at": at, "annotations": [*annotations]}]


def test_exports_and_events_in_any_order_end_as_the_newest_export(
    reg: Registry, tmp_path: Path
) -> None:
    older = exported(annotation(5), annotation(4, id=18), at=at(6))
    # Its record is the smaller one: of two events, the other would win.
    newer = exported(annotation(5), annotation(3, id=20), at=at(10), text="a bus")
    paths = [write_export(tmp_path / f"{n}.json", e) for n, e in enumerate([older, newer])]
    for number, order in enumerate(itertools.permutations([*paths, event(5), event(4, id=18)])):
        cars = reg.create(f"cars{number}", FEATURES)
        for each in order:
            if isinstance(each, Path):
                insert_export(cars, each, MAPPING, confirm=yes)
            else:
                apply_event(cars, MAPPING, each)
        texts = {key: sample["text"] for key, sample in samples(cars).items()}
        assert texts == {KEY: "a bus", "label-studio:2:20": "a bus"}


REMOVED_TASK = {"action": "TASKS_DELETED", "tasks": [{"id": 19}], "project": {"id": 2}}
REMOVALS = [
    REMOVED_TASK,
    {"action": "TASKS_DELETED", "tasks": [{"id": 19}, {"id": 99}]},
    {"action": "PROJECT_DELETED", "project": {"id": 2}},
]


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_late_event_of_what_was_deleted_restores_nothing(
    reg: Registry, tmp_path: Path, removal: dict[str, Any]
) -> None:
    other = event(1, id=18, task=20, project=3) | {"task": {**TASK, "id": 20, "project": 3}}
    unfit = event(3, choice("awful"))
    for number, order in enumerate(itertools.permutations([event(1), unfit, removal, other])):
        cars = reg.create(f"cars{number}", FEATURES)
        for each in order:
            apply_event(cars, MAPPING, each)
        path = write_export(tmp_path / "e.json", exported(annotation(9), at=at(9)))
        assert insert_export(cars, path, MAPPING).inserted == 0
        assert [*samples(cars)] == ["label-studio:3:18"]
        assert rejected_rows(cars, reg) == []
    together = reg.create("together", FEATURES)
    outcomes = apply_events(together, MAPPING, [event(1), removal, event(2), other, removal])
    assert outcomes[1:3] == [Outcome(retracted=1), Outcome(unchanged=1)]
    assert [*samples(together)] == ["label-studio:3:18"]


def test_annotations_that_were_moved_before_their_task_was_deleted_return_with_an_export(
    cars: Dataset, tmp_path: Path
) -> None:
    apply_events(cars, MAPPING, [event(1), REMOVED_TASK])
    moved = [{**TASK, "id": 20, "annotations": [annotation(1, task=20)]}]
    assert insert_export(cars, write_export(tmp_path / "e.json", moved), MAPPING).inserted == 1


def test_annotations_that_come_with_their_tasks_are_samples(cars: Dataset) -> None:
    tasks = [{**TASK, "annotations": [annotation(1)]}, {**TASK, "id": 20}]
    sent = {"action": "TASKS_CREATED", "tasks": tasks, "project": {"id": 2}}
    assert apply_event(cars, MAPPING, sent) == Outcome(inserted=1)
    sent["tasks"] = [TASK]
    assert "come with an export" in str(apply_event(cars, MAPPING, sent).ignored)


def test_a_large_retraction_is_asked_about_before_anything_is_stored(
    cars: Dataset, tmp_path: Path
) -> None:
    apply_events(cars, MAPPING, [event(1, id=number) for number in range(10)])
    kept = [annotation(1, id=number) for number in range(10)]
    few = write_export(tmp_path / "few.json", exported(*kept[2:], at=at(2)))
    assert insert_export(cars, few, MAPPING).retracted == 2
    many = write_export(tmp_path / "many.json", exported(*kept[4:], annotation(3, id=77), at=at(3)))
    with pytest.raises(ImportFileError) as caught:
        insert_export(cars, many, MAPPING)
    assert "the export lacks 2 of the 8 live samples of project 2: retract" in str(caught.value)
    assert len(cars) == 8
    report = insert_export(cars, many, MAPPING, retract=False)
    assert (report.inserted, report.retracted) == (1, 0)
    # A filtered export says nothing about what it lacks: late events are still applied.
    assert apply_event(cars, MAPPING, event(id=78, updated_at="2021-01-31T12:00:03Z")) == Outcome(
        inserted=1
    )
    assert insert_export(cars, many, MAPPING, confirm=yes).retracted == 3
    assert sorted(sample["id"] for sample in samples(cars).values()) == [*range(4, 10), 77]


def test_an_export_without_any_time_retracts_only_what_is_confirmed(
    cars: Dataset, tmp_path: Path
) -> None:
    apply_events(cars, MAPPING, [event(1), event(9, id=18), event(1, id=19, project=3)])
    path = write_export(tmp_path / "e.json", [])
    assert insert_export(cars, path, MAPPING).retracted == 0, "of which project is unknown"
    with pytest.raises(ImportFileError, match="no annotation and no task, and lacks 2 of the 2"):
        insert_export(cars, path, MAPPING, project=2)
    assert len(cars) == 3
    assert insert_export(cars, path, MAPPING, project=2, confirm=yes).retracted == 2
    assert apply_event(cars, MAPPING, event(9, id=18)) == Outcome(unchanged=1)
    assert apply_event(cars, MAPPING, event(10, id=18)) == Outcome(inserted=1)


def test_a_quarantine_that_retracts_many_samples_is_asked_about(
    cars: Dataset, tmp_path: Path
) -> None:
    apply_events(cars, MAPPING, [event(1, id=number) for number in range(10)])
    moods = ["awful"] * 3 + ["good"] * 7
    changed = [annotation(2, choice(mood), id=n) for n, mood in enumerate(moods)]
    import_into = partial(insert_export, cars, mapping=MAPPING, quarantine=True)
    path = write_export(tmp_path / "three.json", exported(*changed, at=at(3)))
    with pytest.raises(ImportFileError) as caught:
        import_into(path)
    assert "3 of the 10 live samples do not fit any more" in str(caught.value)
    assert (len(cars), len(cars.inbox.refused())) == (10, 0)
    few = write_export(tmp_path / "two.json", exported(*changed[1:], annotation(1, id=0), at=at(3)))
    report = import_into(few)
    assert (report.revised, report.retracted) == (7, 2)
    assert import_into(path, confirm=yes).retracted == 1


def test_what_does_not_fit_of_an_export_is_quarantined_and_the_rest_is_stored(
    reg: Registry, cars: Dataset, tmp_path: Path
) -> None:
    apply_events(cars, MAPPING, [event(1), event(1, id=18)])
    tasks = exported(annotation(2, choice("awful")), annotation(1, id=20), at=at(3))
    unreadable = {**TASK, "id": 21, "annotations": [annotation(1, id=18, updated_at=None)]}
    path = write_export(tmp_path / "e.json", [*tasks, unreadable], indent=1)
    faults = Faults(keep_going=True)
    notes: list[str] = []
    insert_export(cars, path, MAPPING, dry=True, faults=faults, note=notes.append)
    assert (faults.count, len(cars), rejected_rows(cars, reg)) == (2, 2, [])
    for _ in range(2):
        insert_export(cars, path, MAPPING, quarantine=True, confirm=yes)
        # 18 is in a task that cannot be read: it is not missing.
        assert sorted(samples(cars)) == ["label-studio:2:18", "label-studio:2:20"]
        rows = sorted(rejected_rows(cars, reg), key=lambda row: row.key or "")
        assert [row.key for row in rows] == [None, KEY]
        line = path.read_text().splitlines().index('  "id": 21,')
        assert rows[0].error.startswith(f"{path}, line {line}: task 21, annotation 18: updated_at")
        assert "e.json, line 2: task 19, annotation 17: unknown class 'awful'" in rows[1].error
    assert notes == ["1 tasks cannot be read; nothing is retracted because the export lacks it"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("result.typo", "'typo', to which feature 'mood' is mapped; the controls answered are "),
        ("result.typo.json", "'typo', to which feature 'note' is mapped; the controls answered "),
    ],
)
def test_a_control_that_nothing_answers_is_an_error_with_the_controls_of_the_export(
    reg: Registry, tmp_path: Path, path: str, problem: str
) -> None:
    notes = reg.create("notes", {"mood": ClassLabel(MOODS), "note": Text()})
    mapping = {"mood": "result.mood", "note": "data.text"}
    mapping["note" if path.endswith("json") else "mood"] = path
    tasks = exported(annotation(1, choice("bad"), choice("good", "sure")), at=at(1))
    export = write_export(tmp_path / "e.json", tasks)
    with pytest.raises(ImportFileError, match=problem) as caught:
        insert_export(notes, export, mapping)
    assert "'mood', 'sure'. Nothing was stored; correct the mapping" in str(caught.value)
    if path.endswith("json"):
        assert insert_export(notes, export, mapping, confirm=yes).inserted == 1
