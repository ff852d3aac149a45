"""Hostile names, keys, filters and numbers, through every interface of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from typer.main import get_command
from typer.testing import CliRunner

from registry import ClassLabel, Registry, Text
from registry.cli.base import app
from registry.server.app import application
from registry.server.schemas import JSON, NDJSON
from registry.server.settings import ServerSettings
from registry.storage.database.url import masked
from tests.support.attacks import ATTACKS, Attack
from tests.support.figures import Figure, rounds
from tests.support.hostile_input import (
    NUMBERS,
    WORDS,
    Case,
    cases,
    catalog,
    confined,
    rows_of,
    tried,
)
from tests.support.servers import SECRETS, serving

FEATURES: dict[str, Any] = {"text": Text(), "label": ClassLabel(["cat", "dog"])}
FIRST = [{"text": "as it was", "label": 1}]
TYPED = {"content-type": JSON}

pytestmark = pytest.mark.timeout(2400)


@pytest.fixture
def unharmed(reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry to attack, in which only the dataset under attack may change."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    other = reg.create("bystander", FEATURES, splits={"a": 0.5, "b": 0.5})
    other.insert([{"text": "as it was", "label": 1}] * 3, keys=["a", "b", "c"], source="them")
    other.run("theirs").epoch(0)
    _create_attacked(reg)
    before = catalog(reg), rows_of(reg, "bystander")
    yield reg
    assert (catalog(reg), rows_of(reg, "bystander")) == before
    assert {"bystander", "digits"} <= set(reg.names())
    for name in reg.names():
        assert all(each.differs is None for each in reg.open(name).verify())


def _create_attacked(reg: Registry) -> None:
    reg.create("digits", FEATURES, splits={"a": 0.5, "b": 0.5}).insert(FIRST)


@pytest.mark.filterwarnings("ignore:Query string argument")  # of a SQLite URL, SQLAlchemy's own
@rounds(50, 5_000)
def test_the_library_stores_hostile_input_exactly_or_rejects_it(
    unharmed: Registry, rounds: int, figure: Figure
) -> None:
    @tried(rounds)
    @given(st.sampled_from(ATTACKS), cases)
    def attempt(attack: Attack, case: Case) -> None:
        attack(unharmed, case)

    attempt()
    _report(figure, "the library", rounds, unharmed)


@rounds(20, 1_000)
def test_hostile_rows_of_the_inbox_are_moved_exactly_or_rejected(
    unharmed: Registry, rounds: int, figure: Figure
) -> None:
    dataset = unharmed.open("digits")
    kind = "jsonb" if unharmed.engine.dialect.name == "postgresql" else "text"
    statement = text(
        "INSERT INTO inbox (dataset_id, key, fields, action, source)"
        f" VALUES (:dataset, :key, CAST(:fields AS {kind}), :action, :source)"
    )

    @tried(rounds)
    @given(cases)
    def attempt(case: Case) -> None:
        key, fields = case.thing(), {"text": case.thing("x"), case.text("label"): case.thing(1)}
        row = {
            "dataset": dataset.id,
            "key": key,
            "fields": json.dumps(case.choice([fields, case.thing()]), default=repr),
            "action": case.thing("insert", "insert", "update", "retract"),
            "source": case.thing(None),
        }
        # The database or the driver may reject the row.
        with (
            suppress(SQLAlchemyError, ValueError, OverflowError),
            unharmed.engine.begin() as connection,
        ):
            connection.execute(statement, row)
        drained = dataset.inbox.drain()
        assert drained.moved + drained.refused <= 1
        if drained.moved and isinstance(key, str):
            assert dataset.history(key)[-1].entry.key == key
        assert all(each.error for each in dataset.inbox.refused())
        assert dataset.inbox.discard() == drained.refused

    attempt()
    _report(figure, "the inbox", rounds, unharmed)


@rounds(20, 2_000)
def test_commands_succeed_or_print_one_error_line(
    url: str, unharmed: Registry, rounds: int, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_URL", url)
    Path("rows.jsonl").write_text(json.dumps({"text": "t", "label": 0}))
    known = _commands(get_command(app))
    address = masked(unharmed.engine.url)

    @tried(rounds)
    @given(st.sampled_from(sorted(known)), cases)
    def attempt(name: str, case: Case) -> None:
        arguments = [*name.split(), *_arguments(known[name], case)]
        result = CliRunner().invoke(app, arguments)
        context = f"{arguments!r:.2000}: {result.output[:2000]}"
        assert result.exception is None or isinstance(result.exception, SystemExit), context
        assert "Traceback" not in result.output
        # `drop` and `rename` may be right.
        if "digits" not in unharmed.names():
            _create_attacked(unharmed)
        if name == "doctor":
            return  # it prints a table and has other exit codes
        first, *notes = result.stderr.splitlines() or [""]
        if result.exit_code == 1:
            assert first.startswith(("error: ", "Aborted.")), context
            assert all(note.startswith("  ") for note in notes), context
            # The error of an unknown role names the database.
            assert address not in result.stderr or name == "grants", context
        else:
            assert result.exit_code == 0 or "Error" in result.stderr, context

    attempt()
    _report(figure, f"{len(known)} commands", rounds, unharmed)


def _commands(command: Any, path: str = "") -> dict[str, Any]:
    """Return every command by its words, without those that run until they are stopped."""
    if not hasattr(command, "commands"):
        return {path: command}
    below = [
        _commands(command.get_command(None, name), f"{path} {name}".strip())
        for name in command.list_commands(None)
        if name not in ("serve", "demo")
    ]
    return {name: each for commands in below for name, each in commands.items()}


def _arguments(command: Any, case: Case) -> list[str]:
    """Return hostile values for all required parameters of a command, and for some others."""
    options: list[str] = []
    positional: list[str] = []
    for parameter in command.params:
        value = _value(parameter, case)
        if parameter.name in ("help", "watch", "follow"):
            continue
        if parameter.param_type_name == "argument":
            positional.append(value)
        elif parameter.required or case.choice([0, 0, 1]):
            options += parameter.opts[:1] if parameter.is_flag else [parameter.opts[0], value]
    return [*options, *positional]


def _value(parameter: Any, case: Case) -> str:
    word = confined(case.choice(WORDS))
    if parameter.name == "url":
        return f"sqlite:///{word}"
    pair = case.choice(["x=text", f"{word}=text", f"text={word}"])
    return str(case.choice([word, "digits", "digits", "rows.jsonl", pair, case.choice(NUMBERS)]))


@rounds(30, 4_000)
def test_hostile_http_requests_are_answered_or_rejected_with_a_problem(
    unharmed: Registry, rounds: int, figure: Figure
) -> None:
    settings = ServerSettings(insecure=True, secrets=SECRETS, rate=1e9)
    paths = application(unharmed, settings).openapi()["paths"]
    operations = sorted((path, method) for path, each in paths.items() for method in each)

    with serving(unharmed, settings) as at, httpx.Client(base_url=at) as http:

        @tried(rounds)
        @given(st.sampled_from(operations), cases)
        def attempt(operation: tuple[str, str], case: Case) -> None:
            path, method = operation
            name, key = case.text("digits", "digits"), case.text()
            query = {case.text("after"): case.text(), "limit": case.number(10)}
            body = _body(case)
            answer = http.request(
                method,
                path.replace("{name}", _quoted(name)).replace("{key}", _quoted(key)),
                params=urlencode(query, errors="surrogatepass") if case.choice([0, 1]) else "",
                content=body if method == "post" else b"",
                headers={"content-type": case.choice([JSON, JSON, NDJSON])},
            )
            _check(answer)
            item = {"key": key, "fields": {"text": name.strip("\0") or "x", "label": 0}}
            stored = http.post("/v1/datasets/digits/samples", content=_json(item), headers=TYPED)
            _check(stored)
            if stored.status_code == 200:
                sample = http.get(f"/v1/datasets/digits/samples/{_quoted(key)}")
                assert sample.status_code == 200, f"{key!r}: {sample.text}"
                assert sample.json()["key"] == key

        attempt()
    _report(figure, f"{len(operations)} HTTP routes", rounds, unharmed)


def _body(case: Case) -> bytes:
    fields = {"text": case.thing("x"), case.text("label"): case.thing(0)}
    item = {"key": case.thing(), "fields": fields, "action": case.thing("insert", "retract")}
    item[case.text("source")] = case.thing("tool")
    return _json(case.choice([item, [item, item], case.thing()]))


def _json(item: object) -> bytes:
    return json.dumps(item, default=repr).encode()


def _quoted(name: str) -> str:
    """Return a name as a step of a path; clients would resolve plain dots."""
    return quote(name, safe="", errors="surrogatepass").replace(".", "%2E")


def _check(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        assert answer.json()["status"] == answer.status_code


def _report(figure: Figure, interface: str, count: int, reg: Registry) -> None:
    kind = reg.engine.dialect.name
    figure(
        f"hostile input to {interface}, {kind}, {count:,} times", "0 SQL errors, catalog unchanged"
    )
