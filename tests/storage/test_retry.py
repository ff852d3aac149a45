"""Retries are logged, and print nothing."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from sqlalchemy import make_url

from registry.errors import ConflictError
from registry.storage.database.engine import make_engine
from registry.storage.database.retry import retrying
from registry.storage.database.url import masked


def fail_twice(url: str) -> None:
    """Fail twice, and succeed at the third attempt."""
    engine = make_engine(make_url(url))
    failures = [ConflictError("the first"), ConflictError("the second")]
    for attempt in retrying(engine=engine):
        with attempt:
            if failures:
                raise failures.pop(0)
    engine.dispose()


def test_retries_are_logged_with_cause_and_database(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    if url.startswith("postgresql"):
        url = make_url(url).set(password="swordfish").render_as_string(hide_password=False)
    with caplog.at_level(logging.WARNING, "registry"):
        fail_twice(url)
    database = masked(make_url(url))
    assert [record.getMessage().partition(" s: ")[2] for record in caplog.records] == [
        "the first",
        "the second",
    ]
    for number, record in enumerate(caplog.records, start=1):
        assert record.name.startswith("registry.")
        assert record.getMessage().startswith(f"{database}: attempt {number} failed, ")
        assert record.__dict__["database"] == database
        assert isinstance(record.__dict__["cause"], ConflictError)
    assert "swordfish" not in caplog.text


def test_retries_print_nothing(sqlite_url: str) -> None:
    """Also in a process without logging, where Python prints warnings to stderr."""
    command = [sys.executable, "-c", f"import {__name__} as it; it.fail_twice({sqlite_url!r})"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("", "", 0)
