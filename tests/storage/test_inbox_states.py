"""What the database answers to a tool that inserts a wrong row into the inbox by SQL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

import registry
from registry import Dataset, Registry
from registry.errors import InvalidSampleError
from tests.support.datasets import FIXED

PAGE = Path(__file__).parents[2] / "docs" / "inbox.md"
INTO = "INSERT INTO inbox (dataset_id, key, fields, action) VALUES "
BY_NAME = f"{INTO}((SELECT id FROM datasets WHERE name = %s), 'k', '{{}}', 'insert')"
NUL = '{"text": "' + r"\u0000" + '"}'
SURROGATE = '{"text": "' + r"\ud800" + '"}'


def documented() -> set[str]:
    """Return the SQLSTATEs of the page's table."""
    return {*re.findall(r"^\|`([0-9A-Z]{5})`\|", PAGE.read_text(), re.MULTILINE)}


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[tuple[Registry, Dataset, psycopg.Connection]]:
    """A dataset, and a tool's own connection to its database."""
    address = make_url(postgresql_url).set(drivername="postgresql")
    with (
        registry.connect(postgresql_url) as reg,
        psycopg.connect(address.render_as_string(hide_password=False), autocommit=True) as tool,
    ):
        yield reg, reg.create("digits", FIXED), tool


def test_each_documented_state_is_that_of_its_mistake(
    postgresql: tuple[Registry, Dataset, psycopg.Connection],
) -> None:
    reg, digits, tool = postgresql
    other = reg.create("other", FIXED)
    reg.drop("other")
    mistakes: dict[str, tuple[str, list[object]]] = {
        "23502": (BY_NAME, ["digit"]),
        "23503": (f"{INTO}(%s, 'k', '{{}}', 'insert')", [other.id]),
        "23514": (f"{INTO}(%s, 'k', '{{}}', 'delete')", [digits.id]),
        "22P02": (f"{INTO}(%s, 'k', %s, 'insert')", [digits.id, "{'label': 1}"]),
        "22P05": (f"{INTO}(%s, 'k', %s, 'insert')", [digits.id, NUL]),
        "42501": (BY_NAME, ["digits"]),
    }
    tool.execute(f"CREATE ROLE stranger_{digits.id}_{tool.info.backend_pid}")
    answers = {}
    for state, (statement, values) in mistakes.items():
        if state == "42501":
            tool.execute(f"SET ROLE stranger_{digits.id}_{tool.info.backend_pid}")
        with pytest.raises(psycopg.Error) as caught:
            tool.execute(statement, values)
        answers[state] = caught.value.sqlstate
    tool.execute("RESET ROLE")
    tool.execute(f"DROP ROLE stranger_{digits.id}_{tool.info.backend_pid}")
    assert answers == {state: state for state in mistakes}
    assert documented() == {*mistakes}
    assert tool.execute("SELECT count(*) FROM inbox").fetchone() == (0,)
    with pytest.raises(psycopg.Error) as surrogate:
        tool.execute(f"{INTO}(%s, 'k', %s, 'insert')", [digits.id, SURROGATE])
    assert surrogate.value.sqlstate == "22P02"


def test_what_the_database_takes_is_rejected_when_it_is_moved(
    postgresql: tuple[Registry, Dataset, psycopg.Connection],
) -> None:
    _, digits, tool = postgresql
    tool.execute(f"{INTO}(%s, %s, '{{}}', 'insert')", [digits.id, "k" * 513])
    tool.execute(f"{INTO}(%s, 'k', '[1]', 'insert')", [digits.id])
    # Finds no dataset, and so inserts no row.
    query = "INSERT INTO inbox (dataset_id, key) SELECT id, 'k' FROM datasets WHERE name = 'digit'"
    assert tool.execute(query).rowcount == 0
    assert digits.inbox.drain().refused == 2
    long, listed = digits.inbox.refused()
    assert long.error == "a key of 513 bytes is too long; at most 512"
    assert "the fields are an object" in listed.error


def test_sqlite_checks_actions_and_little_else(sqlite_url: str) -> None:
    path = make_url(sqlite_url).database
    assert path is not None
    with registry.connect(sqlite_url) as reg:
        digits = reg.create("digits", FIXED)
        tool = sqlite3.connect(path)
        with pytest.raises(sqlite3.IntegrityError, match="the actions are insert, update and"):
            tool.execute(f"{INTO}(?, 'k', '{{}}', 'delete')", [digits.id])
        with pytest.raises(sqlite3.IntegrityError, match="NOT NULL constraint failed"):
            tool.execute(BY_NAME.replace("%s", "?"), ["digit"])
        tool.execute(f"{INTO}(?, 'k', '{{', 'insert')", [digits.id])
        tool.execute(f"{INTO}(99, 'k', '{{}}', 'insert')")
        tool.rollback()
        tool.execute(f"{INTO}(?, 'k', '{{', 'insert')", [digits.id])
        tool.commit()
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY constraint failed"):
            tool.execute("PRAGMA foreign_keys = ON").execute(f"{INTO}(99, 'k', '{{}}', 'insert')")
        tool.close()
        assert digits.inbox.drain().refused == 1
        assert digits.inbox.refused()[0].error.startswith("not JSON: ")
        with pytest.raises(InvalidSampleError, match="not JSON"):
            digits.inbox.retry_now(digits.inbox.refused()[0].id)
