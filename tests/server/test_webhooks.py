"""Webhooks of labeling tools: authenticated, applied once, and without a trace of their secrets."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import inspect, text

import registry
from registry import ClassLabel, Dataset, Ragged, Registry, Text
from registry.io.labeling import mapping_store as mappings
from registry.samples.features import Feature
from registry.server import tokens
from registry.server.settings import ServerSettings, SettingsError, parse_secrets
from tests.support.commands import run
from tests.support.pages import DOCS, blocks
from tests.support.servers import SECRETS, Served, client, serving
from tests.support.webhooks import signed_argilla, signed_cvat

HOOKS = "/v1/datasets/digits/webhooks"
STUDIO = f"{HOOKS}/label-studio"
MOODS: dict[str, Feature] = {"text": Text(), "mood": ClassLabel(["bad", "good"])}
MAPPING = {"text": "data.body", "mood": "result.feeling"}
FORGED = 1000


@pytest.fixture
def moods(reg: Registry) -> Dataset:
    """A dataset of texts and their moods, labeled in Label Studio."""
    dataset = reg.create("digits", MOODS)
    mappings.set_mapping(reg.engine, dataset.id, "label-studio", MAPPING)
    return dataset


def event(action: str, mood: str = "good", *, minute: int = 0, **more: Any) -> dict[str, Any]:
    """An event of annotation 5 of project 3."""
    value = {"choices": [mood]}
    annotation = {
        "id": 5,
        "task": 9,
        "result": [{"from_name": "feeling", "to_name": "t", "type": "choices", "value": value}],
        "was_cancelled": False,
        "updated_at": f"2026-01-02T03:{minute:02}:05.000006Z",
        **more,
    }
    task = {"id": 9, "data": {"body": "a\nletter"}, "project": 3}
    return {"action": action, "annotation": annotation, "task": task, "project": {"id": 3}}


Send = Callable[[object], Any]


@pytest.fixture
def send(reg: Registry, moods: Dataset) -> Iterator[Send]:
    """Send an event of Label Studio, check that it is answered with 200, and return the answer."""
    assert moods.head.position == 0

    def send(body: object) -> Any:
        answer = http.post(STUDIO, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with client(reg) as http:
        yield send


def test_label_studio_events_insert_and_revise_samples(moods: Dataset, send: Send) -> None:
    assert send(event("ANNOTATION_CREATED"))["inserted"] == 1
    assert send(event("ANNOTATIONS_CREATED"))["unchanged"] == 1
    assert send(event("ANNOTATION_UPDATED", "bad", minute=2))["revised"] == 1
    # An older state that arrives late changes nothing.
    assert send(event("ANNOTATION_UPDATED", "good", minute=1))["unchanged"] == 1
    assert moods.get("label-studio:3:5") == {"text": "a\nletter", "mood": 0}


def test_an_event_that_does_not_fit_is_quarantined(moods: Dataset, send: Send) -> None:
    send(event("ANNOTATION_CREATED"))
    assert send(event("ANNOTATION_UPDATED", "elated", minute=3)) == {
        "status": "quarantined",
        "inserted": 0,
        "revised": 0,
        "retracted": 0,
        "unchanged": 0,
        "quarantined": 1,
    }
    assert "elated" in moods.inbox.refused()[0].error
    assert len(moods) == 0


def test_other_and_malformed_events_of_label_studio_are_answered_with_200(send: Send) -> None:
    assert send({"action": "TASKS_CREATED", "tasks": []})["status"] == "ignored"
    assert send({"action": "SOMETHING_NEW"})["status"] == "ignored"
    assert send({"action": "ANNOTATION_CREATED", "annotation": 7})["status"] == "refused"
    assert send({"annotation": {}})["status"] == "refused"
    assert send([])["status"] == "refused"


@pytest.mark.usefixtures("moods")
def test_what_no_label_studio_sends_is_rejected(reg: Registry) -> None:
    with client(reg) as http:
        assert http.post(STUDIO, content=b"{", headers=http.headers).status_code == 415
        json_type = {"content-type": "application/json"}
        assert http.post(STUDIO, content=b"{", headers=json_type).status_code == 400
        assert http.post(STUDIO, json={}, headers={"authorization": ""}).status_code == 401


@pytest.mark.usefixtures("moods")
def test_events_are_counted_by_their_outcome(reg: Registry) -> None:
    with client(reg) as http:
        http.post(STUDIO, json=event("ANNOTATION_CREATED", "elated"))
        metrics = http.get("/metrics").text
        assert 'outcome="quarantined",tool="label-studio"} 1.0' in metrics


def test_a_mapping_is_set_checked_and_shown(url: str, moods: Dataset) -> None:
    stored = json.loads(run("webhook", "digits", "label-studio", "--json", url=url).stdout)
    assert stored == {"map": MAPPING}
    arguments = ("--map", "text=data.title", "--server", "https://registry.example/")
    shown = run("webhook", "digits", "label-studio", *arguments, url=url)
    assert shown.stdout.split()[:2] == ["text", "data.title"]
    assert f"https://registry.example{STUDIO}" in shown.stdout
    for field in ("Payload URL", "Headers", "Send for all actions"):  # as the tool's form has them
        assert field in shown.stdout
    assert "Authorization: Token SECRET" in shown.stdout
    assert "SSRF_PROTECTION_ENABLED=false" in shown.stdout
    assert shown.stderr == ""
    assert "registry token create label-studio.digits --dataset digits" in shown.stdout
    typo = run("webhook", "digits", "label-studio", "--map", "mood=result.typo", url=url)
    assert "check that the project has controls named 'typo'" in typo.stderr
    for wrong in ("title=data.title", "text=somewhere"):
        errors = run("webhook", "digits", "label-studio", "--map", wrong, url=url, code=1).stderr
        assert errors.startswith("error: ")
    assert len(moods) == 0


def deliveries(reg: Registry) -> list[tuple[str, str]]:
    with reg.engine.connect() as connection:
        rows = connection.execute(text("SELECT tool, event FROM deliveries ORDER BY id"))
        return [(row.tool, row.event.partition("@")[0]) for row in rows]


@pytest.mark.usefixtures("moods")
def test_cvat_events_are_recorded_once(reg: Registry) -> None:
    body = b'{"event": "update:task", "task": {"id": 1}}'
    with serving(reg) as at, httpx.Client(base_url=at) as http:
        headers = {"x-signature-256": signed_cvat(body)}
        answers = [http.post(f"{HOOKS}/cvat", content=body, headers=headers) for _ in range(2)]
        assert [answer.json()["status"] for answer in answers] == ["recorded", "repeated"]
        assert "registry insert" in answers[0].json()["detail"]
        # CVAT's documentation gives the signature of an empty body, which is no event.
        known = "sha256=e1b24265bf2e0b20c81837993b4f1415f7b68c503114d100a40601eca6a2745f"
        empty = http.post(f"{HOOKS}/cvat", headers={"x-signature-256": known})
        assert (empty.status_code, empty.json()["title"]) == (400, "Malformed request")
        elsewhere = http.post("/v1/datasets/other/webhooks/cvat", content=body, headers=headers)
        assert elsewhere.status_code == 401
    assert deliveries(reg) == [("cvat", "update:task")]


SendArgilla = Callable[..., Any]


@pytest.fixture
def send_argilla(url: str, reg: Registry, moods: Dataset) -> Iterator[SendArgilla]:
    """Send an event of Argilla, signed ``ago`` seconds ago, and return the status in its answer."""
    assert moods.head.position == 0
    run("webhook", "digits", "argilla", "--map", "text=fields.body", url=url)

    def send(name: str, body: dict[str, Any], ago: float = 0) -> Any:
        raw = json.dumps(body).encode()
        headers = signed_argilla(raw, name, ago=ago)
        return http.post(f"{HOOKS}/argilla", content=raw, headers=headers).json()["status"]

    with client(reg) as http:
        yield send


@pytest.mark.usefixtures("moods")
def test_a_mapping_for_argilla_is_checked(url: str) -> None:
    wrong = run("webhook", "digits", "argilla", "--map", "text=data.body", url=url, code=1)
    assert "'data.body' is no path; write fields.NAME" in wrong.stderr


def test_an_argilla_event_is_applied_once(
    reg: Registry, moods: Dataset, send_argilla: SendArgilla
) -> None:
    assert send_argilla("msg_1", response("good"), ago=20) == "applied"
    # Signed at another time: the sender received no answer, and sends it again.
    assert send_argilla("msg_1", response("good")) == "repeated"
    assert moods.get(ARGILLA_KEY) == {"text": "a\nletter", "mood": 1}
    assert moods.head.position == 1
    assert deliveries(reg) == [("argilla", "response.updated")]


def test_the_argilla_event_on_the_page_is_applied(
    url: str, moods: Dataset, send_argilla: SendArgilla
) -> None:
    page = blocks(DOCS / "tools" / "argilla.md")
    event = json.loads(next(each.content for each in page if each.caption == "event.json"))
    run("webhook", "digits", "argilla", "--map", "text=fields.text", url=url)
    assert send_argilla("msg_1", event) == "applied"
    (entry,) = moods.entries()
    assert moods.get(entry.key) == {"text": "Fine.", "mood": 1}
    assert entry.key == f"argilla:{event['data']['record']['id']}:{event['data']['id']}"


def test_a_copy_of_an_argilla_event_is_rejected(reg: Registry, url: str, moods: Dataset) -> None:
    run("webhook", "digits", "argilla", "--map", "text=fields.body", url=url)
    raw = json.dumps(response("good")).encode()
    headers = signed_argilla(raw, "msg_1", ago=20)
    with client(reg) as http:
        answers = [http.post(f"{HOOKS}/argilla", content=raw, headers=headers) for _ in range(2)]
    assert [answer.json()["status"] for answer in answers] == ["applied", 409]
    assert answers[1].status_code == 409
    assert moods.head.position == 1


def test_an_argilla_event_that_does_not_fit_is_quarantined(
    reg: Registry, moods: Dataset, send_argilla: SendArgilla
) -> None:
    assert send_argilla("msg_2", response("elated", minute=1)) == "quarantined"
    assert len(moods.inbox.refused()) == 1
    assert deliveries(reg) == [("argilla", "response.updated")]


def test_other_events_of_argilla_are_ignored_once(reg: Registry, send_argilla: SendArgilla) -> None:
    assert send_argilla("msg_3", {"type": "dataset.created", "data": {}}) == "ignored"
    assert send_argilla("msg_3", {"type": "dataset.created", "data": {}}, ago=9) == "repeated"
    assert deliveries(reg) == [("argilla", "dataset.created")]


def test_a_rejected_argilla_event_can_be_sent_again(
    reg: Registry, send_argilla: SendArgilla
) -> None:
    assert send_argilla("msg_4", {"type": "response.updated", "data": {}}) == "refused"
    assert deliveries(reg) == []
    assert send_argilla("msg_4", response("bad", minute=2)) == "applied"
    assert deliveries(reg) == [("argilla", "response.updated")]


@pytest.mark.usefixtures("moods")
def test_argilla_events_are_counted_by_their_outcome(reg: Registry) -> None:
    raw = json.dumps(response("elated")).encode()
    with client(reg) as http:
        headers = signed_argilla(raw, "msg_1")
        http.post(f"{HOOKS}/argilla", content=raw, headers=headers)
        assert 'outcome="quarantined",tool="argilla"} 1.0' in http.get("/metrics").text


def test_an_argilla_event_that_fails_midway_can_be_sent_again(
    reg: Registry, moods: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = json.dumps(response("good")).encode()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("struck by lightning")

    with serving(reg) as at, httpx.Client(base_url=at) as http:
        url = f"{HOOKS}/argilla"
        mappings.set_mapping(reg.engine, moods.id, "argilla", {"text": "fields.body"})
        for broken in (
            "registry.io.labeling.state_table.latest",
            "registry.storage.log.writer._Sent",
        ):
            with monkeypatch.context() as patch:
                patch.setattr(broken, fail)
                answer = http.post(url, content=raw, headers=signed_argilla(raw, "msg_1"))
            assert answer.status_code == 500
            assert (deliveries(reg), moods.head.position) == ([], 0)
        again = http.post(url, content=raw, headers=signed_argilla(raw, "msg_1"))
        assert again.json()["inserted"] == 1
    assert len(moods) == 1


ARGILLA_KEY = "argilla:7d0a4ce9-62a5-4f0c-8d8e-0b1f4f1f6d10:0d5be0de-4f3b-4d55-9c0a-6c1f9a2b7e01"


def response(mood: str, minute: int = 0) -> dict[str, Any]:
    """An event of Argilla about a response."""
    _, record, own = ARGILLA_KEY.split(":")
    data = {
        "id": own,
        "values": {"mood": {"value": mood}},
        "status": "submitted",
        "record": {"id": record, "fields": {"body": "a\nletter"}, "metadata": None},
        "updated_at": f"2026-01-02T03:{minute:02}:05.000006",
    }
    return {"type": "response.updated", "version": 1, "data": data}


@pytest.mark.usefixtures("moods")
def test_no_forged_altered_replayed_or_expired_signature_is_accepted(reg: Registry) -> None:
    rng = random.Random(7)
    body = b'{"event": "update:task", "type": "dataset.updated"}'
    with serving(reg) as at, httpx.Client(base_url=at) as http:
        good = signed_argilla(body, "msg_1")
        assert http.post(f"{HOOKS}/argilla", content=body, headers=good).status_code == 200
        before = deliveries(reg)
        for number in range(FORGED):
            tool = rng.choice(["cvat", "argilla"])
            sent, headers = _forged(rng, tool, body, number, good)
            answer = http.post(f"{HOOKS}/{tool}", content=sent, headers=headers)
            assert answer.status_code in (401, 409), (tool, sent, headers)
        assert deliveries(reg) == before


def _forged(
    rng: random.Random, tool: str, body: bytes, number: int, good: dict[str, str]
) -> tuple[bytes, dict[str, str]]:
    """A request that looks much like a signed one."""
    altered = body.replace(b"task", b"tas%c" % rng.choice(b"abcdefgh"))
    other = base64.b64encode(rng.randbytes(24)).decode()
    if tool == "cvat":
        name = "x-signature-256"
        return rng.choice(
            [
                (body, {}),
                (body, {name: rng.choice(["", "sha256=", "sha256", "sha1=0", "?"])}),
                (altered, {name: signed_cvat(body)}),
                (body, {name: signed_cvat(body, other)}),
                (body, {name: signed_cvat(body, "")}),
                (body, {name: _flipped(rng, signed_cvat(body))}),
                (body, {name: signed_cvat(body).upper()}),
                (body, {name: signed_cvat(body)[: rng.randrange(70)]}),
                (body, {name: signed_cvat(body) + " " + signed_cvat(body)}),
            ]
        )
    new = signed_argilla(body, f"msg_new_{number}")
    signature = new["webhook-signature"]
    return rng.choice(
        [
            (body, {}),
            (body, good),
            (altered, new),
            (body + b" ", new),
            (b"\xff" + body, new),
            (body, signed_argilla(body, f"old_{number}", ago=rng.randrange(301, 10**6))),
            (body, signed_argilla(body, f"early_{number}", ago=-rng.randrange(305, 10**6))),
            (body, signed_argilla(body, f"forged_{number}", other)),
            (body, {**new, "webhook-id": f"msg_other_{number}"}),
            (body, {**new, "webhook-timestamp": str(int(time.time()) - rng.randrange(2, 99))}),
            (body, {**new, "webhook-timestamp": rng.choice(["nan", "inf", "-1", "", "1e9", "x"])}),
            (body, {**new, "webhook-timestamp": new["webhook-timestamp"] + ".5"}),
            (body, {**new, "webhook-signature": _flipped(rng, signature)}),
            (body, {**new, "webhook-signature": f"v1,!{signature[3:]}"}),
            (
                body,
                {**new, "webhook-signature": rng.choice(["", "v1", "v1,", "v1a,b", ",", "v1,="])},
            ),
            (body, {**new, "webhook-signature": signature.replace("v1,", "v2,")}),
        ]
    )


def _flipped(rng: random.Random, signature: str) -> str:
    index = rng.randrange(len(signature))
    letter = rng.choice([c for c in "0123456789abcdefABCDEF" if c != signature[index]])
    return signature[:index] + letter + signature[index + 1 :]


def test_webhook_secrets_are_parsed_strictly_and_never_shown(tmp_path: Path) -> None:
    assert parse_secrets('{"d": {"cvat": "a", "argilla": ["YWE=", "whsec_YmI="]}}') == {
        "d": {"cvat": ("a",), "argilla": ("YWE=", "whsec_YmI=")}
    }
    for wrong, reason in [
        ("swordfish", "not JSON"),
        ('["swordfish"]', "write the webhook secrets as"),
        ('{"d": "swordfish"}', "write the webhook secrets as"),
        ('{"d": {"label-studio": "swordfish"}}', "takes no secret"),
        ('{"d": {"cvat": ["swordfish", ""]}}', "must be text"),
        ('{"d": {"argilla": "swordfish!"}}', "is not base64"),
    ]:
        with pytest.raises(SettingsError, match=reason) as raised:
            parse_secrets(wrong)
        assert "swordfish" not in str(raised.value)
    path = tmp_path / "secrets.json"
    path.write_text("swordfish")
    result = run("serve", "--secrets", str(path), url=f"sqlite:///{tmp_path / 'r.db'}", code=1)
    assert result.stderr == "error: the webhook secrets are not JSON\n"
    assert "c2Vj" not in repr(ServerSettings(secrets=SECRETS))


SEEDED = [f"swordfish-{letter}" for letter in "abcdefgh"]


def test_no_secret_of_a_body_is_stored_or_logged(url: str, moods: Dataset, tmp_path: Path) -> None:
    """Label Studio sends its project's token and its storage's passwords with every event."""
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"digits": {"cvat": SEEDED[6], "argilla": "c3dvcmRmaXNo"}}))
    log = tmp_path / "log"
    with registry.connect(url) as reg:
        token = tokens.create(reg.engine, "tool")
        server = Served(url, log, ("--secrets", str(secrets), "--body", "1"))
        server.start()
        try:
            headers = {"authorization": f"Token {token}"}
            with httpx.Client(base_url=server.at, headers=headers) as http:
                answers = "".join(answer.text for answer in _seeded(http, SEEDED[6]))
        finally:
            assert server.stop() in (0, -15)
        assert len(moods) == 1
        stored = _dump(reg)
    kept = log.read_text() + answers + stored
    assert "letter" in stored
    for secret in [*SEEDED, token, "c3dvcmRmaXNo"]:
        assert secret not in kept


def test_an_unexpected_error_is_logged_without_its_message(
    reg: Registry,
    moods: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SEEDED[0]) from KeyError(SEEDED[1])

    monkeypatch.setattr("registry.server.routes.webhooks.apply_event", fail)
    with client(reg) as http:
        answer = http.post(STUDIO, json=event("ANNOTATION_CREATED"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    (logged,) = [each.getMessage() for each in caplog.records if each.name == "registry.server"]
    assert "RuntimeError at" in logged
    assert "caused by KeyError" in logged
    assert __file__ in logged
    assert not [secret for secret in SEEDED if secret in caplog.text + answer.text]
    assert len(moods) == 0


def _seeded(http: httpx.Client, secret: str) -> list[httpx.Response]:
    """Send requests to every route, with secrets where a tool might send them."""
    events: list[dict[str, Any]] = [
        event("ANNOTATION_CREATED"),
        event("ANNOTATION_UPDATED", "elated", minute=1),
        event("ANNOTATION_UPDATED", "good", minute=2, result=7),
        event("ANNOTATION_UPDATED", "good", minute=3),
        event("ANNOTATION_CREATED", updated_at="yesterday"),
        event("PROJECT_UPDATED"),
        {"annotation": {}},
    ]
    project = {"id": 3, "token": SEEDED[0], "task_data_password": SEEDED[1]}
    storage = {"aws_secret_access_key": SEEDED[2]}
    more = {"project": project, "storage": storage, SEEDED[3]: SEEDED[4]}
    bodies = [{**each, **more} for each in events]
    answers = [http.post(STUDIO, json=body) for body in bodies]
    for body in bodies:
        raw = json.dumps(body).encode()
        for tool in ("label-studio", "cvat", "argilla"):
            signed = {"x-signature-256": signed_cvat(raw, secret)}
            json_type = {"content-type": "application/json", **signed}
            answers += [
                http.post(f"{HOOKS}/{tool}", content=content, headers=json_type)
                for content in (raw, raw[:-1], raw + b" " * (1 << 20))
            ]
            answers.append(
                http.post(f"{HOOKS}/{tool}", content=raw, headers={"authorization": SEEDED[5]})
            )
    answers.append(http.get("/v1/datasets", params={"token": SEEDED[7]}))
    assert not [answer for answer in answers if answer.status_code >= 500]
    return answers


def _dump(reg: Registry) -> str:
    """All that the database holds, as text."""
    with reg.engine.connect() as connection:
        names = inspect(connection).get_table_names()
        return "".join(
            str(connection.execute(text(f'SELECT * FROM "{name}"')).all()) for name in names
        )


def test_rotated_boxes_are_rejected_or_taken_as_their_hull_as_was_set(
    url: str, reg: Registry
) -> None:
    cars = reg.create("digits", {"boxes": Ragged("float32", (4,))})
    value = {"x": 50, "y": 50, "width": 20, "height": 10, "rotation": 90}
    box = {"from_name": "box", "type": "rectanglelabels", "value": {**value, "rectanglelabels": []}}
    sizes = {"original_width": 100, "original_height": 100}
    command = ("webhook", "digits", "label-studio", "--map", "boxes=result.box.rel_xyxy")
    with client(reg) as http:
        for minute, rotated in enumerate(("refuse", "hull")):
            run(*command, "--rotated", rotated, url=url)
            sent = event("ANNOTATION_UPDATED", minute=minute, result=[{**box, **sizes}])
            status = http.post(STUDIO, json=sent).json()["status"]
            assert status == ("applied" if rotated == "hull" else "quarantined")
    # Turned by 90 degrees around its left upper corner.
    boxes = cars.get("label-studio:3:5")["boxes"]
    assert boxes.tolist() == [pytest.approx([0.4, 0.5, 0.5, 0.7])]
