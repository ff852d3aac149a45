"""Roles with the fewest rights: what each may do, what it may not, and all tests as such roles."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from psycopg import sql
from psycopg.errors import CheckViolation
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from typer.testing import CliRunner

import registry
from registry import Registry, Text
from registry.catalog.copy.into import Selection, fill_dataset
from registry.cli.base import app
from registry.errors import PermissionDeniedError, SchemaMissingError
from registry.io.import_file import insert_file
from registry.io.labeling.annotation import AnnotationId
from registry.io.labeling.annotation_state import AnnotationState
from registry.io.labeling.apply import apply_states
from registry.server import deliveries, tokens
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from registry.storage.database.grants import LOG, PRIVATE, Kind, RoleError, apply, statements
from registry.storage.database.models import metadata
from registry.storage.database.schema import VERSION_TABLE
from registry.storage.database.transactions import driver
from tests.catalog import test_dataset
from tests.support.databases import administrator, psql
from tests.support.datasets import FIXED, digit

_numbers = itertools.count()
As = Callable[..., str]
"""Makes a role that may do what these kinds may, and returns the database's URL for it."""


@pytest.fixture
def new_role(postgresql_url: str) -> Iterator[Callable[[], str]]:
    """Creates roles whose names need quotes, and drops them from the cluster."""
    address = make_engine(postgresql_url).url
    with administrator(address) as connection, ExitStack() as roles:
        run = driver(connection).execute

        def make() -> str:
            name = f'registry\'s %s "role"; {os.getpid()} {next(_numbers)}'
            role = sql.Identifier(name)
            run(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(role))
            roles.callback(run, sql.SQL("DROP ROLE {}").format(role))
            roles.callback(run, sql.SQL("DROP OWNED BY {} CASCADE").format(role))
            return name

        yield make


@pytest.fixture
def as_role(postgresql_url: str, new_role: Callable[[], str]) -> As:
    """Roles are members of one with the rights of each kind, as people are of groups."""

    def make(*kinds: Kind) -> str:
        member = new_role()
        groups: dict[Kind, list[str]] = {kind: [new_role()] for kind in kinds}
        engine = make_engine(postgresql_url)
        apply(engine, statements(engine, groups))
        with engine.begin() as connection:
            for (group,) in groups.values():
                names = (sql.Identifier(group), sql.Identifier(member))
                driver(connection).execute(sql.SQL("GRANT {} TO {}").format(*names))
        engine.dispose()
        return engine.url.set(username=member, password="secret").render_as_string(
            hide_password=False
        )

    return make


@pytest.fixture
def owned(postgresql_url: str) -> Iterator[Registry]:
    """The registry of the tables' owner, with a dataset that has one sample."""
    with registry.connect(postgresql_url) as reg:
        reg.create("digits", FIXED).insert([digit(1)], keys=["a"])
        reg.open("digits").run("finished").epoch(0)
        tokens.create(reg.engine, "tool")
        yield reg


INTO_INBOX = """
    INSERT INTO inbox (dataset_id, key, fields)
    SELECT id, :key, '{"image": [[1, 2], [3, 4]], "label": 3}' FROM datasets WHERE name = 'digits'
"""
NOBODY_BUT_THE_OWNER = [
    "UPDATE samples SET source = 'x'",
    "UPDATE samples SET record = ''",
    "DELETE FROM samples",
    "TRUNCATE samples",
    "ALTER TABLE samples DISABLE TRIGGER ALL",
    (
        "INSERT INTO samples (dataset_id, position, bucket, chain, key, created_at)"
        " VALUES (1, 1, 1, '', 'x', 'epoch')"
    ),
    "UPDATE heads SET dataset_id = 2",
    "UPDATE heads SET erased = 1",
    "INSERT INTO erasures (dataset_id, number, position) VALUES (1, 0, 0)",
    "DELETE FROM heads",
    "UPDATE datasets SET splits = '{}'",
    "UPDATE datasets SET name = 'x'",
    "DELETE FROM datasets",
    "DELETE FROM removed_runs",
    "UPDATE schemas SET features = '[]'",
    "DELETE FROM schemas",
    "UPDATE epochs SET watermark = 0",
    "DELETE FROM epochs",
    "UPDATE runs SET seed = 1",
    "DELETE FROM runs",
    "UPDATE inbox SET fields = '{}'",
    "INSERT INTO tokens (name, digest, rights) VALUES ('x', 'x', 'write')",
    "UPDATE tokens SET revoked_at = NULL",
    "INSERT INTO webhooks (dataset_id, tool, mapping) VALUES (1, 'x', '{}')",
    "DELETE FROM deliveries",
    f"UPDATE {VERSION_TABLE} SET version_num = '0000'",
    "CREATE TABLE more (id int)",
    "DROP TABLE samples",
]
NEITHER_READER_NOR_WRITER = [
    "DELETE FROM inbox",
    "UPDATE inbox SET error = NULL",
    "SELECT * FROM tokens",
    "SELECT * FROM deliveries",
    "INSERT INTO tool_annotations (dataset_id, tool, annotation) VALUES (1, 'x', 'x')",
]
NO_WRITER = [
    "INSERT INTO runs (dataset_id, name, seed, policy) VALUES (1, 'x', 1, 'all')",
    (
        "INSERT INTO epochs (run_id, number, since, watermark, chain, size, start)"
        " VALUES (1, 1, 0, 0, '', 0, 0)"
    ),
    "UPDATE runs SET consumed = 1",
    "INSERT INTO inbox (dataset_id, error) VALUES (1, 'x')",
]
NO_READER = [
    "INSERT INTO samples (dataset_id, position, bucket, chain, key) VALUES (1, 1, 1, '', 'x')",
    "INSERT INTO inbox (dataset_id, key) VALUES (1, 'x')",
    "INSERT INTO datasets (uid, name, splits) VALUES ('x', 'x', '{}')",
    "UPDATE heads SET position = 0",
    "SELECT * FROM heads FOR UPDATE",
    (
        "INSERT INTO tags (dataset_id, name, position, chain, schema, live)"
        " VALUES (1, 'x', 1, '', 0, 0)"
    ),
    "INSERT INTO schemas (dataset_id, number, since, features) VALUES (1, 1, 1, '[]')",
    "UPDATE heads SET schema = 1",
    "UPDATE tags SET position = 0",
    "DELETE FROM tags",
]


def refuses(reg: Registry, *forbidden: str) -> None:
    for statement in forbidden:
        denied = "permission denied|must be owner"
        with pytest.raises(ProgrammingError, match=denied), reg.engine.begin() as connection:
            connection.execute(text(statement))


def test_a_labeling_tool_inserts_but_changes_and_removes_nothing(
    owned: Registry, as_role: As
) -> None:
    with registry.connect(as_role("writer")) as reg:
        digits = reg.open("digits")
        digits.insert([digit(2), digit(3)], keys=["b", "c"])
        digits.update("b", label=9)
        digits.retract("c")
        reg.create("more", FIXED).insert([digit(4)])
        digits.add_feature("note", Text(), "none")
        fill_dataset(reg, "digits", reg, "filled", Selection(["image"]))
        for options in ({"at": 1}, {"move": True, "note": "new"}):
            digits.tag("gold", **options)
        digits.tag("silver")
        digits.untag("silver")
        with reg.engine.begin() as connection:
            connection.execute(text(INTO_INBOX), {"key": "by SQL"})
        assert len(digits) == 2, "what waits is left to those who may drain"
        refuses(reg, *NOBODY_BUT_THE_OWNER, *NEITHER_READER_NOR_WRITER, *NO_WRITER)
        with pytest.raises(PermissionDeniedError, match="ask its owner to grant this right"):
            reg.drop("more")
    assert len(owned.open("digits")) == 3
    assert all(each.differs is None for each in owned.open("digits").verify())


@pytest.mark.parametrize("kind", ["writer", "reader", "server"])
def test_only_the_owner_renames_drops_and_removes_runs(
    owned: Registry, as_role: As, kind: Kind
) -> None:
    with registry.connect(as_role(kind)) as reg:
        digits = reg.open("digits")
        for use in (
            lambda: reg.rename("digits", "mnist"),
            lambda: reg.drop("digits"),
            lambda: digits.remove_run("finished"),
        ):
            with pytest.raises(PermissionDeniedError, match="ask its owner to grant this right"):
                use()
        if kind == "reader":
            with pytest.raises(PermissionDeniedError):
                digits.describe("by a reader")
        else:
            digits.describe(f"by a {kind}")
    left = owned.open("digits")
    assert (left.description, left.find_run("finished").lineage(0).size) == (
        "" if kind == "reader" else f"by a {kind}",
        1,
    )


ROWS = (
    "INSERT INTO samples (dataset_id, position, bucket, chain, supersedes, key)"
    " VALUES {} RETURNING position"
)
ONE = ROWS.format("(1, {position}, {bucket}, decode(repeat('ab', {length}), 'hex'), {old}, 'x')")
SOUND = {"position": 1, "bucket": 1, "length": 16, "old": "NULL"}
WRECKS = {
    "a row far behind the log's end": ONE.format(**{**SOUND, "position": 99999999}),
    "a row before its end": ONE.format(**{**SOUND, "position": -1}),
    "a hole in its rows": ROWS.format(
        "(1, 1, 1, '{0}', NULL, 'x'), (1, 3, 1, '{0}', NULL, 'y')"
    ).format("x" * 16),
    "a row of another dataset among its own": ROWS.format(
        "(1, 1, 1, '{0}', NULL, 'x'), (7, 0, 1, '{0}', NULL, 'y')"
    ).format("x" * 16),
    "a bucket that is none": ONE.format(**{**SOUND, "bucket": 65536}),
    "a chain value that is too short": ONE.format(**{**SOUND, "length": 15}),
    "a row that supersedes a later one": ONE.format(**{**SOUND, "old": 5}),
    "a head that ends the log early": (
        "UPDATE heads SET position = 0, chain = decode(repeat('00', 16), 'hex')"
    ),
    "a head past the log's end": "UPDATE heads SET position = 99999999",
    "a head with another chain": "UPDATE heads SET chain = decode(repeat('00', 16), 'hex')",
    "a head that begins later": (
        "INSERT INTO datasets (uid, name, splits) VALUES ('u', 'u', '{}');"
        "INSERT INTO heads (dataset_id, chain) VALUES (lastval(), 'x')"
    ),
    "a table that stands for the heads": (
        "CREATE TEMP TABLE heads AS SELECT * FROM heads;"
        "UPDATE pg_temp.heads SET position = 5;" + ONE.format(**{**SOUND, "position": 5})
    ),
}


def _refusal(reg: Registry, script: str) -> str:
    try:
        with reg.engine.begin() as connection:
            driver(connection).execute(script.encode())
    except CheckViolation as error:
        return str(error)
    return "nothing was refused"


def test_a_labeling_tool_cannot_damage_a_log_by_sql(owned: Registry, as_role: As) -> None:
    before = owned.open("digits").head
    refused = "do not continue its log|a bucket is in|its log does not end at position"
    with registry.connect(as_role("writer")) as reg:
        refusals = {name: _refusal(reg, script) for name, script in WRECKS.items()}
        assert [name for name in refusals if not re.search(refused, refusals[name])] == []
        assert reg.open("digits").head == before
        reg.open("digits").insert([digit(2)], keys=["b"])
    assert all(each.differs is None for each in owned.open("digits").verify())


def test_a_writer_that_corrects_a_file_stores_it_and_learns_which_rows_stay_rejected(
    owned: Registry, as_role: As, tmp_path: Path
) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"id": "b", **digit(2), "label": 30}))
    insert_file(owned.open("digits"), path, key="id", quarantine=True)
    path.write_text(json.dumps({"id": "b", **digit(2)}))
    url = as_role("writer")
    result = CliRunner().invoke(app, ["insert", "digits", str(path), "--key", "id", "--url", url])
    assert (result.exit_code, result.stdout.split(":")[1][:11]) == (0, " 1 inserted")
    assert "1 rejected row of an earlier import is corrected by it" in result.stderr
    assert len(owned.open("digits").inbox.refused()) == 1


def test_rows_inserted_by_sql_move_the_head(owned: Registry, as_role: As) -> None:
    with registry.connect(as_role("writer")) as reg, reg.engine.begin() as connection:
        for position in (1, 2):
            connection.execute(text(ONE.format(**{**SOUND, "position": position})))
    head = owned.open("digits").head
    assert (head.position, head.chain) == (3, b"\xab" * 16)


def test_a_tool_with_only_the_inbox_reads_names_and_inserts(owned: Registry, as_role: As) -> None:
    engine = make_engine(as_role("inbox"))
    with engine.begin() as connection:
        names = connection.execute(text("SELECT id, name FROM datasets")).all()
        assert [name for _, name in names] == ["digits"]
        connection.execute(text(INTO_INBOX), {"key": "by SQL"})
    with Registry(engine) as reg:
        everything = [f"SELECT FROM {table}" for table in (*metadata.tables, VERSION_TABLE)]
        refuses(
            reg,
            *(query for query in everything if query != "SELECT FROM datasets"),
            "SELECT splits FROM datasets",
            *NOBODY_BUT_THE_OWNER,
            *NEITHER_READER_NOR_WRITER,
            *NO_WRITER,
            *(query for query in NO_READER if "INTO inbox" not in query),
        )
    assert len(owned.open("digits")) == 2


def test_a_trainer_only_reads_pins_epochs_and_records_progress(
    owned: Registry, as_role: As
) -> None:
    owned.open("digits").tag("gold")
    with owned.engine.begin() as connection:
        connection.execute(text(INTO_INBOX), {"key": "waits"})
    with registry.connect(as_role("reader")) as reg:
        digits = reg.open("digits")
        assert next(digits.follow()).positions.tolist() == [0]
        run = digits.run("mine", seed=7)
        assert [batch["label"].tolist() for batch in run.epoch(0).batches(10)] == [[1]]
        run.record(1)
        assert run.advance(1) == run.consumed == 2
        assert reg.open("digits@gold").run("paper").epoch(0).size == 1
        assert [revision.entry.key for revision in digits.history("a")] == ["a"]
        refuses(reg, *NOBODY_BUT_THE_OWNER, *NEITHER_READER_NOR_WRITER, *NO_READER)
        with pytest.raises(PermissionDeniedError, match="ask its owner to grant this right"):
            digits.insert([digit(2)])
        with pytest.raises(PermissionDeniedError, match="ask its owner to grant this right"):
            digits.add_feature("note", Text(), "none")
        assert list(digits.features) == list(FIXED)


def test_a_server_drains_and_records_events_but_changes_no_sample(
    owned: Registry, as_role: As
) -> None:
    owned_id = owned.open("digits").id
    with registry.connect(as_role("server")) as reg:
        digits = reg.open("digits")
        with reg.engine.begin() as connection:
            connection.execute(text(INTO_INBOX), {"key": "by SQL"})
            connection.execute(text(INTO_INBOX), {"key": ""})
        drained = digits.inbox.drain()
        assert (drained.moved, drained.refused) == (1, 1)
        assert (digits.inbox.retry(), digits.inbox.drain().refused) == (1, 1)
        assert digits.inbox.discard() == 1
        annotation = AnnotationId("label-studio", "1", "2")
        apply_states(digits, "label-studio", [[AnnotationState(annotation, None)]])
        assert deliveries.record(reg.engine, owned_id, "tool", "event", b"digest") == "recorded"
        assert deliveries.record(reg.engine, owned_id, "tool", "event", b"digest") == "repeated"
        assert tokens.any_usable(reg.engine)
        digits.add_feature("note", Text(), "none")
        refuses(reg, *NOBODY_BUT_THE_OWNER, *NO_WRITER[:3])


def test_an_owner_migrates_and_drops(
    postgresql_url: str, as_role: As, new_role: Callable[[], str]
) -> None:
    with registry.connect(as_role("owner")) as reg:
        reg.create("digits", FIXED).insert([digit(1)])
        schema.upgrade(reg.engine)
        with reg.engine.begin() as connection:
            connection.execute(text("ALTER TABLE datasets ADD COLUMN later int"))
            connection.execute(text("CREATE TABLE later (id int)"))
        reg.drop("digits")
        apply(reg.engine, statements(reg.engine, {"reader": [new_role()]}))
    with registry.connect(postgresql_url) as reg:
        assert reg.names() == []


def test_the_command_prints_or_runs_grants_and_can_be_repeated(
    postgresql_url: str, new_role: Callable[[], str]
) -> None:
    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["grants", *options, "--url", postgresql_url])
        assert result.exit_code == 0, result.output
        return result.output

    role = new_role()
    options = [f"--{kind}={role}" for kind in get_args(Kind)]
    script = run(*options)
    psql(postgresql_url, script)
    psql(postgresql_url, script)
    count = len(script.splitlines())
    assert f": {count} statements done" in run("--apply", *options)


def test_every_table_is_readable_or_private() -> None:
    assert {*LOG, *PRIVATE} == {*metadata.tables, VERSION_TABLE}
    assert len({*LOG, *PRIVATE}) == len(LOG) + len(PRIVATE)


@pytest.mark.parametrize("name", ["nobody", 'no"body', "public", "a\0b", "\udcff", ""])
def test_the_error_of_a_missing_role_has_a_remedy(postgresql_url: str, name: str) -> None:
    engine = make_engine(postgresql_url)
    with pytest.raises(RoleError, match=r"has no role .* create it first: CREATE ROLE") as caught:
        statements(engine, {"writer": [name]})
    assert repr(name) in str(caught.value)
    engine.dispose()


def test_a_database_without_roles_or_tables_is_refused(
    sqlite_url: str, empty_postgresql_url: str
) -> None:
    with pytest.raises(RoleError, match="SQLite knows no roles; set the rights of the file"):
        statements(make_engine(sqlite_url), {"writer": ["x"]})
    engine = make_engine(empty_postgresql_url)
    with pytest.raises(SchemaMissingError, match="run `registry init"):
        statements(engine, {"writer": ["x"]})
    engine.dispose()


# The contract, once more: each test of datasets, by a role that may only label and train. Left out
# are those that drop a dataset or tamper with tables.

_OWNERS = (
    test_dataset.test_a_gap_in_the_log_is_an_error_and_never_a_short_page,
    test_dataset.test_the_database_rejects_changes_to_the_log,
    test_dataset.test_a_dropped_dataset_leaves_no_rows_and_its_name_is_free,
    test_dataset.test_using_a_dropped_dataset_raises_and_never_uses_another,
)


@pytest.fixture
def url(as_role: As) -> str:
    """A database of each kind, as a role that labels and trains connects to it."""
    return as_role("writer", "reader")


def contract(module: ModuleType, without: Container[object]) -> dict[str, Callable[..., object]]:
    """Return a module's tests that run on every kind of database."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    takes = {"reg", "url", "digits", "notes", "dataset"}
    return {
        f"{name}_for_a_role": test
        for name, test in tests.items()
        if test not in without and takes & {*inspect.signature(test).parameters}
    }


globals().update(contract(test_dataset, without=_OWNERS))
