"""Statistics: what is counted of a log as it grows, compared with a count of all its rows."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from filelock import FileLock

import registry
from registry import ClassLabel, Registry, Tensor, Text
from registry.catalog.statistics.count import StatisticsError, statistics_of
from registry.catalog.statistics.model import Statistics
from tests.support.backups import Backup
from tests.support.counted_rows import counted
from tests.support.labelers import KINDS, Labelers
from tests.support.processes import run_python, started

pytestmark = pytest.mark.usefixtures("small_parts")


def counts(statistics: Statistics) -> Statistics:
    """Return statistics without the time at which they were counted."""
    return replace(statistics, counted_at=datetime.min.replace(tzinfo=UTC))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_as_a_log_grows_is_what_all_its_rows_are(
    reg: Registry, kind: str, cache: Path
) -> None:
    random = Random(kind)
    dataset = reg.create("digits", KINDS[kind], splits={"train": 0.6, "test": 0.4})
    labelers = Labelers(dataset, kind, random)
    for _ in range(16):
        labelers.step()
        if random.random() < 0.3:
            partly = statistics_of(reg.open("digits"), most=random.randrange(1, 9))
            assert partly.until == dataset.head.position
            continue
        opened = random.choice([dataset, reg.open("digits")])
        assert counts(statistics_of(opened)) == counts(counted(opened))
        position = random.randrange(opened.head.position + 1)
        version = reg.open(f"digits@{position}")
        at_version = replace(counts(counted(version)), groups=None)
        assert counts(statistics_of(version)) == at_version
        assert counts(statistics_of(version)) == at_version, "from its file"
    assert len([*cache.rglob("versions/*")]) <= 3


def test_features_with_too_many_classes_are_counted_no_more(reg: Registry) -> None:
    dataset = reg.create("digits", {"label": ClassLabel(5), "other": ClassLabel(2)})
    for added in (0, 2, 2):
        if added:
            dataset.add_classes("label", added)
        dataset.insert([{"label": number % 5, "other": 1} for number in range(7)])
        statistics = statistics_of(dataset)
        assert counts(statistics) == counts(counted(dataset))
    assert (len(statistics.classes), len(statistics.classes_by_day)) == (1, 1)


@pytest.fixture
def backups() -> Iterator[list[Backup]]:
    """Backups, which are removed at the end."""
    all_backups: list[Backup] = []
    yield all_backups
    for backup in all_backups:
        backup.remove()


def test_a_database_restored_to_an_older_dump_is_counted_again(
    reg: Registry, backups: list[Backup]
) -> None:
    random = Random(5)
    dataset = reg.create("digits", KINDS["fixed"], splits={"train": 0.6, "test": 0.4})
    labelers = Labelers(dataset, "fixed", random)
    for _ in range(6):
        labelers.step()
    statistics_of(dataset)
    backups.append(backup := Backup(reg))
    kept = {*labelers.keys}
    url = reg.engine.url.render_as_string(hide_password=False)
    # Each time it has fewer rows than were counted, as many, or more; and other erasures.
    for steps in (0, 9):
        with registry.connect(url) as now:
            labelers.dataset = now.open("digits")
            for _ in range(5):
                labelers.step()
            statistics_of(labelers.dataset)
        backup.restore()
        labelers.keys = {*kept}
        with registry.connect(url) as now:
            labelers.dataset = now.open("digits")
            for _ in range(steps):
                labelers.step()
            assert counts(statistics_of(labelers.dataset)) == counts(counted(labelers.dataset))


def test_other_rows_at_the_same_positions_are_noticed(reg: Registry, backups: list[Backup]) -> None:
    dataset = reg.create("digits", {"label": ClassLabel(3)})
    dataset.insert([{"label": 0}] * 4)
    backups.append(backup := Backup(reg))
    for label in (1, 2):
        url = reg.engine.url.render_as_string(hide_password=False)
        with registry.connect(url) as now:
            now.open("digits").insert([{"label": label}] * 3)
            assert statistics_of(now.open("digits")).classes["label"][""] == {0: 4, label: 3}
        backup.restore()


def test_other_erasures_of_the_same_rows_are_noticed(reg: Registry, backups: list[Backup]) -> None:
    dataset = reg.create("digits", {"label": ClassLabel(3)})
    dataset.insert([{"label": n % 3} for n in range(9)], keys=[f"k{n}" for n in range(9)])
    backups.append(backup := Backup(reg))
    for key, left in (("k1", {0: 3, 1: 2, 2: 3}), ("k2", {0: 3, 1: 3, 2: 2})):
        url = reg.engine.url.render_as_string(hide_password=False)
        with registry.connect(url) as now:
            opened = now.open("digits")
            # Fewer rows than both have: their chain does not show which rows were erased since.
            statistics_of(opened, most=5)
            opened.erase(key)
            statistics_of(opened, most=0)
            if key == "k2":
                assert statistics_of(opened).classes["label"][""] == left
        backup.restore()


def test_rows_from_before_a_feature_have_its_default(reg: Registry) -> None:
    dataset = reg.create("digits", {"n": Tensor("int8")})
    dataset.insert([{"n": 1}] * 3)
    dataset.add_feature("label", ClassLabel(5), 3)
    dataset.insert([{"n": 1, "label": 1}])
    assert statistics_of(dataset).classes == {"label": {"": {1: 1, 3: 3}}}
    dataset.add_feature("other", ClassLabel(5), 4)
    assert statistics_of(dataset).classes["other"] == {"": {4: 4}}


def test_nobody_waits_for_another_process_that_counts(reg: Registry, cache: Path) -> None:
    dataset = reg.create("digits", KINDS["fixed"])
    Labelers(dataset, "fixed", Random(1)).add(9)
    statistics_of(dataset, most=4)
    (lock,) = cache.rglob("lock")
    with FileLock(lock):
        counted_so_far = statistics_of(dataset)
        assert (counted_so_far.position, counted_so_far.until) == (4, 9)
    assert statistics_of(dataset).position == 9


COUNTER = """
import os, signal, sys
from pathlib import Path
import registry
from registry.catalog.statistics import row_counter, row_store
from registry.catalog.statistics.count import statistics_of
from registry.storage.mirror import appender

row_store.BLOCK = 4
row_counter.READ_ROWS, row_counter.MOST_GROUPS = {"sqlite": 7}, 3
left, write_all, write_bytes = int(sys.argv[2]), appender.write_all, Path.write_bytes

def killed(write):
    def write_a_part(file, data):
        global left
        left -= 1
        write(file, data if left else data[: len(data) // 2])
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    return write_a_part

appender.write_all, Path.write_bytes = killed(write_all), killed(write_bytes)
with registry.connect(sys.argv[1]) as reg:
    statistics_of(reg.open("digits"))
"""


def test_a_counter_that_is_killed_at_any_write_leaves_nothing_wrong(
    sqlite_url: str, cache: Path
) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("digits", KINDS["fixed"], splits={"train": 0.6, "test": 0.4})
        labelers = Labelers(dataset, "fixed", Random(3))
        for _ in range(4):
            labelers.insert()
        statistics_of(dataset)
        shutil.copytree(cache, before := cache.with_name("before"))
        labelers.erase()
        labelers.alter()
        labelers.add(3)
        truth = counts(counted(dataset))
        ends = set()
        for write in range(1, 100):
            shutil.rmtree(cache)
            shutil.copytree(before, cache)
            ends.add(run_python(COUNTER, sqlite_url, str(write)).returncode)
            assert counts(statistics_of(reg.open("digits"))) == truth
            assert [path.name for path in cache.glob("*/statistics/*/.*")] == []
            if 0 in ends:
                break
        assert ends == {0, -signal.SIGKILL}
        assert write > 5, write


def test_damage_of_any_file_is_noticed(sqlite_url: str, cache: Path) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("digits", KINDS["fixed"])
        labelers = Labelers(dataset, "fixed", Random(1))
        for _ in range(4):
            labelers.insert()
        statistics_of(dataset)
        shutil.copytree(cache, before := cache.with_name("before"))
        labelers.insert()
        labelers.update()
        labelers.erase()
        truth = counts(counted(dataset))
        files = [path.relative_to(cache) for path in cache.rglob("*") if path.stat().st_size]
        damaged = [path for path in files if (cache / path).is_file()]
        assert len(damaged) >= 3
        for path in damaged:
            for change in (lambda data: data[:-1], lambda data: flipped(data, len(data) // 2)):
                shutil.rmtree(cache)
                shutil.copytree(before, cache)
                (cache / path).write_bytes(change((cache / path).read_bytes()))
                assert counts(statistics_of(dataset)) == truth


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def count_often(url: str, cache: str, rows: int) -> None:
    """Count until so many rows are counted."""
    os.environ["REGISTRY_CACHE"] = cache
    with registry.connect(url) as reg:
        dataset = reg.open("digits")
        while (statistics := statistics_of(dataset, most=40)).position < rows:
            assert statistics.live == sum(statistics.splits.values())
            assert statistics.live == sum(statistics.classes["label"].get("train", {}).values())


def test_several_processes_count_each_row_once(reg: Registry, cache: Path) -> None:
    dataset = reg.create("digits", {"label": ClassLabel(3)}, splits={"train": 1.0})
    url = reg.engine.url.render_as_string(hide_password=False)
    counters = started(*[(count_often, (url, str(cache), 300))] * 2)
    for start in range(0, 300, 20):
        keys = [f"k{number % 100}" for number in range(start, start + 20)]
        dataset.insert([{"label": (number + start // 100) % 3} for number in range(20)], keys=keys)
        statistics_of(dataset, most=30)
    counters.join()
    assert counters.exitcode == 0
    assert dataset.head.position == 300
    assert counts(statistics_of(dataset)) == counts(counted(dataset))


def test_nothing_of_an_erased_sample_stays_in_the_cache(reg: Registry, cache: Path) -> None:
    label = 0x5A17C3D1
    dataset = reg.create("digits", {"label": ClassLabel(2**31 - 1), "note": Text()})
    dataset.insert([{"label": label, "note": "a"}, {"label": 7, "note": "b"}], keys=["k1", "k2"])
    statistics_of(dataset)
    kept = label.to_bytes(4, "little")
    assert any(kept in path.read_bytes() for path in cache.rglob("*") if path.is_file())
    dataset.erase("k1")
    assert statistics_of(dataset).live == 1
    assert not any(kept in path.read_bytes() for path in cache.rglob("*") if path.is_file())


def test_each_process_counts_for_itself_where_no_cache_can_be_written(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = reg.create("digits", KINDS["fixed"])
    (tmp_path / "file").touch()
    monkeypatch.setenv("REGISTRY_CACHE", str(tmp_path / "file"))
    labelers = Labelers(dataset, "fixed", Random(1))
    for _ in range(2):
        labelers.add(9)
        assert counts(statistics_of(dataset)) == counts(counted(dataset))
    # Nor can temporary files.
    monkeypatch.setenv("REGISTRY_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(StatisticsError, match=r"no statistics of 'digits'.*REGISTRY_CACHE, now"):
        statistics_of(dataset)
