"""``registry mirror``: this host's mirror is brought up to date, and kept so."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import registry
from registry import Dataset, Registry
from registry.errors import MirrorError
from registry.storage.mirror.local_files import LocalFiles
from registry.storage.mirror.state import load_state
from registry.training import host_mirror
from registry.training.host_mirror import HostMirror, MirrorUpdate
from registry.training.pin_store import Pin
from registry.training.run import Run
from tests.faults.test_mirror import tiny_disk
from tests.support.backups import Backup
from tests.support.commands import process, run
from tests.support.datasets import digit
from tests.support.growing_datasets import KINDS, due, yielded


@contextmanager
def following(url: str, name: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``registry mirror --follow`` on another host, which has this cache."""
    before = os.environ["REGISTRY_CACHE"]
    os.environ["REGISTRY_CACHE"] = str(folder)
    try:
        with process("mirror", name, "--follow", "--url", url) as started:
            os.environ["REGISTRY_CACHE"] = before
            yield started
    finally:
        os.environ["REGISTRY_CACHE"] = before


def grow(dataset: Dataset, count: int) -> None:
    first = dataset.head.position
    numbers = range(first, first + count)
    dataset.insert([digit(n) for n in numbers], keys=[f"{n}" for n in numbers])


def rows(folder: Path, dataset: Dataset) -> int:
    """Return how many rows a mirror has."""
    state = load_state(folder / dataset._log.uid)
    return 0 if state is None else state.position


def wait_until(condition: Callable[[], bool], started: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() >= deadline or started.poll() is not None:
            started.kill()
            pytest.fail(f"in vain: {started.communicate()}")
        time.sleep(0.02)


def test_rows_and_the_files_of_the_newest_epochs_are_brought_here(
    url: str, digits: Dataset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = digits.run("r", split="train")
    names: list[list[Path]] = []
    for number in range(3):
        grow(digits, 50)
        files = trained.epoch(number).local_files()
        assert files is not None
        assert files.index.files is not None
        names.append([path.relative_to(cache) for path in files.paths])
    other = tmp_path / "other"
    monkeypatch.setenv("REGISTRY_CACHE", str(other))
    for _ in range(2):
        output = run("mirror", "digits", url=url).stdout
        assert output == f"digits: 150 rows, files of 2 epochs, in {other / digits._log.uid}\n"
    assert rows(other, digits) == 150
    assert not any((other / name).exists() for name in names[0]), "it is an older one"
    assert all((other / name).exists() for name in [*names[1], *names[2]])
    for name in (names[1][0], names[2][0]):
        here, there = (np.fromfile(folder / name, np.uint8) for folder in (cache, other))
        shorter = min(len(here), len(there))
        np.testing.assert_array_equal(here[:shorter], there[:shorter])
    assert digits._log.uid in {path.name for path in other.iterdir()}


def test_a_followed_mirror_has_new_rows_and_epochs_of_trainers_on_other_hosts_until_sigterm(
    url: str, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    grow(digits, 50)
    with following(url, "digits", other) as started:
        wait_until(lambda: rows(other, digits) == 50, started)
        epoch = digits.run("r", split="train").epoch(0)
        files = epoch.local_files()
        assert files is not None
        assert files.index.files is not None
        for path in files.paths:
            there = other / path.relative_to(cache)
            wait_until(there.exists, started)
        grow(digits, 50)
        wait_until(lambda: rows(other, digits) == 100, started)
        started.send_signal(signal.SIGTERM)
        out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (0, "")
    assert out.startswith("digits: 50 rows, files of 0 epochs")


def test_followers_and_a_trainer_share_one_mirror(url: str, cache: Path) -> None:
    kind = KINDS["variable"]
    with registry.connect(url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 20)
        with (
            following(url, "growing", cache) as one,
            following(url, "growing", cache) as two,
        ):
            trained = dataset.run("r", split="train")
            for number in range(10):
                epoch = trained.epoch(number)
                assert yielded(epoch) == due(dataset, epoch)
                kind.grow(dataset, 5)
                if number == 4:
                    dataset.erase("7")
                    two.send_signal(signal.SIGKILL)
            wait_until(lambda: rows(cache, dataset) == dataset.head.position, one)
            one.send_signal(signal.SIGTERM)
            _, err = one.communicate(timeout=60)
        assert [each.differs for each in dataset.verify()] == [None, None]
    assert one.returncode == 0, err
    assert err.count("\n") <= 1, "an epoch that held what was erased has no files"


def test_a_followed_mirror_ends_with_an_error_when_its_dataset_is_dropped_but_not_when_renamed(
    reg: Registry, url: str, digits: Dataset, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    grow(digits, 5)
    with following(url, "digits", other) as started:
        wait_until(lambda: rows(other, digits) == 5, started)
        reg.rename("digits", "renamed")
        grow(digits, 5)
        wait_until(lambda: rows(other, digits) == 10, started)
        reg.drop("renamed")
        _, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert err.startswith("error: the dataset was dropped")


def test_a_followed_mirror_that_diverges_is_cut_back_and_says_so(
    sqlite_url: str, tmp_path: Path
) -> None:
    # On PostgreSQL a database that is dropped, in order to be restored, ends the command.
    kind, other = KINDS["fixed"], tmp_path / "other"
    with registry.connect(sqlite_url) as reg:
        dataset = kind.create(reg)
        kind.grow(dataset, 20)
        backup = Backup(reg)
        kind.grow(dataset, 10)
        with following(sqlite_url, "growing", other) as started:
            wait_until(lambda: rows(other, dataset) == dataset.head.position, started)
            backup.restore()
            backup.regrow(kind, 30, first=500)
            wait_until(lambda: rows(other, dataset) == dataset.head.position, started)
            started.send_signal(signal.SIGINT)
            _, err = started.communicate(timeout=60)
    assert started.returncode == 0
    assert "agrees with the database only up to position" in err


def test_an_epoch_whose_files_could_not_be_made_is_reported_once_and_tried_again(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(digits, 50)
    for name in ("broken", "sound"):
        digits.run(name, split="train").epoch(0)
    make = Run.local_files

    def fail(run: Run, pin: Pin) -> LocalFiles | None:
        if run.name == "broken":
            raise MirrorError("the row at position 3 is damaged, and stays so")
        return make(run, pin)

    def updated(minutes: int) -> MirrorUpdate:
        monkeypatch.setattr(host_mirror, "monotonic", lambda: began + 60 * minutes)
        return host.update(digits.head)

    began, host = time.monotonic(), digits.mirror()
    with monkeypatch.context() as damaged:
        damaged.setattr(Run, "local_files", fail)
        updates = [updated(minutes) for minutes in (0, 1)]
    assert [update.epochs for update in updates] == [1, 1]
    (problem,) = updates[0].problems
    assert "epoch 0 of run 'broken': the row at position 3 is damaged" in problem
    assert updates[1].problems == ()
    assert updated(1).epochs == 1  # tried again a minute after the last time
    assert updated(2).epochs == 2


def test_a_full_disk_is_an_error_and_a_follower_waits_for_room(
    sqlite_url: str, cache: Path
) -> None:
    with registry.connect(sqlite_url) as reg, tiny_disk(cache, 64):
        digits = reg.create("digits", KINDS["fixed"].features)
        grow(digits, 5000)
        output = run("mirror", "digits", url=sqlite_url, code=1).stderr
        assert "No space left on device" in output
        assert "make room there" in output
        with following(sqlite_url, "digits", cache) as started:
            assert started.stderr is not None
            assert "No space left on device" in started.stderr.readline()
            subprocess.run(["mount", "-o", "remount,size=4m", cache], check=True)
            assert started.stdout is not None
            assert started.stdout.readline().startswith("digits: 5,000 rows")
            # Somebody empties the cache, although it is in use.
            shutil.rmtree(cache / digits._log.uid)
            wait_until(lambda: rows(cache, digits) == 5000, started)
            started.send_signal(signal.SIGTERM)
            started.communicate(timeout=60)
        assert started.returncode == 0


def test_a_terminal_shows_how_many_rows_have_come(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        digits = reg.create("digits", KINDS["fixed"].features)
        grow(digits, 5000)
        ours, theirs = pty.openpty()
        # Another process holds the lock, so that there is time to draw.
        with (
            digits._sources.mirror().locked(),
            process("mirror", "digits", "--url", sqlite_url, stderr=theirs),
        ):
            shown = ""
            while "rows/s" not in shown:
                shown += os.read(ours, 1 << 16).decode()
        os.close(theirs)
        os.close(ours)
    assert "digits" in shown
    assert "0 rows" in shown


def test_a_run_that_is_removed_during_an_update_does_not_end_it(digits: Dataset) -> None:
    grow(digits, 20)
    for name in ("a", "b", "c"):
        digits.run(name).epoch(0)

    def find(name: str) -> Run:
        if name == "b":
            digits.remove_run(name)
        return digits.find_run(name)

    host = HostMirror(digits._log, digits._sources, "digits", find)
    update = host.update(digits.head)
    assert (update.rows, update.epochs, update.problems) == (20, 2, ())
