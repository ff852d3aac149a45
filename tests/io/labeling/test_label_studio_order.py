"""Events and exports of Label Studio together: which state of an annotation wins."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from registry import Dataset, Registry
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
from tests.support.labeling_events import KEY, TASK, annotation, event, rejected_rows


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


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_of_two_samples_of_one_time_the_greater_record_wins(
    cars: Dataset, order: tuple[str, ...]
) -> None:
    for mood in order:
        apply_event(cars, MAPPING, event(1, choice(mood)))
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
