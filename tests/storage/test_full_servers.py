"""Servers that have no connection free, and how few connections a process holds."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import URL

import registry
from registry.errors import DatabaseUnavailableError
from registry.storage.database.driver_errors import is_from_full_server
from registry.storage.database.url import parse_url
from tests.faults.test_server_kills import own_postgresql
from tests.support.datasets import FIXED, digit
from tests.support.servers import eventually


@pytest.fixture(scope="module")
def own_server() -> Iterator[URL]:
    """A server whose connections are all free; those of others would disturb its tests."""
    with own_postgresql() as (url, _):
        yield parse_url(url)


@contextmanager
def _full(server: URL) -> Iterator[list[psycopg.Connection]]:
    """Take all connections that the server has free; yield them."""
    with ExitStack() as stack:
        taken: list[psycopg.Connection] = []
        while True:
            try:
                taken.append(psycopg.connect(_text(server)))
            except psycopg.OperationalError:
                break
            stack.callback(taken[-1].close)
        yield taken


def _text(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def test_connect_waits_until_a_full_server_has_a_connection_and_says_so_once(
    own_server: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        _full(own_server) as taken,
        ThreadPoolExecutor(1) as pool,
        caplog.at_level(logging.WARNING, "registry"),
    ):
        opened = pool.submit(registry.connect, _text(own_server))
        eventually(lambda: len(caplog.records) > 0)
        time.sleep(1)  # for further attempts, which must not be logged
        assert not opened.done()
        taken[0].close()
        opened.result(30).close()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "no connection is free, trying again for 29 s: " in messages[0]


def test_connect_to_a_server_that_stays_full_fails_within_the_timeout(
    own_server: URL, caplog: pytest.LogCaptureFixture
) -> None:
    url = _text(own_server.update_query_dict({"timeout": "10"}))
    with (
        _full(own_server),
        caplog.at_level(logging.WARNING, "registry"),
        pytest.raises(DatabaseUnavailableError, match="raise max_connections, or end some"),
    ):
        registry.connect(url)
    # Not the time that it took: a busy machine could need any.
    assert "no connection is free, trying again for 9 s: " in caplog.records[0].getMessage()


def test_a_command_says_once_that_it_waits_for_a_full_server(own_server: URL) -> None:
    command = [sys.executable, "-m", "registry", "ls", "--url", _text(own_server)]
    with (
        _full(own_server) as taken,
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        waiting = process.stderr.readline()
        time.sleep(1)  # for further attempts, which must not be printed
        taken[0].close()
        rest = process.stderr.read()
    assert waiting.startswith("waiting: connection failed: ")
    assert "waiting" not in rest


def test_every_limit_on_connections_is_known(own_server: URL) -> None:
    def refusal(user: str) -> psycopg.OperationalError:
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(_text(own_server.set(username=user)))
        return caught.value

    with psycopg.connect(_text(own_server), autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN; CREATE ROLE limited LOGIN CONNECTION LIMIT 0")
        assert is_from_full_server(refusal("limited"))
        assert not is_from_full_server(refusal("nobody"))
        with _full(own_server) as taken:
            assert is_from_full_server(refusal("guest"))
            taken.pop().close()
            # A superuser could connect now.
            eventually(lambda: "reserved" in str(refusal("guest")))
            assert is_from_full_server(refusal("guest"))
        connection.execute("ALTER DATABASE postgres CONNECTION LIMIT 0")
        try:
            assert is_from_full_server(refusal("guest"))
        finally:
            connection.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")


def test_a_waiting_trainer_holds_one_connection_and_others_are_closed(
    postgresql_url: str,
) -> None:
    with (
        registry.connect(postgresql_url) as reg,
        psycopg.connect(_text(parse_url(postgresql_url)), autocommit=True) as asking,
        ThreadPoolExecutor(5) as pool,
    ):
        dataset = reg.create("digits", FIXED)
        dataset.insert([digit(0)])
        batches = dataset.run("r", policy="new").stream(1)
        next(batches)
        waiting = pool.submit(next, batches)
        together = threading.Barrier(4)

        def use() -> int:
            with reg.engine.connect():
                together.wait()
            return len(dataset)

        try:
            for number in range(1, 3):
                for used in [pool.submit(use) for _ in range(4)]:
                    assert used.result() == number
                # The one that listens; the others were idle for seconds.
                eventually(lambda: _sessions(asking) == 1, seconds=20)
                assert not waiting.done()
                dataset.insert([digit(number)])
                assert len(waiting.result(20)["label"]) == 1
                waiting = pool.submit(next, batches)
        finally:
            dataset.insert([digit(3)])  # so that nobody waits
        waiting.result(20)
        eventually(lambda: _sessions(asking) == 0, seconds=20)
        assert len(dataset) == 4


def _sessions(asking: psycopg.Connection) -> int:
    row = asking.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'registry'"
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


FORK = """
import os, sys, threading, time
import registry
from registry.storage.database import pool
from registry.storage.database.transactions import reading

pool.IDLE = 0.01
with registry.connect(sys.argv[1]) as reg:
    # Warnings are errors: no thread of the registry is left at the fork.
    with reading(reg.engine) as connection:
        child = os.fork()
    if not child:
        assert reg.names() == []
        time.sleep(2)
        assert threading.active_count() == 1
        os._exit(0)
    with reading(reg.engine) as connection:
        assert os.waitpid(child, 0)[1] == 0
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
print("done")
"""


def test_a_forked_child_closes_its_own_idle_connections_and_no_other(postgresql_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", FORK, postgresql_url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("done\n", "", 0)
