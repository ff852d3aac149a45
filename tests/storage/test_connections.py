"""Connections: URLs, passwords, settings of sessions, timeouts, forks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, Connection, event, make_url

import registry
from registry import RegistryError
from registry.errors import (
    ConflictError,
    DatabaseError,
    InvalidURLError,
    LockTimeoutError,
    StatementTimeoutError,
)
from registry.storage.database.engine import make_engine
from registry.storage.database.exchange import TEXT, Statement
from registry.storage.database.transactions import driver, reading, writing
from registry.storage.database.url import masked, parse_url
from registry.storage.log import few_rows, notifications
from registry.storage.log.head import lock_head
from registry.storage.log.writer import transact
from tests.faults.test_server_kills import own_postgresql
from tests.support.databases import administrator
from tests.support.datasets import FIXED, digit
from tests.support.proxy import proxied

PASSWORDS = ["p%40%%zz", "at@at@at", "a/b//c", "a:b::c", "?#&=+ []", "'\"\\$", "größe-日本", "%"]

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def _ask(url: str, question: str) -> str:
    """Return the value of a query on one of the registry's connections."""
    engine = make_engine(url)
    try:
        with reading(engine) as connection:
            return str(connection.exec_driver_sql(question).scalar_one())
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def guarded() -> Iterator[URL]:
    """A server that asks the user "guest" for a password."""
    with own_postgresql() as (url, _):
        server = parse_url(url)
        with administrator(server) as connection:
            connection.exec_driver_sql("CREATE ROLE guest LOGIN")
            hba = Path(str(connection.exec_driver_sql("SHOW hba_file").scalar()))
            hba.write_text("local all guest scram-sha-256\n" + hba.read_text())
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield server


@pytest.fixture
def guest(guarded: URL) -> Callable[[str], URL]:
    """Set the user's password; return a URL that lacks it."""

    def set_password(password: str) -> URL:
        with administrator(guarded) as connection:
            statement = "SELECT format('ALTER ROLE guest PASSWORD %%L', %s::text)"
            connection.exec_driver_sql(
                str(connection.exec_driver_sql(statement, (password,)).scalar()).replace("%", "%%")
            )
        return guarded._replace(username="guest", password=None)

    return set_password


@given(TEXTS, TEXTS, TEXTS)
def test_a_url_may_have_any_characters_in_user_password_and_database(
    user: str, password: str, database: str
) -> None:
    quoted = [quote(part, safe="") for part in (user, password, database)]
    parsed = parse_url("postgresql://{}:{}@[::1]:5433/{}".format(*quoted))
    assert (parsed.username, parsed.password, parsed.database) == (user, password, database)
    assert (parsed.host, parsed.port) == ("::1", 5433)
    assert parse_url(parsed.render_as_string(hide_password=False)) == parsed


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_special_characters_opens_the_database(
    guest: Callable[[str], URL], password: str
) -> None:
    without = guest(password)
    url = without.set(password=password).render_as_string(hide_password=False)
    assert _ask(url, "SELECT current_user") == "guest"
    in_query = without.update_query_dict({"password": password})
    assert _ask(in_query.render_as_string(hide_password=False), "SELECT current_user") == "guest"
    for wrong in (without, without.set(password=password + "x")):
        with pytest.raises(DatabaseError) as caught:
            registry.connect(wrong.render_as_string(hide_password=False))
        assert password + "x" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://me:se@cret@host/db", "postgres://a@b:se@cret/db"])
def test_a_password_with_an_unquoted_at_sign_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidURLError, match="write %40") as caught:
        registry.connect(url)
    assert "cret" not in str(caught.value)


def test_secrets_in_a_urls_query_are_not_shown() -> None:
    query = {"sslpassword": "s1", "password": "s2", "oauth_client_secret": "s3", "sslmode": "ok"}
    text = masked(make_url("postgresql://host/db").update_query_dict(query))
    assert text == "postgresql://host/db?sslmode=ok"


def test_a_password_file_opens_the_database(
    guest: Callable[[str], URL], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = guest("from:a\\file")
    path = tmp_path / "pgpass"
    path.write_text("*:*:*:guest:from\\:a\\\\file\n")
    path.chmod(0o600)
    named = url.update_query_dict({"passfile": str(path)})
    assert _ask(named.render_as_string(), "SELECT current_user") == "guest"
    monkeypatch.setenv("PGPASSFILE", str(path))
    assert _ask(url.render_as_string(), "SELECT current_user") == "guest"


def test_a_service_or_variables_complete_a_url(
    guest: Callable[[str], URL], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = guest("secret").query["host"]
    path = tmp_path / "services"
    path.write_text(
        f"[labels]\nhost={folder}\nuser=guest\npassword=secret\ndbname=postgres\n"
        "application_name=from-service\noptions=-c work_mem=77MB\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    question = "SELECT concat_ws(' ', current_user, current_database(), current_setting({!r}))"
    named = "postgresql://?service=labels"
    assert _ask(named, question.format("work_mem")) == "guest postgres 77MB"
    assert _ask(named, question.format("application_name")) == "guest postgres from-service"
    assert _ask(named, question.format("enable_seqscan")) == "guest postgres off"
    monkeypatch.setenv("PGSERVICE", "labels")
    assert _ask("postgresql://", question.format("work_mem")) == "guest postgres 77MB"
    monkeypatch.delenv("PGSERVICE")
    for name, value in {
        "PGHOST": str(folder),
        "PGUSER": "guest",
        "PGPASSWORD": "secret",
        "PGAPPNAME": "from-variable",
        "PGOPTIONS": "-c work_mem=78MB",
    }.items():
        monkeypatch.setenv(name, value)
    for url in ("postgresql:///postgres", "postgres://guest@/postgres"):
        assert _ask(url, question.format("application_name")) == "guest postgres from-variable"
        assert _ask(url, question.format("work_mem")) == "guest postgres 78MB"


def test_a_server_is_reached_by_socket_ipv6_and_sslmode(
    guarded: URL,
) -> None:
    folder = str(guarded.query["host"])
    for url in (
        f"postgresql://postgres@/postgres?host={folder}",
        f"postgresql://postgres@{quote(folder, safe='')}/postgres",
    ):
        assert _ask(url, "SELECT inet_client_addr() IS NULL") == "True"
    with proxied(guarded, "::1") as (proxy, through):
        text = through.render_as_string(hide_password=False)
        assert f"[::1]:{proxy.port}" in text
        assert _ask(text, "SELECT 1") == "1"
        with pytest.raises(RegistryError, match="SSL"):
            _ask(f"{text}?sslmode=require", "SELECT 1")
        assert _ask(f"{text}?sslmode=disable", "SELECT 1") == "1"


def test_url_and_role_override_the_settings_of_sessions(guarded: URL) -> None:
    url = guarded.render_as_string(hide_password=False)
    ours = {
        "application_name": "registry",
        "enable_seqscan": "off",
        "idle_in_transaction_session_timeout": "1min",
    }
    for name, value in ours.items():
        assert _ask(url, f"SHOW {name}") == value
    options = "&application_name=tool&options=-c%20idle_in_transaction_session_timeout%3D5s"
    assert _ask(url + options, "SHOW application_name") == "tool"
    assert _ask(url + options, "SHOW idle_in_transaction_session_timeout") == "5s"
    with administrator(guarded) as connection:
        connection.exec_driver_sql("CREATE ROLE strict LOGIN")
        connection.exec_driver_sql(
            "ALTER ROLE strict SET idle_in_transaction_session_timeout = '7s'"
        )
        strict = guarded.set(username="strict").render_as_string(hide_password=False)
        assert _ask(strict, "SHOW idle_in_transaction_session_timeout") == "7s"
        # An acknowledged commit is durable, whatever else the role is used for.
        settings = {
            "off": "on",
            "local": "on",
            "remote_write": "on",
            "remote_apply": "remote_apply",
        }
        for theirs, durable in settings.items():
            connection.exec_driver_sql(f"ALTER ROLE strict SET synchronous_commit = {theirs}")
            assert _ask(strict, "SHOW synchronous_commit") == durable


@pytest.mark.parametrize("default", ["repeatable read", "serializable"])
def test_transactions_are_read_committed_whatever_the_roles_default(
    guarded: URL, default: str
) -> None:
    role = default.replace(" ", "_")
    with administrator(guarded) as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(
            f"ALTER ROLE {role} SET default_transaction_isolation = '{default}'"
        )
    engine = make_engine(guarded.set(username=role))
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    for _ in range(2):  # a connection that was read from and is used again is no other
        with reading(engine) as connection:
            assert _isolation(connection) == "read committed"
        with writing(engine) as connection:
            assert _isolation(connection) == "read committed"
    assert sent == [_ISOLATION] * 4
    engine.dispose()


_ISOLATION = "SHOW transaction_isolation"


def _isolation(connection: Connection) -> object:
    return connection.exec_driver_sql(_ISOLATION).scalar()


def test_the_error_of_a_roles_timeout_names_the_setting(
    postgresql_url: str,
) -> None:
    url = make_url(postgresql_url)
    with ExitStack() as stack:
        reg = stack.enter_context(registry.connect(postgresql_url))
        digits = reg.create("digits", FIXED)
        given = "-c lock_timeout=50 -c statement_timeout=10000"
        hasty = make_engine(url.update_query_dict({"options": given}))
        stack.callback(hasty.dispose)
        with writing(reg.engine) as connection:
            lock_head(connection, digits.id)
            with pytest.raises(LockTimeoutError, match="longer than lock_timeout") as locked:
                transact(hasty, digits.id, lambda writer: writer.head, wait=0.05)
        assert isinstance(locked.value, ConflictError)
        assert locked.value.setting == "lock_timeout"
        given = "-c lock_timeout=0 -c statement_timeout=50"
        hasty = make_engine(url.update_query_dict({"options": given}))
        stack.callback(hasty.dispose)
        with writing(reg.engine) as connection:
            lock_head(connection, digits.id)
            with pytest.raises(StatementTimeoutError, match="raise statement_timeout") as ended:
                transact(hasty, digits.id, lambda writer: writer.head)
        assert ended.value.setting == "statement_timeout"


def test_inserts_work_after_rollbacks_in_their_session(postgresql_url: str) -> None:
    """Psycopg then deallocates all prepared statements of the session, and not only its own."""
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", FIXED)
        for number in range(3):
            digits.insert([digit(number)], keys=[str(number)])
            with suppress(ZeroDivisionError), writing(reg.engine) as connection:
                driver(connection).execute("SELECT 1", prepare=True)
                with connection.begin_nested() as savepoint:
                    savepoint.rollback()
                if number:
                    raise ZeroDivisionError
        assert [entry.key for entry in digits.entries()] == ["0", "1", "2"]


def test_a_commit_succeeds_whose_notification_fails(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_NOTIFY", Statement(b"SELECT 1 / length($1)", (TEXT,)))
    monkeypatch.setattr(notifications, "_channel", lambda _: "")
    with registry.connect(postgresql_url) as reg:
        digits = reg.create("digits", FIXED)
        for rows in (1, few_rows.ROWS + 1):
            digits.insert([digit(number) for number in range(rows)])
        assert len(digits) == 1 + few_rows.ROWS + 1


def test_the_lock_of_a_writer_that_vanishes_is_released(guarded: URL) -> None:
    url = guarded.update_query_dict({"options": "-c idle_in_transaction_session_timeout=100"})
    engine = make_engine(url)
    other = make_engine(guarded)
    with ExitStack() as transaction:
        connection = transaction.enter_context(writing(engine))
        connection.exec_driver_sql("LOCK TABLE heads")
        with writing(other) as free:
            free.exec_driver_sql("LOCK TABLE heads")
        with pytest.raises(StatementTimeoutError, match="raise idle_in_transaction_session"):
            transaction.close()
    other.dispose()
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://host/db?sslmood=require", 'invalid connection option "sslmood"'),
        ("postgresql://host/db?timeout=soon", "timeout='soon': give seconds"),
        ("postgresql://host/db?timeout=1", "too short"),
        ("postgresql://host/db?timeout=nan", "too short"),
        ("postgresql://host:many/db", "cannot be read"),
    ],
)
def test_an_invalid_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidURLError, match=reason):
        registry.connect(url)


FORK = """
import os, sys, threading
import registry
from tests.support.datasets import digit

def work(dataset, name):
    for number in range(20):
        dataset.insert([digit(number)], keys=[f"{name}-{number}"])
        assert sum(map(len, dataset.pages())) > number
    assert next(dataset.follow()).stop > 0

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("digits")
    dataset.insert([digit(n) for n in range(30)], keys=[f"first-{n}" for n in range(30)])
    started = threading.Event()
    children = []
    for child in range(3):
        if (pid := os.fork()) == 0:
            work(dataset, child)
            if child == 0:
                reg.close()
                os._exit(0)
            sys.exit()
        children.append(pid)
    work(dataset, "parent")
    reg.close()  # a SQLite file's last user but for the children
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    work(dataset, "again")
print("done")
"""


def test_forked_processes_use_the_registry_of_their_parent(
    url: str, digits: registry.Dataset
) -> None:
    ran = _python(FORK, url)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("done\n", "", 0)
    assert len(digits) == 30 + 5 * 20
    assert digits.verify()[0].differs is None


FORK_IN_USE = """
import os, sys, threading, time
import registry
from registry.errors import DatabaseError

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("digits")
    waiting = threading.Thread(target=lambda: next(dataset.follow()), daemon=True)
    waiting.start()
    while not reg.engine.pool.checkedout():
        time.sleep(0.01)
    if (pid := os.fork()) == 0:
        for attempt in (lambda: len(dataset), lambda: registry.connect(sys.argv[1])):
            try:
                attempt()
            except DatabaseError as error:
                print(error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    os._exit(0)
"""


def test_a_sqlite_file_in_use_during_a_fork_is_refused_in_the_child(
    sqlite_url: str,
) -> None:
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", {"label": registry.ClassLabel(10)})
    ran = _python(FORK_IN_USE, sqlite_url)
    assert ran.stdout.count("its locks do not hold here") == 2, ran.stderr


def _python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
    return subprocess.run(
        [*command, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
