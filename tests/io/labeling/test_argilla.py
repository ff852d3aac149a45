"""Argilla's events: what they make, what does not fit, nonsense, and any order of them."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import ClassLabel, Dataset, Ragged, Registry, RegistryError, Tensor, Text
from registry.errors import DatasetExistsError, FeatureError, InvalidSampleError
from registry.io.labeling.apply import Outcome
from registry.io.labeling.argilla import apply_event, check_mapping
from registry.samples.features import Feature, Features
from tests.support.label_studio_project import BEGAN, samples
from tests.support.labeling_events import JsonPath, nonsense, paths_in, rejected_rows, with_changes

FEATURES: dict[str, Feature] = {
    "text": Text(),
    "mood": ClassLabel(["good", "bad"]),
    "page": Tensor("int64"),
    "who": Text(),
}
MAPPING = {"page": "metadata.page", "who": "response.username"}
USER = "5eed0000-0000-4000-8000-000000000001"
RECORD = "7d0a4ce9-62a5-4f0c-8d8e-0b1f4f1f6d10"
RESPONSE = "0d5be0de-4f3b-4d55-9c0a-6c1f9a2b7e01"
KEY = f"argilla:{RECORD}:{RESPONSE}"
HISTORIES = 300


@pytest.fixture
def moods(reg: Registry) -> Dataset:
    return reg.create("moods", FEATURES)


def event(
    second: int = 0,
    mood: Any = "good",
    kind: str = "response.updated",
    status: str = "submitted",
    own: str = RESPONSE,
    record: str = RECORD,
) -> dict[str, Any]:
    """An event as Argilla sends it, its own times in UTC without saying so."""
    return {
        "type": kind,
        "version": 1,
        "timestamp": "2026-01-02T03:04:05.000006Z",
        "data": {
            "id": own,
            "values": {"mood": {"value": mood}},
            "status": status,
            "record": {
                "id": record,
                "status": "completed",
                "fields": {"text": "a\nletter"},
                "metadata": {"page": 7},
                "external_id": "x-1",
                "dataset": {"id": "c0ffee00-0000-4000-8000-000000000000", "name": "letters"},
            },
            "user": {"id": USER, "username": "ada"},
            "inserted_at": "2026-01-02T03:04:05",
            "updated_at": f"2026-01-02T03:04:{second:02}.5",
        },
    }


def record_deleted(record: str = RECORD) -> dict[str, Any]:
    deleted = event(record=record)["data"]["record"]
    return {"type": "record.deleted", "version": 1, "data": deleted}


def test_a_response_is_a_sample_while_it_is_submitted(
    moods: Dataset,
) -> None:
    steps = [
        (event(1, kind="response.created", status="draft"), Outcome(unchanged=1)),
        (event(2), Outcome(inserted=1)),
        (event(2), Outcome(unchanged=1)),
        (event(4, "bad"), Outcome(revised=1)),
        (event(3), Outcome(unchanged=1)),
        (event(5, status="discarded"), Outcome(retracted=1)),
        (event(6), Outcome(inserted=1)),
        (event(0, kind="response.deleted"), Outcome(retracted=1)),
        (event(9), Outcome(unchanged=1)),
        (event(9, kind="response.deleted"), Outcome(unchanged=1)),
    ]
    for number, (sent, outcome) in enumerate(steps):
        assert apply_event(moods, MAPPING, sent) == outcome, number
        if number == 4:
            sample = {"text": "a\nletter", "mood": 1, "page": 7, "who": "ada"}
            assert samples(moods) == {KEY: sample}
    assert moods.entries()[0].source == f"argilla/{USER}"
    assert len(moods) == 0


def test_the_responses_of_a_deleted_record_never_return(moods: Dataset) -> None:
    others = [str(UUID(int=number)) for number in range(3)]
    for own in others:
        apply_event(moods, MAPPING, event(own=own))
    apply_event(moods, MAPPING, event(mood="awful"))
    apply_event(moods, MAPPING, event(record=others[0]))
    apply_event(moods, MAPPING, event(own=others[0], kind="response.deleted"))
    gone = Outcome(retracted=2, unchanged=2)
    assert apply_event(moods, MAPPING, record_deleted()) == gone
    assert moods.inbox.refused() == []
    for late in (event(9), event(9, own=others[1]), event(9, own=others[2])):
        assert apply_event(moods, MAPPING, late) == Outcome(unchanged=1)
    assert apply_event(moods, MAPPING, record_deleted()) == Outcome(unchanged=4)
    assert [*samples(moods)] == [f"argilla:{others[0]}:{RESPONSE}"]


def test_every_kind_of_question_has_a_path(reg: Registry) -> None:
    dataset = reg.create(
        "d",
        {
            "stars": ClassLabel(6),
            "note": Text(),
            "topics": Ragged("int8"),
            "order": Text(),
            "spans": Ragged("int64"),
            "kinds": Ragged("int64"),
            "record": Text(),
            "user": Text(),
        },
    )
    mapping = {
        "topics": "values.topics.classes[a,b,c]",
        "order": "values.order.json",
        "spans": "values.names.spans",
        "kinds": "values.names.classes[place,person]",
        "record": "record.external_id",
        "user": "response.user",
    }
    sent = event()
    sent["data"]["values"] = {
        "stars": {"value": 5},
        "note": {"value": "fine"},
        "topics": {"value": ["c", "a"]},
        "order": {"value": [{"value": "a", "rank": 2}]},
        "names": {"value": [{"start": 2, "end": 4, "label": "person"}]},
        "skipped": {"value": None},
    }
    assert apply_event(dataset, mapping, sent) == Outcome(inserted=1)
    assert samples(dataset)[KEY] == {
        "stars": 5,
        "note": "fine",
        "topics": [2, 0],
        "order": '[{"rank": 2, "value": "a"}]',
        "spans": [2, 4],
        "kinds": [1],
        "record": "x-1",
        "user": USER,
    }


def test_a_response_that_does_not_fit_is_quarantined_with_the_reason(
    reg: Registry, moods: Dataset
) -> None:
    apply_event(moods, MAPPING, event(1))
    assert apply_event(moods, MAPPING, event(2, "awful")) == Outcome(quarantined=1)
    assert apply_event(moods, MAPPING, event(2, "awful")) == Outcome(unchanged=1)
    assert len(moods) == 0
    (row,) = rejected_rows(moods, reg)
    assert (row.key, row.action, row.source) == (
        KEY,
        "insert",
        f"argilla/{USER}",
    )
    assert row.error == (
        f"feature 'mood': record {RECORD}, response {RESPONSE}: unknown class 'awful'; "
        "the classes are 'good', 'bad'"
    )
    assert row.fields == {"text": "a\nletter", "mood": "awful", "page": 7, "who": "ada"}


def test_a_newer_state_replaces_a_rejected_row(reg: Registry, moods: Dataset) -> None:
    apply_event(moods, MAPPING, event(2, "awful"))
    assert apply_event(moods, MAPPING, event(3, "a\0b")) == Outcome(quarantined=1)
    assert len(rejected_rows(moods, reg)) == 1
    assert apply_event(moods, MAPPING, event(4)) == Outcome(inserted=1)
    assert rejected_rows(moods, reg) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("fields.title", "the record's 'fields' object has no 'title'"),
        ("metadata.page.x", "the record's 'metadata' object has no 'page.x'"),
        ("values.title", "nothing answers 'title'; it answers 'mood'"),
    ],
)
def test_a_path_that_leads_nowhere_is_quarantined_with_the_reason(
    reg: Registry, moods: Dataset, path: str, reason: str
) -> None:
    assert apply_event(moods, {**MAPPING, "text": path}, event()) == Outcome(quarantined=1)
    (row,) = rejected_rows(moods, reg)
    assert row.error == f"feature 'text': record {RECORD}, response {RESPONSE}: {reason}"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("data", "id"), 7, "the id is a UUID, not an int"),
        (("data", "record"), None, "the record is an object, not null"),
        (("data", "record", "id"), "7", "the record's id is a UUID, not '7'"),
        (("data", "status"), "lost", "response 0d5.*: the status is submitted.*, not 'lost'"),
        (("data", "values"), [1], "'values' is an object, not a list"),
        (("data", "values", "mood"), "good", "the value of 'mood' is an object, not a str"),
        (("data", "updated_at"), "now", "updated_at is a time such as .*, not 'now'"),
        (("type",), None, "an event has a 'type', such as response.created"),
        (("data",), [], "an event's data is an object, not a list"),
    ],
)
def test_an_event_that_cannot_be_read_is_refused_with_its_field(
    moods: Dataset, path: tuple[str, ...], value: Any, reason: str
) -> None:
    sent = event()
    inner = sent
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(InvalidSampleError, match=reason):
        apply_event(moods, MAPPING, sent)
    assert moods.head.position == 0


@pytest.mark.parametrize("kind", ["dataset.created", "record.completed", "ping"])
def test_an_event_of_another_kind_is_ignored(moods: Dataset, kind: str) -> None:
    assert apply_event(moods, MAPPING, event(kind=kind)) == Outcome(
        ignored=f"'{kind}' is not about a response"
    )


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"title": "fields.text"}, "the mapping names 'title'"),
        ({"text": "text"}, "'text' is no path; write fields.NAME, metadata.NAME"),
        ({"text": "values."}, "'values.' is no path"),
        ({"text": "response.email"}, "'response.email' is no path"),
        ({"text": "data.fields.text"}, "is no path"),
        ({"text": 7}, "7 is no path"),
        ({"text": "values.x.spans"}, "Text.*, and 'values.x.spans' makes a Ragged of whole"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(mapping: Any, reason: str) -> None:
    with pytest.raises(FeatureError, match=reason):
        check_mapping(Features(FEATURES), mapping)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100
)
@given(
    changes=st.lists(st.tuples(st.sampled_from(paths_in(event())), nonsense()), max_size=3),
    whole=st.none() | nonsense(),
)
def test_no_event_causes_a_crash(
    reg: Registry, changes: list[tuple[JsonPath, Any]], whole: Any
) -> None:
    with suppress(DatasetExistsError):
        reg.create("moods", FEATURES)
    sent = with_changes(event(), changes) if whole is None else whole
    moods, other = reg.open("moods"), str(UUID(int=1))
    with suppress(RegistryError):
        apply_event(moods, MAPPING, sent)
    apply_event(moods, MAPPING, event(own=other, record=other))
    assert samples(moods)[f"argilla:{other}:{other}"]["mood"] == 0


def history(number: int, random: Random) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the events of a record with up to two responses, and what is left by their keys."""
    record, moment = str(UUID(int=number << 64)), BEGAN
    alive = [str(UUID(int=(number << 64) + n)) for n in (1, 2)]
    events: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    for _ in range(random.randint(1, 5)):
        if not alive:
            break
        moment += timedelta(microseconds=random.choice([1, 86_400_000_000]))
        own, mood = random.choice(alive), random.choice(["good", "bad"])
        kind = random.choice(["created", "updated", "updated", "deleted"])
        status = random.choice(["submitted", "submitted", "discarded", "draft"])
        sent = event(0, mood, f"response.{kind}", status, own, record)
        sent["data"]["updated_at"] = moment.replace(tzinfo=None).isoformat()
        left.pop(key := f"argilla:{record}:{own}", None)
        if kind == "deleted":
            alive.remove(own)
        elif status == "submitted":
            left[key] = mood
        events.append(sent)
    if random.random() < 0.2:
        return [*events, record_deleted(record)], {}
    return events, left


def test_events_in_any_order_make_the_same_dataset(moods: Dataset) -> None:
    random = Random(8)
    expected: dict[str, str] = {}
    mixed: list[tuple[float, dict[str, Any]]] = []
    for number in range(1, HISTORIES + 1):
        events, left = history(number, random)
        expected |= left
        again = random.choices(events, k=random.randint(0, 2))
        mixed += [(random.random(), each) for each in [*events, *again]]
    for _, sent in sorted(mixed, key=lambda each: each[0]):
        assert not apply_event(moods, MAPPING, sent).quarantined
    labels = {key: ["good", "bad"][sample["mood"]] for key, sample in samples(moods).items()}
    assert labels == expected
    assert len(expected) > HISTORIES / 3
