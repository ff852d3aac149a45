"""Concurrent writers and readers: no row is lost, doubled or reordered, no batch incomplete."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue

import psycopg
import pytest
from sqlalchemy import Connection, event

import registry
from registry import Dataset, Page, Registry
from registry.errors import (
    ConflictError,
    DivergenceError,
    RegistryError,
    ReplicaBehindError,
)
from registry.storage.database.transactions import reading
from registry.storage.log import few_rows, notifications, paging
from registry.storage.log.notifications import LEAST_INTERVAL, Pause, listening
from registry.storage.log.paging import pages
from registry.storage.log.standby import missing_rows
from tests.support.datasets import FIXED, digit
from tests.support.processes import started
from tests.support.workers import FEATURES, STOP, Journal, ReadRow, read, write

WRITERS, READERS, TRANSACTIONS = 8, 4, 40


def test_readers_get_every_committed_row_once_in_one_order(reg: Registry, url: str) -> None:
    dataset = reg.create("shared", FEATURES)
    journals, logs = _run_writers_and_readers(url, dataset)
    whole = [(entry.position, entry.key, entry.action) for entry in dataset.entries()][:-1]
    assert [position for position, _, _ in whole] == list(range(len(whole)))
    for log in logs[1:]:
        assert log == logs[0]
    assert [position for position, _, _ in logs[0]] == list(range(len(whole) + 1))
    serials = {position: serial for position, _, serial in logs[0]}
    for writer, journal in journals.items():
        stored = [(k, serials[p]) for p, k, _ in whole if k.startswith(f"{writer}-")]
        assert stored == journal.changes, f"the log is not what writer {writer} committed"
        mine = {serial for _, by, serial in logs[0] if by == writer}
        assert not mine.intersection(journal.aborted)
    retracted = {position for position, _, action in whole if action == "retract"}
    assert retracted == {position for position, by, _ in logs[0] if by is None}
    assert sum(len(journal.aborted) for journal in journals.values()) > 0


def _run_writers_and_readers(
    url: str, dataset: Dataset
) -> tuple[dict[int, Journal], list[list[ReadRow]]]:
    spawn = multiprocessing.get_context("spawn")
    journals, logs = spawn.Queue(), spawn.Queue()
    readers = [(read, (url, n, logs)) for n in range(READERS)]
    writers = [(write, (url, n, TRANSACTIONS, journals)) for n in range(WRITERS)]
    running = started(*readers, *writers)
    written = dict(journals.get(timeout=120) for _ in writers)
    dataset.insert([{"writer": STOP, "serial": 0}])
    read_rows = [logs.get(timeout=60)[1] for _ in readers]
    running.join()
    assert running.exitcode == 0
    return written, read_rows


def test_a_cursor_on_plain_ids_loses_rows_under_the_same_load(postgresql_url: str) -> None:
    """Shows that the load is enough: ids are given before the commit, and a slow one is skipped."""
    with psycopg.connect(postgresql_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE plain (id serial PRIMARY KEY, writer int)")
        writing = [
            threading.Thread(target=_write_plainly, args=(connection.info.dsn, writer))
            for writer in range(WRITERS)
        ]
        for thread in writing:
            thread.start()
        ids_read: list[int] = []
        while any(thread.is_alive() for thread in writing):
            last = ids_read[-1] if ids_read else 0
            rows = connection.execute("SELECT id FROM plain WHERE id > %s ORDER BY id", (last,))
            ids_read += [row[0] for row in rows]
        committed = connection.execute("SELECT count(*) FROM plain").fetchone()
    assert committed is not None
    assert len(set(ids_read)) < committed[0], "the plain cursor lost nothing: the load is too small"


def _write_plainly(dsn: str, writer: int) -> None:
    rng = random.Random(writer)
    with psycopg.connect(dsn) as connection:
        for _ in range(TRANSACTIONS):
            connection.execute("INSERT INTO plain (writer) VALUES (%s)", (writer,))
            time.sleep(rng.choice([0, 0, rng.uniform(0, 0.02)]))
            if rng.random() < 0.1:
                connection.rollback()
            else:
                connection.commit()


def test_readers_do_not_skip_a_writer_that_stops_before_its_commit(
    url: str, digits: Dataset
) -> None:
    digits.insert([digit(0)])
    with registry.connect(url) as slow:
        stopped, go_on = _stop_before_commit(slow)
        first = _in_thread(lambda: slow.open("digits").insert([digit(1)], keys=["slow"]))
        assert stopped.wait(10)
        second = _in_thread(lambda: digits.insert([digit(2)], keys=["behind it"]))
        time.sleep(0.2)
        assert [page.stop for page in digits.pages()] == [1]
        assert second.is_alive()
        go_on.set()
        first.join()
        second.join()
    (page,) = digits.pages()
    assert page["label"].tolist() == [0, 1, 2]


def test_a_writer_that_stops_before_its_commit_delays_only_its_dataset(
    postgresql_url: str,
) -> None:
    """On PostgreSQL; a SQLite file has one writer at a time, whatever the dataset."""
    with registry.connect(postgresql_url) as reg, registry.connect(postgresql_url) as slow:
        reg.create("digits", FIXED)
        other = reg.create("other", FIXED)
        stopped, go_on = _stop_before_commit(slow)
        thread = _in_thread(lambda: slow.open("digits").insert([digit(1)]))
        assert stopped.wait(10)
        assert other.insert([digit(n) for n in range(10)]).inserted == 10
        reg.create("third", FIXED)
        assert thread.is_alive()
        go_on.set()
        thread.join()


def _stop_before_commit(opened: Registry) -> tuple[threading.Event, threading.Event]:
    stopped, go_on = threading.Event(), threading.Event()

    @event.listens_for(opened.engine, "commit")
    def stop(_: Connection) -> None:
        stopped.set()
        assert go_on.wait(30)

    return stopped, go_on


def _in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_a_follower_gets_rows_that_are_inserted_later(digits: Dataset) -> None:
    digits.insert([digit(0)])
    pages = digits.follow()
    assert next(pages)["label"].tolist() == [0]
    for number in range(1, 6):
        thread = _in_thread(lambda number=number: digits.insert([digit(number)]))
        page = next(pages)
        assert (page.start, page["label"].tolist()) == (number, [number])
        thread.join()
    pages.close()


def test_a_commit_wakes_a_follower(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a notification, it would not read the head before the test ends."""
    waiting = threading.Event()

    def wait_long(_: Pause) -> float:
        waiting.set()
        return 3600.0

    monkeypatch.setattr(Pause, "next", wait_long)
    # Nor would it ask whether a server that is silent for so long still works.
    with registry.connect(postgresql_url, timeout=3 * 3600.0) as reg:
        digits = reg.create("digits", FIXED)
        for number, change in enumerate(CHANGES):
            if number:
                time.sleep(LEAST_INTERVAL)  # notifications are no more frequent
            waiting.clear()
            woken: SimpleQueue[int] = SimpleQueue()
            after = digits.head.position
            follower = threading.Thread(
                target=lambda after=after, woken=woken: woken.put(next(digits.follow(after)).stop),
                daemon=True,
            )
            follower.start()
            assert waiting.wait(30)
            change(digits)
            assert woken.get(timeout=30) == after + 1
            follower.join()


def test_a_follower_of_a_file_sleeps_until_a_commit(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.connect(sqlite_url) as reg, registry.connect(sqlite_url) as other:
        digits = other.create("digits", FIXED)
        with listening(reg.engine, digits.id) as watch:
            sleeps: list[float] = []
            with monkeypatch.context() as patch:
                patch.setattr(time, "sleep", sleeps.append)
                watch.wait(0.01)
            assert sleeps
            digits.insert([digit(0)])
            monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the commit was missed"))
            watch.wait(3600.0)


@pytest.mark.parametrize(
    ("after", "until", "error"),
    [
        (0, 9, ReplicaBehindError),
        (3, 9, ReplicaBehindError),
        (0, 12, DivergenceError),
        (9, 12, DivergenceError),
    ],
)
def test_a_read_is_repeated_if_the_rows_that_it_missed_have_arrived(
    reg: Registry, digits: Dataset, after: int, until: int, error: type[RegistryError]
) -> None:
    reg.create("longer", FIXED).insert([digit(n) for n in range(20)])
    digits.insert([digit(n) for n in range(9)])
    with reading(reg.engine) as connection:
        assert type(missing_rows(connection, digits.id, after, until, 1)) is error


def test_a_read_is_repeated_only_for_its_patience(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.insert([digit(n) for n in range(9)])
    attempts = count(1)

    def fail(*_: object) -> Page:
        assert next(attempts) == 1, "a second attempt"
        raise ConflictError("the database is busy")

    monkeypatch.setattr(paging, "fetch", fail)
    with pytest.raises(ConflictError):
        list(pages(digits.run("r").log, 0, 9, patience=0.0))


def test_followers_are_notified_about_each_dataset_once_per_interval(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each commit that notifies, the next one is as durable as all others."""
    monkeypatch.setattr(notifications, "LEAST_INTERVAL", 1e9)
    dsn = postgresql_url.replace("+psycopg", "")
    with (
        psycopg.connect(dsn, autocommit=True) as listener,
        registry.connect(postgresql_url) as reg,
        registry.connect(postgresql_url) as again,
    ):
        listener.execute("LISTEN registry_1")
        listener.execute("LISTEN registry_2")
        reg.create("one", FIXED), reg.create("other", FIXED)
        for opened in (reg, again):
            for name in ("one", "other", "one", "other"):
                opened.open(name).insert([digit(0)])
                opened.open(name).insert([digit(row) for row in range(few_rows.ROWS + 1)])
            with reading(opened.engine) as connection:
                setting = connection.exec_driver_sql("SHOW synchronous_commit").scalar()
            assert setting == "on"
        channels = [each.channel for each in listener.notifies(timeout=0.1)]
    assert channels == ["registry_1", "registry_2"] * 2


CHANGES: list[Callable[[Dataset], object]] = [
    lambda digits: digits.insert([digit(0)], keys=["k"]),
    lambda digits: digits.update("k", label=1),
    lambda digits: digits.retract("k"),
]


def test_a_failed_commit_is_not_mistaken_for_another_writers_row(
    reg: Registry, url: str, digits: Dataset
) -> None:
    """Between the attempts, another writer's row takes the position."""
    attempts = count()

    @event.listens_for(reg.engine, "commit", once=True)
    def fail(_: Connection) -> None:
        raise ConflictError("the commit failed")

    @event.listens_for(reg.engine, "engine_connect")
    def write_before_the_retry(_: Connection) -> None:
        if next(attempts) == 1:
            with registry.connect(url) as other:
                other.open("digits").insert([digit(9)], keys=["k"])

    report = digits.insert([digit(3)], keys=["k"])
    event.remove(reg.engine, "engine_connect", write_before_the_retry)
    assert (report.inserted, report.revised) == (0, 1)
    assert digits.get("k")["label"] == 3
    assert [revision.entry.action for revision in digits.history("k")] == ["insert", "revise"]


@pytest.mark.parametrize("threads", [8])
def test_processes_that_open_a_new_file_at_once_all_get_the_schema(
    tmp_path: object, threads: int
) -> None:
    url = f"sqlite:///{tmp_path}/fresh.db"
    names = count()

    def work() -> None:
        with registry.connect(url) as opened:
            opened.create(f"d{next(names)}", FIXED)

    working = [_in_thread(work) for _ in range(threads)]
    for thread in working:
        thread.join()
    with registry.connect(url) as opened:
        assert len(opened.names()) == threads
