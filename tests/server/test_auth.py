"""Authentication: tokens, rates of requests, and servers without tokens."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import Engine

from registry import Dataset, Registry
from registry.server import tokens
from registry.server.settings import ServerSettings
from tests.support.datasets import FIXED
from tests.support.servers import POST, client, item, problem, serving


@pytest.fixture
def reader(reg: Registry, digits: Dataset) -> Iterator[httpx.Client]:
    """A client whose token may read ``digits``, and nothing else."""
    reg.create("other", FIXED)
    with client(reg, dataset="digits", rights="read") as http:
        yield http
    assert digits.head.position == 0


def test_a_token_for_a_dataset_reads_and_lists_it(reader: httpx.Client) -> None:
    assert reader.get("/v1/datasets/digits/head").status_code == 200
    assert [each["name"] for each in reader.get("/v1/datasets").json()] == ["digits"]


def test_a_token_for_a_dataset_opens_no_other(reader: httpx.Client) -> None:
    problem(reader.post(POST, json=item(1)), 403)
    problem(reader.get("/v1/datasets/other/head"), 403)
    # Not 404: it would say which datasets exist.
    problem(reader.get("/v1/datasets/none/head"), 403)
    problem(reader.get("/metrics"), 403)


def test_a_request_without_a_valid_token_is_rejected(reader: httpx.Client) -> None:
    for wrong in ("", "Bearer", "Bearer x", "Token x", "Basic dTpw", "Bearer \x80\xff"):
        for path in ("/v1/datasets", "/v1/datasets/digits", "/metrics", POST):
            answer = reader.get(path, headers=[(b"authorization", wrong.encode("latin-1"))])
            assert answer.status_code in (401, 429)


def test_the_health_check_needs_no_token(reader: httpx.Client) -> None:
    assert reader.get("/healthz", headers={"authorization": ""}).status_code == 200


def test_a_revoked_token_is_rejected_when_the_cache_expires(
    reg: Registry, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.auth.CACHE_SECONDS", 0.0)
    with client(reg) as http:
        assert http.get(f"/v1/datasets/{digits.name}").status_code == 200
        tokens.revoke(reg.engine, "client")
        problem(http.get(f"/v1/datasets/{digits.name}"), 401)


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
    """A web page whose name is resolved to 127.0.0.1 cannot read it."""
    with serving(reg, ServerSettings(insecure=True)) as at:
        for host in ("localhost", "127.0.0.1:80", "[::1]:8000"):
            assert httpx.get(f"{at}/v1/datasets", headers={"host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example:80", "[", ""):
            problem(httpx.get(f"{at}/v1/datasets", headers={"host": host}), 421)


@pytest.mark.usefixtures("digits")
def test_a_client_that_guesses_tokens_is_slowed_down(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[bytes] = []
    check = tokens.check

    def counting(engine: Engine, digest: bytes, timeout: float) -> tokens.Token | None:
        looked_up.append(digest)
        return check(engine, digest, timeout)

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
        # A client over the limit costs no query.
        assert len(looked_up) == guesses.count(401)
        assert http.get("/v1/datasets").status_code == 200
