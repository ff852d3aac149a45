"""The mirrors of a machine are listed and removed, and never one that somebody uses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import registry
from registry import Dataset, Registry
from registry.catalog.doctor.mirrors import check_mirrors
from registry.catalog.statistics.count import statistics_of
from registry.cli.base import duration_text, parse_duration
from registry.storage.mirror.layout import lock_file
from registry.storage.mirror.usage import mirrors, remove_mirror
from tests.support.commands import run
from tests.support.datasets import FIXED, digit
from tests.support.growing_datasets import KINDS, yielded

TRAINER = """
import sys, warnings
import registry
warnings.simplefilter("error")
with registry.connect(sys.argv[1]) as reg:
    run = reg.open("digits").run("cnn-1")
    for number in range(2):
        print(sum(len(batch["label"]) for batch in run.epoch(number).batches(7)), flush=True)
        input()
"""
"""Trains on NumPy arrays, so that it maps files and opens none by name."""
OPENER = """
import sys, warnings
import registry
warnings.simplefilter("error")
for _ in range(int(sys.argv[2])):
    with registry.connect(sys.argv[1]) as reg:
        epoch = reg.open("digits").run("cnn-1").epoch(0)
        assert sum(len(batch["label"]) for batch in epoch.batches(7)) == 20
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from registry.storage.mirror import usage
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
target, name = (Path, "rename") if sys.argv[2] == "before" else (usage.shutil, "rmtree")
setattr(target, name, kill)
usage.remove_mirror(Path(sys.argv[1]), with_runs=True)
"""


def fill(digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(20)], keys=[f"k{n}" for n in range(20)])


def listed(url: str | None = None) -> list[dict[str, Any]]:
    mirrors: list[dict[str, Any]] = json.loads(run("cache", "ls", "--json", url=url).stdout)
    return mirrors


def prune(url: str, *options: str) -> str:
    return run("cache", "prune", *options, "--yes", url=url).stdout.splitlines()[-1]


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


def test_a_mirror_is_kept_while_a_process_maps_it_and_removed_afterwards(
    reg: Registry, url: str, digits: Dataset, cache: Path
) -> None:
    fill(digits)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with python(TRAINER, url, **pipes) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "20\n"
        assert [(each["dataset"], each["in_use"]) for each in listed(url)] == [("digits", True)]
        assert prune(url, "--unused", "0s") == "0 mirrors removed, 0 bytes; 1 in use kept"
        digits.insert([digit(20)])
        trainer.stdin.write("\n")
        trainer.stdin.flush()
        assert trainer.stdout.readline() == "21\n", "it continues on its mirror"
        trainer.communicate("\n")
        assert trainer.returncode == 0
    (mirror,) = listed(url)
    assert (mirror["rows"], mirror["in_use"], mirror["uid"]) == (21, False, digits._log.uid)
    held = [path.stat() for path in cache.rglob("*") if path.is_file()]
    assert mirror["bytes"] == sum(min(each.st_size, each.st_blocks * 512) for each in held)
    assert prune(url, "--unused", "1d") == "0 mirrors removed, 0 bytes; 0 in use kept"
    assert prune(url, "--unused", "0s").startswith("1 mirror removed, ")
    assert listed(url) == []
    # What this machine remembers of runs, by which a restored database is noticed, is left.
    assert [path.name for path in (cache / digits._log.uid).iterdir()] == ["runs"]
    # Nor is that, or what `verify` leaves, a mirror to the doctor, who would call it damaged.
    digits.verify()
    assert list(check_mirrors(reg.engine)) == []
    run_again = digits.run("cnn-1")
    assert [run_again.epoch(number).size for number in range(2)] == [20, 21]


def test_mirrors_of_dropped_erased_and_other_datasets_are_named(
    reg: Registry, url: str, tmp_path: Path
) -> None:
    for name in ("dropped", "erased", "other", "renamed"):
        fill(reg.create(name, FIXED))
        reg.open(name).run("r").epoch(0)
    other_url = f"sqlite:///{tmp_path / 'other.db'}"
    with registry.connect(other_url) as elsewhere:
        fill(elsewhere.create("theirs", FIXED))
        elsewhere.open("theirs").run("r").epoch(0)
    run("copy", url, other_url, "other")
    with registry.connect(other_url) as elsewhere:
        elsewhere.open("other").run("r").epoch(0)
    reg.open("erased").erase("k1", "k2")
    reg.rename("renamed", "new-name")
    for name in ("dropped", "other"):
        reg.drop(name)
    table = run("cache", "ls", url=url).stdout.splitlines()
    assert table[0].split() == ["dataset", "uid", "rows", "size", "last", "used", "(UTC)", "note"]
    notes = {line.split()[0]: line.rstrip().split("  ")[-1] for line in table[1:]}
    path = tmp_path / "other.db"
    assert notes["dropped"] == "dropped"
    assert notes["erased"] == "holds 2 rows that were erased"
    assert notes["theirs"] == f"of sqlite:///{path}"
    assert notes["other"] == f"of sqlite:///{path}"
    assert set(notes) == {"dropped", "erased", "theirs", "other", "new-name"}
    assert prune(url, "--dropped").startswith("1 mirror removed")
    assert {each["dataset"] for each in listed(url)} == set(notes) - {"dropped"}
    # A database that does not exist is not created: names are those of the last use.
    missing = f"sqlite:///{tmp_path / 'missing.db'}"
    assert {each["dataset"] for each in listed(missing)} == {"erased", "theirs", "other", "renamed"}
    error = run("cache", "prune", "--dropped", "--yes", url=missing, code=1).stderr
    assert error == f"error: {missing} holds no registry; name the database by --url\n"
    assert not (tmp_path / "missing.db").exists()
    too_long = f"sqlite:///{'x' * 1000}"
    longer = run("cache", "prune", "--dropped", "--yes", url=too_long, code=1).stderr
    assert "holds no registry" in longer
    broken = tmp_path / "broken.db"
    broken.write_text("no database" * 1000)
    result = run("cache", "ls", url=f"sqlite:///{broken}")
    assert result.stderr.startswith(f"note: names are those of the last use: sqlite:///{broken}: ")
    assert result.stdout.count("\n") == 5
    # Nor is one needed where nothing is asked about a dataset.
    assert prune("postgresql://localhost:1/nothing", "--unused", "0s").startswith("4 mirrors rem")
    assert listed(url) == []


@pytest.fixture
def folder(reg: Registry, cache: Path) -> Path:
    """A mirror that nobody uses."""
    digits = KINDS["fixed"].create(reg)
    digits.insert([digit(n) for n in range(20)])
    digits.run("cnn-1").epoch(0)
    return cache / digits._log.uid


def test_prune_asks_first_and_says_what_it_would_remove(url: str, folder: Path) -> None:
    assert "say which mirrors to remove" in run("cache", "prune", url=url, code=2).stderr
    wrong = run("cache", "prune", "--unused", "soon", url=url, code=2)
    assert "'soon' is no duration" in wrong.stderr
    table, last = run("cache", "prune", "--unused", "0s", "--dry-run", url=url).stdout.split("\n")[
        1:3
    ]
    assert table.startswith("growing")
    assert last.startswith("1 mirror would be removed, ")
    refused = run("cache", "prune", "--unused", "0s", url=url, code=1).stderr
    assert refused.startswith("error: Remove 1 mirror of ")
    assert refused.endswith(f"in {folder.parent}? Pass --yes to do it; nothing was changed\n")
    assert (folder / "state").exists()


def test_a_process_that_holds_a_file_alone_keeps_the_mirror(folder: Path) -> None:
    for name in ("0/records", "lock"):
        with (folder / name).open("rb") as file:
            lock_file(file)
            assert not remove_mirror(folder, with_runs=True), name
            assert (folder / "state").exists()
    assert remove_mirror(folder, with_runs=True)
    assert not folder.exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_removal_that_was_killed_leaves_nothing_that_is_misread(
    sqlite_url: str, cache: Path, moment: str
) -> None:
    with registry.connect(sqlite_url) as reg:
        fill(reg.create("digits", FIXED))
        samples = yielded(reg.open("digits").run("r").epoch(0))
        folder = cache / reg.open("digits")._log.uid
        killed = python(KILLED, folder, moment)
        assert killed.wait(60) == -signal.SIGKILL
        assert len(listed(sqlite_url)) == (1 if moment == "before" else 0)
        assert len([*cache.glob(".removed-*")]) == (0 if moment == "before" else 1)
        assert yielded(reg.open("digits").run("r").epoch(0)) == samples
        (cache / "notes.txt").touch()
        (cache / "mine").mkdir()
        (cache / ("0" * 32)).symlink_to(folder)
        prune(sqlite_url, "--unused", "0s")
        assert sorted(path.name for path in cache.iterdir() if path != folder) == [
            "0" * 32,
            "mine",
            "notes.txt",
        ]


def test_a_mirror_that_is_opened_while_it_is_removed_is_made_again(
    sqlite_url: str, cache: Path
) -> None:
    with registry.connect(sqlite_url) as reg:
        fill(reg.create("digits", FIXED))
        reg.open("digits").run("cnn-1").epoch(0)
    removed = 0
    with python(OPENER, sqlite_url, 15) as opener:
        while opener.poll() is None:
            for use in mirrors(cache):
                removed += remove_mirror(use.folder, with_runs=False)
            time.sleep(0.01)
    assert opener.returncode == 0
    assert removed > 1


def test_statistics_without_a_mirror_are_listed_and_removed(url: str, reg: Registry) -> None:
    digits = reg.create("digits", FIXED)
    digits.insert([digit(1), digit(2)], keys=["k1", "k2"])
    statistics_of(digits)
    digits.erase("k1")
    statistics_of(digits)
    (mirror,) = listed(url)
    assert (mirror["dataset"], mirror["rows"], mirror["unerased"]) == ("digits", 0, 0)
    assert mirror["bytes"] > 0
    reg.drop("digits")
    assert listed(url)[0]["dropped"]
    assert "1 mirror removed" in prune(url, "--dropped")
    assert listed(url) == []


@pytest.mark.parametrize("text", ["90d", "36h", "30m", "86401s"])
def test_a_duration_is_printed_as_it_is_read(text: str) -> None:
    assert duration_text(parse_duration(text)) == text
