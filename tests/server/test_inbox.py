"""A tool learns over HTTP what became of its rows in the inbox, and corrects them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from sqlalchemy import text

from registry import Dataset, Registry
from registry.server import tokens
from tests.storage.test_inbox import put
from tests.support.datasets import digit
from tests.support.servers import problem, serving

INBOX = "/v1/datasets/digits/inbox"
BAD = {**digit(3), "label": 30}


@pytest.fixture
def address(reg: Registry, digits: Dataset) -> Iterator[str]:
    with reg.engine.begin() as connection:
        put(connection, digits, "a", BAD, source="team-a")
        put(connection, digits, "b", digit(1), source="team-a")
        put(connection, digits, "c", {"label": 1}, "update", "team-a/7")
        put(connection, digits, "d", BAD, source="team-b")
        put(connection, digits, "e", BAD)
    with serving(reg) as at:
        yield at


def _client(
    stack: ExitStack, reg: Registry, at: str, name: str, dataset: str | None
) -> httpx.Client:
    secret = tokens.create(reg.engine, name, dataset=dataset)
    headers = {"authorization": f"Bearer {secret}"}
    return stack.enter_context(httpx.Client(base_url=at, headers=headers))


@pytest.fixture
def team_a(reg: Registry, address: str) -> Iterator[httpx.Client]:
    """A client with a token for the dataset, whose name is the source of some rows."""
    with ExitStack() as stack:
        yield _client(stack, reg, address, "team-a", "digits")


@pytest.fixture
def everyone(reg: Registry, address: str) -> Iterator[httpx.Client]:
    """A client with a token for every dataset."""
    with ExitStack() as stack:
        yield _client(stack, reg, address, "team-b", None)


def test_a_tool_lists_its_own_rows_and_why_they_were_rejected(team_a: httpx.Client) -> None:
    page = team_a.get(INBOX).json()
    assert [row["key"] for row in page["rows"]] == ["a", "c"]
    assert page["next"] is None
    first, second = page["rows"]
    assert first["fields"] == BAD
    assert (first["status"], first["action"], first["source"]) == ("rejected", "insert", "team-a")
    assert first["error"] == "feature 'label': class index 30 is not in [0, 10)"
    assert second["error"] == "key 'c': no sample has this key"
    assert first["created_at"].endswith("+00:00")


def test_a_token_for_every_dataset_lists_all_rows_in_pages(everyone: httpx.Client) -> None:
    rows, after = [], 0
    while True:
        page = everyone.get(INBOX, params={"after": after, "limit": 2}).json()
        rows += page["rows"]
        if (after := page["next"]) is None:
            break
        assert len(page["rows"]) == 2
    assert [row["key"] for row in rows] == ["a", "c", "d", "e"]


def test_a_token_that_may_only_read_lists_no_rows(reg: Registry, address: str) -> None:
    secret = tokens.create(reg.engine, "team-a", dataset="digits", rights="read")
    headers = {"authorization": f"Bearer {secret}"}
    for method, path in (("GET", ""), ("POST", "/1/retry"), ("DELETE", "/1")):
        answer = httpx.request(method, f"{address}{INBOX}{path}", headers=headers)
        assert "may not write" in problem(answer, 403)


def test_a_token_that_was_rotated_keeps_its_rows(reg: Registry, team_a: httpx.Client) -> None:
    assert len(team_a.get(INBOX).json()["rows"]) == 2
    new = tokens.rotate(reg.engine, "team-a", grace=tokens.MOST_LIFETIME)
    old = team_a.headers["authorization"].removeprefix("Bearer ")
    for secret in (new, old):
        token = tokens.check(reg.engine, tokens.digest(secret))
        assert token is not None
        assert token.source == "team-a"
    tokens.create(reg.engine, "team-a.digits", dataset="digits")
    assert tokens.tokens_of(reg.engine)[-1].source == "team-a"


def test_a_corrected_row_is_stored_and_leaves_the_inbox(
    team_a: httpx.Client, digits: Dataset
) -> None:
    number = team_a.get(INBOX).json()["rows"][0]["id"]
    wrong = team_a.post(f"{INBOX}/{number}/retry", json={"fields": {**BAD, "label": 40}})
    assert "class index 40" in problem(wrong, 422, key="a", field="label")
    # The row is as its tool sent it.
    assert "class index 30" in problem(team_a.post(f"{INBOX}/{number}/retry"), 422, field="label")
    answer = team_a.post(f"{INBOX}/{number}/retry", json={"fields": digit(3)}).json()
    assert (answer["inserted"], answer["head"]["position"]) == (1, 2)
    assert digits.get("a")["label"] == 3
    assert digits.entries()[-1].source == "team-a"
    assert [row["key"] for row in team_a.get(INBOX).json()["rows"]] == ["c"]
    problem(team_a.post(f"{INBOX}/{number}/retry"), 404)


def test_a_row_fits_when_what_it_lacked_is_there(team_a: httpx.Client, digits: Dataset) -> None:
    number = team_a.get(INBOX).json()["rows"][1]["id"]
    assert "no sample has this key" in problem(team_a.post(f"{INBOX}/{number}/retry"), 422, key="c")
    digits.insert([digit(5)], keys=["c"])
    assert team_a.post(f"{INBOX}/{number}/retry").json()["revised"] == 1
    assert digits.get("c")["label"] == 1


def test_rows_of_others_are_neither_corrected_nor_discarded(
    team_a: httpx.Client, everyone: httpx.Client
) -> None:
    others = {row["key"]: row["id"] for row in everyone.get(INBOX).json()["rows"]}
    for key in ("d", "e"):
        path = f"{INBOX}/{others[key]}"
        problem(team_a.post(f"{path}/retry", json={"fields": digit(1)}), 404)
        problem(team_a.delete(path), 404)
    assert team_a.delete(f"{INBOX}/{others['a']}").status_code == 204
    problem(team_a.delete(f"{INBOX}/{others['a']}"), 404)
    assert everyone.delete(f"{INBOX}/{others['e']}").status_code == 204
    assert [row["key"] for row in everyone.get(INBOX).json()["rows"]] == ["c", "d"]


def test_a_correction_by_http_removes_the_rejected_row_of_its_source(
    everyone: httpx.Client, team_a: httpx.Client
) -> None:
    assert len(everyone.get(INBOX).json()["rows"]) == 4
    samples = "/v1/datasets/digits/samples"
    items = [{"key": key, "fields": digit(1), "source": "team-a"} for key in ("a", "d")]
    assert team_a.post(samples, json=items).status_code == 200
    # That of `d` is of another source, whose tool has to decide about it.
    assert [row["key"] for row in everyone.get(INBOX).json()["rows"]] == ["c", "d", "e"]
    assert team_a.post(samples, json={"key": "e", "fields": digit(1)}).status_code == 200
    assert [row["key"] for row in everyone.get(INBOX).json()["rows"]] == ["c", "d"]


def test_a_body_that_is_no_correction_is_refused(team_a: httpx.Client) -> None:
    row = team_a.get(INBOX).json()["rows"][0]
    path = f"{INBOX}/{row['id']}/retry"
    problem(team_a.post(path, json={"fields": [1]}), 422, field="fields")
    problem(team_a.post(path, json={"field": {}}), 422, field="field")
    problem(team_a.post(path, json=[1]), 422)
    problem(team_a.post(path, content="{", headers={"content-type": "application/json"}), 400)
    problem(team_a.post(path, content="fields", headers={"content-type": "text/plain"}), 415)
    problem(team_a.post(f"{INBOX}/{1 << 63}/retry"), 422, field="id")
    problem(team_a.get(INBOX, params={"limit": 1001}), 422, field="limit")
    assert team_a.get(INBOX).json()["rows"][0] == row


def test_fields_are_shown_as_they_were_written(
    reg: Registry, digits: Dataset, everyone: httpx.Client
) -> None:
    statement = text(
        "INSERT INTO inbox (dataset_id, key, fields, action) VALUES (:id, 'f', :fields, 'insert')"
    )
    written = ['{"label": 1.50}', "[1]", '{"image": "' + "A" * (1 << 20) + '"}']
    if reg.engine.dialect.name == "sqlite":  # PostgreSQL refuses these
        written += ['{"label": "\\ud800"}', "{", '{"a": 1, "a": 2}']
    with reg.engine.begin() as connection:
        connection.execute(statement, [{"id": digits.id, "fields": each} for each in written])
    rows = everyone.get(INBOX, params={"limit": 1000}).json()["rows"][4:]
    shown = [{"label": 1.5}, [1], None, {"label": "\ud800"}, None, None]
    assert [row["fields"] for row in rows] == shown[: len(written)]
    assert rows[2]["size"] > 1 << 20
