"""The mirror: what it yields is what the log holds, and each row is read once per machine."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import registry
from registry import Dataset, Registry, Replay
from registry.cursor import Log
from registry.epoch import Epoch
from registry.mirror import index
from registry.page import Page
from registry.policies import Policy
from registry.tensorflow import EpochDataset
from registry.training import Run
from tests.mirrors import KINDS, Kind, Row, due, rows, yielded

POLICIES: list[Policy] = ["all", "new", Replay(0.5)]

Ranges = list[tuple[int, int]]


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def growing(reg: Registry, kind: Kind) -> Dataset:
    """A dataset that has grown twice, with revisions and retractions within and across."""
    dataset = kind.create(reg)
    for _ in range(2):
        kind.grow(dataset, 25)
    return dataset


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Ranges:
    """Where the pages that this process reads from the database begin and end."""
    seen: Ranges = []
    page = Log.page

    def counting(log: Log, after: int, until: int, patience: float | None) -> Page:
        found = page(log, after, until, patience)
        seen.append((found.start, found.stop))
        return found

    monkeypatch.setattr(Log, "page", counting)
    return seen


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_epochs_of_a_growing_log_yield_what_its_pages_hold(
    growing: Dataset, kind: Kind, policy: Policy, split: str | None
) -> None:
    run = growing.run("r", seed=7, split=split, policy=policy)
    epochs: list[Epoch] = []
    for _ in range(3):
        epochs.append(run.epoch(len(epochs)))
        kind.grow(growing, 10)
    assert [epoch.watermark for epoch in epochs] == [56, 69, 82]
    for epoch in epochs:
        samples = yielded(epoch)
        assert len(samples) == epoch.size > 0
        assert samples == due(growing, epoch)


def test_new_rows_are_read_once_and_nothing_else_is(
    growing: Dataset, kind: Kind, url: str, reads: Ranges
) -> None:
    run = growing.run("r")
    yielded(run.epoch(0))
    assert _joined(reads) == (0, 56)
    reads.clear()
    kind.grow(growing, 5)
    yielded(run.epoch(1))
    assert _joined(reads) == (56, 64)
    reads.clear()
    with registry.connect(url) as other:
        again = other.open("growing").run("another", split="train")
        yielded(again.epoch(0))
        yielded(other.open("growing").run("r").epoch(0))
    assert reads == []


def _joined(reads: Ranges) -> tuple[int, int]:
    """Return the range that the reads cover together, each position once."""
    ordered = sorted(reads)
    for (_, stop), (start, _) in itertools.pairwise(ordered):
        assert stop == start
    return ordered[0][0], ordered[-1][1]


TRAINER = """
import sys, registry
from registry.cursor import Log
from tests.mirrors import due, yielded

def refuse(*_):
    raise AssertionError("rows were read from the database")

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("growing")
    page, Log.page = Log.page, refuse
    epoch = dataset.run("r").epoch(0)
    samples = yielded(epoch)
    Log.page = page
    assert samples == due(dataset, epoch)
"""


def test_another_process_reads_no_row_that_is_there(growing: Dataset, url: str) -> None:
    yielded(growing.run("r").epoch(0))
    subprocess.run([sys.executable, "-c", TRAINER, url], check=True)


FORK = """
import os, signal, sys, threading
import registry
from registry.cursor import Log
from tests.mirrors import due, yielded

page, syncing, forked = Log.page, threading.Event(), threading.Event()

def waiting(*place):
    if threading.current_thread() is not threading.main_thread():
        syncing.set()
        forked.wait()
    return page(*place)

Log.page = waiting
with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("growing")
    run = dataset.run("r")
    thread = threading.Thread(target=run.epoch, args=[0], daemon=True)
    thread.start()
    syncing.wait()
    parent, child = os.pipe()
    if os.fork() == 0:
        signal.alarm(30)
        os.close(child)
        if sys.argv[2] == "killed":
            os.read(parent, 1)  # until there is no parent
        epoch = run.epoch(0)
        assert yielded(epoch) == due(dataset, epoch)
        print("trained", flush=True)
        os._exit(0)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    forked.set()
    thread.join()
    os.wait()
"""


@pytest.mark.parametrize("kind", [KINDS["fixed"]], ids=["fixed"])
@pytest.mark.parametrize("parent", ["continues", "killed"])
def test_a_process_forked_while_a_thread_syncs_a_mirror_trains_on_it(
    growing: Dataset, url: str, parent: str
) -> None:
    """The thread holds the mirror's locks, and does not exist in the child."""
    growing.run("r")
    quiet = [sys.executable, "-W", "ignore:.*fork:DeprecationWarning"]
    ran = subprocess.run(
        [*quiet, "-c", FORK, url, parent], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("trained\n", "")


def test_workers_that_begin_an_epoch_at_once_all_get_it(
    growing: Dataset, kind: Kind, url: str
) -> None:
    """As the workers of one machine do when a run starts."""
    growing.run("dense")
    growing.run("split", split="train")
    growing.run("replay", split="train", policy=Replay(1.0))
    for number in range(2):
        kind.grow(growing, 5)
        for name in ("dense", "split", "replay"):
            with registry.connect(url) as other:
                workers = [other.open("growing").run(name) for _ in range(6)]
                found = _at_once(workers, number)
            expected = due(growing, growing.run(name).epoch(number))
            assert found == [expected] * len(workers)


def _at_once(workers: list[Run], number: int) -> list[list[Row]]:
    together = threading.Barrier(len(workers))

    def begin(worker: Run) -> list[Row]:
        together.wait()
        return yielded(worker.epoch(number))

    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(begin, workers))


def test_index_files_that_are_in_use_stay_and_few_others_do(
    sqlite_url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "KEPT", 2)
    with registry.connect(sqlite_url) as reg:
        dataset = KINDS["fixed"].create(reg)
        epochs = []
        for number in range(5):
            KINDS["fixed"].grow(dataset, 10)
            epochs.append(dataset.run("r", split="train").epoch(number))
        datasets = [EpochDataset(epoch, batch_size=8).prefetch(1) for epoch in epochs]
        expected = [due(dataset, epoch) for epoch in epochs]
        del epochs  # the datasets keep them, also through others that are made of them
        gc.collect()
        dataset.run("others").epoch(0)
        dataset.run("test", split="test").epoch(0)
        for batches, samples in zip(datasets, expected, strict=True):
            found = [row for batch in batches.as_numpy_iterator() for row in rows(batch)]
            assert found == samples
        del datasets, batches
        gc.collect()
        KINDS["fixed"].grow(dataset, 10)
        dataset.run("r").epoch(5)
        assert len(list(cache.glob("*/epochs/*"))) == 2
