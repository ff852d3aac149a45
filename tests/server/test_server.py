"""Samples in and out over HTTP, from a real client on a real port."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

import registry
from registry import Dataset, Registry
from registry.errors import InvalidSampleError, RegistryError
from registry.server import request_body, tokens
from registry.server.group_commit import GroupCommitter
from registry.server.metrics import Metrics
from registry.server.problems import Problem
from registry.server.serve import listen, make_server
from registry.server.settings import ServerSettings
from registry.storage.database.transactions import writing
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change
from registry.storage.log.head import lock_head
from tests.support.databases import administrator
from tests.support.datasets import FIXED, digit
from tests.support.servers import client, eventually, serving

POST = "/v1/datasets/digits/samples"
JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


def item(number: int, **more: object) -> dict[str, object]:
    return {"key": f"k{number}", "fields": digit(number), **more}


def fails(answer: httpx.Response, status: int, **facts: object) -> str:
    """Check problem details, and return the detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert {name: body.get(name) for name in facts} == facts
    detail: str = body["detail"]
    return detail


def test_samples_go_in_and_come_out_as_they_are(reg: Registry, digits: Dataset) -> None:
    with client(reg) as http:
        sent = http.post(POST, json=[item(n, source="tool") for n in range(3)])
        assert sent.status_code == 200
        assert sent.json()["head"]["version"] == str(digits.version)
        assert sent.json()["keys"] is None
        lines = "\r\n".join(
            json.dumps(each)
            for each in [
                {"key": "k0", "fields": {"label": 9}, "action": "update"},
                {"key": "k1", "action": "retract"},
                {"fields": digit(7)},
            ]
        )
        again = http.post(POST, content=f"\ufeff{lines}\n\n".encode(), headers=NDJSON).json()
        assert [again[n] for n in ("inserted", "revised", "retracted", "unchanged")] == [1, 1, 1, 0]
        made = again["keys"][2]
        assert http.post(POST, json=item(2)).json()["unchanged"] == 1
        rows, after = [], 0
        while page := http.get(POST, params={"after": after, "limit": 4}).json():
            rows += page["rows"]
            after = page["next"]
            if after == page["head"]:
                break
        assert [row["position"] for row in rows] == list(range(6))
        assert [row["key"] for row in rows] == ["k0", "k1", "k2", "k0", "k1", made]
        assert [row["supersedes"] for row in rows] == [None, None, None, 0, 1, None]
        assert [row["action"] for row in rows[3:]] == ["revise", "retract", "insert"]
        assert rows[0]["fields"] == {**digit(0)}
        assert rows[3]["fields"] == {**digit(0), "label": 9}
        assert rows[4]["fields"] is None
        assert rows[0]["source"] == "tool"
        assert http.get(f"{POST}/{made}").json()["fields"] == digit(7)
        fails(http.get(f"{POST}/k1"), 404, key="k1")
        head = http.get("/v1/datasets/digits/head").json()
        assert (head["position"], head["live"]) == (6, 3)
        (listed,) = http.get("/v1/datasets").json()
        assert listed == http.get("/v1/datasets/digits").json()
        version = sent.json()["head"]["version"]
        assert len(http.get(f"/v1/datasets/{version}/samples").json()["rows"]) == 3
        fails(http.post(f"/v1/datasets/{version}/samples", json=item(1)), 409)


def test_a_dataset_that_was_dropped_and_made_again_is_found(reg: Registry, digits: Dataset) -> None:
    with client(reg) as http:
        assert http.post(POST, json=item(1)).status_code == 200
        reg.drop(digits.name)
        fails(http.post(POST, json=item(1)), 404)
        fails(http.get("/v1/datasets/digits/head"), 404)
        reg.create("digits", FIXED)
        assert http.post(POST, json=item(2)).json()["head"]["position"] == 1


def test_requests_that_come_during_a_commit_are_committed_together(digits: Dataset) -> None:
    """Each gets its own report or error, and none of a bad one is stored."""
    first = threading.Event()
    sizes: list[int] = []

    def apply(requests: Sequence[Sequence[Change]]) -> list[Report | RegistryError]:
        sizes.append(len(requests))
        assert first.wait(30)
        return digits.apply(requests)

    async def run() -> list[Report | BaseException]:
        with ThreadPoolExecutor() as pool:
            committer = GroupCommitter(
                "digits",
                apply,
                pool,
                ServerSettings(commit_requests=16, queued_requests=40),
                Metrics(),
            )
            requests = [[Change(f"k{n}", digit(n)), Change(f"x{n}", digit(n))] for n in range(42)]
            requests[20].append(Change("bad", {"label": 11}))
            tasks = [asyncio.create_task(committer.commit(each)) for each in requests]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[5].cancel()
            first.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(run())
    # What gave up before its turn, and what the queue had no room for, is not stored.
    assert sizes[0] in (1, 16)
    assert len(sizes) < 6
    assert isinstance(outcomes[5], asyncio.CancelledError)
    assert isinstance(outcomes[20], InvalidSampleError)
    refused = [n for n, each in enumerate(outcomes) if isinstance(each, Problem)]
    stored = [n for n, each in enumerate(outcomes) if isinstance(each, Report)]
    assert refused
    assert all(isinstance(outcomes[n], Problem) and outcomes[n].status == 503 for n in refused)  # type: ignore[union-attr]
    assert sorted([*stored, *refused, 5, 20]) == list(range(42))
    expected = {f"{letter}{n}" for n in stored for letter in "kx"}
    keys = {entry.key for entry in digits.entries()}
    assert expected <= keys <= expected | {"k5", "x5"}


def test_a_request_that_is_given_up_leaves_the_queue_at_once(digits: Dataset) -> None:
    """While the database keeps others waiting, its samples are not held in memory."""
    first = threading.Event()

    def apply(requests: Sequence[Sequence[Change]]) -> list[Report | RegistryError]:
        assert first.wait(30)
        return digits.apply(requests)

    async def run() -> int:
        with ThreadPoolExecutor() as pool:
            committer = GroupCommitter("digits", apply, pool, ServerSettings(), Metrics())
            ahead = asyncio.create_task(committer.commit([Change("ahead", digit(0))]))
            await asyncio.sleep(0.05)
            waits = asyncio.create_task(committer.commit([Change("given up", digit(1))]))
            await asyncio.sleep(0.05)
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)
            left = len(committer._queue)
            first.set()
            await ahead
            return left

    assert asyncio.run(run()) == 0
    assert [entry.key for entry in digits.entries()] == ["ahead"]


def test_an_error_that_one_request_brings_on_leaves_the_others_alone(digits: Dataset) -> None:
    def apply(requests: Sequence[Sequence[Change]]) -> list[Report | RegistryError]:
        if any(change.key == "poison" for request in requests for change in request):
            raise ZeroDivisionError
        return digits.apply(requests)

    async def run() -> list[Report | BaseException]:
        with ThreadPoolExecutor() as pool:
            committer = GroupCommitter("digits", apply, pool, ServerSettings(), Metrics())
            keys = ["a", "poison", "b"]
            work = [committer.commit([Change(key, digit(1))]) for key in keys]
            return await asyncio.gather(*work, return_exceptions=True)

    a, poison, b = asyncio.run(run())
    assert isinstance(poison, ZeroDivisionError)
    assert isinstance(a, Report)
    assert isinstance(b, Report)
    assert [entry.key for entry in digits.entries()] == ["a", "b"]


def _pixels(text: str) -> bytes:
    return f'{{"key": "k", "fields": {{"image": {text}, "label": 1}}}}'.encode()


_DEEP = b"[" * 10_000 + b"]" * 10_000
_PIXELS = "[[1, 2], [3, 4]]"
BAD: dict[str, tuple[dict[str, str], bytes, int, dict[str, object]]] = {
    "empty": (JSON, b"", 400, {}),
    "empty list": (JSON, b"[]", 422, {}),
    "empty lines": (NDJSON, b"\n\n", 422, {}),
    "truncated": (JSON, b'[{"key": "a", "fields": {"label"', 400, {}),
    "truncated line": (NDJSON, b'{"key":"a","action":"retract"}\n{"key":', 400, {"row": 1}),
    "pretty-printed lines": (NDJSON, b'{\n "key": "a"\n}', 400, {"row": 0}),
    "nested": (JSON, _DEEP, 400, {}),
    "nested fields": (JSON, _pixels(_DEEP.decode()), 400, {}),
    "NaN": (JSON, _pixels("NaN"), 400, {}),
    "Infinity": (JSON, _pixels("-Infinity"), 400, {}),
    "too large a float": (JSON, _pixels("1e999"), 400, {}),
    "too large a number": (JSON, _pixels("9" * 5000), 400, {}),
    "a name twice": (JSON, b'{"key": "a", "key": "b", "action": "retract"}', 400, {}),
    "not UTF-8": (JSON, b'{"key": "\xff"}', 400, {}),
    "a lone surrogate": (JSON, b'{"key": "\\ud800", "action": "retract"}', 422, {"row": 0}),
    "a lone surrogate's name": (JSON, b'{"key": "a", "fields": {"\\udfff": 1}}', 422, {"row": 0}),
    "a null character": (JSON, b'{"key": "a\\u0000", "action": "retract"}', 422, {"row": 0}),
    "a number as key": (JSON, b'{"key": 1, "fields": {}}', 422, {"row": 0, "field": "key"}),
    "fields as list": (JSON, b'{"key": "a", "fields": []}', 422, {"row": 0, "field": "fields"}),
    "no object": (JSON, b'[{"key": "a", "action": "retract"}, 1]', 422, {"row": 1}),
    "an unknown name": (JSON, b'{"key": "a", "Fields": {}}', 422, {"row": 0, "key": "a"}),
    "an unknown action": (JSON, b'{"key": "a", "action": "drop"}', 422, {"row": 0, "key": "a"}),
    "an unknown feature": (JSON, b'{"key": "a", "fields": {"x": 1}}', 422, {"row": 0, "key": "a"}),
    "an unknown class": (
        JSON,
        b'{"key": "a", "fields": {"image": %s, "label": "cat"}}' % _PIXELS.encode(),
        422,
        {"row": 0, "field": "label"},
    ),
    "text for a tensor": (JSON, _pixels('"../../etc/passwd"'), 422, {"row": 0, "field": "image"}),
    "a URI for a tensor": (
        JSON,
        _pixels('"file:///etc/passwd"'),
        422,
        {"row": 0, "field": "image"},
    ),
    "an absent key": (
        JSON,
        b'[{"key":"good","fields":{"image":%s,"label":1}},{"key":"gone","action":"retract"}]'
        % _PIXELS.encode(),
        422,
        {"row": 1, "key": "gone"},
    ),
    "a form": ({"content-type": "application/x-www-form-urlencoded"}, b"key=a", 415, {}),
    "gzip": ({**JSON, "content-encoding": "gzip"}, gzip.compress(b" " * 10**7), 415, {}),
}


def test_bad_input_is_refused_with_its_row_and_field_and_nothing_is_stored(
    reg: Registry, digits: Dataset
) -> None:
    with client(reg) as http:
        for what, (headers, body, status, facts) in BAD.items():
            answer = http.post(POST, content=body, headers=headers)
            assert fails(answer, status, **facts), what
        # One bad sample among good ones takes all of its request with it.
        many = [item(n) for n in range(100)]
        many[57]["fields"] = {**digit(1), "image": [[1, 2], [3, 256]]}
        detail = fails(http.post(POST, json=many), 422, row=57, key="k57", field="image")
        assert "256 does not fit uint8" in detail
        assert digits.head.position == 0


PATHS = [
    "/v1/datasets/..%2f..%2fetc/head",
    "/v1/datasets/%00/head",
    "/v1/datasets/digits%00/samples",
    "/v1/datasets/%ff%fe/samples",
    "/v1/datasets/digits@1:zz/samples",
    f"/v1/datasets/digits@{'9' * 5000}:{'a' * 32}/samples",
    f"/v1/datasets/digits@9999:{'a' * 32}/samples",
    f"/v1/datasets/{'d' * 10_000}",
    "/v1/datasets/digits/samples/%00",
    "/v1/datasets/digits/samples/%ed%a0%80",
    "/v1/datasets/digits/samples/../../../etc/passwd",
    f"/v1/datasets/digits/samples/{'k' * 600}",
    "/v1/datasets/digits/samples?after=-1",
    "/v1/datasets/digits/samples?after=99999999999999999999",
    "/v1/datasets/digits/samples?limit=1000000",
    "/v1/datasets/digits/samples?after=7",
    "/v1/datasets/other",
    "/etc/passwd",
]


@pytest.mark.usefixtures("digits")
def test_names_and_numbers_that_make_no_sense_are_refused(reg: Registry) -> None:
    with client(reg) as http:
        for path in PATHS:
            answer = http.get(path)
            assert 400 <= answer.status_code < 500, (path, answer.text)
            fails(answer, answer.status_code)


def test_a_body_is_read_up_to_its_limit_whatever_it_says_of_its_size(
    reg: Registry, digits: Dataset
) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * (1 << 20)

    with client(reg, ServerSettings(body_bytes=1 << 20, body_memory=8 << 20)) as http:
        for headers in (JSON, {**JSON, "content-length": str(300 << 20)}):
            detail = fails(http.post(POST, content=endless(), headers=headers), 413)
            assert "1,048,576 bytes" in detail
        padded = json.dumps(item(1)).encode() + b" " * (1 << 19)
        assert http.post(POST, content=padded, headers=JSON).status_code == 200
        # What was refused is not counted as being in memory any more.
        assert http.post(POST, content=padded, headers=JSON).json()["unchanged"] == 1
    assert digits.head.position == 1


def test_a_body_of_too_many_samples_is_refused(reg: Registry, digits: Dataset) -> None:
    with client(reg, ServerSettings(body_rows=3)) as http:
        for kind, join in ((JSON, "[%s]"), (NDJSON, "%s")):
            between = "," if kind is JSON else "\n"
            lines = [json.dumps(item(n)) for n in range(3)]
            content = (join % between.join(lines)).encode()
            assert http.post(POST, content=content, headers=kind).status_code == 200
            # Nothing after the first that is too many is read.
            content = (join % between.join([*lines, lines[0], "?"])).encode()
            detail = fails(http.post(POST, content=content, headers=kind), 413)
            assert "may have 3 samples" in detail
    assert digits.head.position == 3


def test_a_body_is_read_up_to_the_first_sample_that_is_wrong(
    reg: Registry, digits: Dataset
) -> None:
    with client(reg) as http:
        for row, content in enumerate([b"[[], ?", b'[{"key": "a", "action": "retract"}, [], ?']):
            fails(http.post(POST, content=content, headers=JSON), 422, row=row)
    assert digits.head.position == 0


def test_a_body_that_takes_long_to_parse_is_stored(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that a request may wait for the database begins after it."""

    def slow(kind: str, body: bytes, *rest: int) -> list[Change]:
        time.sleep(2.5)
        return request_body.parse_changes(kind, body, *rest)

    monkeypatch.setattr("registry.server.routes.datasets.parse_changes", slow)
    with client(reg, ServerSettings(database_timeout=2)) as http:
        padded = json.dumps(item(1)).encode() + b" " * (1 << 17)
        assert http.post(POST, content=padded, headers=JSON).status_code == 200
    assert digits.head.position == 1


def test_tokens_let_in_whom_they_should_and_nobody_else(reg: Registry, digits: Dataset) -> None:
    reg.create("other", FIXED)
    with client(reg, dataset="digits", rights="read") as http:
        assert http.get("/v1/datasets/digits/head").status_code == 200
        assert [each["name"] for each in http.get("/v1/datasets").json()] == ["digits"]
        fails(http.post(POST, json=item(1)), 403)
        fails(http.get("/v1/datasets/other/head"), 403)
        fails(http.get("/v1/datasets/none/head"), 403)
        fails(http.get("/metrics"), 403)
        for wrong in ("", "Bearer", "Bearer x", "Basic dTpw", "Bearer \x80\xff"):
            for path in ("/v1/datasets", "/v1/datasets/digits", "/metrics", POST):
                answer = http.get(path, headers=[(b"authorization", wrong.encode("latin-1"))])
                assert answer.status_code in (401, 429)
        assert http.get("/healthz", headers={"authorization": ""}).status_code == 200
    assert digits.head.position == 0


def test_a_revoked_token_opens_nothing_a_moment_later(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.auth.CACHE_SECONDS", 0.0)
    with client(reg) as http:
        assert http.get(f"/v1/datasets/{digits.name}").status_code == 200
        tokens.revoke(reg.engine, "client")
        fails(http.get(f"/v1/datasets/{digits.name}"), 401)


@pytest.mark.usefixtures("digits")
def test_each_token_has_its_rate(reg: Registry) -> None:
    other = {"authorization": f"Bearer {tokens.create(reg.engine, 'other')}"}
    with client(reg, ServerSettings(rate=1)) as http:
        answers = [http.get("/v1/datasets/digits/head") for _ in range(50)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(each.headers["retry-after"] for each in answers if each.status_code == 429)
        assert http.get("/v1/datasets/digits/head", headers=other).status_code == 200


@pytest.mark.usefixtures("digits")
def test_a_server_without_tokens_answers_this_machine_alone(reg: Registry) -> None:
    """A web page cannot reach it under a name of its own."""
    with serving(reg, ServerSettings(insecure=True)) as at:
        for host in ("localhost", "127.0.0.1:80", "[::1]:8000"):
            assert httpx.get(f"{at}/v1/datasets", headers={"host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example:80", "[", ""):
            fails(httpx.get(f"{at}/v1/datasets", headers={"host": host}), 421)


def test_a_database_that_is_down_is_unavailable_until_it_is_back(
    request: pytest.FixtureRequest, postgresql_url: str
) -> None:
    name = make_url(postgresql_url).database
    with (
        registry.connect(postgresql_url) as reg,
        client(reg, ServerSettings(database_timeout=0.5)) as http,
        administrator(request.getfixturevalue("server")) as connection,
    ):
        digits = reg.create("digits", FIXED)
        assert http.post(POST, json=item(1)).status_code == 200
        assert http.get("/readyz").status_code == 200
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        try:
            for answer in (
                http.post(POST, json=item(2)),
                http.get("/v1/datasets/digits/head"),
                http.get("/readyz"),
            ):
                fails(answer, 503)
                assert int(answer.headers["retry-after"]) > 0
                assert "postgres" not in answer.text
            assert http.get("/healthz").status_code == 200
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        eventually(lambda: http.post(POST, json=item(2)).status_code == 200)
        assert http.get("/readyz").status_code == 200
        assert [entry.key for entry in digits.entries()] == ["k1", "k2"]


@pytest.mark.usefixtures("digits")
def test_a_method_that_a_path_has_not_is_answered_with_those_that_it_has(reg: Registry) -> None:
    with client(reg) as http:
        for path, methods in {
            "/healthz": "GET",
            "/v1/datasets/digits": "GET",
            POST: "GET, POST",
            f"{POST}/k1": "GET",
            "/v1/datasets/digits/webhooks/cvat": "POST",
        }.items():
            answer = http.delete(path)
            fails(answer, 405)
            assert answer.headers["allow"] == methods
        fails(http.delete("/v1/nothing"), 404)


@pytest.mark.usefixtures("digits")
def test_metrics_count_requests_commits_and_samples(reg: Registry) -> None:
    with client(reg) as http:
        http.post(POST, json=[item(1), item(2)])
        http.get("/somewhere/made/up")
        said = http.get("/metrics")
        assert said.headers["content-type"].startswith("text/plain; version=")
        assert 'registry_samples_total{dataset="digits",outcome="inserted"} 2.0' in said.text
        assert 'registry_commit_requests_count{dataset="digits"} 1.0' in said.text
        assert 'route="/v1/datasets/{name}/samples",status="200"} 1.0' in said.text
        assert "made/up" not in said.text


def test_a_server_that_is_told_to_stop_answers_what_it_accepted(
    reg: Registry, digits: Dataset
) -> None:
    secret = tokens.create(reg.engine, "client")
    running = make_server(reg, ServerSettings())
    sent: list[httpx.Response] = []
    with listen("127.0.0.1", 0) as listener, writing(reg.engine) as connection:
        lock_head(connection, digits.id)  # so that no commit ends
        at = f"http://127.0.0.1:{listener.getsockname()[1]}{POST}"
        headers = {"authorization": f"Bearer {secret}"}
        serves = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        posts = [
            threading.Thread(
                target=lambda n: sent.append(httpx.post(at, json=item(n), headers=headers)),
                args=(number,),
            )
            for number in range(5)
        ]
        for thread in (serves, *posts):
            thread.start()
        eventually(lambda: len(running.server_state.tasks) == len(posts))
        running.should_exit = True
    for thread in (*posts, serves):
        thread.join(30)
    assert [answer.status_code for answer in sent] == [200] * 5
    assert digits.head.live == 5


@pytest.mark.usefixtures("digits")
def test_who_guesses_tokens_is_slowed_down_and_those_who_know_one_are_not(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[bytes] = []
    check = tokens.check

    def counting(engine: Engine, digest: bytes, patience: float) -> tokens.Token | None:
        looked_up.append(digest)
        return check(engine, digest, patience)

    monkeypatch.setattr(tokens, "check", counting)
    with client(reg) as http:
        assert http.get("/v1/datasets").status_code == 200
        looked_up.clear()
        guesses = [
            http.get("/v1/datasets", headers={"authorization": f"Bearer {n}"}).status_code
            for n in range(100)
        ]
        assert guesses[0] == 401
        assert 429 in guesses
        # Who is over the limit does not keep the database busy.
        assert len(looked_up) == guesses.count(401)
        assert http.get("/v1/datasets").status_code == 200


def test_a_body_that_stalls_and_bodies_that_are_too_many_are_sent_away(
    reg: Registry, digits: Dataset
) -> None:
    def stalling() -> Iterator[bytes]:
        yield b'{"key": "k1", '
        assert stalled.wait(30)

    stalled = threading.Event()
    with (
        client(reg, ServerSettings(idle_timeout=1, body_memory=2000)) as http,
        ThreadPoolExecutor() as pool,
    ):
        waits = pool.submit(http.post, POST, content=stalling(), headers=JSON)
        eventually(lambda: "body_memory_bytes 502.0" in http.get("/metrics").text)
        full = http.post(POST, json=item(2))
        assert "too much is being sent" in fails(full, 503)
        assert full.headers["retry-after"]
        eventually(lambda: 'status="408"' in http.get("/metrics").text)
        stalled.set()
        assert "nothing came for 1 seconds" in fails(waits.result(), 408)
    assert digits.head.position == 0
