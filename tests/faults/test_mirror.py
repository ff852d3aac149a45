"""A mirror that is damaged, truncated, on a full disk, read-only or shared yields right samples."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import registry
from registry import Registry, Replay
from registry.errors import CacheWarning
from registry.storage.mirror import mirror
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.damage_scan import record_scan
from registry.storage.mirror.mirror import open_mirror
from registry.storage.mirror.row_layout import RowLayout
from registry.storage.mirror.state import load_state
from registry.storage.mirror.value_units import HEAD, UNIT
from registry.tensorflow import EpochDataset, StreamDataset, gather
from registry.training import chunks
from registry.training.policy import Policy
from tests.support.growing_datasets import KINDS, Kind, Row, due, plain, rows, yielded

OFFSETS = 8
"""Number of bytes that are damaged in each file, one at a time."""
POLICIES: list[Policy] = ["all", "new", Replay(0.5)]


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let repairs and scans read few rows at a time, so that a small mirror has many blocks."""
    monkeypatch.setattr(mirror, "REPAIR_ROWS", 4)
    monkeypatch.setattr(mirror, "SCAN_ROWS", 8)


class Subject:
    """A dataset with pinned epochs, and a mirror that has the rows of all epochs but the last.

    One sample, which is in no epoch, was erased.
    """

    def __init__(self, reg: Registry, kind: Kind, cache: Path) -> None:
        self.reg = reg
        self.dataset = kind.create(reg)
        self.cache = cache
        self.pristine = cache.with_name("pristine")
        runs = {name: self.dataset.run(name, split="train") for name in ("all", "later")}
        runs["replay"] = self.dataset.run("replay", split="train", policy=Replay(0.5))
        self.due: dict[tuple[str, int], list[Row]] = {}
        gone = next(f"{n}" for n in range(500, 1000) if self.dataset.split_of(f"{n}") == "test")
        for number in range(3):
            kind.grow(self.dataset, 12)
            if number == 0:
                self.dataset.insert([kind.sample(int(gone))], keys=[gone])
            if number == 1:
                self.dataset.erase(gone)
            if number == 2:
                shutil.copytree(cache, self.pristine)
            for name in ("all", "replay") if number < 2 else ("later",):
                epoch = runs[name].epoch(number if name != "later" else 0)
                self.due[name, epoch.number] = due(self.dataset, epoch)

    def restore(self) -> None:
        """Restore the undamaged mirror, marked as scanned."""
        shutil.rmtree(self.cache)
        shutil.copytree(self.pristine, self.cache)
        folder = open_mirror(self.dataset.run("all").log, self.cache).folder
        state = load_state(folder)
        assert state is not None
        record_scan(folder, state, state.position)

    def check(self) -> None:
        """Check an older epoch of each run, then one that needs more rows, as in a new process."""
        dataset = self.reg.open(self.dataset.name)
        for name, number in (("all", 0), ("replay", 1), ("later", 0)):
            epoch = dataset.run(name).epoch(number)
            assert yielded(epoch) == self.due[name, number]


def in_graph(epoch: registry.Epoch) -> list[Row]:
    """The samples in a graph, as `plain` has them."""
    batches = EpochDataset(epoch, batch_size=7).as_numpy_iterator()
    return [row for batch in batches for row in rows(batch)]


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0] ^ (1 << bit)
        file.seek(offset)
        file.write(bytes([byte]))


def files(folder: Path) -> list[Path]:
    """Return all files that are not empty."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return sorted(path.relative_to(folder) for path in paths)


def offsets(size: int, count: int = OFFSETS) -> list[int]:
    """Return all offsets of a small file, or both ends of a large one and some in between."""
    step = max(1, size // count)
    return sorted({*range(size % step, size, step), 0, size - 1})


@pytest.fixture
def subject(sqlite_url: str, kind: Kind, cache: Path) -> Iterator[Subject]:
    with registry.connect(sqlite_url) as reg:
        yield Subject(reg, kind, cache)


@pytest.mark.usefixtures("small")
def test_a_flipped_bit_in_any_file_changes_no_sample(subject: Subject) -> None:
    rng = random.Random(1)
    names = files(subject.pristine)
    assert {name.name for name in names} >= {"state", "scanned", "records", "buckets", "changes"}
    assert {name.parts[1] for name in names} >= {"epochs", "runs"}
    for name in names:
        for offset in offsets((subject.pristine / name).stat().st_size):
            subject.restore()
            flip(subject.cache / name, offset, rng.randrange(8))
            try:
                subject.check()
            except BaseException as error:
                error.add_note(f"byte {offset} of {name}")
                raise


@pytest.mark.usefixtures("small")
def test_a_file_truncated_anywhere_changes_no_sample(subject: Subject) -> None:
    for name in files(subject.pristine):
        for offset in offsets((subject.pristine / name).stat().st_size, 4):
            subject.restore()
            os.truncate(subject.cache / name, offset)
            try:
                subject.check()
            except BaseException as error:
                error.add_note(f"{name} cut off after {offset} bytes")
                raise


def test_damage_changes_no_sample_in_a_graph(subject: Subject) -> None:
    rng = random.Random(2)
    for name in files(subject.pristine):
        if name.name in ("records", "values", "scanned", "buckets") or name.parts[1] == "epochs":
            subject.restore()
            size = (subject.pristine / name).stat().st_size
            flip(subject.cache / name, rng.randrange(size), rng.randrange(8))
            epoch = subject.reg.open(subject.dataset.name).run("all").epoch(1)
            assert in_graph(epoch) == [plain(row) for row in subject.due["all", 1]]


@pytest.mark.parametrize("offset", [5, 8])
def test_damage_fails_a_running_graph_and_is_repaired_for_the_next(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    # Chunks of one batch, of which all but the first are read by what XLA compiles.
    monkeypatch.setattr(chunks, "CACHED_BYTES", 1)
    monkeypatch.setattr(chunks, "PACKED_BYTES", 1)
    monkeypatch.setattr(gather, "FIRST_ROWS", 1)
    epoch = subject.dataset.run("all").epoch(1)
    records = next(subject.cache.glob("*/0/records"))
    entries = next(subject.cache.glob(f"*/epochs/{epoch.watermark}-0-*.entries"))
    used = int(epoch.positions(np.array([offset]))[0])
    assert epoch.index.cells is not None
    first_place = int(epoch.index.cells[0])
    layout = RowLayout(epoch.codec)
    damage = [(records, used * layout.seals.stride), (entries, 8 * first_place + 17)]
    if layout.values:
        stored = np.fromfile(records, np.uint8).reshape(-1, layout.seals.stride)
        unit = int(layout.fields(stored)["begin"][used])
        damage.append((records.with_name("values"), UNIT * unit + HEAD))
    for path, byte in damage:
        batches = EpochDataset(epoch, batch_size=7)
        flip(path, byte, 3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="damaged; create the dataset"):
            list(batches)
        assert in_graph(epoch) == [plain(row) for row in subject.due["all", 1]]


@pytest.mark.parametrize("kind", ["fixed"], indirect=True)
def test_a_bit_that_the_disk_loses_is_repaired_by_verify(subject: Subject) -> None:
    epoch = subject.dataset.run("all").epoch(1)
    in_graph(epoch)
    assert epoch.index.files is not None
    assert epoch.index.cells is not None
    used = int(epoch.positions(np.array([5]))[0])
    for path, offset in (
        (
            next(subject.cache.glob("*/0/records")),
            used * SealedRows(epoch.codec.header.itemsize).stride,
        ),
        (epoch.index.files.entries, 8 * int(epoch.index.cells[0]) + 17),
    ):
        before = path.stat()
        flip(path, offset, 3)
        # As if nothing had written to it.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(tf.errors.InvalidArgumentError, match="or run `registry verify` first"):
            in_graph(epoch)
        assert [result.differs for result in subject.dataset.verify()] == [None, None]
        assert in_graph(epoch) == [plain(row) for row in subject.due["all", 1]]


@pytest.mark.usefixtures("small")
def test_a_flipped_bit_under_open_epochs_changes_no_sample(subject: Subject, kind: Kind) -> None:
    """The epochs have mapped the files before the damage."""
    runs = {name: subject.dataset.run(name) for name in ("all", "replay", "later")}
    epochs = {(name, number): runs[name].epoch(number) for name, number in subject.due}
    rng = random.Random(3)
    for _ in range(4):
        for name in files(subject.cache):
            if (subject.cache / name).exists():
                size = (subject.cache / name).stat().st_size
                flip(subject.cache / name, rng.randrange(size), rng.randrange(8))
            for identity, epoch in epochs.items():
                assert yielded(epoch) == subject.due[identity], f"after damage to {name}"
    for column in ("buckets", "changes", "anchors"):
        kind.grow(subject.dataset, 4)
        flip(next(subject.cache.glob(f"*/*/{column}")), 0, 5)
        number = epoch.number + 1
        epoch = runs["later"].epoch(number)
        assert yielded(epoch) == due(subject.dataset, epoch), f"after damage to {column}"


def test_a_mirror_that_is_removed_during_a_run_is_created_again(
    subject: Subject, kind: Kind
) -> None:
    run = subject.dataset.run("later")
    epoch = run.epoch(0)
    for number in (1, 2):
        shutil.rmtree(subject.cache)
        assert yielded(epoch) == subject.due["later", 0]
        kind.grow(subject.dataset, 4)
        following = run.epoch(number)
        assert yielded(following) == due(subject.dataset, following)
    if kind is KINDS["fixed"]:
        shutil.rmtree(subject.cache)
        assert in_graph(epoch) == subject.due["later", 0]


TRAINER = """
import sys, registry
from tests.support.growing_datasets import due, yielded

with registry.connect(sys.argv[1]) as reg:
    dataset = reg.open("growing")
    print("ready", flush=True)
    for turn in range(int(sys.argv[3])):
        run = dataset.run(f"{sys.argv[2]}-{turn}", split="train")
        epoch = run.epoch(0)
        assert yielded(epoch) == due(dataset, epoch)
"""


def test_processes_that_sync_one_growing_mirror_read_right_samples(
    sqlite_url: str, kind: Kind
) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 10)
        trainers = [trainer(sqlite_url, f"t{number}", 10) for number in range(2)]
        while any(process.poll() is None for process in trainers):
            kind.grow(dataset, 10)
        for process in trainers:
            with process:
                pass
            assert process.returncode == 0


def trainer(url: str, name: str, turns: int) -> subprocess.Popen[str]:
    """Start a process that begins epochs; it is ready when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, url, name, str(turns)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_trainer_killed_at_any_moment_leaves_a_mirror_that_works(
    sqlite_url: str, kind: Kind
) -> None:
    rng = random.Random(4)
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        for turn in range(5):
            process = trainer(sqlite_url, f"killed-{turn}", 10**6)
            until = time.monotonic() + rng.uniform(0, 0.2)
            while time.monotonic() < until:
                kind.grow(dataset, 200)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
            epoch = dataset.run(f"after-{turn}", split="train").epoch(0)
            assert yielded(epoch, 1000) == due(dataset, epoch)


@contextmanager
def tiny_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mount a small file system."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    try:
        yield
    finally:
        gc.collect()
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_at_any_moment_changes_no_sample(
    sqlite_url: str, kind: Kind, cache: Path
) -> None:
    """However many rows fit into the mirror, all samples are yielded in the same order."""
    messages = []
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        for kilobytes in range(4, 132, 8):
            with tiny_disk(cache, kilobytes):
                run = dataset.run(f"on {kilobytes} KiB", split="train", policy=Replay(0.5))
                for number in range(2):
                    kind.grow(dataset, 15)
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        epoch = run.epoch(number)
                        samples = yielded(epoch)
                    assert samples == due(dataset, epoch)
                    assert {warning.category for warning in caught} <= {CacheWarning}
                    messages += [str(warning.message) for warning in caught]
    assert any("no local copy can be kept" in message for message in messages)
    assert any("stays in memory" in message for message in messages)


def test_a_read_only_mirror_is_read_up_to_its_end(sqlite_url: str, kind: Kind, cache: Path) -> None:
    with tiny_disk(cache, 1024), registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 30)
        expected = yielded(dataset.run("r", split="train").epoch(0))
        subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        epoch = dataset.run("r").epoch(0)
        assert yielded(epoch) == expected
        if kind is KINDS["fixed"]:
            assert in_graph(epoch) == expected
        other = dataset.run("other", split="test")
        with pytest.warns(CacheWarning, match="stays in memory"):
            epoch = other.epoch(0)
        assert yielded(epoch) == due(dataset, epoch)
        kind.grow(dataset, 10)
        with pytest.warns(CacheWarning, match="no local copy can be kept"):
            epoch = other.epoch(1)
        assert yielded(epoch) == due(dataset, epoch)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_without_a_cache_samples_have_the_same_order(
    reg: Registry, kind: Kind, cache: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = kind.create(reg)
    cached = dataset.run("r", split="train", policy=policy)
    kind.grow(dataset, 20)
    expected = [yielded(cached.epoch(0))]
    kind.grow(dataset, 20)
    expected.append(yielded(cached.epoch(1)))
    cache.with_name("file").touch()
    monkeypatch.setenv("REGISTRY_CACHE", str(cache.with_name("file")))
    for name in ("r", "another"):  # one pinned before, one pinned now
        run = dataset.run(name, split="train", policy=policy)
        with pytest.warns(CacheWarning, match=r"no local copy can be kept .*\$REGISTRY_CACHE"):
            epochs = [run.epoch(number) for number in range(2 if name == "r" else 1)]
        assert [yielded(epoch) for epoch in epochs] == [due(dataset, epoch) for epoch in epochs]
        if name == "r":
            assert [yielded(epoch) for epoch in epochs] == expected


def test_without_a_cache_tensorflow_gets_the_same_samples(
    sqlite_url: str, kind: Kind, cache: Path
) -> None:
    cache.touch()
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 30)
        run = dataset.run("r", split="train")
        with pytest.warns(CacheWarning):
            epoch = run.epoch(0)
        at = list(kind.features).index("label")
        expected = [row[at] for row in due(dataset, epoch)]
        batches = EpochDataset(epoch, batch_size=5, x="label")
        assert [label for batch in batches for label in batch.numpy().tolist()] == expected
        stream = StreamDataset(run, batch_size=5, x="label")
        with pytest.warns(CacheWarning):
            labels = [label for batch in stream.take(4) for label in batch.numpy().tolist()]
        assert labels == expected[:20]
