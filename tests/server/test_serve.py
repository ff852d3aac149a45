"""The running server: paths, methods, metrics, a database that is down, and its end."""

from __future__ import annotations

import threading

import httpx
import pytest
from sqlalchemy.engine import make_url

import registry
from registry import Dataset, Registry
from registry.server import tokens
from registry.server.serve import listen, make_server
from registry.server.settings import ServerSettings
from registry.storage.database.transactions import writing
from registry.storage.log.head import lock_head
from tests.support.databases import administrator
from tests.support.datasets import FIXED
from tests.support.servers import POST, client, eventually, item, problem

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
def test_malformed_names_and_numbers_are_rejected(reg: Registry) -> None:
    with client(reg) as http:
        for path in PATHS:
            answer = http.get(path)
            assert 400 <= answer.status_code < 500, (path, answer.text)
            problem(answer, answer.status_code)


def test_a_database_that_is_down_is_reported_until_it_is_back(
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
                problem(answer, 503)
                assert int(answer.headers["retry-after"]) > 0
                assert "postgres" not in answer.text
            assert http.get("/healthz").status_code == 200
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        eventually(lambda: http.post(POST, json=item(2)).status_code == 200)
        assert http.get("/readyz").status_code == 200
        assert [entry.key for entry in digits.entries()] == ["k1", "k2"]


@pytest.mark.usefixtures("digits")
def test_a_wrong_method_is_answered_with_the_right_ones(reg: Registry) -> None:
    with client(reg) as http:
        for path, methods in {
            "/healthz": "GET",
            "/v1/datasets/digits": "GET",
            POST: "GET, POST",
            f"{POST}/k1": "GET",
            "/v1/datasets/digits/webhooks/cvat": "POST",
        }.items():
            answer = http.delete(path)
            problem(answer, 405)
            assert answer.headers["allow"] == methods
        problem(http.delete("/v1/nothing"), 404)


@pytest.mark.usefixtures("digits")
def test_metrics_count_requests_commits_and_samples(reg: Registry) -> None:
    with client(reg) as http:
        http.post(POST, json=[item(1), item(2)])
        http.get("/somewhere/made/up")
        metrics = http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert 'registry_samples_total{dataset="digits",outcome="inserted"} 2.0' in metrics.text
        assert 'registry_commit_requests_count{dataset="digits"} 1.0' in metrics.text
        assert 'route="/v1/datasets/{name}/samples",status="200"} 1.0' in metrics.text
        assert "made/up" not in metrics.text


def test_a_server_that_stops_answers_accepted_requests(reg: Registry, digits: Dataset) -> None:
    secret = tokens.create(reg.engine, "client")
    running = make_server(reg, ServerSettings())
    sent: list[httpx.Response] = []
    with listen("127.0.0.1", 0) as listener, writing(reg.engine) as connection:
        lock_head(connection, digits.id)  # so that no commit ends
        at = f"http://127.0.0.1:{listener.getsockname()[1]}{POST}"
        headers = {"authorization": f"Bearer {secret}"}
        serving = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        posts = [
            threading.Thread(
                target=lambda n: sent.append(httpx.post(at, json=item(n), headers=headers)),
                args=(number,),
            )
            for number in range(5)
        ]
        for thread in (serving, *posts):
            thread.start()
        eventually(lambda: len(running.server_state.tasks) == len(posts))
        running.should_exit = True
    for thread in (*posts, serving):
        thread.join(30)
    assert [answer.status_code for answer in sent] == [200] * 5
    assert digits.head.live == 5
