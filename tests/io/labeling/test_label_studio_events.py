"""Label Studio's events: the shapes they have, the samples they make, and what does not fit."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import registry
from registry import Dataset, Ragged, Registry, RegistryError, Text
from registry.errors import DatasetExistsError, InvalidSampleError
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.webhook import apply_event, apply_events
from tests.support.label_studio_project import FEATURES, MAPPING, choice, rectangle, samples
from tests.support.labeling_events import (
    KEY,
    TASK,
    JsonPath,
    annotation,
    at,
    deletion,
    event,
    nonsense,
    paths_in,
    rejected_rows,
    with_changes,
)

SOUND = event(1, choice("bad"), rectangle(10, 20, 30, 40))


@pytest.fixture
def cars(reg: Registry) -> Dataset:
    return reg.create("cars", FEATURES)


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED"])
@pytest.mark.parametrize("key", ["annotation", "annotations"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("task", ["next to it", "within", "listed"])
@pytest.mark.parametrize("project", [None, 2, {"id": 2}])
def test_an_event_makes_the_same_sample_in_every_shape(
    sqlite_url: str, action: str, key: str, many: bool, task: str, project: Any
) -> None:
    sent_annotation = annotation(0, choice("bad"), rectangle(10, 20, 30, 40))
    sent: dict[str, Any] = {"action": action, "project": project}
    if task == "within":
        sent_annotation["task"] = TASK
    else:
        sent["task" if task == "next to it" else "tasks"] = [TASK, {"id": 3}] if many else TASK
    sent[key] = [sent_annotation] if many else sent_annotation
    with registry.connect(sqlite_url) as reg:
        cars = reg.create("cars", FEATURES)
        assert apply_event(cars, MAPPING, sent) == Outcome(inserted=1)
        sample = {"id": 17, "text": "a car", "mood": 1, "boxes": [20.0, 20.0, 60.0, 40.0]}
        assert samples(cars) == {KEY: sample}
        assert cars.entries()[0].source == "label-studio/1"


def test_a_sample_follows_the_states_of_its_annotation(
    cars: Dataset,
) -> None:
    steps = [
        (event(1), Outcome(inserted=1)),
        (event(1), Outcome(unchanged=1)),
        (event(2, choice("good")), Outcome(revised=1)),
        (event(1), Outcome(unchanged=1)),
        (event(3, was_cancelled=True), Outcome(retracted=1)),
        (event(4), Outcome(inserted=1)),
        (event(5) | {"annotation": annotation(5, result=[])}, Outcome(retracted=1)),
        (event(6), Outcome(inserted=1)),
        (deletion(), Outcome(retracted=1)),
        (event(7), Outcome(unchanged=1)),
        (deletion(), Outcome(unchanged=1)),
    ]
    for sent, outcome in steps:
        assert apply_event(cars, MAPPING, sent) == outcome
    assert [entry.action for entry in cars.entries()] == [
        *("insert", "revise", "retract", "revise", "retract", "revise", "retract")
    ]


def test_an_annotation_deleted_before_its_first_event_makes_no_sample(cars: Dataset) -> None:
    for sent in (deletion(), event(1), event(2)):
        assert apply_event(cars, MAPPING, sent) == Outcome(unchanged=1)
    assert len(cars) == 0


def test_states_of_one_time_have_one_result_in_any_order(reg: Registry) -> None:
    states = [event(1, choice("good")), event(1, choice("bad")), event(1, was_cancelled=True)]
    for count in (2, 3):
        results = []
        for number, order in enumerate(itertools.permutations(states[:count])):
            dataset = reg.create(f"d{count}{number}", FEATURES)
            apply_events(dataset, MAPPING, order)
            results.append(samples(dataset))
        assert all(result == results[0] for result in results)
    assert results[0] == {}


def test_an_annotation_that_does_not_fit_is_quarantined_with_the_reason(
    reg: Registry, cars: Dataset
) -> None:
    unknown = event(2, choice("awful"), rectangle(1, 2, 3, 4))
    assert apply_event(cars, MAPPING, unknown) == Outcome(quarantined=1)
    (row,) = rejected_rows(cars, reg)
    assert (row.key, row.action, row.source) == (KEY, "insert", "label-studio/1")
    assert row.error == (
        "feature 'mood': task 19, annotation 17: unknown class 'awful'; "
        "the classes are 'good', 'bad'"
    )
    boxes = [2.0, 2.0, 6.0, 4.0]
    assert row.fields == {"id": 17, "text": "a car", "mood": "awful", "boxes": boxes}
    assert "s3cret" not in repr(row)
    assert apply_event(cars, MAPPING, unknown) == Outcome(unchanged=1)
    assert len(rejected_rows(cars, reg)) == 1


def test_the_old_sample_of_a_quarantined_annotation_is_retracted(cars: Dataset) -> None:
    assert apply_event(cars, MAPPING, event(1)).inserted == 1
    assert apply_event(cars, MAPPING, event(2, choice("awful"))) == Outcome(quarantined=1)
    assert len(cars) == 0, "what the annotator has changed is not trained on"


def test_a_newer_state_replaces_a_rejected_row(reg: Registry, cars: Dataset) -> None:
    apply_event(cars, MAPPING, event(2, choice("awful")))
    apply_event(cars, MAPPING, event(3, choice("worse")))
    assert [row.fields["mood"] for row in rejected_rows(cars, reg)] == ["worse"]
    assert apply_event(cars, MAPPING, event(4)) == Outcome(inserted=1)
    assert rejected_rows(cars, reg) == []


def test_of_the_states_of_one_transaction_only_the_newest_is_kept(
    reg: Registry, cars: Dataset
) -> None:
    apply_event(cars, MAPPING, event(4))
    states = [event(5, choice("awful")), event(6, choice("good")), event(7, choice("worse"))]
    apply_events(cars, MAPPING, [*states, deletion()])
    assert (rejected_rows(cars, reg), len(cars)) == ([], 0)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["nul", "surrogate"])
def test_text_that_no_database_stores_is_quarantined(
    reg: Registry, cars: Dataset, text: str
) -> None:
    sent = event(1) | {"task": {"id": 19, "data": {"text": text}}}
    assert apply_event(cars, MAPPING, sent) == Outcome(quarantined=1)
    (row,) = rejected_rows(cars, reg)
    assert row.fields["text"] in ("a\ufffdb", "a?b")
    assert row.error.startswith("feature 'text': task 19, annotation 17: text cannot hold")


def test_long_text_is_stored(cars: Dataset) -> None:
    sent = event(1) | {"task": {"id": 19, "data": {"text": "x" * 100_000}}}
    assert apply_event(cars, MAPPING, sent) == Outcome(inserted=1)


def test_one_bad_event_among_others_harms_none_of_them(cars: Dataset) -> None:
    other = event(1, id=18)
    naive = event(1, id=19, updated_at="2021-01-31T12:00:00")
    unfit = event(1, choice("x"), id=20)
    outcomes = apply_events(
        cars, MAPPING, [event(1), naive, other, {"action": "PROJECT_CREATED"}, unfit]
    )
    assert outcomes[0] == outcomes[2] == Outcome(inserted=1)
    assert isinstance(outcomes[1], InvalidSampleError)
    assert str(outcomes[1]) == (
        "task 19, annotation 19: updated_at '2021-01-31T12:00:00' has no time zone; "
        "write it with Z or an offset"
    )
    assert outcomes[3] == Outcome(ignored="'PROJECT_CREATED' is not about an annotation")
    assert outcomes[4] == Outcome(quarantined=1)
    assert sorted(samples(cars)) == [KEY, "label-studio:2:18"]


def test_times_are_compared_with_their_offsets(cars: Dataset) -> None:
    apply_event(cars, MAPPING, event(updated_at="2021-01-31T12:00:00Z"))
    earlier = event(0, choice("good"), updated_at="2021-01-31T13:00:00+02:00")
    assert apply_event(cars, MAPPING, earlier) == Outcome(unchanged=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"updated_at": None}, "task 19, annotation 17: updated_at is a time such as"),
        ({"updated_at": "yesterday"}, "updated_at is a time such as .*, not 'yesterday'"),
        ({"updated_at": "0001-01-01T00:00:00+14:00"}, "updated_at is a time such as"),
        ({"id": True}, "the annotation's id is a whole number from 0 on, not True"),
        ({"id": "17"}, "the annotation's id is a whole number from 0 on, not '17'"),
        ({"id": -1}, "the annotation's id is a whole number from 0 on, not -1"),
        ({"task": 1.5}, "annotation 17: the task's id is a whole number from 0 on, not a float"),
        ({"was_cancelled": "no"}, "annotation 17: was_cancelled is true or false, not a str"),
        ({"result": {}}, "annotation 17: 'result' is a list, not a dict"),
        ({"result": [1]}, "annotation 17: a result is an object, not 1"),
        ({"result": [{"from_name": 1}]}, "annotation 17: 'from_name' is text, not 1"),
        ({"result": [{"from_name": "x"}]}, "the 'value' of 'x' is an object, not null"),
        (
            {"project": []},
            "annotation 17: the project's id is a whole number from 0 on, not a list",
        ),
    ],
)
def test_an_event_that_cannot_be_read_is_refused_with_its_field(
    sqlite_url: str, change: dict[str, Any], reason: str
) -> None:
    sent = event(**change)
    if "task" in change:
        del sent["task"]
    with registry.connect(sqlite_url) as reg:
        cars = reg.create("cars", FEATURES)
        with pytest.raises(InvalidSampleError, match=reason):
            apply_event(cars, MAPPING, sent)
        assert cars.head.position == 0


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"action": "PROJECT_UPDATED"}, "'PROJECT_UPDATED' is not about an annotation"),
        ({"action": "ANNOTATION_REVIEWED"}, "'ANNOTATION_REVIEWED' is not about an annotation"),
        ({"action": "ANNOTATION_CREATED"}, "came without annotations; let .* send the payload"),
    ],
)
def test_an_event_without_annotations_is_ignored(
    cars: Dataset, sent: dict[str, Any], why: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Dataset, "amend_together")  # it does not wait for the dataset's lock
        ignored = apply_event(cars, MAPPING, sent).ignored
    assert ignored is not None
    assert re.search(why, ignored)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100
)
@given(
    changes=st.lists(st.tuples(st.sampled_from(paths_in(SOUND)), nonsense()), max_size=3),
    whole=st.none() | nonsense(),
)
def test_no_event_causes_a_crash(
    reg: Registry, changes: list[tuple[JsonPath, Any]], whole: Any
) -> None:
    with suppress(DatasetExistsError):
        reg.create("cars", FEATURES)
    sent = with_changes(SOUND, changes) if whole is None else whole
    outcomes = apply_events(reg.open("cars"), MAPPING, [sent, event(2, id=99)])
    assert isinstance(outcomes[0], Outcome | RegistryError)
    assert isinstance(outcomes[1], Outcome)
    assert samples(reg.open("cars"))["label-studio:2:99"]["mood"] == 1


def test_an_event_of_great_depth_is_quarantined(reg: Registry) -> None:
    notes = reg.create("notes", {"all": Text(), "deep": Ragged("int8")})
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    sent = event(1, {"from_name": "x", "type": "x", "value": {"x": deep}})
    mapping = {"all": "result.x.json", "deep": "result.x"}
    assert apply_event(notes, mapping, sent) == Outcome(quarantined=1)
    (row,) = rejected_rows(notes, reg)
    assert row.error.startswith("feature 'all': task 19, annotation 17: the answers cannot be")


@pytest.mark.parametrize("sent", [deletion(), {"action": "TASKS_DELETED", "tasks": [{"id": 19}]}])
def test_what_gets_the_id_of_something_deleted_is_something_else(
    cars: Dataset, sent: dict[str, Any]
) -> None:
    old = {"created_at": at(0)}
    apply_event(cars, MAPPING, event(1, **old))
    apply_event(cars, MAPPING, sent)
    # A late event of the deleted annotation, whatever the time of its last change.
    late = event(2, **old, updated_at="2100-01-01T00:00:00Z")
    assert apply_event(cars, MAPPING, late) == Outcome(unchanged=1)
    new = {"created_at": "2099-01-01T00:00:00Z", "updated_at": "2099-01-01T00:00:01Z"}
    assert apply_event(cars, MAPPING, event(0, choice("good"), **new)) == Outcome(inserted=1)
    assert apply_event(cars, MAPPING, event(2, **old)) == Outcome(unchanged=1)
    assert samples(cars)[KEY]["mood"] == 0
