"""A database that goes back in time, and then perhaps another way: nobody trains on a mixture."""

from __future__ import annotations

import gc
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

import registry
from registry import Dataset, Page, Registry
from registry.errors import CacheWarning, DivergenceError, DivergenceWarning, MirrorError
from registry.tensorflow import EpochDataset
from tests.faults.test_mirror import flip
from tests.support.databases import administrator
from tests.support.mirrors import KINDS, Kind, due, rows, yielded


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


ANOTHER = r"position 46 .* another history"


class Backup:
    """A copy of a database, to be put back under those who use it."""

    def __init__(self, reg: Registry) -> None:
        self._reg = reg
        self._name = f"{reg.engine.url.database}_backup"
        self.url = reg.engine.url.set(database=self._name).render_as_string(hide_password=False)
        reg.engine.dispose()
        if self._sqlite:
            self._copy(str(reg.engine.url.database), self._name)
        else:
            self._clone(str(reg.engine.url.database), self._name)

    def restore(self) -> None:
        """Put it back: connections break, and whoever reads on sees the older database."""
        self._reg.engine.dispose()
        if self._sqlite:
            self._copy(self._name, str(self._reg.engine.url.database))
        else:
            self._drop(str(self._reg.engine.url.database))
            self._clone(self._name, str(self._reg.engine.url.database))

    def remove(self) -> None:
        if not self._sqlite:
            self._drop(self._name)

    def regrow(self, kind: Kind, count: int, first: int | None = None) -> None:
        """Have somebody else write rows, who knows nothing of those that are gone."""
        with registry.connect(self._reg.engine.url.render_as_string(hide_password=False)) as reg:
            kind.grow(reg.open("growing"), count, first)

    @property
    def _sqlite(self) -> bool:
        return self._reg.engine.dialect.name == "sqlite"

    @property
    def _server(self) -> URL:
        return self._reg.engine.url.set(database="postgres")

    def _copy(self, source: str, target: str) -> None:
        with sqlite3.connect(source) as origin, sqlite3.connect(target) as copy:
            origin.backup(copy)
        origin.close()
        copy.close()

    def _clone(self, source: str, target: str) -> None:
        with administrator(self._server) as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{target}" TEMPLATE "{source}"')

    def _drop(self, name: str) -> None:
        with administrator(self._server) as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def dataset(reg: Registry, kind: Kind) -> Dataset:
    """A dataset with a run that has had its first epoch; 33 rows."""
    made = kind.create(reg)
    kind.grow(made, 30)
    made.run("r").epoch(0)
    return made


@pytest.fixture
def backup(reg: Registry, dataset: Dataset) -> Iterator[Backup]:
    """A copy of the database as it was then."""
    assert dataset.head.position == 33
    made = Backup(reg)
    yield made
    made.remove()


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


@FIXED_ALONE
def test_who_wrote_rows_that_are_gone_is_told_once(
    dataset: Dataset, backup: Backup, kind: Kind
) -> None:
    kind.grow(dataset, 10)
    written = dataset.head
    for back, found in [
        (None, r"ends at position 33: was"),
        (10, r"has another history there \("),
        (30, r"has another history there \("),
    ]:
        backup.restore()
        if back is not None:
            backup.regrow(kind, back, 500)
        said = rf"up to position 46 \({written.chain.hex()}\) were committed here, but .* {found}"
        before = dataset.head
        with pytest.raises(DivergenceError, match=said):
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
def test_who_follows_a_log_that_went_back_is_told_before_the_next_row(
    dataset: Dataset, backup: Backup, kind: Kind, others: int
) -> None:
    kind.grow(dataset, 10)
    read = dataset.head
    pages = dataset.follow(after=30)
    assert [position for page in pages_until(pages, 46) for position in page] == [*range(30, 46)]
    backup.restore()
    if others:
        backup.regrow(kind, others, 500)
    said = rf"rows up to position 46 \({read.chain.hex()}\) were read, but the database's log"
    with pytest.raises(DivergenceError, match=said):
        next(pages)


def pages_until(pages: Iterator[Page], end: int) -> Iterator[range]:
    """Yield the positions of pages until one ends there."""
    for page in pages:
        yield range(page.start, page.stop)
        if page.stop == end:
            return


def test_a_run_that_went_further_than_a_restored_database_stops(
    reg: Registry, url: str, dataset: Dataset, backup: Backup, kind: Kind
) -> None:
    run = dataset.run("r")
    for _ in range(2):
        kind.grow(dataset, 10)
    epoch = run.epoch(1)
    samples = yielded(epoch)
    backup.restore()
    said = (
        rf"run 'r' reached epoch 1 at position 59 \({epoch.chain.hex()}\) on this machine, but the "
        "database knows of no such epoch; the logs agree up to position 33"
    )
    for grows in (False, True):
        if grows:
            backup.regrow(kind, 30, 500)
        for number in (0, 1, 2):
            with pytest.raises(DivergenceError, match=said):
                run.epoch(number)
            with pytest.raises(DivergenceError, match=said):
                reg.open("growing").run("r").epoch(number)
        assert re.search(said, _told(url, 1))
    assert yielded(epoch) == samples, "what is here already is what it was"
    with pytest.warns(DivergenceWarning, match="agrees with the database only up to position 33"):
        fresh = dataset.run("new").epoch(0)
    assert yielded(fresh) == due(dataset, fresh)
    assert re.search(said, _told(url, 1)), "the mirror has the new history, but that is known"
    assert yielded(epoch) == samples


def _told(url: str, number: int) -> str:
    """Return what another process is told that begins an epoch of the run."""
    trainer = [sys.executable, "-c", TRAINER, url, str(number)]
    return subprocess.run(trainer, check=True, capture_output=True, text=True).stdout


def test_a_run_whose_epoch_is_pinned_anew_on_another_history_stops(
    reg: Registry, dataset: Dataset, backup: Backup, kind: Kind, cache: Path, monkeypatch: Any
) -> None:
    """Another machine, which has not seen the old epoch, pins it on what it finds."""
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


def test_a_database_that_is_merely_behind_yields_what_it_has(
    dataset: Dataset, backup: Backup, kind: Kind
) -> None:
    """As a replica that lags does, and one that was restored, until other rows come."""
    kind.grow(dataset, 10)
    dataset.run("another").epoch(0)
    backup.restore()
    epochs = [dataset.run("r").epoch(0), dataset.run("fresh", split="train").epoch(0)]
    for epoch in epochs:
        assert epoch.watermark == 33
        assert yielded(epoch) == due(dataset, epoch)
    backup.regrow(kind, 10)  # keys made of positions: the same rows as before
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
        for made in (batches, derived):
            assert [row for batch in made.as_numpy_iterator() for row in rows(batch)] == samples
        del epoch, derived, made
        assert len(generations(cache)) == 2
        shutil.rmtree(cache)
        with pytest.raises(MirrorError, match=r"records was removed .* make the dataset again"):
            iter(batches)
        copy.run("again").epoch(0)
        assert generations(cache) == ["0"], "the name is another file's now"
        with pytest.raises(MirrorError, match=r"records was removed .* make the dataset again"):
            iter(batches)


@FIXED_ALONE
def test_files_that_a_graph_kept_are_removed_when_it_is_gone(
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


def test_damaged_rows_are_never_mended_with_another_history(
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
    with pytest.raises(DivergenceError, match=ANOTHER):
        yielded(epoch)
    if kind is KINDS["fixed"]:
        with pytest.raises(DivergenceError, match=ANOTHER):
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
    with pytest.raises(DivergenceError, match=ANOTHER):
        yielded(epoch)
    with pytest.raises(DivergenceError, match="reached epoch 0 at position 46"):
        run.epoch(0)
