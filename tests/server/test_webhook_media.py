"""Images that webhooks name by a path or a URI: stored, or rejected and retried, never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import registry
from registry import ClassLabel, Dataset, Image, Registry, Text
from registry.io.labeling import mapping_store as mappings
from registry.io.media import media_reader
from registry.samples.features import Feature
from registry.server import tokens
from registry.server.media_events import EVENTS
from registry.server.settings import ServerSettings
from tests.support import media_servers as servers
from tests.support.commands import run
from tests.support.image_files import JPEG, PNG
from tests.support.media_servers import MediaServer, media_server
from tests.support.servers import SECRETS, Served, client, eventually
from tests.support.webhooks import signed_argilla

HOOKS = "/v1/datasets/photos/webhooks"
PHOTOS: dict[str, Feature] = {"photo": Image(), "uri": Text(), "kind": ClassLabel(["cat", "dog"])}
MAPPING = {"photo": "data.image", "uri": "data.image", "kind": "result.kind"}


@pytest.fixture
def photos(reg: Registry) -> Dataset:
    dataset = reg.create("photos", PHOTOS)
    mappings.set_mapping(reg.engine, dataset.id, "label-studio", MAPPING)
    return dataset


@pytest.fixture
def images() -> Iterator[MediaServer]:
    with media_server({"/a/cat.png": PNG, "/data/upload/2/b.jpg": JPEG}) as server:
        yield server


def event(number: int, uri: str, *, minute: int = 0) -> dict[str, Any]:
    """An event of an annotation of task 9, which is of an image."""
    value = {"choices": ["cat"]}
    annotation = {
        "id": number,
        "task": 9,
        "result": [{"from_name": "kind", "to_name": "t", "type": "choices", "value": value}],
        "updated_at": f"2026-01-02T03:{minute:02}:05Z",
    }
    task = {"id": 9, "data": {"image": uri}, "project": 3}
    return {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": task}


def send(http: httpx.Client, body: dict[str, Any]) -> str:
    answer = http.post(f"{HOOKS}/label-studio", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    status: str = answer.json()["status"]
    return status


def test_what_an_event_names_is_stored_or_the_annotation_rejected(
    reg: Registry, photos: Dataset, images: MediaServer
) -> None:
    images.answers["/a/slow"] = servers.silent
    images.answers["/a/page"] = b"<html>"
    with (
        closing(media_reader([], [f"{images.at}/a/"])) as media,
        client(reg, ServerSettings(media=media, fetch_timeout=0.3, secrets=SECRETS)) as http,
    ):
        assert send(http, event(1, f"{images.at}/a/cat.png")) == "applied"
        for number, path in enumerate(["b/cat.png?key=s3cret", "a/gone", "a/slow", "a/page"], 2):
            assert send(http, event(number, f"{images.at}/{path}")) == "quarantined"
        # A newer state replaces the rejected one.
        assert send(http, event(5, f"{images.at}/a/cat.png", minute=1)) == "applied"
    uri = f"{images.at}/a/cat.png"
    for key in ("label-studio:3:1", "label-studio:3:5"):
        assert photos.get(key) == {"photo": PNG, "uri": uri, "kind": 0}
    reasons = {row.key: row.error for row in photos.inbox.refused()}
    assert [*reasons] == [f"label-studio:3:{number}" for number in (2, 3, 4)]
    for reason, said in zip(
        ["is below no --fetch prefix", "answers 404 Not Found", "could not be fetched within 0."],
        reasons.values(),
        strict=True,
    ):
        assert "feature 'photo': task 9" in said
        assert reason in said
        assert "s3cret" not in said


def test_the_image_of_a_feature_that_was_just_added_is_fetched(
    reg: Registry, url: str, images: MediaServer
) -> None:
    kinds = reg.create("photos", {"kind": PHOTOS["kind"]})
    mappings.set_mapping(reg.engine, kinds.id, "label-studio", {"kind": "result.kind"})
    with (
        closing(media_reader([], [f"{images.at}/a/"])) as media,
        client(reg, ServerSettings(media=media, secrets=SECRETS)) as http,
        registry.connect(url) as other,
    ):
        assert send(http, event(1, "no image")) == "applied"
        other.open("photos").add_feature("photo", Image(), JPEG)
        mapping = {"kind": "result.kind", "photo": "data.image"}
        mappings.set_mapping(reg.engine, kinds.id, "label-studio", mapping)
        assert send(http, event(2, f"{images.at}/a/cat.png")) == "applied"
    samples = [kinds.get(f"label-studio:3:{number}") for number in (1, 2)]
    assert [sample["photo"] for sample in samples] == [JPEG, PNG]


def test_an_event_is_applied_though_its_sender_has_left(
    reg: Registry, photos: Dataset, images: MediaServer
) -> None:
    slow = threading.Event()

    def answer(server: MediaServer, handler: Any) -> None:
        slow.wait()
        servers.content(PNG)(server, handler)

    images.answers["/a/slow"] = answer
    with (
        closing(media_reader([], [f"{images.at}/a/"])) as media,
        client(reg, ServerSettings(media=media, fetch_timeout=60, secrets=SECRETS)) as http,
    ):
        # Label Studio waits a second for the answer to a webhook.
        with pytest.raises(httpx.ReadTimeout):
            http.post(f"{HOOKS}/label-studio", json=event(1, f"{images.at}/a/slow"), timeout=0.2)
        slow.set()
        eventually(lambda: len(photos) == 1)


def test_a_retry_over_http_reads_what_the_row_names(
    reg: Registry, photos: Dataset, images: MediaServer
) -> None:
    with (
        closing(media_reader([], [f"{images.at}/a/"])) as media,
        client(reg, ServerSettings(media=media, secrets=SECRETS)) as http,
    ):
        for number in (1, 2, 3):
            assert send(http, event(number, f"{images.at}/a/later/{number}")) == "quarantined"
        images.answers["/a/later/1"] = PNG
        ids = {row.key: row.id for row in photos.inbox.refused()}
        retries = [
            f"/v1/datasets/photos/inbox/{ids[f'label-studio:3:{n}']}/retry" for n in (1, 2, 3)
        ]
        assert http.post(retries[0]).json()["inserted"] == 1
        answer = http.post(retries[1])
        assert (answer.status_code, answer.json()["field"]) == (422, "photo")
        assert "answers 404 Not Found" in answer.json()["detail"]
        named = {"photo": f"{images.at}/a/cat.png", "uri": "x", "kind": "dog"}
        assert http.post(retries[2], json={"fields": named}).json()["inserted"] == 1
    assert photos.get("label-studio:3:1")["photo"] == PNG
    assert photos.get("label-studio:3:3") == {"photo": PNG, "uri": "x", "kind": 1}
    assert [row.key for row in photos.inbox.refused()] == ["label-studio:3:2"]


def test_slow_images_delay_no_other_request(
    reg: Registry, photos: Dataset, images: MediaServer
) -> None:
    reached, slow = threading.Semaphore(0), threading.Event()

    def answer(server: MediaServer, handler: Any) -> None:
        reached.release()
        slow.wait()
        servers.content(PNG)(server, handler)

    images.answers["/a/slow"] = answer
    texts = reg.create("texts", {"t": Text()})
    with (
        closing(media_reader([], [f"{images.at}/"])) as media,
        client(reg, ServerSettings(media=media, fetch_timeout=60, secrets=SECRETS)) as http,
        ThreadPoolExecutor(2 * EVENTS) as pool,
    ):
        try:
            sent = [
                pool.submit(send, http, event(number, f"{images.at}/a/slow?{number}"))
                for number in range(2 * EVENTS)
            ]
            for _ in range(EVENTS):
                reached.acquire()
            body = {"key": "k", "fields": {"t": "x"}}
            stored = http.post("/v1/datasets/texts/samples", json=body, timeout=60)
            assert stored.status_code == 200, stored.text
            mappings.set_mapping(reg.engine, texts.id, "label-studio", {"t": "data.image"})
            text = http.post(
                "/v1/datasets/texts/webhooks/label-studio", json=event(99, "s3://x"), timeout=60
            )
            assert text.json()["status"] == "applied", text.text
            assert not any(future.done() for future in sent)
        finally:
            slow.set()
        assert {future.result() for future in sent} == {"applied"}
    assert len(photos) == 2 * EVENTS
    assert texts.get("label-studio:3:99") == {"t": "s3://x"}


def test_an_event_for_which_there_is_no_time_is_rejected_and_not_lost(
    reg: Registry, photos: Dataset, images: MediaServer
) -> None:
    images.answers["/a/slow"] = servers.silent
    with (
        closing(media_reader([], [f"{images.at}/"])) as media,
        client(reg, ServerSettings(media=media, fetch_timeout=0.3, secrets=SECRETS)) as http,
        ThreadPoolExecutor(2 * EVENTS) as pool,
    ):
        bodies = [event(number, f"{images.at}/a/slow?{number}") for number in range(2 * EVENTS)]
        assert {*pool.map(lambda body: send(http, body), bodies)} == {"quarantined"}
    assert len(photos.inbox.refused()) == 2 * EVENTS


def test_an_argilla_event_fetches_its_image(
    reg: Registry, photos: Dataset, images: MediaServer
) -> None:
    mappings.set_mapping(
        reg.engine,
        photos.id,
        "argilla",
        {"photo": "fields.image", "uri": "fields.image", "kind": "values.kind"},
    )
    record, response = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
    body = httpx.Request(
        "POST",
        "http://h",
        json={
            "type": "response.created",
            "data": {
                "id": response,
                "status": "submitted",
                "updated_at": "2026-01-02T03:04:05",
                "values": {"kind": {"value": "dog"}},
                "record": {"id": record, "fields": {"image": f"{images.at}/a/cat.png"}},
            },
        },
    ).content
    secrets = {"photos": SECRETS["digits"]}
    with (
        closing(media_reader([], [f"{images.at}/a/"])) as media,
        client(reg, ServerSettings(media=media, secrets=secrets)) as http,
    ):
        answer = http.post(f"{HOOKS}/argilla", content=body, headers=signed_argilla(body, "m1"))
    assert answer.json()["status"] == "applied", answer.text
    assert photos.get(f"argilla:{record}:{response}")["photo"] == PNG


def test_a_served_webhook_stores_images_and_a_failed_one_is_retried(
    url: str, photos: Dataset, images: MediaServer, tmp_path: Path
) -> None:
    (tmp_path / "media" / "upload").mkdir(parents=True)
    (tmp_path / "media" / "upload" / "c.png").write_bytes(PNG)
    with registry.connect(url) as reg:
        headers = {"authorization": f"Bearer {tokens.create(reg.engine, 'studio')}"}
    root, at = f"--root={tmp_path}/media", f"--fetch={images.at}/a/"
    uris = {
        1: f"{images.at}/a/cat.png",
        2: "/data/upload/c.png",
        3: "/data/upload/2/b.jpg",
        4: f"{images.at}/a/later.png",
        5: f"{images.at}/a/gone.png",
        6: f"{images.at}/a/later.png?key=s3cret",
    }
    with (
        Served(url, tmp_path / "log", (root, at)) as served,
        httpx.Client(base_url=served.at, headers=headers) as http,
    ):
        statuses = {number: send(http, event(number, uri)) for number, uri in uris.items()}
        served.stop()
    assert [n for n, status in statuses.items() if status == "applied"] == [1, 2]
    images.answers["/a/later.png"] = JPEG
    printed = run("inbox", "retry", "photos", root, f"--fetch={images.at}/", url=url).stdout
    assert printed.startswith("2 tried again, 2 not read: photos: 2 moved")
    stored = {number: photos.get(f"label-studio:3:{number}")["photo"] for number in (1, 2, 3, 4)}
    assert stored == {1: PNG, 2: PNG, 3: JPEG, 4: JPEG}
    reasons = {row.key: row.error for row in photos.inbox.refused()}
    assert [*reasons] == ["label-studio:3:5", "label-studio:3:6"]
    assert "answers 404" in reasons["label-studio:3:5"]
    assert "the query was left out" in reasons["label-studio:3:6"]
    assert "s3cret" not in str(reasons)
