"""Dropping: a dataset disappears at once, and its rows later, despite interruptions."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import func, insert, select, text
from typer.testing import CliRunner

import registry
from registry import Dataset, Registry
from registry.catalog.copy.dataset import copy_dataset
from registry.catalog.doctor.examine import examine
from registry.cli.base import app
from registry.errors import (
    DatasetDroppedError,
    DatasetNotFoundError,
    StatementTimeoutError,
)
from registry.server import tokens
from registry.storage.database.engine import make_engine
from registry.storage.database.models import DatasetRow, InboxRow, SampleRow, metadata
from registry.storage.database.transactions import reading, writing
from registry.storage.log import drop
from tests.catalog.test_copy import fill_related
from tests.support.datasets import FIXED, digit
from tests.support.processes import run_python

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
import registry
with registry.connect(sys.argv[1]) as reg:
    reg.drop("digits", progress=lambda removed, total: os.kill(os.getpid(), signal.SIGKILL))
"""


def counts(reg: Registry) -> dict[str, int]:
    """Return how many rows each table has, without empty tables and tokens."""
    with reading(reg.engine) as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
            if table.name != "tokens"
        }
    return {name: count for name, count in counts.items() if count}


def unfinished(url: str) -> list[str]:
    """Return the subjects of the doctor's findings about dropped datasets."""
    return [finding.subject for finding in examine(url) if "was dropped at" in finding.said]


def fix(url: str) -> None:
    assert CliRunner().invoke(app, ["doctor", "--fix", "--url", url]).exit_code < 3


def fill(reg: Registry, name: str, rows: int) -> Dataset:
    """Make a dataset with rows in every table, 5 of them in the inbox."""
    dataset = reg.create(name, FIXED)
    dataset.insert([digit(n) for n in range(rows)], keys=[f"k{n}" for n in range(rows)])
    for number in range(3):
        dataset.run(f"r{number}").epoch(0)
    dataset.erase("k1")
    fill_related(dataset, reg.engine, 1)
    dataset.tag("filled")
    with writing(reg.engine) as connection:
        connection.execute(insert(InboxRow), [{"dataset_id": dataset.id}] * 2)
    return dataset


@pytest.mark.parametrize("rows_at_first", [1, 3, 256])
def test_a_drop_removes_all_rows_of_its_dataset_and_no_others(
    reg: Registry, rows_at_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "_FIRST_ROWS", rows_at_first)
    monkeypatch.setattr(drop, "_PAUSE", 0)
    for name, rows in (("kept", 30), ("digits", 20), ("later", 20)):
        before = counts(reg)
        fill(reg, name, rows)
    drop.drop(reg.engine, reg.create("empty", FIXED).id)
    tokens.create(reg.engine, "tool", dataset="digits")
    assert {*before} == {table.name for table in metadata.sorted_tables} - {"tokens"}
    shown: list[tuple[int, int]] = []
    reg.drop("digits", progress=lambda *done: shown.append(done))
    assert reg.names() == ["kept", "later"]
    assert counts(reg) == before
    assert shown[-1] == (21, 21)
    assert shown == sorted(shown)
    assert len(shown) == {1: 5, 3: 3, 256: 1}[rows_at_first]
    assert [each.name for each in reg.open("kept").runs()] == ["r0", "r1", "r2"]


def test_readers_and_writers_notice_a_drop_at_once(reg: Registry, url: str) -> None:
    fill(reg, "digits", 3000)
    with registry.connect(url) as other:
        dropped = other.open("digits")
        dropped.insert([digit(n) for n in range(3000, 9000)])
        pages, run = dropped.pages(), dropped.run("r0")
        followed = dropped.follow(after=dropped.head.position)

        def check_meanwhile(_: int, __: int) -> None:
            """Most rows are still there."""
            assert 0 < counts(reg)["samples"] < 9001
            assert other.names() == []
            assert other.datasets() == []
            assert unfinished(url) == ["dataset digits (dropped 1)"]
            for use in (
                lambda: dropped.insert([digit(1)]),
                lambda: dropped.run("another"),
                lambda: dropped.get("k2"),
                lambda: len(dropped),
                lambda: next(followed),
            ):
                with pytest.raises(DatasetDroppedError):
                    use()
            for open_by_name in (other.open, other.drop):
                with pytest.raises(DatasetNotFoundError):
                    open_by_name("digits")
            assert other.create("digits", FIXED).head.position == 0
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reg.drop("digits", progress=check_meanwhile)
        left, shown = counts(reg)["samples"], list[tuple[int, int]]()
        drop.remove(other.engine, lambda *done: shown.append(done))
        assert shown[-1] == (left, left)
        for use_of_rows in (lambda: list(pages), lambda: run.consumed, lambda: run.record(1)):
            with pytest.raises(DatasetDroppedError):
                use_of_rows()
        assert counts(reg) == {"datasets": 1, "heads": 1, "schemas": 1}


def test_a_drop_whose_commit_was_not_acknowledged_is_repeated_without_effect(
    reg: Registry, url: str
) -> None:
    digits = fill(reg, "digits", 3)
    drop.drop(reg.engine, digits.id)
    with reading(reg.engine) as connection:
        dropped = connection.execute(select(DatasetRow.name, DatasetRow.dropped_at)).one()
    drop.drop(reg.engine, digits.id)
    with reading(reg.engine) as connection:
        assert connection.execute(select(DatasetRow.name, DatasetRow.dropped_at)).one() == dropped
    assert unfinished(url) == ["dataset digits (dropped 1)"]


@pytest.mark.parametrize("completed_by", ["the next drop", "the doctor"])
def test_a_drop_that_was_killed_is_completed(url: str, completed_by: str) -> None:
    with registry.connect(url) as reg:
        fill(reg, "digits", 1000)
        killed = run_python(KILLED, url)
        assert killed.returncode == -signal.SIGKILL
        assert reg.names() == []
        assert 0 < counts(reg)["samples"] < 1001
        assert unfinished(url) == ["dataset digits (dropped 1)"]
        config = Config(ROOT / "alembic.ini", attributes={"engine": reg.engine})
        with pytest.raises(
            CommandError, match="1 dropped datasets have rows left; run `registry d"
        ):
            command.downgrade(config, "0005")
        command.upgrade(config, "head")  # PostgreSQL commits each revision by itself
        reg.create("digits", FIXED).insert([digit(1)])
        if completed_by == "the doctor":
            fix(url)
            assert (reg.names(), counts(reg)["samples"]) == (["digits"], 1)
        reg.drop("digits")
        assert counts(reg) == {}
        assert unfinished(url) == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO inbox (dataset_id, key) VALUES (1, 'open')",
        "UPDATE inbox SET source = 'x' WHERE id = 1",
    ],
)
def test_an_open_inbox_transaction_does_not_delay_a_drop(
    postgresql_url: str, sqlite_url: str, statement: str
) -> None:
    engine = make_engine(postgresql_url)
    with (
        registry.connect(postgresql_url) as reg,
        registry.connect(sqlite_url) as elsewhere,
        engine.connect() as tool,
    ):
        fill(reg, "digits", 300)
        copied = copy_dataset(reg, elsewhere, "digits")
        tool.execute(text(statement))
        dropping = threading.Thread(target=reg.drop, args=("digits",), daemon=True)
        dropping.start()
        dropping.join(60)
        assert not dropping.is_alive(), "it waits for the tool"
        # What was dropped stands in the way of neither its name nor its uid.
        assert copy_dataset(elsewhere, reg, "digits").version == copied.version
        assert reg.names() == ["digits"]
        assert "samples" in counts(reg)
        with reg.engine.connect() as connection:
            of_tool = select(func.count()).where(SampleRow.dataset_id == 1)
            assert connection.execute(of_tool).scalar_one() == 0
        fix(postgresql_url)
        assert unfinished(postgresql_url) == ["dataset digits (dropped 1)"]
        tool.commit()
        fix(postgresql_url)
        assert unfinished(postgresql_url) == []
        left = select(InboxRow.dataset_id, InboxRow.key)
        with reg.engine.connect() as connection:
            assert {row.dataset_id for row in connection.execute(left)} == {reg.open("digits").id}
    engine.dispose()


def test_a_role_with_a_statement_timeout_can_drop(postgresql_url: str) -> None:
    """A row takes 5 ms here, so that one statement for all would take 1.5 s."""
    slowly = """
        CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.005); RETURN OLD; END $$;
        CREATE TRIGGER slowly BEFORE DELETE ON samples FOR EACH ROW EXECUTE FUNCTION slowly()
    """
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", FIXED).insert([digit(n) for n in range(300)])
        with reg.engine.begin() as connection:
            connection.execute(text(slowly))
            database = connection.execute(text("SELECT current_database()")).scalar_one()
            connection.execute(text(f"ALTER DATABASE {database} SET statement_timeout = '1s'"))
    with registry.connect(postgresql_url) as reg:
        with pytest.raises(StatementTimeoutError), writing(reg.engine) as c:
            c.execute(text("SELECT pg_sleep(2)"))
        reg.drop("digits")
        assert counts(reg) == {}


def test_a_row_that_takes_longer_than_the_timeout_ends_a_drop(postgresql_url: str) -> None:
    never = """
        CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(1000); RETURN OLD; END $$;
        CREATE TRIGGER never BEFORE DELETE ON samples FOR EACH ROW EXECUTE FUNCTION never()
    """
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", FIXED).insert([digit(n) for n in range(10)])
        with reg.engine.begin() as connection:
            connection.execute(text(never))
            database = connection.execute(text("SELECT current_database()")).scalar_one()
            connection.execute(text(f"ALTER DATABASE {database} SET statement_timeout = '100ms'"))
    with registry.connect(postgresql_url) as reg:
        with pytest.raises(StatementTimeoutError):
            reg.drop("digits")
        assert reg.names() == []


def test_a_drop_waits_for_writers_of_the_same_file(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike a row of PostgreSQL, nothing in a file can be left for the next drop."""
    monkeypatch.setattr(drop, "_LOCK_WAIT", 0)
    with registry.connect(sqlite_url) as reg:
        digits = fill(reg, "digits", 3)
        drop.drop(reg.engine, digits.id)
        writer = make_engine(sqlite_url)
        with writing(writer):
            removal = threading.Thread(target=drop.remove, args=(reg.engine,), daemon=True)
            removal.start()
            removal.join(0.3)
        removal.join(60)
        assert counts(reg) == {}
        writer.dispose()
