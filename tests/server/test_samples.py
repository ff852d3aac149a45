"""Samples in and out over HTTP, from a real client on a real port."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from registry import ClassLabel, Dataset, Registry
from tests.support.datasets import FIXED, digit
from tests.support.pages import DOCS, blocks
from tests.support.servers import NDJSON, POST, client, item, problem

ACTIONS = ("inserted", "revised", "retracted", "unchanged")


@pytest.fixture
def http(reg: Registry, digits: Dataset) -> Iterator[httpx.Client]:
    assert digits.head.position == 0
    with client(reg) as http:
        yield http


@pytest.fixture
def generated(http: httpx.Client) -> str:
    """Insert three samples, update one, retract one, and add one whose key is generated."""
    assert http.post(POST, json=[item(n, source="tool") for n in range(3)]).status_code == 200
    lines = "\r\n".join(
        json.dumps(each)
        for each in [
            {"key": "k0", "fields": {"label": 9}, "action": "update"},
            {"key": "k1", "action": "retract"},
            {"fields": digit(7)},
        ]
    )
    # With a byte order mark, line breaks of Windows, and an empty line.
    answer = http.post(POST, content=f"\ufeff{lines}\n\n".encode(), headers=NDJSON).json()
    assert [answer[action] for action in ACTIONS] == [1, 1, 1, 0]
    key: str = answer["keys"][2]
    return key


def test_an_answer_counts_the_samples_and_names_the_version(
    http: httpx.Client, digits: Dataset
) -> None:
    answer = http.post(POST, json=[item(n) for n in range(3)]).json()
    assert [answer[action] for action in ACTIONS] == [3, 0, 0, 0]
    assert answer["keys"] is None
    assert answer["head"]["version"] == str(digits.version)


def test_the_body_on_the_page_is_stored(http: httpx.Client, reg: Registry) -> None:
    scans = reg.create("scans", {"label": ClassLabel(10)})
    page = blocks(DOCS / "server.md")
    body = next(each.content for each in page if each.caption == "samples.json")
    answer = http.post("/v1/datasets/scans/samples", json=json.loads(body))
    assert [answer.json()[action] for action in ACTIONS] == [2, 1, 1, 0]
    assert http.get("/v1/datasets/scans/samples/scan-1").json()["fields"] == {"label": 5}
    assert len(scans) == 1


def test_a_repeated_request_changes_nothing(http: httpx.Client, digits: Dataset) -> None:
    http.post(POST, json=item(2))
    assert http.post(POST, json=item(2)).json()["unchanged"] == 1
    assert digits.head.position == 1


def test_a_version_is_named_by_its_tag_or_its_position(http: httpx.Client, digits: Dataset) -> None:
    http.post(POST, json=[item(n) for n in range(3)])
    version = str(digits.tag("v-1.0", at=2).version)
    for name in ("digits@v-1.0", "digits@2", version[:17]):
        at = f"/v1/datasets/{name}"
        head = http.get(f"{at}/head").json()
        assert (head["version"], head["live"], head["position"]) == (version, 2, 2)
        assert http.get(at).json()["head"] == head
        page = http.get(f"{at}/samples").json()
        assert [row["key"] for row in page["rows"]] == ["k0", "k1"]
        assert http.get(f"{at}/samples/k1").json()["position"] == 1
        assert "'k2'" in problem(http.get(f"{at}/samples/k2"), 404)
        assert "post to 'digits'" in problem(http.post(f"{at}/samples", json=item(7)), 409)
    digits.tag("v-1.0", move=True)
    assert http.get("/v1/datasets/digits@v-1.0/head").json()["position"] == 3
    for name, reason in {
        "digits@v2": "'digits' has no tag 'v2'; its tags are 'v-1.0'",
        "digits@9": "'digits' ends at position 3",
        "digits@v-1.0:9f86d081": "no dataset named",
        "other@gold": "no dataset named 'other'",
    }.items():
        assert reason in problem(http.get(f"/v1/datasets/{name}/head"), 404)


def test_pages_join_up_to_the_log(http: httpx.Client, generated: str) -> None:
    rows, after = [], 0
    while page := http.get(POST, params={"after": after, "limit": 4}).json():
        rows += page["rows"]
        after = page["next"]
        if after == page["head"]:
            break
    assert [row["position"] for row in rows] == list(range(6))
    assert [row["key"] for row in rows] == ["k0", "k1", "k2", "k0", "k1", generated]
    assert [row["supersedes"] for row in rows] == [None, None, None, 0, 1, None]
    assert [row["action"] for row in rows[3:]] == ["revise", "retract", "insert"]


@pytest.mark.usefixtures("generated")
def test_a_row_has_its_fields_and_source(http: httpx.Client) -> None:
    rows = http.get(POST).json()["rows"]
    assert rows[0]["fields"] == {**digit(0)}
    assert rows[3]["fields"] == {**digit(0), "label": 9}
    assert rows[4]["fields"] is None
    assert rows[0]["source"] == "tool"
    assert rows[0]["created_at"].endswith("+00:00")


def test_a_sample_names_its_group_and_keeps_it(http: httpx.Client) -> None:
    answer = http.post(POST, json=[item(0, group="p1"), item(1, group=None), item(2, group="p1")])
    assert answer.json()["inserted"] == 3
    assert [row["group"] for row in http.get(POST).json()["rows"]] == ["p1", None, "p1"]
    moved = http.post(POST, json=[item(3, group="p1"), item(1, group="p1")])
    assert "cannot move to group 'p1'" in problem(moved, 422, row=1, key="k1")
    problem(http.post(POST, json=item(4, group="a\0")), 422, row=0, key="k4")
    problem(http.post(POST, json=item(4, group=7)), 422, row=0, field="group")
    assert http.get(f"{POST}/k2").json()["group"] == "p1"


def test_a_live_sample_is_shown_and_a_retracted_one_is_not(
    http: httpx.Client, generated: str
) -> None:
    assert http.get(f"{POST}/{generated}").json()["fields"] == digit(7)
    problem(http.get(f"{POST}/k1"), 404, key="k1")


@pytest.mark.usefixtures("generated")
def test_a_dataset_is_listed_and_shown_with_its_head(http: httpx.Client) -> None:
    head = http.get("/v1/datasets/digits/head").json()
    assert (head["position"], head["live"]) == (6, 3)
    (listed,) = http.get("/v1/datasets").json()
    assert listed == http.get("/v1/datasets/digits").json()
    assert listed["head"] == head


def test_a_version_is_read_and_never_written(http: httpx.Client) -> None:
    version = http.post(POST, json=[item(n) for n in range(3)]).json()["head"]["version"]
    http.post(POST, json=item(3))
    assert len(http.get(f"/v1/datasets/{version}/samples").json()["rows"]) == 3
    problem(http.post(f"/v1/datasets/{version}/samples", json=item(1)), 409)


def test_a_dataset_that_was_created_again_is_opened_again(reg: Registry, digits: Dataset) -> None:
    with client(reg) as http:
        assert http.post(POST, json=item(1)).status_code == 200
        reg.drop(digits.name)
        problem(http.post(POST, json=item(1)), 404)
        problem(http.get("/v1/datasets/digits/head"), 404)
        reg.create("digits", FIXED)
        assert http.post(POST, json=item(2)).json()["head"]["position"] == 1
