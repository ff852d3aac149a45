"""Label Studio's events: their shapes, what they make, what does not fit, and nonsense."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

import registry
from registry import (
    ClassLabel,
    Dataset,
    Image,
    Ragged,
    Registry,
    RegistryError,
    Tensor,
    Text,
)
from registry.errors import DatasetExistsError, FeatureError, InvalidSampleError
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.label_studio.webhook import apply_event, apply_events, check_mapping
from registry.samples.features import Features
from registry.storage.database.models import InboxRow
from tests.support.image_files import PNG
from tests.support.label_studio_project import (
    FEATURES,
    MAPPING,
    MOODS,
    choice,
    rectangle,
    samples,
    write_export,
)

KEY = "label-studio:2:17"
TASK = {"id": 19, "data": {"text": "a car", "meta": {"page": 4}}, "project": 2}


@pytest.fixture
def cars(reg: Registry) -> Dataset:
    return reg.create("cars", FEATURES)


def at(second: int) -> str:
    return f"2021-01-31T12:00:{second:02}.5Z"


def annotation(second: int = 0, *results: dict[str, Any], **facts: Any) -> dict[str, Any]:
    found = {"id": 17, "task": 19, "project": 2, "was_cancelled": False, "updated_at": at(second)}
    return {**found, "result": list(results or [choice("bad")]), "completed_by": 1, **facts}


def event(second: int = 0, *results: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return {
        "action": "ANNOTATION_UPDATED",
        "annotation": annotation(second, *results, **facts),
        "task": TASK,
        "project": {"id": 2, "token": "s3cret-token", "task_data_password": "s3cret-password"},
    }


def gone() -> dict[str, Any]:
    return {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 17}], "project": {"id": 2}}


def rows(dataset: Dataset, reg: Registry) -> list[Any]:
    with reg.engine.connect() as connection:
        found = select(InboxRow).where(InboxRow.dataset_id == dataset.id).order_by(InboxRow.id)
        return list(connection.execute(found).all())


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED"])
@pytest.mark.parametrize("key", ["annotation", "annotations"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("task", ["beside", "within", "listed"])
@pytest.mark.parametrize("project", [None, 2, {"id": 2}])
def test_an_event_makes_the_same_sample_in_every_shape(
    sqlite_url: str, action: str, key: str, many: bool, task: str, project: Any
) -> None:
    found = annotation(0, choice("bad"), rectangle(10, 20, 30, 40))
    sent: dict[str, Any] = {"action": action, "project": project}
    if task == "within":
        found["task"] = TASK
    else:
        sent["task" if task == "beside" else "tasks"] = [TASK, {"id": 3}] if many else TASK
    sent[key] = [found] if many else found
    with registry.connect(sqlite_url) as reg:
        cars = reg.create("cars", FEATURES)
        assert apply_event(cars, MAPPING, sent) == Outcome(inserted=1)
        sample = {"id": 17, "text": "a car", "mood": 1, "boxes": [20.0, 20.0, 60.0, 40.0]}
        assert samples(cars) == {KEY: sample}
        assert cars.entries()[0].source == "label-studio"


def test_skipping_clearing_and_deleting_take_a_sample_away_and_only_the_last_for_ever(
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
        (gone(), Outcome(retracted=1)),
        (event(7), Outcome(unchanged=1)),
        (gone(), Outcome(unchanged=1)),
    ]
    for sent, outcome in steps:
        assert apply_event(cars, MAPPING, sent) == outcome
    assert [entry.action for entry in cars.entries()] == [
        *("insert", "revise", "retract", "revise", "retract", "revise", "retract")
    ]


def test_an_annotation_deleted_before_it_was_heard_of_never_comes(cars: Dataset) -> None:
    for sent in (gone(), event(1), event(2)):
        assert apply_event(cars, MAPPING, sent) == Outcome(unchanged=1)
    assert len(cars) == 0


def test_states_of_one_time_come_to_the_same_in_any_order(reg: Registry) -> None:
    states = [event(1, choice("good")), event(1, choice("bad")), event(1, was_cancelled=True)]
    for count in (2, 3):
        ends = []
        for number, order in enumerate(itertools.permutations(states[:count])):
            dataset = reg.create(f"d{count}{number}", FEATURES)
            apply_events(dataset, MAPPING, order)
            ends.append(samples(dataset))
        assert all(end == ends[0] for end in ends)
    assert ends[0] == {}


def test_a_sample_that_does_not_fit_waits_in_quarantine_until_it_does(
    reg: Registry, cars: Dataset
) -> None:
    assert apply_event(cars, MAPPING, event(1)).inserted == 1
    unknown = event(2, choice("awful"), rectangle(1, 2, 3, 4))
    assert apply_event(cars, MAPPING, unknown) == Outcome(quarantined=1)
    assert apply_event(cars, MAPPING, unknown) == Outcome(unchanged=1)
    assert len(cars) == 0, "what the annotator has changed is not trained on"
    (row,) = rows(cars, reg)
    assert (row.key, row.action, row.source) == (KEY, "insert", "label-studio")
    assert row.error == (
        "feature 'mood': task 19, annotation 17: unknown class 'awful'; "
        "the classes are 'good', 'bad'"
    )
    boxes = [2.0, 2.0, 6.0, 4.0]
    assert row.fields == {"id": 17, "text": "a car", "mood": "awful", "boxes": boxes}
    assert "s3cret" not in repr(row)
    apply_event(cars, MAPPING, event(3, choice("worse")))
    assert [row.fields["mood"] for row in rows(cars, reg)] == ["worse"]
    assert apply_event(cars, MAPPING, event(4)) == Outcome(inserted=1)
    assert rows(cars, reg) == []
    bad = [event(5, choice("awful")), event(6, choice("good")), event(7, choice("worse")), gone()]
    apply_events(cars, MAPPING, bad)
    assert (rows(cars, reg), len(cars)) == ([], 0)


@pytest.mark.parametrize(
    "text", ["a\0b", "a\ud800b", "x" * 100_000], ids=["nul", "surrogate", "long"]
)
def test_text_that_a_database_cannot_hold_is_quarantined_or_kept_and_never_crashes(
    reg: Registry, cars: Dataset, text: str
) -> None:
    sent = event(1) | {"task": {"id": 19, "data": {"text": text}}}
    outcome = apply_event(cars, MAPPING, sent)
    if len(text) > 10:
        assert outcome == Outcome(inserted=1)
        return
    assert outcome == Outcome(quarantined=1)
    (row,) = rows(cars, reg)
    assert row.fields["text"] in ("a\ufffdb", "a?b")
    assert row.error.startswith("feature 'text': task 19, annotation 17: text cannot hold")


def test_one_bad_event_among_others_harms_none_of_them(cars: Dataset) -> None:
    other = event(1, id=18)
    naive = event(1, id=19, updated_at="2021-01-31T12:00:00")
    unfit = event(1, choice("x"), id=20)
    outcomes = apply_events(
        cars, MAPPING, [event(1), naive, other, {"action": "TASKS_CREATED"}, unfit]
    )
    assert outcomes[0] == outcomes[2] == Outcome(inserted=1)
    assert isinstance(outcomes[1], InvalidSampleError)
    assert str(outcomes[1]) == (
        "task 19, annotation 19: updated_at '2021-01-31T12:00:00' has no time zone; "
        "write it with Z or an offset"
    )
    assert outcomes[3] == Outcome(ignored="'TASKS_CREATED' tells of no annotation")
    assert outcomes[4] == Outcome(quarantined=1)
    assert sorted(samples(cars)) == [KEY, "label-studio:2:18"]


def test_offsets_count_when_times_are_compared(cars: Dataset) -> None:
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
def test_an_event_that_makes_no_sense_is_refused_with_the_annotation_and_the_field(
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
        ({"action": "PROJECT_UPDATED"}, "'PROJECT_UPDATED' tells of no annotation"),
        ({"action": "ANNOTATION_REVIEWED"}, "'ANNOTATION_REVIEWED' tells of no annotation"),
        ({"action": "ANNOTATION_CREATED"}, "came without annotations; let .* send the payload"),
    ],
)
def test_an_event_that_tells_of_no_annotation_is_ignored(
    cars: Dataset, sent: dict[str, Any], why: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Dataset, "amend_together")  # nor does it wait for the dataset's lock
        ignored = apply_event(cars, MAPPING, sent).ignored
    assert ignored is not None
    assert re.search(why, ignored)


def nonsense() -> st.SearchStrategy[Any]:
    """JSON, and some that no parser would let through."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters())
        | st.sampled_from(
            [
                10**400,
                -(10**400),
                "\ud800",
                "\0",
                "ANNOTATION_CREATED",
                "2021-01-01T00:00:00Z",
                17,
                2,
            ]
        )
    )
    names = st.sampled_from(["id", "result", "value", "choices", "data", "text"]) | st.text()
    return st.recursive(
        leaves, lambda each: st.lists(each) | st.dictionaries(names, each), max_leaves=8
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for name, each in inner:
        found += places(each, (*path, name)) if isinstance(each, dict | list) else [(*path, name)]
    return found


SOUND = event(1, choice("bad"), rectangle(10, 20, 30, 40))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100
)
@given(
    changes=st.lists(st.tuples(st.sampled_from(places(SOUND)), nonsense()), max_size=3),
    whole=st.none() | nonsense(),
)
def test_no_event_whatsoever_crashes(
    reg: Registry, changes: list[tuple[tuple[Any, ...], Any]], whole: Any
) -> None:
    with suppress(DatasetExistsError):
        reg.create("cars", FEATURES)
    sent: Any = deepcopy(SOUND) if whole is None else whole
    for path, value in changes if whole is None else ():
        inner = sent
        for step in path[:-1]:
            inner = inner[step] if isinstance(inner, dict) and step in inner else {}
            if isinstance(inner, list):
                inner = {**dict(enumerate(inner))}
        if isinstance(inner, dict):
            inner[path[-1]] = value
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
    (row,) = rows(notes, reg)
    assert row.error.startswith("feature 'all': task 19, annotation 17: the answers cannot be")


def result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "type": kind, "value": value}


RESULTS = [
    choice("good"),
    choice("7", name="digit"),
    result("stars", "rating", {"rating": 4}),
    result("size", "number", {"number": 2.5}),
    result("said", "textarea", {"text": ["one\ntwo"]}),
    result("topics", "choices", {"choices": ["sport", "art"]}),
    result("who", "labels", {"start": 2, "end": 5, "text": "car", "labels": ["PER"]}),
    result("who", "labels", {"start": 7, "end": 9, "text": "bus", "labels": ["ORG"]}),
    {"type": "relation", "from_id": "a", "to_id": "b"},
    rectangle(0, 0, 100, 100, label="Bus"),
    rectangle(12.5, 50, 25, 10),
]


@pytest.mark.parametrize(
    ("feature", "path", "value"),
    [
        (Text(), "data.text", "a car"),
        (Tensor("int8"), "data.meta.page", 4),
        (Tensor("int64"), "task.id", 19),
        (Tensor("int64"), "annotation.id", 17),
        (Tensor("int64"), "annotation.completed_by", 1),
        (ClassLabel(["bad", "good"]), "result.mood", 1),
        (ClassLabel(10), "result.digit", 7),
        (Tensor("int8"), "result.stars", 4),
        (Tensor("float32"), "result.size", 2.5),
        (Text(), "result.said", "one\ntwo"),
        (Text(), "result.topics.json", '[{"choices": ["sport", "art"]}]'),
        (Text(), "result.mood.json", '["good"]'),
        (Text(), "result.nobody.json", "[]"),
        (Ragged("int8"), "result.topics.classes[art,science,sport]", [2, 0]),
        (Ragged("int32"), "result.who.spans", [2, 5, 7, 9]),
        (Ragged("uint8"), "result.who.classes[ORG,PER]", [1, 0]),
        (Ragged("float64"), "result.box.percent", [0, 0, 100, 100, 12.5, 50, 25, 10]),
        (Ragged("float32"), "result.box.pixels", [0, 0, 200, 100, 25, 50, 50, 10]),
        (Ragged("int16"), "result.box.classes[Car,Bus]", [1, 0]),
        (Ragged("float32"), "result.nobody.pixels", []),
    ],
)
def test_a_path_takes_a_value_from_an_annotation(
    sqlite_url: str, feature: Any, path: str, value: Any
) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("d", {"x": feature})
        assert apply_event(dataset, {"x": path}, event(1, *RESULTS)) == Outcome(inserted=1)
        assert samples(dataset) == {KEY: {"x": value}}


@pytest.mark.parametrize(
    ("feature", "path", "results", "reason"),
    [
        (Text(), "data.title", [], "the task's data has no 'title'"),
        (Text(), "result.topics", [], "2 values, where one is needed; take all with .json"),
        (Text(), "result.who", [], "2 answers, where one is needed; take all with .json"),
        (Text(), "result.nobody", [], "nothing answers 'nobody'"),
        (Tensor("int8"), "result.size", [], "float64 does not fit int8"),
        (Ragged("int8"), "result.topics.classes[art]", [], "unknown class 'sport'; the mapping"),
        (Ragged("int8"), "result.topics.spans", [], "no span with a start and an end"),
        (Ragged("float32"), "result.topics.percent", [], "no rectangle with x, y, width and"),
        (Ragged("float32"), "result.b.percent", [(90, 0, 11, 5)], "x 90, y 0, width 11, height 5"),
        (Ragged("float32"), "result.b.pixels", [(-1, 0, 11, 5)], "stands out of the picture"),
        (Ragged("float32"), "result.b.percent", [(1, 1, -11, 5)], "stands out of the picture"),
        (Ragged("float32"), "result.b.percent", [(1, 1, 1e300, 5)], "no rectangle with"),
        (Image(), "data.text", [], "'a car' names a file, and no folder is allowed"),
    ],
)
def test_what_a_path_cannot_take_is_said_with_task_annotation_and_feature(
    sqlite_url: str, feature: Any, path: str, results: list[Any], reason: str
) -> None:
    drawn = [rectangle(*sides, name="b") for sides in results]
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("d", {"x": feature})
        outcome = apply_event(dataset, {"x": path}, event(1, *RESULTS, *drawn))
        assert outcome == Outcome(quarantined=1)
        (row,) = rows(dataset, reg)
    assert row.error.startswith("feature 'x': task 19, annotation 17: ")
    assert reason in row.error


def test_a_turned_rectangle_and_one_of_unknown_size_are_not_guessed(reg: Registry) -> None:
    dataset = reg.create("d", {"x": Ragged("float32")})
    turned, unsized = rectangle(1, 2, 3, 4), rectangle(1, 2, 3, 4)
    turned["value"]["rotation"] = 30
    del unsized["original_width"]
    for second, (box, reason) in enumerate([(turned, "is turned"), (unsized, "has no pixels")]):
        apply_event(dataset, {"x": "result.box.pixels"}, event(second, box))
        assert reason in rows(dataset, reg)[0].error
    apply_event(dataset, {"x": "result.box.percent"}, event(9, unsized))
    assert samples(dataset) == {KEY: {"x": [1, 2, 3, 4]}}


def test_without_a_mapping_features_have_the_names_of_controls_and_data(reg: Registry) -> None:
    dataset = reg.create("d", {"mood": ClassLabel(["good", "bad"]), "text": Text()})
    assert apply_event(dataset, None, event(1)) == Outcome(inserted=1)
    assert samples(dataset) == {KEY: {"mood": 1, "text": "a car"}}
    other = event(2, choice("good", name="other"))
    assert apply_event(dataset, None, other) == Outcome(quarantined=1)
    assert "nothing answers 'mood'" in rows(dataset, reg)[0].error


def test_an_event_without_the_tasks_data_is_completed_by_an_export(
    reg: Registry, cars: Dataset, tmp_path: Path
) -> None:
    bare = event(1)
    del bare["task"]
    assert apply_event(cars, MAPPING, bare) == Outcome(quarantined=1)
    assert "the task's data is not there" in rows(cars, reg)[0].error
    tasks = [{**TASK, "annotations": [annotation(1)]}]
    report = insert_export(cars, write_export(tmp_path / "e.json", tasks), MAPPING)
    assert (report.inserted, rows(cars, reg)) == (1, [])


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"nothing": "data.x"}, "the mapping names 'nothing'; the features are 'text', 'n', 'f'"),
        ({"text": 3}, "feature 'text': a path is text, not int"),
        ({"text": "text"}, "'text' is no path; write data.NAME, result.NAME"),
        ({"text": "result."}, "'result.' is no path"),
        ({"text": "project.token"}, "'project.token' is no path"),
        ({"text": "result.x.pixels"}, "makes a Ragged of floats"),
        ({"n": "result.x.pixels"}, "makes a Ragged of floats"),
        ({"f": "result.x.spans"}, "makes a Ragged of whole numbers"),
        ({"n": "result.x.json"}, "makes Text"),
        ({"n": "result.x.classes"}, "write .classes\\[a,b\\], and no other list"),
        ({"n": "result.x.spans[a]"}, "write .classes\\[a,b\\], and no other list"),
    ],
)
def test_a_mapping_that_fits_no_annotation_is_refused(mapping: dict[str, Any], reason: str) -> None:
    features = Features({"text": Text(), "n": Ragged("int8"), "f": Ragged("float32")})
    with pytest.raises(FeatureError, match=reason):
        check_mapping(features, mapping)


def test_pictures_are_taken_from_bytes_and_allowed_folders_and_never_fetched(
    reg: Registry, tmp_path: Path
) -> None:
    root, outside = tmp_path / "media", tmp_path / "secret.png"
    (root / "upload" / "2").mkdir(parents=True)
    (root / "upload" / "2" / "a b.png").write_bytes(PNG)
    outside.write_bytes(PNG)
    (root / "link.png").symlink_to(outside)
    (root / "up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    text = base64.b64encode(PNG).decode()
    taken = [
        text,
        f"data:image/png;base64,{text}",
        "/data/upload/2/a%20b.png",
        "upload/2/a b.png",
        "/data/local-files/?d=upload/2/a%20b.png",
        f"{root}/upload/2/a b.png",
        f"file://{root}/upload/2/a%20b.png",
    ]
    refused = [
        f"file://{outside}",
        f"file://elsewhere{root}/upload/2/a%20b.png",
        str(outside),
        "../secret.png",
        "/data/../secret.png",
        "/data/%2e%2e/secret.png",
        "/data/local-files/?d=../secret.png",
        "link.png",
        "up/secret.png",
        "pipe.png",
        "upload",
        "a\0b.png",
        "n" * 5000 + ".png",
        "http://user:s3cret@127.0.0.1:1/a.png?token=s3cret",
        "s3://bucket/a.png",
        "gs://bucket/a.png",
        "ftp://h/a.png",
    ]
    dataset = reg.create("d", {"picture": Image()})
    mapping = {"picture": "data.image"}
    for number, value in enumerate([*taken, *refused]):
        sent = event(1, id=number) | {"task": {"id": 19, "data": {"image": value}}}
        outcome = apply_event(dataset, mapping, sent, roots=[tmp_path / "none", root])
        expected = Outcome(inserted=1) if value in taken else Outcome(quarantined=1)
        assert outcome == expected, value
    assert {sample["picture"] for sample in samples(dataset).values()} == {PNG}
    assert "s3cret" not in repr([(row.fields, row.error) for row in rows(dataset, reg)])


def test_what_was_lost_before_an_export_does_not_come_back_after_it(
    cars: Dataset, tmp_path: Path
) -> None:
    # 17 was created and deleted before the export, and both events come late or never.
    tasks = [{**TASK, "annotations": [annotation(9, id=18)]}]
    path = write_export(tmp_path / "e.json", tasks)
    insert_export(cars, path, MAPPING)
    assert apply_event(cars, MAPPING, event(5)) == Outcome(unchanged=1)
    assert apply_event(cars, MAPPING, event(10)) == Outcome(inserted=1)
    # An export that is imported by mistake and lacks it does no harm that the next cannot mend.
    assert insert_export(cars, path, MAPPING).retracted == 1
    both = [{**TASK, "annotations": [annotation(10), annotation(9, id=18)]}]
    assert insert_export(cars, write_export(tmp_path / "f.json", both), MAPPING).inserted == 1
    assert sorted(samples(cars)) == [KEY, "label-studio:2:18"]


def test_an_export_leaves_other_projects_and_what_came_after_it_alone(
    cars: Dataset, tmp_path: Path
) -> None:
    later = datetime(2021, 3, 1, tzinfo=UTC)
    apply_events(
        cars,
        MAPPING,
        [event(1), event(1, id=18, project=3), event(1, id=19, updated_at=later.isoformat())],
    )
    path = write_export(tmp_path / "e.json", [{**TASK, "annotations": []}])
    made = datetime(2021, 2, 1, tzinfo=UTC).timestamp()
    os.utime(path, (made, made))
    rehearsed = insert_export(cars, path, MAPPING, dry=True)
    assert (rehearsed.retracted, len(cars)) == (1, 3)
    assert insert_export(cars, path, MAPPING).retracted == 1
    assert sorted(samples(cars)) == ["label-studio:2:19", "label-studio:3:18"]
    assert json.loads(path.read_text()) == [{**TASK, "annotations": []}]


def test_an_older_export_does_not_bring_back_what_a_newer_one_lacks(
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


@pytest.mark.parametrize("said", [["good", "bad"], ["bad", "good"], ["awful", "good"]])
def test_an_export_goes_before_an_event_of_the_same_time(
    cars: Dataset, tmp_path: Path, said: list[str]
) -> None:
    by_event, by_export = said
    apply_event(cars, MAPPING, event(5, choice(by_event)))
    tasks = [{**TASK, "annotations": [annotation(5, choice(by_export))]}]
    insert_export(cars, write_export(tmp_path / "e.json", tasks), MAPPING)
    assert [MOODS[sample["mood"]] for sample in samples(cars).values()] == [by_export]


def test_events_of_one_time_do_not_bring_a_sample_back(cars: Dataset) -> None:
    apply_events(cars, MAPPING, [event(5), event(5, was_cancelled=True)])
    for late in (event(5), event(5, choice("good")), event(5, choice("awful"))):
        assert apply_event(cars, MAPPING, late) == Outcome(unchanged=1)
    assert len(cars) == 0


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_of_two_samples_of_one_time_the_greater_record_stays(
    cars: Dataset, order: tuple[str, ...]
) -> None:
    for mood in order:
        apply_event(cars, MAPPING, event(1, choice(mood)))
    assert [MOODS[sample["mood"]] for sample in samples(cars).values()] == ["bad"]


def test_a_newer_state_removes_rejected_rows_of_its_own_tool_dataset_and_key_alone(
    reg: Registry, cars: Dataset
) -> None:
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
    kept = [(row.key, row.source) for row in rows(cars, reg)]
    beside = [(KEY, source) for source in ("argilla", "my-tool", None)]
    assert kept == [("label-studio:2:18", "label-studio"), *beside]
    assert [row.key for row in rows(other, reg)] == [KEY]
