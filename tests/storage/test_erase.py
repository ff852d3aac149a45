"""Erasure: a sample's content is gone permanently, and all else is read and verified as before."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, text
from sqlalchemy.event import listen, listens_for, remove

import registry
from registry import ClassLabel, Dataset, Registry, Replay, Tensor, Text
from registry.errors import (
    CacheWarning,
    ErasedError,
    PermissionDeniedError,
    SampleNotFoundError,
    VersionError,
)
from registry.io.export_file import export_file
from registry.samples.codec import Codec
from registry.samples.features import Feature
from registry.storage.log import erasures
from registry.storage.mirror import mirror
from registry.storage.mirror.row_layout import RowLayout
from registry.tensorflow import EpochDataset
from registry.training.epoch import Epoch
from registry.training.source import read_columns
from tests.faults.test_mirror import flip
from tests.support.backups import Backup
from tests.support.commands import run as command
from tests.support.databases import psql
from tests.support.growing_datasets import Row, due, rows, yielded
from tests.support.processes import run_python

_numbers = itertools.count()
FEATURES: dict[str, dict[str, Feature]] = {
    "fixed": {"data": Tensor("uint8", (48,)), "label": ClassLabel(10)},
    "variable": {"data": Text(), "label": ClassLabel(10)},
}


def content(number: int) -> str:
    """48 characters or more that no other sample has, so that files can be searched for them."""
    return f"the content of {number:>9}".ljust(48, "~")


def sample(kind: str, number: int) -> dict[str, Any]:
    body = content(number)
    if kind == "fixed":
        return {"data": np.frombuffer(body.encode(), np.uint8), "label": number % 10}
    return {"data": body * (1 + number % 3), "label": number % 10}


def make(reg: Registry, kind: str) -> Dataset:
    splits = {"train": 0.8, "test": 0.2}
    return reg.create(f"{kind}-{next(_numbers)}", FEATURES[kind], splits=splits)


def fill(dataset: Dataset, kind: str, count: int, first: int = 0) -> None:
    numbers = range(first, first + count)
    dataset.insert([sample(kind, n) for n in numbers], keys=[f"k{n}" for n in numbers])


@pytest.fixture(params=["fixed", "variable"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def folder_of(reg: Registry) -> Path:
    """Return where the database's own files are."""
    if reg.engine.dialect.name == "sqlite":
        return Path(str(reg.engine.url.database)).parent
    with reg.engine.connect() as connection:
        connection.execute(text("CHECKPOINT"))
        query = "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database"
        folder = Path(connection.scalar(text(f"{query} WHERE datname = current_database()")) or "")
    if not os.access(folder, os.R_OK):
        pytest.skip(f"the server's files in {folder} cannot be read from here")
    return folder


def found_in(folder: Path, number: int) -> list[str]:
    """Return the files that hold a sample's content."""
    wanted = content(number).encode()
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if wanted in path.read_bytes())


def test_no_file_of_the_database_or_a_mirror_has_the_content(
    reg: Registry, kind: str, cache: Path
) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 300)
    dataset.update("k7", data=sample(kind, 1007)["data"])
    run = dataset.run("r")
    run.epoch(0)
    waiting = {"dataset": dataset.id, "fields": f'{{"data": "{content(2007)}"}}'}
    with reg.engine.begin() as connection:
        columns = "INSERT INTO inbox (dataset_id, key, fields, error)"
        for error in ("NULL", "'does not fit'"):
            connection.execute(
                text(f"{columns} VALUES (:dataset, 'k7', :fields, {error})"), waiting
            )
    secrets = (7, 1007, 2007)
    assert all(found_in(folder_of(reg), number) for number in secrets)
    assert found_in(cache, 7)
    assert found_in(cache, 1007)

    done = dataset.erase("k7", full=True)

    assert (done.rows, done.inbox_rows, done.remains) == (2, 2, None)
    run.epoch(1)
    for number in secrets:
        assert found_in(folder_of(reg), number) == []
        assert found_in(cache, number) == []
    assert found_in(folder_of(reg), 8)
    assert found_in(cache, 8)


def test_erased_rows_keep_their_positions_and_the_chain(reg: Registry, kind: str) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 10)
    dataset.update("k3", label=9)

    assert dataset.erase("k3", "k5").rows == 3

    (page,) = dataset.pages()
    assert page.erased.tolist() == [3, 5, 10]
    assert page.retracted.tolist() == [11, 12]
    assert page.positions.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert len(page["label"]) == len(dataset) == 8
    assert dataset.head.erased == 3
    assert [(result.differs, result.erased) for result in dataset.verify()] == [(None, 3)]


def test_the_history_of_an_erased_key_has_its_revisions_without_samples(
    reg: Registry, kind: str
) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 10)
    dataset.update("k3", label=9)

    dataset.erase("k3")

    history = dataset.history("k3")
    assert [(row.entry.position, row.entry.action, row.entry.erased) for row in history] == [
        (3, "insert", True),
        (10, "revise", True),
        (11, "retract", False),
    ]
    assert [row.sample for row in history] == [None] * 3
    assert history[-1].entry.source == "erase"


def test_erased_rows_are_found_by_number_and_by_position(reg: Registry, kind: str) -> None:
    dataset, other = make(reg, kind), make(reg, kind)
    for each in (dataset, other):
        fill(each, kind, 8)
    other.erase("k0", "k4")
    order = [5, 1, 2]
    for number in order:
        dataset.erase(f"k{number}")

    def numbers(erased: list[erasures.Erased]) -> list[int]:
        assert [row.key for row in erased] == [f"k{row.position}" for row in erased]
        return [row.position for row in erased]

    with reg.engine.connect() as connection:
        for first in range(4):
            erased = erasures.erased_from(connection, dataset.id, first)
            assert numbers(erased) == order[first:]
        for after, until in itertools.combinations(range(8), 2):
            inside = [number for number in order if after <= number < until]
            erased = erasures.erased_between(connection, dataset.id, after, until)
            assert numbers(erased) == inside
            erased = erasures.erased_at(connection, dataset.id, [until, after])
            assert numbers(erased) == [number for number in order if number in (after, until)]


@pytest.mark.parametrize("full", [False, True])
def test_erasing_rewrites_the_files_of_postgresql_only_when_asked_to(
    postgresql_url: str, *, full: bool
) -> None:
    query = text("SELECT pg_relation_filenode('samples'), pg_relation_filenode('inbox')")
    with registry.connect(postgresql_url) as reg:
        dataset = make(reg, "fixed")
        fill(dataset, "fixed", 3)
        with reg.engine.connect() as connection:
            before = connection.execute(query).one()
        dataset.erase("k1", full=full)
        with reg.engine.connect() as connection:
            after = connection.execute(query).one()
    assert [old != new for old, new in zip(before, after, strict=True)] == [full] * 2


def test_other_writers_commit_between_the_transactions_of_an_erasure(
    reg: Registry, url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They revise samples that are being erased, of which one has more rows than a transaction."""
    monkeypatch.setattr("registry.storage.log.erase._ROWS", 5)
    dataset = make(reg, kind)
    fill(dataset, kind, 20)
    for number in range(100, 112):
        dataset.insert([sample(kind, number)], keys=["k0"])
    numbers = itertools.count(1000)
    keys = [f"k{n}" for n in range(20)]
    with registry.connect(url) as other:
        opened = other.open(dataset.name)

        def revise(*_: object) -> None:
            number = next(numbers)
            opened.insert([sample(kind, number)], keys=[f"k{number % 25}"])

        # Whenever the eraser has ended a transaction; a lock that it kept would block this.
        listen(reg.engine, "checkin", revise)
        try:
            dataset.erase(*keys)
        finally:
            remove(reg.engine, "checkin", revise)
    log = dataset.entries()
    erased = [entry.position for entry in log if entry.source == "erase"]
    runs = [list(run) for _, run in itertools.groupby(erased, lambda p: log[p - 1].source)]
    assert len(erased) > 20
    assert max(map(len, runs)) <= 5
    for key in keys:
        history = dataset.history(key)
        last = max(n for n, each in enumerate(history) if each.entry.source == "erase")
        for revision in history[:last]:
            assert revision.entry.erased == (revision.entry.source != "erase")
        assert all(revision.sample for revision in history[last + 1 :])
    assert [result.differs for result in dataset.verify()] == [None]
    live = [key for key in {entry.key for entry in log} if dataset.history(key)[-1].sample]
    assert len(dataset) == len(live)


def test_a_version_from_before_an_erasure_has_no_erased_sample(reg: Registry, kind: str) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 10)
    before = dataset.version
    dataset.erase("k3")
    then = reg.open(str(before))
    assert then.version == before
    for opened in (dataset, then):
        with pytest.raises(SampleNotFoundError, match="'k3': it was erased; insert it again"):
            opened.get("k3")
    with pytest.raises(VersionError, match="never changes"):
        then.erase("k3")


def test_erasing_again_changes_nothing(reg: Registry, kind: str) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 3)
    dataset.retract("k1")
    assert dataset.erase("k1").rows == 1
    head = dataset.head
    assert dataset.erase("k1").rows == 0
    assert dataset.head == head


def test_erasing_an_unknown_key_erases_no_other(reg: Registry, kind: str) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 3)
    with reg.engine.begin() as connection:
        insert = text("INSERT INTO inbox (dataset_id, key, error) VALUES (:id, 'k0', 'no')")
        connection.execute(insert, {"id": dataset.id})
    with pytest.raises(SampleNotFoundError, match="'k9': no sample has this key"):
        dataset.erase("k0", "k9")
    assert dataset.get("k0")
    assert dataset.erase("k0").inbox_rows == 1


def test_erasing_a_key_leaves_the_rows_of_other_keys_in_the_inbox(reg: Registry, kind: str) -> None:
    """Also where a key has a row in the inbox alone: no row of the log is then erased."""
    dataset = make(reg, kind)
    fill(dataset, kind, 1)
    insert = text("INSERT INTO inbox (dataset_id, key, error) VALUES (:id, :key, :error)")
    with reg.engine.begin() as connection:
        for key in ("k0", "waiting", "other", None):
            for error in (None, "no"):
                values = {"id": dataset.id, "key": key, "error": error}
                connection.execute(insert, values)
    done = dataset.erase("waiting")
    assert (done.rows, done.inbox_rows) == (0, 2)
    done = dataset.erase("k0")
    assert (done.rows, done.inbox_rows) == (1, 2)
    with reg.engine.connect() as connection:
        left = connection.execute(text("SELECT key FROM inbox ORDER BY id")).scalars().all()
    assert left == ["other", "other", None, None]


def test_an_erased_key_can_be_inserted_and_erased_again(reg: Registry, kind: str) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 3)
    dataset.erase("k1")
    end = dataset.head.position
    dataset.insert([sample(kind, 4)], keys=["k1"])
    assert dataset.get("k1")["label"] == 4
    assert dataset.history("k1")[-1].entry.supersedes == end - 1
    dataset.retract("k1")
    with pytest.raises(SampleNotFoundError, match="it was retracted at position"):
        dataset.get("k1")
    assert dataset.erase("k1").rows == 1
    assert len(dataset) == 2
    assert [result.differs for result in dataset.verify()] == [None]


class Story:
    """A dataset that goes through any events, and all that its epochs held when they were pinned.

    ``k`` is the number of a sample.
    """

    def __init__(self, reg: Registry, kind: str) -> None:
        self.kind = kind
        self.dataset = make(reg, kind)
        policies = {"all": "all", "new": "new", "replay": Replay(0.5)}
        self.runs = {
            name: self.dataset.run(name, policy=policy, split="train")  # type: ignore[arg-type]
            for name, policy in policies.items()
        }
        self.pinned: list[tuple[str, int, list[int], list[Row]]] = []
        self.erased: set[int] = set()
        self.records: dict[int, Row | None] = {}
        self.fresh = itertools.count(1000)

    def tell(self, event: str, k: int) -> None:
        key = f"k{k}"
        known = self.dataset.history(key)
        if event == "insert":
            self.dataset.insert([sample(self.kind, next(self.fresh))], keys=[key])
        elif event == "retract" and known:
            self.dataset.retract(key)
        elif event == "erase" and known:
            self.erased.update(row.entry.position for row in known if row.sample is not None)
            self.dataset.erase(key)
        elif event == "pin" and len(self.dataset):
            self.pin()

    def pin(self) -> None:
        for name, run in self.runs.items():
            number = run.last.number + 1 if run.last else 0
            if (epoch := run.begin(number, timeout=0)) is not None:
                positions = epoch.positions(np.arange(epoch.size)).tolist()
                self.pinned.append((name, number, positions, yielded(epoch)))

    def check(self, reg: Registry) -> None:
        dataset = reg.open(self.dataset.name)
        for name, number, positions, samples in self.pinned:
            erased = sorted(self.erased.intersection(positions))
            run = dataset.run(name)
            if not erased:
                assert yielded(run.epoch(number)) == samples
                continue
            with pytest.raises(ErasedError, match=f"epoch {number} of run '{name}'") as caught:
                run.epoch(number)
            assert caught.value.positions == erased
        assert dataset.verify()[0].differs is None
        in_pages = [position for page in dataset.pages() for position in page.erased.tolist()]
        assert in_pages == sorted(self.erased)
        assert dataset.head.erased == len(self.erased)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "insert", "retract", "erase", "pin", "pin"]),
        st.integers(0, 9),
    ),
    max_size=30,
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS)
def test_an_epoch_yields_its_samples_or_says_which_were_erased(
    reg: Registry, kind: str, cache: Path, events: list[tuple[str, int]]
) -> None:
    """From the mirror that grew with it, from a new one, and from the database."""
    story = Story(reg, kind)
    for event, k in [*events, ("pin", 0), ("erase", 0), ("insert", 1), ("erase", 2)]:
        story.tell(event, k)
    story.check(reg)
    assert [result.differs for result in story.dataset.verify()] in ([None], [None, None])
    shutil.rmtree(cache, ignore_errors=True)
    story.check(reg)
    shutil.rmtree(cache, ignore_errors=True)
    cache.write_text("in the way")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            story.check(reg)
    finally:
        cache.unlink()


def test_erasing_ends_an_epoch_that_is_being_read_and_the_next_begins(
    reg: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.training.sharding.CHUNK_ROWS", 10)
    dataset = make(reg, kind)
    fill(dataset, kind, 100)
    run = dataset.run("r")
    run.epoch(0)
    fill(dataset, kind, 20, first=100)
    epoch = run.epoch(1)
    expected = yielded(epoch, 10)
    batches = epoch.batches(10)
    read = [next(batches)]
    key = dataset.entries()[int(epoch.positions(np.array([55]))[0])].key
    dataset.erase(key)
    reg.open(dataset.name).run("other").epoch(0)  # brings the mirror up, as another process may
    with pytest.raises(ErasedError, match=f"'{key}' at position") as caught:
        read.extend(batches)
    samples = [row for batch in read for row in rows(batch)]
    assert samples == expected[: len(samples)]
    assert "continue with the next epoch: run.record(consumed=220), then" in str(caught.value)
    run.record(consumed=220)
    assert run.epoch(2).start == 220
    batch = next(run.stream(7))
    again = next(run.epoch(2).batches(7))
    assert rows(batch) == rows(again)
    assert len(run.epoch(2)) == 119


def test_a_graph_reads_only_epochs_without_erased_samples(reg: Registry) -> None:
    dataset = make(reg, "fixed")
    fill(dataset, "fixed", 30)
    everything, train = dataset.run("all"), dataset.run("train", split="train")
    epoch, other = everything.epoch(0), train.epoch(0)
    samples = yielded(other)
    key = next(f"k{n}" for n in range(30) if dataset.split_of(f"k{n}") == "test")
    dataset.erase(key)
    everything.epoch(1)
    for opened in (other, reg.open(dataset.name).run("train").epoch(0)):
        assert in_graph(opened) == samples
    with pytest.raises(ErasedError, match="epoch 0 of run 'all' held a sample whose content"):
        EpochDataset(epoch, batch_size=4)


def in_graph(epoch: Epoch) -> list[Row]:
    batches = EpochDataset(epoch, batch_size=4).as_numpy_iterator()
    return [row for batch in batches for row in rows(batch)]


def test_a_version_with_erased_samples_is_not_exported(
    reg: Registry, kind: str, tmp_path: Path
) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 10)
    before = reg.open(str(dataset.version))
    dataset.erase("k3", "k4")
    path = tmp_path / "out.jsonl"
    assert export_file(dataset, path) == 8
    with pytest.raises(ErasedError, match=r"held 2 samples .*; read a later version"):
        export_file(before, path)
    assert len(path.read_text().splitlines()) == 8


ERASED = [3, 4, 12, 13, 14, 15, 21, 39]
"""Rows at the edges of blocks of four, a whole block, one inside, and the last."""
DAMAGED = [0, 2, 3, 5, 11, 13, 16, 20, 21, 22, 38, 39]
"""Rows next to them, and some of them."""


@pytest.fixture
def blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are repaired and scanned a few at a time, so that there are edges."""
    monkeypatch.setattr(mirror, "REPAIR_ROWS", 4)
    monkeypatch.setattr(mirror, "SCAN_ROWS", 8)


def damage(cache: Path, codec: Codec, position: int) -> None:
    """Flip a bit of a mirror's row."""
    flip(next(cache.glob("*/*/records")), position * RowLayout(codec).seals.stride, 1)


def held_in(folder: Path, numbers: Iterable[int]) -> list[int]:
    return [number for number in numbers if found_in(folder, number)]


def test_all_of_many_records_are_erased_and_named(
    reg: Registry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are too many for one statement."""
    monkeypatch.setattr("registry.storage.log.erase._ROWS", 10)
    dataset = make(reg, kind)
    fill(dataset, kind, 45)
    dataset.run("r").epoch(0)
    dataset.erase(*(f"k{n}" for n in range(35)))
    lengths = text("SELECT length(record) FROM samples WHERE record IS NOT NULL ORDER BY position")
    with reg.engine.connect() as connection:
        sizes = connection.execute(lengths).scalars().all()
    assert [size > 0 for size in sizes] == [False] * 35 + [True] * 10
    with pytest.raises(ErasedError) as caught:
        dataset.run("r").epoch(0)
    assert caught.value.positions == list(range(35))
    assert caught.value.keys == [f"k{n}" for n in range(35)]


def test_erasing_in_a_dataset_leaves_others_unchanged(
    reg: Registry, kind: str, cache: Path
) -> None:
    """Both have the same keys at the same positions, rows in the inbox, and erasures."""
    one, other = make(reg, kind), make(reg, kind)
    for dataset, first in ((one, 0), (other, 1000)):
        samples = [sample(kind, first + n) for n in range(20)]
        dataset.insert(samples, keys=[f"k{n}" for n in range(20)])
        dataset.update("k7", data=sample(kind, first + 100)["data"])
        dataset.run("r").epoch(0)
        rejected = {"dataset": dataset.id}
        with reg.engine.begin() as connection:
            columns = "INSERT INTO inbox (dataset_id, key, fields, error)"
            connection.execute(text(f"{columns} VALUES (:dataset, 'k7', '{{}}', 'no')"), rejected)
    before = other.head, [row.sample is None for row in other.history("k7")]
    other_rows = [row for page in other.pages() for row in rows(page.columns)]

    done = one.erase("k7", "k3")

    assert (done.rows, done.inbox_rows) == (3, 1)
    assert (other.head, [row.sample is None for row in other.history("k7")]) == before
    assert [row for page in other.pages() for row in rows(page.columns)] == other_rows
    with reg.engine.connect() as connection:
        assert connection.execute(text("SELECT dataset_id FROM inbox")).scalars().all() == [
            other.id
        ]
    other.erase("k5")
    epoch = other.run("r").epoch(1)
    assert yielded(epoch) == due(other, epoch)
    one.run("r").epoch(1)
    erased = {3: [3], 7: [7, 100], 5: [1005]}
    kept = {3: [1003], 7: [1007, 1100], 5: [5]}
    for key in (3, 5, 7):
        assert held_in(cache, erased[key]) == []
        assert held_in(cache, kept[key]) == kept[key]
    assert [(result.differs, result.erased) for result in one.verify()] == [(None, 3)] * 2
    assert [(result.differs, result.erased) for result in other.verify()] == [(None, 1)] * 2


def test_a_sqlite_file_has_no_content_left_without_secure_delete(
    sqlite_url: str, kind: str
) -> None:
    """SQLite can be built to overwrite what it deletes, as on some systems, but need not be."""
    with registry.connect(sqlite_url) as reg:
        reg.engine.dispose()

        @listens_for(reg.engine, "connect")
        def leave_bytes(connection: sqlite3.Connection, _: object) -> None:
            connection.execute("PRAGMA secure_delete = OFF")

        dataset = make(reg, kind)
        fill(dataset, kind, 100)
        assert found_in(folder_of(reg), 7)
        assert dataset.erase(*(f"k{n}" for n in range(50))).remains is None
        assert held_in(folder_of(reg), range(100)) == list(range(50, 100))


@pytest.mark.usefixtures("blocks_of_four")
def test_repairing_rows_leaves_their_neighbours_erased(
    reg: Registry, kind: str, cache: Path
) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 40)
    run = dataset.run("r")
    run.epoch(0)
    dataset.erase(*(f"k{n}" for n in ERASED))
    epoch = run.epoch(1)
    samples = yielded(epoch)
    for position in DAMAGED:
        damage(cache, epoch.codec, position)
        assert yielded(epoch) == samples
        assert yielded(reg.open(dataset.name).run("r").epoch(1)) == samples
        with pytest.raises(ErasedError) as caught:
            read_columns(epoch.source, epoch.schema, np.array(ERASED))
        assert caught.value.positions == ERASED
        assert held_in(cache, ERASED) == []
    assert [(result.differs, result.erased) for result in dataset.verify()] == [(None, 8)] * 2


@pytest.mark.usefixtures("blocks_of_four")
def test_an_older_copy_of_the_database_restores_nothing_in_a_shared_mirror(
    reg: Registry, kind: str, cache: Path
) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 40)
    run, split = dataset.run("r"), dataset.run("split", split="test")
    samples, test = yielded(run.epoch(0)), yielded(split.epoch(0))
    older = Backup(reg)
    dataset.erase(*(f"k{n}" for n in ERASED))
    present = yielded(run.epoch(1))
    with registry.connect(older.url) as other:
        copy = other.open(dataset.name)
        epoch = copy.run("copy").epoch(0)
        for position in DAMAGED:
            assert yielded(epoch) == samples, "the copy has them all"
            assert held_in(cache, ERASED) == []
            damage(cache, epoch.codec, position)
        if kind == "fixed":
            assert in_graph(epoch) == samples
            assert in_graph(copy.run("copy").epoch(0)) == samples
            assert in_graph(copy.run("another", split="test").epoch(0)) == test
        copy.verify()
    assert held_in(cache, ERASED) == []
    assert yielded(reg.open(dataset.name).run("r").epoch(1)) == present
    assert [(result.differs, result.erased) for result in dataset.verify()] == [(None, 8)] * 2
    older.remove()


@pytest.mark.parametrize("parted", [False, True], ids=["behind", "parted"])
def test_a_mirror_takes_no_erased_row_from_an_older_copy(
    reg: Registry, kind: str, cache: Path, *, parted: bool
) -> None:
    """The mirror does not have that row yet: it was made for an earlier epoch."""
    dataset = make(reg, kind)
    fill(dataset, kind, 20)
    dataset.run("r").epoch(0)
    shutil.copytree(cache, saved := cache.with_name("kept"))
    if parted:
        older = Backup(reg)
    fill(dataset, kind, 20, first=20)
    if not parted:
        dataset.erase("k25")  # in both databases, on the same page as the other one
        older = Backup(reg)
    dataset.erase("k30")
    shutil.rmtree(cache)
    shutil.copytree(saved, cache)
    reg.open(dataset.name).run("r").epoch(0)
    with registry.connect(older.url) as other:
        copy = other.open(dataset.name)
        if parted:
            fill(copy, kind, 20, first=520)
        epoch = copy.run("copy").epoch(0)
        assert yielded(epoch) == due(copy, epoch)
        assert held_in(cache, [10, 30, 530]) == ([10, 530] if parted else [10])
        assert [result.differs for result in copy.verify()] == [None, None]
    older.remove()


KILLED = """
import os, signal, sys
import registry
from registry.storage.mirror import appender
left = int(sys.argv[2])
write = appender.write_all
def dying(file, data):
    global left
    if left == 0:
        file.write(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(file, data)
appender.write_all = dying
with registry.connect(sys.argv[1]) as reg:
    reg.open("killed").run("r").epoch(0)
"""


def test_the_next_process_completes_an_erasure_killed_at_any_write(
    sqlite_url: str, kind: str, cache: Path
) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("killed", FEATURES[kind], splits={"train": 0.5, "test": 0.5})
        fill(dataset, kind, 20)
        dataset.run("r", split="train").epoch(0)
        samples = yielded(dataset.run("r").epoch(0))
        shutil.copytree(cache, saved := cache.with_name("kept"))
        keys = [f"k{n}" for n in range(20) if dataset.split_of(f"k{n}") == "test"]
        # Rows next to each other are written together, the first and the last are not.
        erased = [*keys[:2], keys[-1]]
        dataset.erase(*erased)
        for step in itertools.count():
            shutil.rmtree(cache)
            shutil.copytree(saved, cache)
            code = run_python(KILLED, sqlite_url, str(step)).returncode
            opened = reg.open("killed")
            assert yielded(opened.run("r").epoch(0)) == samples
            assert [result.differs for result in opened.verify()] == [None, None]
            assert [found_in(cache, int(key[1:])) for key in erased] == [[], [], []]
            if code == 0:
                break
            assert code == -signal.SIGKILL
        assert step >= 3


def test_erasing_moves_no_row_among_concurrent_writers_and_followers(  # noqa: C901  # all concurrent workers
    reg: Registry, kind: str
) -> None:
    dataset = make(reg, kind)
    fill(dataset, kind, 60)
    run = dataset.run("r")

    refused: set[str] = set()

    def write(worker: int) -> None:
        for n in range(5):
            fill(reg.open(dataset.name), kind, 3, first=1000 * worker + 3 * n)

    def erase(_: int) -> None:
        for n in range(10):
            reg.open(dataset.name).erase(f"k{n}", f"k{n + 1}")

    def sync(_: int) -> None:
        for number in range(5):
            try:
                yielded(reg.open(dataset.name).run("r").epoch(number), 64)
            except ErasedError as error:
                refused.update(error.keys)

    def follow(_: int) -> Iterator[tuple[int, int]]:
        for page in reg.open(dataset.name).follow():
            yield page.start, page.stop
            if page.stop == 60 + 30 + 11:
                return

    with ThreadPoolExecutor() as pool:
        following = pool.submit(lambda: list(follow(0)))
        jobs = [(write, 1), (write, 2), (erase, 0), (erase, 0), (sync, 0)]
        for job in [pool.submit(work, worker) for work, worker in jobs]:
            job.result()
        ranges = following.result(timeout=60)
    assert refused <= {f"k{n}" for n in range(11)}
    assert ranges[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    with reg.engine.connect() as connection:
        numbers = text("SELECT number, position FROM erasures WHERE dataset_id = :id ORDER BY 1")
        erased = connection.execute(numbers, {"id": dataset.id}).all()
    assert [number for number, _ in erased] == list(range(11))
    assert sorted(position for _, position in erased) == list(range(11))
    assert len(dataset) == 60 + 30 - 11
    run.epoch(run.last.number + 1 if run.last else 0)
    assert [(result.differs, result.erased) for result in dataset.verify()] == [(None, 11)] * 2


@pytest.mark.parametrize(
    "change",
    [
        "record = 'x'",
        "record = NULL",
        "record = {empty}, key = 'other'",
        "record = {empty}, chain = {empty}",
        "record = {empty}, supersedes = 0",
        "record = {empty}, source = 'other'",
        "position = position + 10",
    ],
)
def test_the_database_allows_no_change_but_emptying_a_record(reg: Registry, change: str) -> None:
    dataset = make(reg, "fixed")
    fill(dataset, "fixed", 2)
    dataset.retract("k1")
    empty = "x''" if reg.engine.dialect.name == "sqlite" else "''::bytea"
    for assignment in (change.format(empty=empty), f"record = {empty}, key = key || 'x'"):
        with (
            pytest.raises(Exception, match="samples are append-only"),
            reg.engine.begin() as connection,
        ):
            connection.execute(text(f"UPDATE samples SET {assignment}"))
    with pytest.raises(Exception, match="append-only"), reg.engine.begin() as connection:
        connection.execute(text(f"UPDATE samples SET record = {empty} WHERE record IS NULL"))
    assert [result.differs for result in dataset.verify()] == [None]
    with reg.engine.begin() as connection:
        connection.execute(text(f"UPDATE samples SET record = {empty} WHERE position = 0"))
    # No erasure is recorded for it, so the record was lost in another way.
    assert [result.differs for result in dataset.verify()] == [0]


def test_erasing_needs_its_own_rights(postgresql_url: str) -> None:
    name = f"registry_eraser_{os.getpid()}"
    url = make_url(postgresql_url)
    with registry.connect(postgresql_url) as reg:
        dataset = make(reg, "fixed")
        fill(dataset, "fixed", 2)
    psql(
        postgresql_url,
        f"""
        CREATE ROLE {name} LOGIN PASSWORD 'secret';
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};
        GRANT INSERT ON samples TO {name};
        GRANT UPDATE (position, live, chain, updated_at) ON heads TO {name};
        GRANT DELETE ON inbox TO {name};
        """,
    )
    mine = url.set(username=name, password="secret").render_as_string(hide_password=False)
    try:
        with registry.connect(mine) as reg:
            opened = reg.open(dataset.name)
            with pytest.raises(PermissionDeniedError):
                opened.erase("k0")
            assert opened.get("k0")
            psql(
                postgresql_url,
                f"""
                GRANT UPDATE (record) ON samples TO {name};
                GRANT UPDATE (erased) ON heads TO {name};
                GRANT INSERT ON erasures TO {name};
                GRANT UPDATE (fields) ON tool_annotations TO {name};
                """,
            )
            done = opened.erase("k0")
            assert done.rows == 1
            assert "permission denied to vacuum" in str(done.remains)
    finally:
        psql(postgresql_url, f"DROP OWNED BY {name}; DROP ROLE {name};")


def test_the_command_asks_first_and_reports_what_it_erased(reg: Registry, url: str) -> None:
    dataset = make(reg, "fixed")
    fill(dataset, "fixed", 3)
    command("erase", dataset.name, "k1", url=url, code=1)
    assert dataset.get("k1")
    result = command("erase", dataset.name, "k1", "k2", "--yes", url=url)
    assert result.stdout == f"{dataset.name}: 2 rows of the log erased, 0 of the inbox\n"
    free = "note: PostgreSQL keeps the bytes, out of SQL's reach, in free space of its files"
    assert (free in result.stderr) == (reg.engine.dialect.name == "postgresql")
    assert (
        "5 rows, 2 of them erased match the stored"
        in command("verify", dataset.name, url=url).stdout
    )
    assert "inserts (erased)" in command("log", dataset.name, url=url).stdout
    assert (
        "no sample has this key"
        in command("erase", dataset.name, "k9", "-y", url=url, code=1).stderr
    )
