"""The mirror: it yields what the log has, and each row is read once per machine."""

from __future__ import annotations

import gc
import itertools
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

import registry
from registry import Dataset, Registry, Replay
from registry.errors import CacheWarning, MirrorError
from registry.samples.buckets import buckets
from registry.samples.splits import BUCKETS
from registry.storage.database.transactions import read
from registry.storage.log import page_queries, paging
from registry.storage.log.head import chain_at
from registry.storage.log.page import Page
from registry.storage.log.watermark import Watermark
from registry.storage.mirror import appender, index, index_files, update
from registry.storage.mirror.erase import read_erased
from registry.storage.mirror.index_blocks import HEADER
from registry.storage.mirror.mirror import Mirror, open_mirror
from registry.storage.mirror.process_lock import try_lock
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import FORMER, load_state
from registry.storage.mirror.state_file import SLOT, read_fields, write_fields
from registry.tensorflow import EpochDataset
from registry.training.epoch import Epoch
from registry.training.policy import Policy
from registry.training.run import Run
from tests.faults.test_mirror import flip
from tests.support.growing_datasets import KINDS, Kind, Row, due, rows, yielded
from tests.support.processes import run_python
from tests.support.servers import eventually

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
    """The ranges of the pages that this process reads from the database."""
    ranges: Ranges = []
    read_page = paging.read_page

    def counting(*arguments: Any) -> Page:
        page = read_page(*arguments)
        ranges.append((page.start, page.stop))
        return page

    monkeypatch.setattr(paging, "read_page", counting)
    return ranges


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_epochs_of_a_growing_log_yield_what_its_pages_have(
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


def test_only_new_rows_are_read_and_only_once(
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


@pytest.mark.parametrize("written", [1, appender.WRITTEN_BYTES])
def test_rows_that_were_read_before_ctrl_c_are_not_read_again(
    growing: Dataset, reads: Ranges, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "WRITTEN_BYTES", written)
    monkeypatch.setattr(update, "FEW_ROWS", 0)
    for module in (page_queries, paging):
        monkeypatch.setattr(module, "FIRST_ROWS", 5)
        monkeypatch.setattr(module, "MOST_ROWS", 5)

    def interrupted(*arguments: Any) -> Iterator[Page]:
        yield from itertools.islice(paging.pages(*arguments), 2)
        raise KeyboardInterrupt

    run = growing.run("r")
    with monkeypatch.context() as patch:
        patch.setattr("registry.storage.mirror.update.pages", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.epoch(0)
    reads.clear()
    samples = yielded(run.epoch(0))
    assert _joined(reads) == (10, 56)
    assert samples == due(growing, run.epoch(0))


def _joined(reads: Ranges) -> tuple[int, int]:
    """Return the range that the reads cover together, each position once."""
    ordered = sorted(reads)
    for (_, stop), (start, _) in itertools.pairwise(ordered):
        assert stop == start
    return ordered[0][0], ordered[-1][1]


TRAINER = """
import sys, registry
from registry.storage.log import page_queries, paging
from tests.support.growing_datasets import due, yielded

def refuse(*_):
    raise AssertionError("rows were read from the database")

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("growing")
    read_page, paging.read_page = paging.read_page, refuse
    epoch = dataset.run("r").epoch(0)
    samples = yielded(epoch)
    paging.read_page = read_page
    assert samples == due(dataset, epoch)
"""


def test_another_process_reads_no_row_that_the_mirror_has(growing: Dataset, url: str) -> None:
    yielded(growing.run("r").epoch(0))
    run_python(TRAINER, url, check=True)


FORK = """
import os, signal, sys, threading
import registry
from registry.storage.log import page_queries, paging
from tests.support.growing_datasets import due, yielded

read_page, syncing, forked = paging.read_page, threading.Event(), threading.Event()

def waiting(*place):
    if threading.current_thread() is not threading.main_thread():
        syncing.set()
        forked.wait()
    return read_page(*place)

paging.read_page = waiting
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
            os.read(parent, 1)  # returns when the parent is dead
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
def test_a_process_forked_during_an_update_of_the_mirror_trains_on_it(
    growing: Dataset, url: str, parent: str
) -> None:
    """The thread holds the mirror's locks, and does not exist in the child."""
    growing.run("r")
    quiet = [sys.executable, "-W", "ignore:.*fork:DeprecationWarning"]
    ran = subprocess.run(
        [*quiet, "-c", FORK, url, parent], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("trained\n", "")


def test_workers_that_open_an_epoch_at_once_all_get_it(
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
                samples = _at_once(workers, number)
            expected = due(growing, growing.run(name).epoch(number))
            assert samples == [expected] * len(workers)


def _at_once(workers: list[Run], number: int) -> list[list[Row]]:
    together = threading.Barrier(len(workers))

    def begin(worker: Run) -> list[Row]:
        together.wait()
        return yielded(worker.epoch(number))

    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(begin, workers))


def test_replays_of_other_seeds_and_numbers_draw_other_samples(sqlite_url: str) -> None:
    """They draw from the same older samples, and their indexes are in one folder."""
    kind = KINDS["fixed"]
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        runs = {
            name: dataset.run(name, seed=seed, policy=Replay(0.5))
            for name, seed in (("one", 1), ("later", 1), ("two", 2))
        }
        kind.grow(dataset, 20)
        runs["later"].epoch(0)
        for number in (0, 1, 1):  # pinned, and opened again
            if not runs["one"].pinned(number):
                kind.grow(dataset, 20)
            epochs = [run.epoch(number + (name == "later")) for name, run in runs.items()]
        assert len({(epoch.since, epoch.watermark, epoch.size) for epoch in epochs}) == 1
        for epoch in epochs:
            assert yielded(epoch) == due(dataset, epoch)
        drawn = {tuple(sorted(epoch.positions(np.arange(epoch.size)))) for epoch in epochs}
        assert len(drawn) == 3


def test_a_state_is_read_only_if_its_checksum_matches(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for position in (1111, 2222):
        write_fields(path, {"position": position})
    whole = path.read_bytes()
    newer = range(SLOT) if b"2222" in whole[:SLOT] else range(SLOT, 2 * SLOT)
    for offset in range(2 * SLOT):
        for bit in (0, 1, 4) if whole[offset] != ord(" ") else (3,):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            path.write_bytes(damaged)
            assert read_fields(path) == {"position": 1111 if offset in newer else 2222}


def test_a_mirror_agrees_with_a_database_that_has_only_the_first_of_its_rows(
    growing: Dataset, tmp_path: Path
) -> None:
    """Such as a replica that lags. A database with another history has other chain values."""
    log = growing._log
    mirror = Mirror(log, tmp_path / "mirror")
    mirror.sync(Watermark.of(growing.head))
    state, updater = mirror._states.load(), mirror._updater
    assert state is not None
    for position in (1, growing.head.position // 2, growing.head.position - 1):
        chain = read(log.engine, chain_at, log.dataset_id, position)
        assert chain is not None
        assert updater.agrees(state, Watermark(position, chain), None)
        assert not updater.agrees(state, Watermark(position, bytes(16)), None)


@pytest.mark.parametrize("number", FORMER)
def test_a_mirror_in_a_format_before_is_read_if_its_width_is_fixed_and_else_filled_again(
    growing: Dataset, kind: Kind, cache: Path, url: str, reads: Ranges, number: int
) -> None:
    """Records whose width varies were in another form. What was erased here stays known."""
    growing.run("r").epoch(0)
    growing.erase("7")
    epoch = growing.run("r").epoch(1)
    before, erased = yielded(epoch), [e.position for e in growing.entries(0, 57) if e.erased]
    state = next(cache.glob("*/state"))
    fields = read_fields(state)
    assert fields is not None
    fields["format"] = number
    if number == 2:
        size = 16 * fields["position"] if fields["sizes"].pop("values") else 0
        fields["sizes"]["places"] = size
        next(cache.glob("*/0/records")).with_name("places").write_bytes(bytes(size))
    write_fields(state, fields)
    kept = load_state(state.parent)
    assert kept is not None
    assert list(read_erased(state.parent, kept)["position"]) == erased
    reads.clear()
    with registry.connect(url) as other:
        assert yielded(other.open("growing").run("r").epoch(1)) == before
    assert (reads == []) == (kind is KINDS["fixed"])
    view = open_mirror(growing._log, cache).view()
    assert view is not None
    assert list(view.erased) == erased
    assert [result.differs for result in growing.verify()] == [None, None]


def test_a_damaged_bucket_moves_no_sample_to_another_split(sqlite_url: str, cache: Path) -> None:
    """Neither in a process that has mapped it, nor in the next."""
    kind = KINDS["fixed"]
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 20)
        for position in range(20):
            dataset.run("all").epoch(0)
            flip(next(cache.glob("*/*/buckets")), 2 * position + 1, 7)
            opened = dataset if position % 2 else reg.open("growing")
            epoch = opened.run(f"{position}", split="train").epoch(0)
            assert yielded(epoch) == due(dataset, epoch)
            shutil.rmtree(next(cache.glob("*/epochs")))  # or the index would be found there


def test_a_bucket_at_the_edge_of_two_splits_is_in_one(
    reg: Registry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{n}" for n in range(64)]
    edges = sorted(buckets(keys).tolist())[::16][1:]
    ends = [*edges, BUCKETS]
    shares = {f"{end}": (end - start) / BUCKETS for start, end in itertools.pairwise([0, *ends])}
    dataset = reg.create("edges", KINDS["fixed"].features, splits=shares)
    dataset.insert([KINDS["fixed"].sample(n) for n in range(64)], keys=keys)
    homes = [dataset.split_of(key) for key in keys]
    assert [homes.count(name) for name in shares] == [16] * 4
    for source in ("mirror", "database"):
        if source == "database":
            cache.with_name("file").touch()
            monkeypatch.setenv("REGISTRY_CACHE", str(cache.with_name("file")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            for name in shares:
                epoch = dataset.run(f"{name} in {source}", split=name).epoch(0)
                assert sorted(epoch.positions(np.arange(epoch.size)).tolist()) == [
                    position for position, home in enumerate(homes) if home == name
                ]


def test_index_files_in_use_stay_and_few_others_do(
    sqlite_url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_files, "KEPT_FILES", 2)
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
            samples_read = [row for batch in batches.as_numpy_iterator() for row in rows(batch)]
            assert samples_read == samples
        del datasets, batches
        gc.collect()
        KINDS["fixed"].grow(dataset, 10)
        dataset.run("r").epoch(5)
        for suffix in ("cells", "entries"):
            assert len(list(cache.glob(f"*/epochs/*.{suffix}"))) == 2


def test_damage_to_any_entry_of_an_index_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BLOCK", 4)
    whole = index.in_memory(iter([np.arange(0, 39, 3)]))
    whole.check_entries()
    assert whole.entries is not None
    for place in range(HEADER, HEADER + whole.size):
        entries = whole.entries.copy()
        entries[place] ^= 1
        with pytest.raises(MirrorError, match="1 entries are damaged"):
            replace(whole, entries=entries).check_entries()


@pytest.fixture
def mirrored(sqlite_url: str, cache: Path) -> Iterator[tuple[Dataset, Mirror, Watermark]]:
    """A dataset with an erased row, its mirror, and the head that the mirror has reached."""
    with registry.connect(sqlite_url) as reg:
        dataset = KINDS["fixed"].create(reg)
        KINDS["fixed"].grow(dataset, 20)
        dataset.erase("7")
        mirror, watermark = open_mirror(dataset._log, cache), Watermark.of(dataset.head)
        mirror.sync(watermark)
        yield dataset, mirror, watermark


def test_replaced_files_are_removed_once_no_process_may_open_them(
    mirrored: tuple[Dataset, Mirror, Watermark],
) -> None:
    _, mirror, watermark = mirrored

    def generations() -> list[str]:
        """Return those that are left once the newest has been replaced."""
        mirror.restart(mirror.sync(watermark))
        return sorted(path.name for path in mirror.folder.iterdir() if path.name.isdecimal())

    lease = mirror.sync(watermark).lease()
    for _ in range(2):
        left = generations()
        assert (left[0], len(left)) == ("0", 2), "the oldest has a lease"
    del lease
    assert len(generations()) == 1


def test_new_files_keep_the_list_of_erased_rows_unless_it_is_damaged(
    mirrored: tuple[Dataset, Mirror, Watermark],
) -> None:
    """Without the list, an older copy of the database would bring the erased records back."""
    _, mirror, watermark = mirrored

    def listed_in_new_files(view: View) -> list[int]:
        mirror.restart(view)
        state = load_state(mirror.folder)
        assert state is not None
        assert state.position == 0
        return list(read_erased(mirror.folder, state)["position"])

    view = mirror.sync(watermark)
    erased = list(view.erased)
    assert len(erased) == 1
    assert listed_in_new_files(view) == erased
    view = mirror.sync(watermark)
    flip(view.path.with_name("erased"), 3, 1)
    assert list(mirror.erased_here(view)) == []
    assert listed_in_new_files(view) == []
    assert list(mirror.sync(watermark).erased) == erased, "from the database"


def test_files_that_are_replaced_before_a_graph_has_locked_them_are_opened_again(
    mirrored: tuple[Dataset, Mirror, Watermark], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, mirror, _ = mirrored
    epoch = dataset.run("r", split="train" if dataset.split_of("7") == "test" else "test").epoch(0)
    scan = Mirror.scan

    def scan_and_replace(scanned: Mirror, view: View, watermark: Watermark) -> None:
        scan(scanned, view, watermark)
        monkeypatch.setattr(Mirror, "scan", scan)
        mirror.restart(view)

    monkeypatch.setattr(Mirror, "scan", scan_and_replace)
    batches = EpochDataset(epoch, batch_size=8)
    assert Mirror.scan is scan
    samples = [row for batch in batches.as_numpy_iterator() for row in rows(batch)]
    assert samples == due(dataset, epoch)


def test_damaged_rows_and_values_are_repaired_in_place(
    sqlite_url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also next to erased rows, which no longer say where their values were."""
    monkeypatch.setattr("registry.storage.mirror.mirror.REPAIR_ROWS", 4)
    kind = KINDS["variable"]
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        for number in range(2):
            kind.grow(dataset, 12)
            dataset.run("r").epoch(number)
        dataset.erase("3", "4", "9", "11", "20")
        mirror, watermark = open_mirror(dataset._log, cache), Watermark.of(dataset.head)
        view = mirror.sync(watermark)
        erased = sorted(view.erased)
        assert len(erased) == 5
        fields = view.layout.fields(view.rows)
        counts = view.layout.unit_counts(fields).sum(axis=1).tolist()
        paths = (view.path, view.values_path)
        pristine = [path.read_bytes() for path in paths]

        def scanned(path: Path, *offsets: int) -> bool:
            """Return whether the files are as before, after damage and a scan."""
            for offset in offsets:
                flip(path, offset, 4)
            mirror.scan(view, watermark, again=True)
            return not view.replaced and [each.read_bytes() for each in paths] == pristine

        stride = view.seals.stride
        for position in np.setdiff1d(np.arange(view.position - 1), [*erased, 10]).tolist():
            following = [] if position + 1 in [*erased, 10] else [(position + 1) * stride + 5]
            assert scanned(view.path, position * stride + 5, *following), position
            if counts[position]:
                assert scanned(view.values_path, int(fields["begin"][position]) * 32 + 9)
        assert not scanned(view.path, 10 * stride), "the rows around it are erased"
        assert yielded(dataset.run("new").epoch(0)) == due(dataset, dataset.run("new").epoch(0))


def test_rows_that_another_process_has_added_are_read_while_it_still_holds_the_lock(
    growing: Dataset, kind: Kind, cache: Path
) -> None:
    run = growing.run("r", seed=1)
    run.epoch(0)
    (folder,) = cache.iterdir()
    # Two objects exclude each other as two processes do.
    ours, theirs = Mirror(run.log, folder), Mirror(run.log, folder)
    kind.grow(growing, 25)
    head = Watermark.of(growing.head)
    with ThreadPoolExecutor(1) as pool, theirs.locked():
        waiting = pool.submit(ours.sync, head, 0)
        eventually(waiting.running)
        theirs._updater.update(head, 0, 0)
        assert waiting.result(20).position == head.position


def test_the_lock_of_a_mirror_excludes_every_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with try_lock(path) as first, try_lock(path) as second:
            assert (first, second) == (True, False)
            with pytest.raises(Timeout):
                FileLock(path).acquire(blocking=False)
        with FileLock(path), try_lock(path) as locked:
            assert not locked


LOCKING = """
import os, signal, sys
from pathlib import Path
from registry.storage.mirror.process_lock import try_lock

with try_lock(Path(sys.argv[1])) as locked:
    assert locked
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    print("forked", flush=True)
    sys.stdin.read()
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_process_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", LOCKING, str(path)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        assert process.wait() == -signal.SIGKILL
        with try_lock(path) as locked:
            assert locked
