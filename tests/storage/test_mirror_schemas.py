"""A mirror of a dataset whose features change: its rows are converted, and old epochs replay."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import registry
from registry import ClassLabel, Dataset, Registry, Tensor, Text
from registry.errors import CacheWarning, DivergenceWarning
from registry.samples.features import Feature
from registry.storage.log.watermark import Watermark
from registry.storage.mirror import conversion, mirror
from registry.storage.mirror.mirror import Mirror, open_mirror
from registry.storage.mirror.state_file import read_fields, write_fields
from registry.tensorflow import EpochDataset, StreamDataset
from registry.training.mirror_source import MirrorSource
from tests.faults.test_mirror import flip, in_graph, tiny_disk
from tests.storage.test_mirror import Ranges, reads
from tests.support.backups import Backup
from tests.support.growing_datasets import KINDS, Kind, Row, plain, rows, yielded
from tests.support.processes import run_python

__all__ = ["reads"]


@dataclass(frozen=True)
class Change:
    """A kind of dataset, and a feature that is added to it."""

    kind: Kind
    feature: Feature
    default: Any
    value: Any
    filled: Any
    """The default as rows of older samples show it."""

    def apply(self, dataset: Dataset) -> None:
        dataset.add_feature("added", self.feature, default=self.default)

    def grow(self, dataset: Dataset, count: int) -> None:
        """Grow the dataset as its kind does, and insert a sample with a value of the feature."""
        self.kind.grow(dataset, count)
        number = dataset.head.position
        dataset.insert([{**self.kind.sample(number), "added": self.value}], keys=[f"{number}"])


POSE = Tensor("float32", (3,))
CHANGES = {
    "fixed to fixed": Change(KINDS["fixed"], POSE, 0.5, [1, 2, 3], [0.5, 0.5, 0.5]),
    "fixed to variable": Change(KINDS["fixed"], Text(), "none", "some", "none"),
    "variable, fixed added": Change(KINDS["variable"], POSE, 0.5, [1, 2, 3], [0.5, 0.5, 0.5]),
    "variable, variable added": Change(KINDS["variable"], Text(), "none", "some", "none"),
}


FEW = pytest.mark.parametrize(
    "change", ["fixed to fixed", "fixed to variable", "variable, variable added"], indirect=True
)


@pytest.fixture(params=CHANGES)
def change(request: pytest.FixtureRequest) -> Change:
    return CHANGES[request.param]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert, scan and repair few rows at a time, so that a small mirror has many chunks."""
    monkeypatch.setattr(conversion, "CHUNK_ROWS", 8)
    monkeypatch.setattr(conversion, "CHUNK_UNITS", 20)
    monkeypatch.setattr(mirror, "REPAIR_ROWS", 4)
    monkeypatch.setattr(mirror, "SCAN_ROWS", 8)


def live(dataset: Dataset) -> list[Row]:
    """Return the newest samples, read one by one, sorted."""
    keys = {entry.key for entry in dataset.entries(0, dataset.head.position)}
    samples = [dataset.history(key)[-1].sample for key in keys]
    return sorted(
        row
        for sample in samples
        if sample is not None
        for row in rows({name: np.array([value], object) for name, value in sample.items()})
    )


def test_a_converted_mirror_is_the_one_that_would_be_read_again(
    change: Change, reg: Registry, cache: Path, reads: Ranges, tmp_path: Path
) -> None:
    dataset = change.kind.create(reg)
    run = dataset.run("r")
    for _ in range(2):
        change.kind.grow(dataset, 20)
    before = yielded(run.epoch(0))
    reads.clear()
    change.apply(dataset)
    epoch = run.epoch(1)
    assert sorted(yielded(epoch)) == live(dataset)
    assert list(epoch.features) == [*change.kind.features, "added"]
    assert reads == [], "the rows were converted on this machine"
    change.grow(dataset, 7)
    assert sorted(yielded(run.epoch(2))) == live(dataset)
    log, head = dataset._log, dataset.head
    again = Mirror(log, tmp_path / "again")
    again.folder.mkdir()
    view = again.sync(Watermark.of(head), schema=head.schema)
    assert view.schema.number == 1
    (folder,) = [path for path in cache.iterdir() if path.name == log.uid]
    (generation,) = [path for path in folder.iterdir() if path.name.isdecimal()]
    for name in ("records", "values", "buckets", "changes"):
        assert (generation / name).read_bytes() == view.path.with_name(name).read_bytes()
    for opened in (dataset, reg.open("growing")):
        assert yielded(opened.run("r").epoch(0)) == before
    assert [result.differs for result in dataset.verify()] == [None, None]


def test_damaged_and_erased_rows_stay_so_when_a_mirror_is_converted(
    change: Change, sqlite_url: str, cache: Path
) -> None:
    pristine = cache.with_name("pristine")
    with registry.connect(sqlite_url) as reg:
        dataset = change.kind.create(reg)
        run = dataset.run("r", split="train")
        for number in range(5):  # with an anchor after each
            change.kind.grow(dataset, 6)
            run.epoch(number)
        keys = [entry.key for entry in dataset.entries(0, 45)]
        gone = sorted({key for key in keys[2:] if dataset.split_of(key) == "test"})[:3]
        dataset.erase(gone[0])
        before = yielded(run.epoch(5))
        dataset.erase(*gone[1:])
        shutil.copytree(cache, pristine)
        change.apply(dataset)
        after = yielded(run.epoch(6))
        erased = [e.position for e in dataset.entries(0, dataset.head.position) if e.erased]
        for name in ("records", "values"):
            size = next(pristine.glob(f"*/*/{name}")).stat().st_size
            for offset in (None, *range(1, size, max(1, size // 11))):
                shutil.rmtree(cache)
                shutil.copytree(pristine, cache)
                if offset is not None:
                    flip(next(cache.glob(f"*/*/{name}")), offset, 2)
                opened = reg.open("growing").run("r")
                assert yielded(opened.epoch(6)) == after
                assert yielded(opened.epoch(5)) == before
                view = open_mirror(dataset._log, cache).view()
                assert view is not None
                assert view.schema.number == 1
                taken, broken = view.sealed_rows(np.array(erased))
                assert broken.all()
                assert not taken[:, :-4].any()
                if not view.fixed_width:
                    taken, broken = view.sealed_rows(np.arange(view.position))
                    fields = view.layout.fields(taken[~broken])
                    held = view.layout.unit_counts(fields).sum()
                    assert view.values.any(axis=1).sum() == held, "no other values are left"


KILLED = """
import os, signal, sys
import registry
from registry.storage.mirror import conversion, update

conversion.CHUNK_ROWS = 8
calls = 0

def die(*arguments):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

module, name = (update, "begin_generation") if sys.argv[3] == "1" else (conversion, "write_all")
original = getattr(module, name)
setattr(module, name, die)
with registry.connect(sys.argv[1]) as reg:
    reg.open("growing").run(sys.argv[2]).epoch(1)
"""


@pytest.mark.parametrize(
    ("change", "call"),
    [("fixed to fixed", 3), ("variable, variable added", 3), ("fixed to variable", 1)],
    ids=["fixed, while converting", "variable, while converting", "before publishing"],
    indirect=["change"],
)
def test_a_process_killed_while_it_converts_leaves_the_old_files_usable(
    change: Change, sqlite_url: str, cache: Path, call: int
) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = change.kind.create(reg)
        change.kind.grow(dataset, 30)
        epoch = dataset.run("r").epoch(0)
        before = yielded(epoch)
        change.apply(dataset)
        killed = run_python(KILLED, sqlite_url, "r", f"{call}")
        assert killed.returncode == -signal.SIGKILL
        assert len(generations(cache)) == 2
        assert yielded(epoch) == before
        opened = reg.open("growing").run("r")
        assert yielded(opened.epoch(0)) == before
        assert [row[:-1] for row in sorted(yielded(opened.epoch(1)))] == sorted(before)
        assert yielded(epoch) == yielded(opened.epoch(0)) == before
        assert len(generations(cache)) == 1


def generations(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*/*") if path.name.isdecimal()]


@pytest.mark.parametrize("change", ["fixed to fixed", "fixed to variable"], indirect=True)
def test_a_dataset_of_an_old_epoch_continues_while_the_mirror_is_converted(
    change: Change, sqlite_url: str
) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = change.kind.create(reg)
        change.kind.grow(dataset, 40)
        run = dataset.run("r", split="train")
        before = yielded(run.epoch(0))
        mapped = EpochDataset(run.epoch(0), batch_size=7).prefetch(1)
        batches = mapped.as_numpy_iterator()
        first = rows(next(batches))
        change.apply(dataset)
        after = yielded(reg.open("growing").run("r").epoch(1))
        assert sorted(row[:-1] for row in after) == sorted(before)
        assert first + [row for batch in batches for row in rows(batch)] == before
        assert [row for batch in mapped.as_numpy_iterator() for row in rows(batch)] == before
        opened = reg.open("growing").run("r")
        old, new = opened.epoch(0), opened.epoch(1)
        assert in_graph(old) == before
        assert in_graph(new) == [plain(row) for row in after]
        for epoch in (old, new):
            assert EpochDataset(epoch, batch_size=7)._files is not None


@FEW
def test_a_run_keeps_the_features_that_it_began_with(change: Change, sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = change.kind.create(reg)
        change.kind.grow(dataset, 20)
        run = dataset.run("r")
        stream, in_tensorflow = run.stream(6), StreamDataset(run, batch_size=6)
        read = rows(next(stream))
        change.apply(dataset)
        dataset.add_classes("label", 1 if change.kind is KINDS["fixed"] else ["bird"])
        change.grow(dataset, 10)
        sizes = [run.epoch(number).size for number in range(2)]
        while len(read) < sum(sizes):
            read += rows(next(stream))
        batches = map(in_numpy, in_tensorflow.take(len(read) // 6))
        assert [row for batch in batches for row in rows(batch)] == [plain(row) for row in read]
        assert list(run.features) == list(change.kind.features)
        opened = reg.open("growing").run("r")
        assert list(opened.features) == [*change.kind.features, "added"]
        whole = itertools.islice(opened.stream(6, start=0), len(read) // 6)
        brought = [row for batch in whole for row in rows(batch)]
        assert [row[:-1] for row in brought] == read
        assert {str(row[-1]) for row in brought[: sizes[0]]} == {str(change.filled)}
        assert str(change.value) in {str(row[-1]).replace(".0", "") for row in brought}


def in_numpy(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: column.numpy() for name, column in batch.items()}


@FEW
def test_a_mirror_without_a_layout_in_its_state_is_of_the_first_schema(
    change: Change, sqlite_url: str, cache: Path, reads: Ranges
) -> None:
    """Earlier versions of the library wrote no layout."""
    with registry.connect(sqlite_url) as reg:
        dataset = change.kind.create(reg)
        change.kind.grow(dataset, 20)
        before = yielded(dataset.run("r").epoch(0))
        state = next(cache.glob("*/state"))
        reads.clear()
        for _ in range(2):  # as it was, and once the dataset has changed
            fields = read_fields(state)
            assert fields is not None
            fields.pop("layout", None)
            write_fields(state, fields)
            assert yielded(reg.open("growing").run("r").epoch(0)) == before
            dataset = reg.open("growing")
            if dataset.head.schema == 0:
                change.apply(dataset)
        assert sorted(row[:-1] for row in yielded(dataset.run("r").epoch(1))) == sorted(before)
        assert reads == []


@FEW
@pytest.mark.parametrize("disk", ["read-only", "full"])
def test_a_mirror_that_cannot_be_converted_serves_the_epochs_of_its_layout(
    change: Change, sqlite_url: str, cache: Path, disk: str
) -> None:
    with tiny_disk(cache, 1024), registry.connect(sqlite_url) as reg:
        dataset = change.kind.create(reg)
        change.kind.grow(dataset, 30)
        before = yielded(dataset.run("r").epoch(0))
        ballast = cache / "ballast"
        if disk == "full":
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
        else:
            subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
        older = dataset.run("r")
        change.apply(dataset)
        change.grow(dataset, 5)
        run = reg.open("growing").run("r")
        assert yielded(run.epoch(0)) == before
        with pytest.warns(CacheWarning, match="no local copy can be kept"):
            epoch = run.epoch(1)
        samples = yielded(epoch)
        assert sorted(samples) == live(dataset)
        assert in_graph(epoch) == [plain(row) for row in samples]
        with pytest.warns(CacheWarning, match="no local copy can be kept"):
            batch = next(older.stream(epoch.size, start=epoch.start))
        assert rows(batch) == [row[:-1] for row in samples]
        assert len(generations(cache)) == 1
        if disk == "full":
            ballast.unlink()
            assert yielded(run.epoch(1)) == samples
            assert isinstance(run.epoch(1).source, MirrorSource)


@FEW
def test_a_mirror_whose_features_a_restored_database_lacks_is_read_again(
    change: Change, reg: Registry, url: str
) -> None:
    dataset = change.kind.create(reg)
    change.kind.grow(dataset, 20)
    before = yielded(dataset.run("r").epoch(0))
    backup = Backup(reg)
    change.apply(dataset)
    change.grow(dataset, 5)
    dataset.run("r").epoch(1)
    backup.restore()
    with registry.connect(url) as restored:
        again = restored.open("growing")
        with pytest.warns(DivergenceWarning, match="has features that the database does not have"):
            assert sorted(yielded(again.run("other").epoch(0))) == sorted(before)
        again.add_feature("other", change.feature, default=change.value)
        change.kind.grow(again, 5)
        run = again.run("other")
        values = {str(row[-1]) for row in yielded(run.epoch(1))}
        assert len(values) == 1
        assert sorted(yielded(run.epoch(0))) == sorted(before)
        assert [result.differs for result in again.verify()] == [None, None]
    backup.remove()


def test_added_classes_leave_a_mirror_as_it_is(sqlite_url: str, cache: Path) -> None:
    kind = KINDS["variable"]
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 20)
        dataset.run("r").epoch(0)
        files = generations(cache)
        dataset.add_classes("label", ["bird"])
        dataset.insert([{**kind.sample(7), "label": "bird"}])
        epoch = dataset.run("r").epoch(1)
        assert 2 in [row[1] for row in yielded(epoch)]
        assert epoch.features["label"] == ClassLabel(["cat", "dog", "bird"])
        assert reg.open("growing").run("r").epoch(0).features["label"] == kind.features["label"]
        assert generations(cache) == files
