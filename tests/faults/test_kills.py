"""Writers and servers that are killed by SIGKILL."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import text

import registry
from registry import Dataset, Tensor
from tests.faults.test_server_kills import own_postgresql
from tests.support.databases import administrator
from tests.support.datasets import digit
from tests.support.figures import Figure, rounds
from tests.support.processes import run_python
from tests.support.servers import eventually

BATCH = 50
WITHIN = 10.0
"""Maximum seconds until readers continue after the server has restarted."""
# The default action of SIGALRM ends the process as abruptly as SIGKILL does.
WRITER = """
import signal, sys
import registry
from tests.support.datasets import digit

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("digits")
    first = int(sys.argv[2])
    for number in range(first, 10**6):
        if number == max(first, 1):  # not before the first batch of all
            signal.setitimer(signal.ITIMER_REAL, float(sys.argv[3]))
        keys = [f"{number}-{row}" for row in range(50)]
        dataset.insert([digit(row) for row in range(50)], keys=keys)
        print(number, flush=True)
"""


@rounds(3, 50)
def test_a_writer_killed_at_any_moment_leaves_whole_batches(
    url: str, digits: Dataset, rounds: int, figure: Figure
) -> None:
    rng = random.Random(3)
    acknowledged = -1
    unanswered = 0
    for _ in range(rounds):
        after = str(rng.uniform(0.05, 0.3))
        writer = run_python(WRITER, url, str(acknowledged + 1), after)
        assert writer.returncode == -signal.SIGALRM, writer.stderr
        acknowledged = max([acknowledged, *map(int, writer.stdout.split())])
        unanswered += _check(digits, acknowledged)
    last = [f"{acknowledged}-{row}" for row in range(BATCH)]
    assert digits.insert([digit(row) for row in range(BATCH)], keys=last).unchanged == BATCH
    figure(
        f"writer killed mid-batch, {rounds} times, on {url.partition(':')[0].partition('+')[0]}",
        f"all or nothing, 1 copy of each of {digits.head.position // BATCH} batches; "
        f"{unanswered} stored unanswered and sent again",
    )


ERASER = """
import os, signal, sys
import registry
from registry.storage.log import erase
from sqlalchemy import event

left = int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

erase._ROWS = 20
with registry.connect(sys.argv[1]) as reg:
    event.listen(reg.engine, "before_cursor_execute", count)
    reg.open("digits").erase(*sys.argv[3:])
"""


@rounds(3, 50)
def test_an_erasure_killed_at_any_statement_is_completed_by_the_same_one(
    url: str, digits: Dataset, rounds: int, figure: Figure
) -> None:
    """Also of a key that only the inbox has."""
    rng = random.Random(7)
    midway = 0
    for number in range(rounds):
        keys = [f"{number}-{row}" for row in range(100)]
        digits.insert([digit(row % 10) for row in range(100)], keys=keys)
        with digits.run("r").log.engine.begin() as connection:
            insert = text("INSERT INTO inbox (dataset_id, key, error) VALUES (:id, :key, 'no')")
            for key in (keys[0], f"{number}-inbox"):
                connection.execute(insert, {"id": digits.id, "key": key})
        keys.append(f"{number}-inbox")
        killed = run_python(ERASER, url, str(rng.randrange(5, 60)), *keys).returncode
        assert killed in (0, -signal.SIGKILL)
        erased = digits.head.erased - 100 * number
        midway += 0 < erased < 100
        if killed:
            digits.erase(*keys)
        assert digits.head.erased == 100 * (number + 1)
        assert len(digits) == 0
        assert [result.differs for result in digits.verify()] == [None]
        retracted = [entry for entry in digits.entries() if entry.source == "erase"]
        assert len(retracted) == digits.head.erased
        assert digits.inbox.rows() == []
    figure(
        f"erasure killed, {rounds} times, on {url.partition(':')[0].partition('+')[0]}",
        f"{midway} between its transactions; the same erasure completed each",
    )


def _check(digits: Dataset, acknowledged: int) -> int:
    """Check that the log has whole batches in order: all acknowledged ones, and at most one more.

    Returns how many more.
    """
    batches, rest = divmod(digits.head.position, BATCH)
    assert rest == 0
    assert acknowledged + 1 <= batches <= acknowledged + 2
    assert sum(map(len, digits.pages())) == batches * BATCH
    keys = [entry.key for entry in digits.entries()]
    assert keys == [f"{n}-{row}" for n in range(batches) for row in range(BATCH)]
    return batches - acknowledged - 1


@dataclass
class Work:
    """Writes and reads that threads repeat while the server is killed.

    ``acknowledged`` are serial numbers; ``read`` and ``followed`` count log reads and rows.
    """

    dataset: Dataset
    done: threading.Event = field(default_factory=threading.Event)
    acknowledged: list[int] = field(default_factory=list)
    read: int = 0
    followed: int = 0

    def write(self) -> None:
        padding = np.zeros((BATCH, 1000), "uint8")
        for start in range(0, 10**9, BATCH):
            if self.done.is_set():
                return
            serials = np.arange(start, start + BATCH)
            self.dataset.insert({"serial": serials, "padding": padding})
            self.acknowledged += serials.tolist()

    def read_all(self) -> None:
        while not self.done.is_set():
            known = len(self.acknowledged)
            assert sum(map(len, self.dataset.pages())) >= known
            self.read += 1

    def follow(self) -> None:
        for page in self.dataset.follow():
            self.followed += len(page)
            if self.done.is_set():
                return


@contextmanager
def _busy(dataset: Dataset) -> Iterator[Work]:
    work = Work(dataset)
    threads = [threading.Thread(target=each) for each in (work.write, work.read_all, work.follow)]
    for thread in threads:
        thread.start()
    try:
        yield work
    finally:
        work.done.set()
        threads[0].join()
        dataset.insert([{"serial": -1, "padding": np.zeros(1000, "uint8")}])  # ends the wait
        for thread in threads:
            thread.join()


def _await_progress(counts: Callable[[], tuple[int, ...]]) -> float:
    """Wait until every count has grown; return the seconds waited."""
    before, since = counts(), time.monotonic()
    eventually(
        lambda: all(now > old for now, old in zip(counts(), before, strict=True)), seconds=60
    )
    return time.monotonic() - since


@rounds(1, 50)
def test_a_killed_database_loses_and_doubles_no_row(rounds: int, figure: Figure) -> None:
    rng = random.Random(7)
    longest = 0.0
    with own_postgresql() as (url, kill), registry.connect(url) as reg:
        with administrator(reg.engine.url) as connection:
            assert connection.exec_driver_sql("SHOW fsync").scalar() == "on"
        dataset = reg.create("d", {"serial": Tensor("int64"), "padding": Tensor("uint8", (1000,))})
        with _busy(dataset) as work:
            _await_progress(lambda: (len(work.acknowledged), work.read, work.followed))
            for _ in range(rounds):
                time.sleep(rng.uniform(0, 0.2))
                kill()
                took = _await_progress(lambda: (len(work.acknowledged), work.read, work.followed))
                assert took < WITHIN
                longest = max(longest, took)
        serials = [serial for page in dataset.pages() for serial in page["serial"].tolist()]
        assert dataset.verify()[0].differs is None
    lost = set(work.acknowledged) - set(serials)
    doubled = [serial for serial, count in Counter(serials).items() if count > 1]
    assert (lost, doubled) == (set(), [])
    assert serials.pop() == -1
    assert len(serials) % BATCH == 0
    figure(
        f"PostgreSQL killed mid-page and mid-insert, {rounds} times, fsync=on",
        f"0 of {len(work.acknowledged)} acknowledged rows lost, 0 doubled; "
        f"readers and writers continued within {longest:.1f} s",
    )
