"""A running server follows changes of a dataset's features that another process makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import insert

import registry
from registry import ClassLabel, Dataset, Image, Registry, Tensor, Text
from registry.io.labeling import mapping_store
from registry.io.media import media_reader
from registry.server.settings import ServerSettings
from registry.storage.database.models import InboxRow
from registry.storage.database.transactions import writing
from tests.support.image_files import JPEG, PNG
from tests.support.label_studio_project import choice
from tests.support.labeling_events import KEY, event
from tests.support.servers import client, problem

PATH = "/v1/datasets/moods"


@pytest.fixture
def moods(reg: Registry) -> Dataset:
    """The dataset as the server's own process opened it."""
    return reg.create("moods", {"text": Text(), "mood": ClassLabel(["bad", "good"])})


@pytest.fixture
def changed(url: str, moods: Dataset) -> Iterator[Dataset]:
    """The dataset as another process has it, which changes it."""
    assert moods.head.position == 0
    with registry.connect(url) as other:
        yield other.open("moods")


@pytest.fixture
def http(reg: Registry, moods: Dataset, tmp_path: Path) -> Iterator[httpx.Client]:
    assert moods.head.position == 0
    (tmp_path / "a.png").write_bytes(PNG)
    settings = ServerSettings(media=media_reader([tmp_path], []))
    with client(reg, settings) as http:
        yield http


def test_samples_are_posted_and_read_in_the_features_of_now(
    http: httpx.Client, changed: Dataset
) -> None:
    def post(key: str, **fields: object) -> httpx.Response:
        return http.post(f"{PATH}/samples", json={"key": key, "fields": fields})

    assert post("a", text="t", mood="bad").status_code == 200
    refusal = problem(post("b", text="t", mood="odd"), 422, key="b")
    assert "unknown class 'odd'" in refusal
    changed.add_classes("mood", ["odd"])
    changed.add_feature("page", Tensor("int8", (2,)), 3)
    assert post("b", text="t", mood="odd", page=[1, 2]).json()["inserted"] == 1
    assert post("c", text="t", mood="odd").json()["inserted"] == 1
    assert post("a", text="t", mood="bad", page=[3, 3]).json()["unchanged"] == 1
    changed.add_feature("note", Text(), "none")
    answer = http.post(
        f"{PATH}/samples", json={"key": "b", "fields": {"note": "new"}, "action": "update"}
    )
    assert answer.json()["revised"] == 1
    sample = http.get(f"{PATH}/samples/a").json()
    assert sample["fields"] == {"text": "t", "mood": "bad", "page": [3, 3], "note": "none"}
    page = http.get(f"{PATH}/samples").json()
    assert [row["fields"] for row in page["rows"]] == [
        {"text": "t", "mood": "bad"},
        {"text": "t", "mood": "odd", "page": [1, 2]},
        {"text": "t", "mood": "odd", "page": [3, 3]},
        {"text": "t", "mood": "odd", "page": [1, 2], "note": "new"},
    ]
    shown = http.get(PATH).json()
    assert (shown["schema"], shown["head"]["position"]) == (3, 4)
    defaults = [feature.get("default") for feature in shown["features"]]
    assert defaults == [None, None, 3, "none"]
    assert shown["changes"] == [
        {"schema": 1, "since": 1, "added": "mood: + odd"},
        {"schema": 2, "since": 1, "added": "+ page=int8[2], default 3"},
        {"schema": 3, "since": 3, "added": "+ note=text, default none"},
    ]
    assert [each["name"] for each in http.get(f"{PATH}@3").json()["features"]] == [
        *("text", "mood", "page")
    ]


def test_a_webhook_and_a_retry_take_what_was_just_added(
    reg: Registry, http: httpx.Client, moods: Dataset, changed: Dataset
) -> None:
    mapping = {"text": "data.text", "mood": "result.mood"}
    mapping_store.set_mapping(reg.engine, moods.id, "label-studio", mapping)

    def send(second: int, *mood: str) -> dict[str, object]:
        body = event(second, *map(choice, mood))
        answer: dict[str, object] = http.post(f"{PATH}/webhooks/label-studio", json=body).json()
        return answer

    assert send(1)["status"] == "applied"
    assert send(2, "odd")["status"] == "quarantined"
    changed.add_classes("mood", ["odd"])
    changed.add_feature("page", Tensor("int8"), -1)
    assert send(3, "odd")["inserted"] == 1
    # A mapping that names a feature which the server has not known until now.
    changed.add_feature("sheet", Tensor("int8"), -1)
    mapping["sheet"] = "data.meta.page"
    mapping_store.set_mapping(reg.engine, moods.id, "label-studio", mapping)
    assert send(4)["revised"] == 1
    row = {"dataset_id": moods.id, "key": "k", "error": "x"}
    with writing(reg.engine) as connection:
        fields = {"text": "t", "mood": "odd", "note": "n", "scan": "a.png"}
        connection.execute(insert(InboxRow), {**row, "fields": fields})
    (rejected,) = http.get(f"{PATH}/inbox").json()["rows"]
    retry = f"{PATH}/inbox/{rejected['id']}/retry"
    assert "unknown 'note'" in problem(http.post(retry), 422)
    changed.add_feature("note", Text(), "none")
    changed.add_feature("scan", Image(), JPEG)
    assert http.post(retry).json()["inserted"] == 1
    assert (changed.get("k")["note"], changed.get("k")["scan"]) == ("n", PNG)
    sample = changed.get(KEY)
    assert (sample["mood"], sample["page"], sample["sheet"], sample["note"]) == (0, -1, 4, "none")
