"""The names that a graph has for a mirror's files: the same on every host."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import registry
from registry import Registry, Tensor
from registry.errors import DivergenceWarning
from registry.storage.mirror import prefixes
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.value_units import UNIT
from registry.tensorflow import EpochDataset
from tests.support.backups import Backup
from tests.support.growing_datasets import KINDS

KIND = KINDS["fixed"]


@pytest.fixture
def url(sqlite_url: str) -> str:
    """One kind of database: these tests are about files."""
    return sqlite_url


class Host:
    """A host with its own cache."""

    def __init__(self, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = cache
        self._url = url
        self._patch = monkeypatch

    def files(self, number: int, run: str = "r") -> tuple[list[Path], bytes, list[int]]:
        """Open an epoch; return the names of its files below the cache, its rows and positions.

        The files of an index may differ, but a graph that was made elsewhere must be able to map
        them.
        """
        self._patch.setenv("REGISTRY_CACHE", str(self.cache))
        with registry.connect(self._url) as reg:
            epoch = reg.open("growing").run(run, split="train").epoch(number)
            files = epoch.source.local_files(epoch.index)
            assert files is not None
            index = files.index
            assert index.files is not None
            files.check()
            paths = [files.view.path, index.files.entries, index.files.cells]
            assert paths[1].stat().st_size >= index.entry_words * 8
            rows = np.fromfile(paths[0], np.uint8, files.view.position * files.view.seals.stride)
            names = [path.relative_to(self.cache) for path in paths]
            units = files.view.values
            if units.size:
                mapped = np.fromfile(files.view.values_path, np.int64, units.size)
                np.testing.assert_array_equal(mapped.reshape(units.shape), units)
            return (
                names,
                rows.tobytes() + units.tobytes(),
                index.positions(np.arange(index.size)).tolist(),
            )

    def view(self, number: int) -> View:
        """Open an epoch; return the view by which a graph reads its files."""
        self._patch.setenv("REGISTRY_CACHE", str(self.cache))
        with registry.connect(self._url) as reg:
            epoch = reg.open("growing").run("r", split="train").epoch(number)
            files = epoch.source.local_files(epoch.index)
            assert files is not None
            return files.view

    def restart(self) -> None:
        """Begin an empty generation, as damage does that cannot be repaired."""
        self._patch.setenv("REGISTRY_CACHE", str(self.cache))
        with registry.connect(self._url) as reg:
            mirror = reg.open("growing")._sources.mirror()
            view = mirror.view()
            assert view is not None
            mirror.restart(view)


@pytest.mark.parametrize("name", KINDS)
def test_hosts_whose_mirrors_have_other_pasts_have_the_same_rows_by_the_same_names(
    reg: Registry, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = KINDS[name]
    old, new = (Host(url, tmp_path / name, monkeypatch) for name in ("old", "new"))
    dataset = kind.create(reg)
    kind.grow(dataset, 30)
    before = old.files(0)
    dataset.add_feature("pose", Tensor("float32", (3,)), default=0)
    dataset.insert([{**kind.sample(99), "pose": [1, 2, 3]}], keys=["99"])
    old.files(1)
    old.restart()
    dataset.retract("99")
    for number in (2, 1, 0):
        assert old.files(number) == new.files(number)
    assert old.files(0)[0] != before[0], "it has another layout now"
    uid = dataset._log.uid
    assert len({path.name for path in (old.cache / uid).iterdir() if path.name.isdecimal()}) == 1


def test_another_history_has_other_names_and_the_same_ones_on_every_host(
    reg: Registry, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (Host(url, tmp_path / name, monkeypatch) for name in ("old", "new"))
    dataset = KIND.create(reg)
    KIND.grow(dataset, 30)
    first = old.files(0)
    backup = Backup(reg)
    try:
        KIND.grow(dataset, 10)
        lost = old.files(0, "lost")
        backup.restore()
        backup.regrow(KIND, 10, first=500)
    finally:
        backup.remove()
    with pytest.warns(DivergenceWarning, match="agrees with the database"):
        regrown = old.files(0, "regrown")
    assert regrown == new.files(0, "regrown")
    assert not {*regrown[0]} & {*lost[0]}
    assert old.files(0) == new.files(0) == first


def test_a_graph_reads_the_files_of_the_host_that_it_runs_on_and_of_their_newest_generation(
    reg: Registry, url: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same path on both hosts: their caches change places.
    here, there = Host(url, cache, monkeypatch), Host(url, tmp_path / "there", monkeypatch)
    dataset = KIND.create(reg)
    KIND.grow(dataset, 30)
    epoch = dataset.run("r", split="train").epoch(0)
    graph = EpochDataset(epoch, batch_size=4)
    expected = [batch["image"].numpy() for batch in graph]
    for _ in range(2):
        there.files(0)
        there.restart()
    there.files(0)
    cache.rename(tmp_path / "away")
    there.cache.rename(cache)
    np.testing.assert_equal([batch["image"].numpy() for batch in graph], expected)
    # With the generation at the end of the link gone, the files are damaged: the next one is used.
    here.restart()
    here.files(0)
    np.testing.assert_equal([batch["image"].numpy() for batch in graph], expected)


def test_names_that_nobody_has_used_for_long_are_removed(
    reg: Registry, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "KEPT_LINKS", 2)
    host, dataset = Host(url, cache, monkeypatch), KIND.create(reg)
    names: list[Path] = []
    for number in range(4):
        KIND.grow(dataset, 10)
        names.append(cache / host.files(number)[0][0].parent)
        os.utime(names[-1], (0, 0), follow_symlinks=False)
    host.files(1)  # used again
    KIND.grow(dataset, 10)
    names.append(cache / host.files(4)[0][0].parent)
    assert [name.exists() for name in names] == [False, True, False, False, True]


@pytest.mark.parametrize("erased", [range(5, 9), range(2, 30)])
def test_values_can_be_mapped_by_a_graph_of_a_host_that_had_rows_before_they_were_erased(
    reg: Registry, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, erased: range
) -> None:
    """Few of the values, or nearly all."""
    old, new = (Host(url, tmp_path / name, monkeypatch) for name in ("old", "new"))
    kind = KINDS["variable"]
    dataset = kind.create(reg)
    kind.grow(dataset, 30)
    old.files(0)
    dataset.erase(*map(str, erased))
    kind.grow(dataset, 2, first=200)
    units = [len(host.view(1).values) for host in (old, new)]
    assert units[0] > units[1]
    view = new.view(1)
    assert view.values_path.stat().st_size >= units[0] * UNIT
