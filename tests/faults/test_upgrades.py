"""Upgrades that run concurrently, are killed, or run while writers are active."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

import registry
from registry.samples.codec import Codec
from registry.samples.features import Features
from registry.storage.database import schema
from registry.storage.database.engine import make_engine
from tests.support.datasets import FIXED, digit
from tests.support.figures import Figure, rounds
from tests.support.processes import run_python

ROOT = Path(__file__).parent.parent.parent
AT_ONCE = 10
INVALID = text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
SAMPLES_FILE = text("SELECT pg_relation_filenode('samples')")
DEADLOCKS = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
BLOCKED_BY = text("SELECT count(*) FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid))")
AT_ONCE_SCRIPT = """
import logging, multiprocessing, sys
import alembic.config

logging.basicConfig(level=logging.INFO)
fork = multiprocessing.get_context("fork")
running = [fork.Process(target=alembic.config.main) for _ in range(int(sys.argv.pop()))]
for process in running:
    process.start()
for process in running:
    process.join()
assert [process.exitcode for process in running] == [0] * len(running)
"""
# The default action of SIGALRM ends the process as abruptly as SIGKILL does.
MIGRATION = """
import signal, sys
from alembic import command
from alembic.config import Config
from registry.storage.database.engine import make_engine
engine = make_engine(sys.argv[1])
engine.connect().close()
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]))
command.upgrade(Config("alembic.ini", attributes={"engine": engine}), sys.argv[2])
"""


def config(engine: Engine) -> Config:
    return Config(ROOT / "alembic.ini", attributes={"engine": engine})


def _revisions() -> list[str]:
    """Return every revision, the first one first."""
    script = ScriptDirectory(str(schema.migrations()))
    return [each.revision for each in script.walk_revisions()][::-1]


def fill(url: str, rows: int) -> None:
    """Fill a database of the first revision: a log with an epoch, and a waiting inbox row."""
    engine = make_engine(url)
    schema.upgrade(engine)
    with registry.connect(url) as reg:
        digits = reg.create("digits", FIXED)
        columns = {"image": np.zeros((rows, 2, 2), np.uint8), "label": np.arange(rows) % 10}
        digits.insert(columns, keys=[f"k{n:08}" for n in range(rows)])
        digits.run("r").epoch(0)
    command.downgrade(config(engine), "0001")
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO inbox (dataset_id, key, fields) VALUES (1, 'waits', :fields)"),
            {"fields": json.dumps(digit(1))},
        )
    engine.dispose()


def check(url: str, samples: int) -> None:
    """Check the newest schema, valid indexes, no deadlocks, and the log row by row."""
    with registry.connect(url) as reg:
        with reg.engine.connect() as connection:
            if reg.engine.dialect.name == "postgresql":
                assert connection.scalar(INVALID) == 0
                assert connection.scalar(DEADLOCKS) == 0
            else:
                assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
        for dataset in reg.datasets():
            assert len(dataset) == samples
            assert {each.differs for each in dataset.verify()} == {None}
            assert dataset.run("r").epoch(0).size


@pytest.mark.timeout(1200)
@rounds(1, 10)
def test_ten_concurrent_upgrades_succeed_and_run_each_migration_once(
    empty_postgresql_url: str, rounds: int, figure: Figure
) -> None:
    engine = make_engine(empty_postgresql_url)
    for _ in range(rounds):
        assert _upgrade_at_once(empty_postgresql_url) == dict.fromkeys(_revisions(), 1)
        check(empty_postgresql_url, 0)
        fill(empty_postgresql_url, 1000)
        assert _upgrade_at_once(empty_postgresql_url) == dict.fromkeys(_revisions()[1:], 1)
        check(empty_postgresql_url, 1001)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    figure(
        f"{AT_ONCE} upgrades at once, empty and full, {rounds} rounds",
        "all succeed, each revision once, 0 deadlocks",
    )


def _upgrade_at_once(url: str) -> Counter[str]:
    """Run concurrent upgrades; return how often all of them together ran each revision."""
    done = run_python(
        AT_ONCE_SCRIPT, "upgrade", "head", str(AT_ONCE), cwd=ROOT, check=True, REGISTRY_URL=url
    )
    steps = [line for line in done.stderr.splitlines() if "Running upgrade" in line]
    return Counter(line.split("-> ")[1].split(",")[0] for line in steps)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    url: str = request.getfixturevalue("empty_postgresql_url")
    return url


@pytest.mark.parametrize("revision", _revisions())
@rounds(1, 20)
def test_an_upgrade_killed_at_any_moment_is_completed_by_the_next(
    empty_url: str, revision: str, rounds: int, figure: Figure
) -> None:
    rng = random.Random(revision)
    engine = make_engine(empty_url)
    fill(empty_url, 100)
    before = f"{int(revision) - 1:04}" if revision > "0001" else "base"
    longest, midway = 0.0, 0
    for number in range(rounds + 1):
        schema.upgrade(engine)
        command.downgrade(config(engine), before)
        began = time.monotonic()
        if number:  # the first shows how long it takes
            # 0 would be no limit.
            limit = rng.uniform(1e-6, longest)
            killed = run_python(MIGRATION, empty_url, revision, str(limit), cwd=ROOT)
            assert killed.returncode in (0, -signal.SIGALRM), killed.stderr
            midway += schema.revision(engine) != revision
        command.upgrade(config(engine), revision)
        longest = max(longest, time.monotonic() - began) if not number else longest
        schema.upgrade(engine)
        check(empty_url, 0 if before == "base" else 101)
    engine.dispose()
    figure(
        f"{engine.dialect.name}: migration {revision} killed, {rounds} times",
        f"{midway} before it was done; the next reached head, 0 invalid indexes",
    )


def test_an_index_whose_build_was_killed_with_its_session_is_built_again(
    postgresql_url: str,
) -> None:
    """The old snapshot of a reader keeps the build waiting, so that it can be killed then."""
    engine = make_engine(postgresql_url)
    command.downgrade(config(engine), "0002")
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        reader.execute(text("SELECT count(*) FROM datasets"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            building = subprocess.Popen(
                [sys.executable, "-c", MIGRATION, postgresql_url, "0003", "0"], cwd=ROOT
            )
            while not other.scalar(INVALID):
                assert building.poll() is None
                time.sleep(0.01)
            building.send_signal(signal.SIGKILL)
            building.wait()
            other.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'CREATE INDEX%' AND datname = current_database()"
                )
            )
            assert other.scalar(INVALID) == 1
    schema.upgrade(engine)
    with engine.connect() as connection:
        assert connection.scalar(INVALID) == 0
    engine.dispose()


# Writes as the first version of the package did: a transaction for each row of the log, and every
# tenth for a row of the inbox. It prints the acknowledged rows of each, and the longest wait.
WRITER = """
import json, select, sys, time
import psycopg
from registry.samples.buckets import buckets
from registry.storage.log.hash_chain import NONE, extend
url, record, fields, writer = sys.argv[1:]
record, counts, longest = bytes.fromhex(record), [0, 0], 0.0
with psycopg.connect(url, autocommit=True) as connection:
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.monotonic()
        key = f"{writer}-{sum(counts)}"
        if sum(counts) % 10 == 9:
            connection.execute(
                "INSERT INTO inbox (dataset_id, key, fields) VALUES (1, %s, %s)", (key, fields)
            )
            counts[1] += 1
        else:
            with connection.transaction():
                position, live, chain = connection.execute(
                    "SELECT position, live, chain FROM heads WHERE dataset_id = 1"
                    " FOR NO KEY UPDATE"
                ).fetchone()
                bucket = int(buckets([key])[0])
                (chain,) = extend(chain, [NONE], buckets([key]), [record])
                connection.execute(
                    "INSERT INTO samples (dataset_id, position, bucket, record, chain, key)"
                    " VALUES (1, %s, %s, %s, %s, %s)",
                    (position, bucket, record, chain, key),
                )
                connection.execute(
                    "UPDATE heads SET position = %s, live = %s, chain = %s WHERE dataset_id = 1",
                    (position + 1, live + 1, chain),
                )
            counts[0] += 1
        longest = max(longest, time.monotonic() - began)
print(json.dumps([*counts, longest]))
"""
LONGEST_WAIT = 5
"""Seconds."""


@pytest.mark.parametrize("start", ["0001", pytest.param("0008", marks=pytest.mark.slow)])
@rounds(20_000, 1_000_000)
def test_an_upgrade_blocks_active_writers_only_briefly(
    empty_postgresql_url: str, rounds: int, start: str, figure: Figure
) -> None:
    """Even while the upgrade waits for a long transaction that reads the same tables.

    It writes no row of the samples again: the table stays in its file.
    """
    fill(empty_postgresql_url, rounds)
    engine = make_engine(empty_postgresql_url)
    command.upgrade(config(engine), start)
    with engine.connect() as connection:
        file = connection.scalar(SAMPLES_FILE)
    plain = make_engine(empty_postgresql_url).url.set(drivername="postgresql")
    dsn = plain.render_as_string(hide_password=False)
    (record,) = Codec(Features(FIXED)).encode({"image": [digit(7)["image"]], "label": [7]}, None)
    writer = [sys.executable, "-c", WRITER, dsn, record.hex(), json.dumps(digit(7))]
    with ExitStack() as stack:
        writers = [stack.enter_context(_started(*writer, f"w{n}")) for n in range(4)]
        for each in writers:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        with psycopg.connect(dsn) as reader:
            reader.execute("SELECT count(*) FROM samples, heads, inbox WHERE samples.position < 0")
            upgrading = stack.enter_context(
                _started(
                    *(sys.executable, "-m", "alembic", "upgrade", "head"),
                    REGISTRY_URL=empty_postgresql_url,
                )
            )
            with engine.connect() as other:
                while not other.scalar(BLOCKED_BY, {"pid": reader.info.backend_pid}):
                    assert upgrading.poll() is None
                    other.rollback()
                    time.sleep(0.01)
            time.sleep(2)  # it tries again and again
            assert upgrading.poll() is None
        assert upgrading.wait(timeout=200) == 0
        reports = [json.loads(each.communicate("stop\n", timeout=60)[0]) for each in writers]
    assert [each.returncode for each in writers] == [0] * len(writers)
    appended, waiting, waits = zip(*reports, strict=True)
    check(empty_postgresql_url, rounds + sum(appended) + sum(waiting) + 1)
    assert max(waits) < LONGEST_WAIT
    with engine.connect() as connection:
        assert connection.scalar(SAMPLES_FILE) == file
    engine.dispose()
    figure(
        f"upgrade from {start} under 4 writers, {rounds:,} rows",
        f"longest wait {max(waits):.1f} s, 0 of {sum(appended) + sum(waiting):,} writes lost",
    )


@contextmanager
def _started(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process, which is killed if it still runs at the end."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# The locks of a tool's and of a writer's transaction, in their order: the foreign key of an inbox
# row locks its dataset, and a writer locks the head before it inserts samples.
LOCKS = {
    "inbox": ("LOCK inbox IN ROW EXCLUSIVE MODE", "SELECT FROM datasets FOR KEY SHARE"),
    "log": ("SELECT FROM heads FOR NO KEY UPDATE", "LOCK samples IN ROW EXCLUSIVE MODE"),
}
BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.mark.parametrize("locks", LOCKS)
@pytest.mark.parametrize("revision", _revisions()[1:])
def test_no_migration_holds_a_lock_that_a_writer_needs_while_it_waits_for_another(
    empty_postgresql_url: str, revision: str, locks: str
) -> None:
    fill(empty_postgresql_url, 10)
    engine = make_engine(empty_postgresql_url)
    command.upgrade(config(engine), f"{revision}-1")
    first, second = LOCKS[locks]
    with ThreadPoolExecutor(1) as pool, engine.connect() as writer, engine.connect() as other:
        other.execution_options(isolation_level="AUTOCOMMIT")
        writer.execute(text(first))
        upgrading = pool.submit(command.upgrade, config(engine), revision)
        while not upgrading.done() and not other.scalar(text(BLOCKED)):
            time.sleep(0.001)
        writer.execute(text(second))
        writer.commit()
        upgrading.result(timeout=60)
        assert other.scalar(DEADLOCKS) == 0
    engine.dispose()
