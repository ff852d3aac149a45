"""The tables: made by the migrations, as the models say, and checked on connecting."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, event, inspect, text

import registry
from registry import Registry, Tensor
from registry.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    InvalidURLError,
    SchemaMissingError,
    SchemaTooNewError,
    SchemaTooOldError,
)
from registry.io.labeling.annotation import AnnotationId
from registry.io.labeling.annotation_state import AnnotationState
from registry.io.labeling.apply import apply_states
from registry.io.labeling.mapping_store import set_mapping
from registry.server import deliveries, tokens
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from registry.storage.database.models import metadata
from registry.storage.database.schema import REVISION, VERSION_TABLE, migrations, upgrade
from registry.storage.database.transactions import reading, writing
from registry.storage.log import lookup
from tests.support.databases import psql
from tests.support.growing_datasets import yielded
from tests.support.processes import run_python

ROOT = Path(__file__).parents[2]
# Of this database: tests of other databases on the server wait for locks at the same time.
WAITING = text(
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE NOT granted AND datname = current_database()"
)


def _alembic(url: str, *arguments: str) -> str:
    code = "from alembic.config import main; main(prog='alembic')"
    return run_python(code, *arguments, cwd=ROOT, check=True, REGISTRY_URL=url).stdout


def test_alembic_says_in_one_line_why_it_stops() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _alembic("postgresql://u:secret@127.0.0.1:1/d", "upgrade", "head")
    output = caught.value.stdout.strip() + caught.value.stderr
    assert re.fullmatch(
        r"FAILED: postgresql\+psycopg://u:\*\*\*@127.0.0.1:1/d: .*refused.*\n?", output
    )


def test_the_migrations_agree_with_the_models(reg: Registry) -> None:
    with reg.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


def test_the_package_needs_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_alembic_upgrade_head_leaves_other_tools_tables(
    empty_postgresql_url: str, tmp_path: Path
) -> None:
    for url in (empty_postgresql_url, f"sqlite:///{tmp_path}/new.db"):
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
        _alembic(url, "upgrade", "head")
        _alembic(url, "check")
        assert {*inspect(engine).get_table_names()} == {
            *metadata.tables,
            VERSION_TABLE,
            "alembic_version",
        }
        _alembic(url, "downgrade", "base")
        assert {*inspect(engine).get_table_names()} == {VERSION_TABLE, "alembic_version"}
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "theirs"
        engine.dispose()


def test_every_revision_goes_down_and_up_again_with_rows(reg: Registry) -> None:
    dataset = reg.create("d", {"x": Tensor("uint8")})
    dataset.insert([{"x": 1}, {"x": 2}])
    dataset.run("r").epoch(0)
    dataset.run("removed")
    dataset.remove_run("removed")
    dataset.tag("gold")
    tokens.create(reg.engine, "tool")
    set_mapping(reg.engine, dataset.id, "tool", {"x": "x"})
    deliveries.record(reg.engine, dataset.id, "tool", "event", b"digest")
    annotation = AnnotationId("label-studio", "1", "2")
    apply_states(dataset, "label-studio", [[AnnotationState(annotation, None)]])
    with reg.engine.begin() as connection:
        connection.execute(text("INSERT INTO inbox (dataset_id) VALUES (1)"))
        connection.execute(
            text("INSERT INTO erasures (dataset_id, number, position) VALUES (1, 0, 0)")
        )
        for table in metadata.sorted_tables:
            assert connection.execute(table.select()).first(), f"{table.name} has no rows"
    config = Config(ROOT / "alembic.ini", attributes={"engine": reg.engine})
    with pytest.raises(CommandError, match="there are tags of versions"):
        command.downgrade(config, "0003")
    dataset.untag("gold")
    with pytest.raises(CommandError, match="1 rows were erased"):
        command.downgrade(config, "0003")
    command.upgrade(config, "head")
    with reg.engine.begin() as connection:
        connection.execute(text("DELETE FROM erasures"))
    for _ in range(int(REVISION) - 1):
        command.downgrade(config, "-1")
    for _ in range(int(REVISION) - 1):
        command.upgrade(config, "+1")
    assert [page["x"].tolist() for page in dataset.pages()] == [[1, 2]]
    test_the_migrations_agree_with_the_models(reg)
    command.downgrade(config, "base")
    assert inspect(reg.engine).get_table_names() == [VERSION_TABLE]


@pytest.mark.parametrize(
    ("what", "insert"),
    [
        (
            "datasets whose features were changed",
            "INSERT INTO schemas (dataset_id, number, since, features) VALUES (1, 1, 1, '[]')",
        ),
        (
            "tags of versions",
            (
                "INSERT INTO tags (dataset_id, name, position, chain, schema, live) "
                "SELECT 1, 'gold', position, chain, 0, live FROM heads"
            ),
        ),
        ("runs on a version or with conditions", "UPDATE runs SET watermark = 1"),
        ("runs on a version or with conditions", "UPDATE runs SET conditions = '{}'"),
    ],
)
def test_a_downgrade_is_refused_while_something_would_be_lost(
    reg: Registry, what: str, insert: str
) -> None:
    dataset = reg.create("d", {"x": Tensor("uint8")})
    dataset.insert([{"x": 1}, {"x": 2}])
    epoch = yielded(dataset.run("r", seed=3).epoch(0))
    config = Config(ROOT / "alembic.ini", attributes={"engine": reg.engine})
    with reg.engine.begin() as connection:
        connection.execute(text(insert))
    with pytest.raises(CommandError, match=f"there are {what}, which would be lost"):
        command.downgrade(config, "0008")
    with reg.engine.begin() as connection:
        for restore in (
            "DELETE FROM schemas WHERE number > 0",
            "DELETE FROM tags",
            "UPDATE runs SET watermark = NULL, conditions = NULL",
        ):
            connection.execute(text(restore))
    test_the_migrations_agree_with_the_models(reg)
    command.downgrade(config, "0008")
    command.upgrade(config, "head")
    assert yielded(reg.open("d").run("r").epoch(0)) == epoch
    assert [result.differs for result in reg.open("d").verify()] == [None, None]


def test_a_new_revision_starts_from_the_safe_template(tmp_path: Path) -> None:
    copied = shutil.copytree(migrations(), tmp_path / "migrations")
    engine = make_engine(f"sqlite:///{tmp_path}/new.db")
    config = Config(ROOT / "alembic.ini", attributes={"engine": engine})
    config.set_main_option("script_location", str(copied))
    command.revision(config, "the next", rev_id="9999")
    revision = (copied / "versions" / "9999_the_next.py").read_text()
    assert "Is it safe while writers are at work?" in revision
    command.upgrade(config, "head")
    command.downgrade(config, "-1")
    assert schema.revision(engine) == REVISION
    engine.dispose()


def test_the_upgrade_can_be_written_as_sql(
    empty_postgresql_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.upgrade_sql(empty_postgresql_url)
    script = capsys.readouterr().out
    assert _alembic(empty_postgresql_url, "upgrade", "head", "--sql") == script
    psql(empty_postgresql_url, script)
    with registry.connect(empty_postgresql_url) as opened:
        assert opened.names() == []
    script = _alembic(empty_postgresql_url, "downgrade", f"{REVISION}:base", "--sql")
    psql(empty_postgresql_url, script)
    with pytest.raises(SchemaMissingError):
        registry.connect(empty_postgresql_url)


def test_the_upgrade_of_a_file_can_be_written_as_sql(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    schema.upgrade_sql(url)
    file = sqlite3.connect(tmp_path / "new.db")
    file.executescript(capsys.readouterr().out)
    file.close()
    with registry.connect(url) as opened:
        test_the_migrations_agree_with_the_models(opened)


INIT_AT_ONCE = """
import multiprocessing
from registry.cli import app

fork = multiprocessing.get_context("fork")
running = [fork.Process(target=app) for _ in range(4)]
for process in running:
    process.start()
for process in running:
    process.join()
assert [process.exitcode for process in running] == [0] * len(running)
"""


def test_concurrent_upgrades_of_a_file_make_one_registry(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    done = run_python(INIT_AT_ONCE, "init", "--url", url, check=True)
    assert done.stdout.count(f"is at schema {REVISION}") == 4, done


def test_an_upgrade_waits_for_another_without_blocking_others(
    empty_postgresql_url: str,
) -> None:
    """It tries for the lock repeatedly: waiting in one would block index builds."""
    lock = {"lock": int.from_bytes(b"registry") >> 1}
    engine = create_engine(empty_postgresql_url, isolation_level="AUTOCOMMIT")
    asking = text(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%'"
        " AND datname = current_database()"
    )
    with engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), lock)
        upgrading = subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=ROOT,
            env={**os.environ, "REGISTRY_URL": empty_postgresql_url},
        )
        while other.scalar(asking) < 2:  # this query is the other one
            assert upgrading.poll() is None
            time.sleep(0.01)
        assert other.scalar(WAITING) == 0
        assert inspect(other).get_table_names() == []
        other.execute(text("SELECT pg_advisory_unlock(:lock)"), lock)
    assert upgrading.wait(timeout=60) == 0
    engine.dispose()


def test_an_upgrade_yields_to_others_that_use_its_table(postgresql_url: str) -> None:
    """It tries for the lock repeatedly, and never makes others wait behind it for long."""
    _alembic(postgresql_url, "downgrade", "0002")
    engine = create_engine(make_engine(postgresql_url).url)
    with engine.begin() as tool:
        tool.execute(text("LOCK TABLE inbox IN ROW EXCLUSIVE MODE"))
        upgrading = subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=ROOT,
            env={**os.environ, "REGISTRY_URL": postgresql_url},
        )
        with engine.connect() as other:
            for waits in (True, False, True):
                while bool(other.scalar(WAITING)) != waits:
                    other.rollback()
                    assert upgrading.poll() is None
                    time.sleep(0.001)
            other.execute(text("SELECT count(*) FROM inbox"))
    assert upgrading.wait(timeout=60) == 0
    engine.dispose()
    with registry.connect(postgresql_url) as opened:
        assert opened.names() == []


@pytest.fixture
def two_more(tmp_path: Path) -> Path:
    """Alembic's settings for migrations with two more: the second fails without a table."""
    folder = shutil.copytree(migrations(), tmp_path / "migrations")
    settings = shutil.copy(ROOT / "alembic.ini", tmp_path)
    steps = {
        "9001": ["CREATE TABLE first (x TEXT)"],
        "9002": ["CREATE TABLE second (x TEXT)", "INSERT INTO absent VALUES (1)"],
    }
    before = REVISION
    for number, statements in steps.items():
        (folder / "versions" / f"{number}_more.py").write_text(
            "from alembic import op\n"
            f"revision, down_revision = {number!r}, {before!r}\n"
            f"def upgrade(): [op.execute(sql) for sql in {statements}]\n"
        )
        before = number
    return Path(settings)


def _state(url: str) -> tuple[str | None, set[str]]:
    """Return the revision, and the tables that `two_more` makes."""
    engine = make_engine(url)
    tables = {*inspect(engine).get_table_names()} & {"first", "second", "absent"}
    current = schema.revision(engine)
    engine.dispose()
    return current, tables


def test_a_migration_that_fails_leaves_nothing_and_is_tried_again(url: str, two_more: Path) -> None:
    upgrade_head = ("-c", str(two_more), "upgrade", "head")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _alembic(url, *upgrade_head)
    assert re.match("FAILED: .*absent", caught.value.stdout.strip() + caught.value.stderr)
    # On PostgreSQL each migration is a transaction; a file has one for all of them.
    assert _state(url) == ((REVISION, set()) if "sqlite" in url else ("9001", {"first"}))
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE absent (x INTEGER)"))
    _alembic(url, *upgrade_head)
    assert _state(url) == ("9002", {"first", "second", "absent"})
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM absent")) == 1
    engine.dispose()


def test_a_migration_that_fails_in_a_script_leaves_nothing(
    postgresql_url: str, two_more: Path
) -> None:
    arguments = ("-c", str(two_more), "upgrade", f"{REVISION}:head", "--sql")
    script = _alembic(postgresql_url, *arguments)
    with pytest.raises(subprocess.CalledProcessError):
        psql(postgresql_url, script)
    assert _state(postgresql_url) == ("9001", {"first"})


def test_an_upgrade_of_a_file_that_is_locked_for_long_is_tried_again(sqlite_url: str) -> None:
    engine = make_engine(f"{sqlite_url}?timeout=0.1")
    command.downgrade(Config(ROOT / "alembic.ini", attributes={"engine": engine}), "-1")
    writer = sqlite3.connect(make_engine(sqlite_url).url.database or "", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    class Unlock(logging.Handler):
        """Ends the other writer's transaction when the first attempt has failed."""

        def emit(self, record: logging.LogRecord) -> None:
            assert "attempt 1 failed" in record.getMessage()
            writer.rollback()

    retries, unlock = logging.getLogger("registry.storage.database.retry"), Unlock()
    retries.addHandler(unlock)
    upgrade(engine)
    retries.removeHandler(unlock)
    assert not writer.in_transaction
    assert schema.revision(engine) == REVISION
    writer.close()
    engine.dispose()


def test_upgrading_twice_is_harmless(reg: Registry) -> None:
    reg.create("d", {"x": Tensor("uint8")}).insert([{"x": 1}])
    upgrade(reg.engine)
    assert len(reg.open("d")) == 1


def test_an_upgrade_leaves_no_timeout_in_the_connections(postgresql_url: str) -> None:
    settings = text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
    with registry.connect(postgresql_url) as opened:
        with reading(opened.engine) as connection:
            before = connection.execute(settings).one()
        upgrade(opened.engine)
        with reading(opened.engine) as connection:
            assert connection.execute(settings).one() == before


def test_a_url_given_to_alembic_comes_before_the_environments() -> None:
    arguments = ("-x", "url=sqlite:///new.db", "upgrade", "head", "--sql")
    script = _alembic("postgresql://localhost/other", *arguments)
    assert "CREATE TRIGGER" in script
    assert "plpgsql" not in script


def test_the_error_of_a_missing_schema_names_the_command(
    empty_postgresql_url: str,
) -> None:
    with pytest.raises(SchemaMissingError, match="run `registry init --url "):
        registry.connect(empty_postgresql_url)


@pytest.mark.parametrize(
    ("revision", "error", "remedy"),
    [
        ("0000", SchemaTooOldError, "run `registry init"),
        ("9999", SchemaTooNewError, "upgrade registry"),
    ],
)
def test_the_error_of_another_schema_names_the_remedy(
    reg: Registry, url: str, revision: str, error: type[Exception], remedy: str
) -> None:
    with reg.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
    with pytest.raises(error, match=remedy):
        registry.connect(url)


@pytest.mark.parametrize(
    ("url", "error", "reason"),
    [
        ("nonsense", InvalidURLError, "the database URL cannot be read"),
        ("", InvalidURLError, "the database URL cannot be read"),
        ("sqlite:///x.db?mode=ro", InvalidURLError, "SQLite URLs have no mode"),
        ("mysql://u:secret@h/d", InvalidURLError, "mysql:// databases are not supported"),
        ("postgresql://u:secret@h:port/d", InvalidURLError, "cannot be read"),
        ("sqlite://", InvalidURLError, "names no file"),
        ("sqlite:////no/such/folder/x.db", DatabaseError, "check that its folder exists"),
        (f"sqlite:///{__file__}", DatabaseError, "file is not a database"),
        ("postgresql://u@127.0.0.1:1/d?password=secret", DatabaseUnavailableError, "server is up"),
        ("postgresql://u:secret@127.0.0.1:1/d", DatabaseUnavailableError, "server is up"),
    ],
)
def test_a_database_that_cannot_be_opened_says_why(
    url: str, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        registry.connect(url)
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_exist_says_how_to_make_it(postgresql_url: str) -> None:
    absent = make_engine(postgresql_url).url.set(database="nowhere")
    with pytest.raises(DatabaseError, match="create it first"):
        registry.connect(absent.render_as_string(hide_password=False))


def test_a_commit_to_sqlite_survives_a_crash(tmp_path: Path) -> None:
    with registry.connect(f"sqlite:///{tmp_path}/x.db") as opened, reading(opened.engine) as c:
        settings = {
            name: c.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30000,
    }


def test_every_query_of_a_log_uses_an_index(reg: Registry) -> None:
    dataset = reg.create("d", {"x": Tensor("uint8")}, splits={"a": 0.5, "b": 0.5})
    keys = [f"k{n}" for n in range(5000)]
    dataset.insert({"x": [n % 200 for n in range(5000)]}, keys=keys)
    dataset.update("k7", x=8)
    if reg.engine.dialect.name == "postgresql":
        with reg.engine.begin() as connection:
            connection.execute(text("ANALYZE samples"))
    for work, scans in (
        (lambda: dataset.get("k1"), False),
        (lambda: dataset.insert([{"x": 1}], keys=["k1"]), False),
        (lambda: dataset.retract("k2"), False),
        (lambda: dataset.entries(10, 20), False),
        (lambda: list(dataset.pages(10, 20)), False),
        (lambda: list(dataset.run("r", split="a").epoch(0).batches(100)), True),
    ):
        for plan in _plans(reg, work):
            if scans:  # pinning an epoch counts its samples: one pass, and no pass in a pass
                assert plan.count("USING PRIMARY KEY (dataset_id=?)") <= 1, plan
                assert "Nested Loop" not in plan or "Index" in plan, plan
            else:
                assert "Seq Scan on samples" not in plan, plan
                assert "(dataset_id=?)" not in plan, plan


def test_a_bulk_load_without_statistics_stays_fast(
    postgresql_url: str,
) -> None:
    """Without a suitable index, the whole log would be read for every key."""
    with registry.connect(postgresql_url) as reg:
        old = reg.create("old", {"x": Tensor("uint8")})
        old.insert({"x": [1] * 5000})
        with reg.engine.begin() as connection:
            connection.execute(text("ANALYZE samples"))
        new = reg.create("new", {"x": Tensor("uint8")})
        new.insert({"x": [1] * 5000}, keys=[f"k{n}" for n in range(5000)])
        asked = lookup.lookup(2, ["a", "b"]).statement.text.decode()
        with writing(reg.engine) as connection:
            connection.exec_driver_sql(f"PREPARE asked (json, int, int) AS {asked}")
            for mode in ("force_custom_plan", "force_generic_plan"):
                connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {mode}")
                explain = """EXPLAIN EXECUTE asked ('["a", "b"]', 2, 9)"""
                plan = connection.exec_driver_sql(explain).all()
                assert "Index Scan using ix_samples_key" in str(plan)


def _plans(reg: Registry, work: Callable[[], object]) -> list[str]:
    """Call a function; return the plan of each SELECT on samples that it executes."""
    queries: list[tuple[str, Any]] = []

    def remember(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "samples" in statement and statement.lstrip().startswith("SELECT"):
            queries.append((statement, parameters))

    event.listen(reg.engine, "before_cursor_execute", remember)
    work()
    event.remove(reg.engine, "before_cursor_execute", remember)
    explain = "EXPLAIN" if reg.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with reg.engine.connect() as connection:
        plans = [connection.exec_driver_sql(f"{explain} {sql}", values) for sql, values in queries]
        return ["\n".join(str(row) for row in plan) for plan in plans]
