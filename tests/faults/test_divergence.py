"""A database that is restored, and may then diverge: nobody trains on a mixture of histories."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import registry
from registry import Dataset, Page, Registry
from registry.errors import CacheWarning, DivergenceError, DivergenceWarning, MirrorError
from registry.storage.log.divergence import last_common
from registry.storage.log.notifications import Pause
from registry.tensorflow import EpochDataset
from tests.faults.test_mirror import flip
from tests.support.backups import Backup
from tests.support.growing_datasets import KINDS, Kind, due, rows, yielded
from tests.support.processes import run_python


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


ANOTHER_HISTORY = r"position 46 .* another history"


@pytest.fixture
def dataset(reg: Registry, kind: Kind) -> Dataset:
    """A dataset of 33 rows with a run whose first epoch is pinned."""
    dataset = kind.create(reg)
    kind.grow(dataset, 30)
    dataset.run("r").epoch(0)
    return dataset


@pytest.fixture
def backup(reg: Registry, dataset: Dataset) -> Iterator[Backup]:
    """A copy of the database with the dataset of 33 rows."""
    assert dataset.head.position == 33
    backup = Backup(reg)
    yield backup
    backup.remove()


TRAINER = """
import sys, registry
from registry.errors import DivergenceError

with registry.connect(sys.argv[1]) as reg:
    try:
        reg.open("growing").run("r").epoch(int(sys.argv[2]))
    except DivergenceError as error:
        print(error)
"""


FIXED_ALONE = pytest.mark.parametrize("kind", [KINDS["fixed"]], ids=["fixed"])


@pytest.mark.parametrize(
    ("agrees_until", "last"), [(0, 0), (1, 1), (3, 1), (4, 4), (19, 9), (20, 20), (99, 20)]
)
def test_the_last_position_where_two_logs_agree_is_found(agrees_until: int, last: int) -> None:
    assert last_common([1, 4, 9, 20], lambda position: position <= agrees_until) == last


@FIXED_ALONE
def test_a_writer_of_lost_rows_gets_one_error(dataset: Dataset, backup: Backup, kind: Kind) -> None:
    kind.grow(dataset, 10)
    written = dataset.head
    for regrown, reason in [
        (None, r"ends at position 33: was"),
        (10, r"has another history there \("),
        (30, r"has another history there \("),
    ]:
        backup.restore()
        if regrown is not None:
            backup.regrow(kind, regrown, 500)
        message = (
            rf"up to position 46 \({written.chain.hex()}\) were committed here, but .* {reason}"
        )
        before = dataset.head
        with pytest.raises(DivergenceError, match=message):
            dataset.insert([kind.sample(1)], keys=["mine"])
        assert dataset.head == before
        assert dataset.insert([kind.sample(1)], keys=["mine"]).inserted == 1
        backup.restore()
        with pytest.raises(DivergenceError, match="were committed here"):
            dataset.retract("1")
        kind.grow(dataset, 10)
        assert dataset.head == written


@FIXED_ALONE
@pytest.mark.parametrize("others", [0, 10, 30])
def test_a_follower_of_a_restored_log_gets_an_error_before_the_next_row(
    dataset: Dataset, backup: Backup, kind: Kind, others: int
) -> None:
    kind.grow(dataset, 10)
    read = dataset.head
    pages = dataset.follow(after=30)
    assert [position for page in pages_until(pages, 46) for position in page] == [*range(30, 46)]
    backup.restore()
    if others:
        backup.regrow(kind, others, 500)
    message = rf"rows up to position 46 \({read.chain.hex()}\) were read, but the database's log"
    with pytest.raises(DivergenceError, match=message):
        next(pages)


@FIXED_ALONE
def test_a_follower_that_waits_during_a_restore_gets_an_error_before_the_next_row(
    dataset: Dataset, backup: Backup, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind.grow(dataset, 10)
    read = dataset.head
    pauses = count()

    def restore_in_the_first(_: Pause) -> float:
        if next(pauses) == 0:
            backup.restore()
            backup.regrow(kind, 30, 500)
        return 0.01

    monkeypatch.setattr(Pause, "next", restore_in_the_first)
    with pytest.raises(
        DivergenceError, match=rf"up to position 46 \({read.chain.hex()}\) were read"
    ):
        next(dataset.follow(after=46))


def pages_until(pages: Iterator[Page], end: int) -> Iterator[range]:
    """Yield the positions of pages up to the one that ends at ``end``."""
    for page in pages:
        yield range(page.start, page.stop)
        if page.stop == end:
            return


def test_a_run_that_is_ahead_of_a_restored_database_stops(
    reg: Registry, url: str, dataset: Dataset, backup: Backup, kind: Kind
) -> None:
    run = dataset.run("r")
    for _ in range(2):
        kind.grow(dataset, 10)
    epoch = run.epoch(1)
    samples = yielded(epoch)
    backup.restore()
    message = (
        rf"run 'r' reached epoch 1 at position 59 \({epoch.chain.hex()}\) on this machine, but the "
        "database knows of no such epoch; the logs agree up to position 33"
    )
    for grows in (False, True):
        if grows:
            backup.regrow(kind, 30, 500)
        for number in (0, 1, 2):
            with pytest.raises(DivergenceError, match=message):
                run.epoch(number)
            with pytest.raises(DivergenceError, match=message):
                reg.open("growing").run("r").epoch(number)
        assert re.search(message, _error_of_trainer(url, 1))
    assert yielded(epoch) == samples, "an open epoch keeps its rows"
    with pytest.warns(DivergenceWarning, match="agrees with the database only up to position 33"):
        fresh = dataset.run("new").epoch(0)
    assert yielded(fresh) == due(dataset, fresh)
    assert re.search(message, _error_of_trainer(url, 1)), (
        "the lost epoch is remembered although the mirror has the new history"
    )
    assert yielded(epoch) == samples


def _error_of_trainer(url: str, number: int) -> str:
    """Return the error that another process gets when it begins an epoch of the run."""
    return run_python(TRAINER, url, str(number), check=True).stdout


def test_a_run_whose_epoch_is_pinned_again_on_another_history_stops(
    reg: Registry, dataset: Dataset, backup: Backup, kind: Kind, cache: Path, monkeypatch: Any
) -> None:
    """Another machine, which has not seen the old epoch, pins it on the other history."""
    kind.grow(dataset, 10)
    mine = dataset.run("r")
    mine.epoch(1)
    backup.restore()
    backup.regrow(kind, 10, 500)
    monkeypatch.setenv("REGISTRY_CACHE", str(cache.with_name("elsewhere")))
    theirs = reg.open("growing").run("r").epoch(1)
    assert yielded(theirs) == due(dataset, theirs)
    monkeypatch.setenv("REGISTRY_CACHE", str(cache))
    for run in (mine, reg.open("growing").run("r")):
        with pytest.raises(
            DivergenceError,
            match=rf"'r' reached epoch 1 at position 46 .* pinned it at position 46 "
            rf"\({theirs.chain.hex()}\); the logs agree up to position 33",
        ):
            run.epoch(1)


def test_a_database_that_is_behind_yields_the_rows_it_has(
    dataset: Dataset, backup: Backup, kind: Kind
) -> None:
    """As from a replica that lags, or a restored database that has no other rows yet."""
    kind.grow(dataset, 10)
    dataset.run("another").epoch(0)
    backup.restore()
    epochs = [dataset.run("r").epoch(0), dataset.run("fresh", split="train").epoch(0)]
    for epoch in epochs:
        assert epoch.watermark == 33
        assert yielded(epoch) == due(dataset, epoch)
    backup.regrow(kind, 10)  # keys are made of positions: these are the same rows as before
    epoch = dataset.run("fresh").epoch(1)
    assert epoch.watermark == 46
    assert yielded(epoch) == due(dataset, epoch)


@FIXED_ALONE
def test_a_graph_keeps_its_files_when_a_copy_of_the_database_replaces_the_mirrors(
    dataset: Dataset, backup: Backup, kind: Kind, cache: Path
) -> None:
    kind.grow(dataset, 10)
    epoch = dataset.run("r").epoch(1)
    samples = yielded(epoch)
    batches = EpochDataset(epoch, batch_size=7)
    derived = batches.map(lambda batch: batch).prefetch(1)
    with registry.connect(backup.url) as older:
        copy = older.open("growing")
        kind.grow(copy, 10, 500)
        with pytest.warns(DivergenceWarning, match="only up to position 33"):
            theirs = yielded(copy.run("copy").epoch(0))
        assert theirs != samples
        for graph in (batches, derived):
            assert [row for batch in graph.as_numpy_iterator() for row in rows(batch)] == samples
        del epoch, derived, graph
        assert len(generations(cache)) == 2
        shutil.rmtree(cache)
        with pytest.raises(MirrorError, match=r"records was removed .* make the dataset again"):
            iter(batches)
        copy.run("again").epoch(0)
        assert generations(cache) == ["0"], "the same name is now another file"
        with pytest.raises(MirrorError, match=r"records was removed .* make the dataset again"):
            iter(batches)


@FIXED_ALONE
def test_files_that_a_graph_kept_are_removed_after_it(
    dataset: Dataset, backup: Backup, kind: Kind, cache: Path
) -> None:
    kind.grow(dataset, 10)
    batches = EpochDataset(dataset.run("r").epoch(1), batch_size=7)
    backup.restore()
    backup.regrow(kind, 10, 500)
    with pytest.warns(DivergenceWarning):
        dataset.run("new").epoch(0)
    assert generations(cache) == ["0", "1"]
    del batches
    gc.collect()
    backup.regrow(kind, 5)
    dataset.run("new").epoch(1)
    assert generations(cache) == ["1"]


def generations(cache: Path) -> list[str]:
    return sorted(path.parent.name for path in cache.glob("*/*/records"))


def test_damaged_rows_are_never_repaired_from_another_history(
    dataset: Dataset, backup: Backup, kind: Kind, cache: Path
) -> None:
    kind.grow(dataset, 10)
    epoch = dataset.run("r").epoch(1)
    samples = yielded(epoch)
    backup.restore()
    backup.regrow(kind, 10, 500)
    records = next(cache.glob("*/0/records"))
    pristine = records.read_bytes()
    for offset in range(0, len(pristine), len(pristine) // 20):
        flip(records, offset, 1)
    with pytest.raises(DivergenceError, match=ANOTHER_HISTORY):
        yielded(epoch)
    if kind is KINDS["fixed"]:
        with pytest.raises(DivergenceError, match=ANOTHER_HISTORY):
            EpochDataset(epoch, batch_size=7)
    records.write_bytes(pristine)
    assert yielded(epoch) == samples


def test_an_epoch_read_without_a_mirror_stops_where_the_database_diverges(
    dataset: Dataset, backup: Backup, kind: Kind, cache: Path
) -> None:
    kind.grow(dataset, 10)
    shutil.rmtree(cache)
    cache.touch()
    run = dataset.run("without")
    with pytest.warns(CacheWarning):
        epoch = run.epoch(0)
    assert yielded(epoch) == due(dataset, epoch)
    backup.restore()
    backup.regrow(kind, 10, 500)
    with pytest.raises(DivergenceError, match=ANOTHER_HISTORY):
        yielded(epoch)
    with pytest.raises(DivergenceError, match="reached epoch 0 at position 46"):
        run.epoch(0)
