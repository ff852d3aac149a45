"""Epochs of a run: which one holds a sample, what is read at a time, what of it was erased."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from platformdirs import user_cache_path

import registry
from registry import Dataset, Epoch, Registry, Replay, Tensor, Text
from registry.errors import DivergenceError, EpochError, ErasedError
from registry.storage.mirror import index
from registry.training import batching, pin_store
from registry.training.chunks import CACHED_BYTES, COPIED_BYTES, GATHERED_ROWS
from registry.training.mirror_source import cache_folder
from registry.training.pin_store import Pin, insert_or_find
from registry.training.policy import Policy
from registry.training.sharding import CHUNK_ROWS, Share
from tests.faults.test_mirror import flip


@pytest.fixture
def dataset(reg: Registry) -> Dataset:
    """An empty dataset."""
    return reg.create("samples", {"n": Tensor("int64")})


def fill(dataset: Dataset, after: int, until: int) -> None:
    serials = range(after, until)
    dataset.insert([{"n": n} for n in serials], keys=[f"k{n}" for n in serials])


def serials(epoch: Epoch) -> list[int]:
    return [n for batch in epoch.batches(100) for n in batch["n"].tolist()]


def test_an_epoch_without_samples_says_what_holds_none(reg: Registry) -> None:
    dataset = reg.create("split", {"n": Tensor("int64")}, splits={"one": 0.5, "two": 0.5})
    lacks: dict[Policy, str] = {"all": "no sample yet", "new": "nothing new"}
    for (policy, lack), split in itertools.product(lacks.items(), (None, "one")):
        holder = "dataset" if split is None else "split 'one'"
        run = dataset.run(f"{policy} {split}", policy=policy, split=split)
        with pytest.raises(EpochError, match=f"the {holder} holds {lack}$"):
            run.epoch(0, timeout=0)
        assert run.begin(0, timeout=0) is None


def test_damage_that_is_noticed_amid_a_lookup_changes_no_sample(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "BLOCK", 4)
    monkeypatch.setattr(index, "DECODED_ENTRIES", 0)
    fill(dataset, 0, 40)
    dataset.retract("k3")
    epoch = dataset.run("r").epoch(0)
    expected = serials(epoch)
    assert epoch.index.files is not None
    assert epoch.index.cells is not None
    last = epoch.order([epoch.size - 1])[0]
    flip(epoch.index.files.entries, 8 * int(epoch.index.cells[0] + last), 3)
    assert serials(epoch) == expected


@pytest.mark.parametrize("size", [3, 5])
def test_an_epoch_whose_samples_are_not_all_there_is_refused(dataset: Dataset, size: int) -> None:
    fill(dataset, 0, 5)
    dataset.retract("k0")
    run, head = dataset.run("r"), dataset.head
    pin = Pin(0, 0, head.position, head.chain, size, 0)
    assert insert_or_find(run.log.engine, run._settings, pin) == pin
    with pytest.raises(DivergenceError, match=rf"pinned with {size} samples, .* has 4 for it"):
        run.epoch(0)


def test_of_two_pins_of_an_epoch_the_first_stays(dataset: Dataset) -> None:
    fill(dataset, 0, 5)
    run, head = dataset.run("r"), dataset.head
    epoch = run.epoch(0)
    later = Pin(0, 0, head.position, bytes(16), 4, 1)
    stored = insert_or_find(run.log.engine, run._settings, later)
    assert stored == run.pin(0) == Pin(0, 0, 5, head.chain, 5, 0)
    assert serials(epoch) == serials(run.epoch(0))


def test_a_worker_reads_all_samples_of_a_pin_that_another_has_made_of_a_later_head(
    reg: Registry, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(dataset, 0, 4)
    slower, faster = dataset.run("r"), reg.open("samples").run("r")

    def after_another(*arguments: Any) -> Pin:
        monkeypatch.setattr(pin_store, "insert_or_find", insert_or_find)
        fill(dataset, 4, 9)
        assert faster.epoch(0).size == 9
        return insert_or_find(*arguments)

    monkeypatch.setattr(pin_store, "insert_or_find", after_another)
    epoch = slower.epoch(0)
    assert sorted(serials(epoch)) == list(range(9))
    assert serials(epoch) == serials(faster.epoch(0))


def test_every_sample_of_a_run_is_in_one_epoch(dataset: Dataset) -> None:
    run = dataset.run("r", policy="new")
    assert run.locate(0) == (0, 0)
    with pytest.raises(EpochError, match="so it has no sample -1"):
        run.locate(-1)
    expected = []
    for number, (after, until) in enumerate([(0, 3), (3, 4), (4, 6)]):
        fill(dataset, after, until)
        assert run.epoch(number).start == after
        expected += [(number, offset) for offset in range(until - after)]
    assert [run.locate(sample) for sample in range(7)] == [*expected, (3, 0)]
    assert [run.at(sample).number for sample in range(6)] == [0, 0, 0, 1, 2, 2]
    with pytest.raises(DivergenceError, match=r"at sample 7, .* end at sample 6"):
        run.locate(7)


@pytest.mark.parametrize("policy", ["all", "new"])
def test_a_watermark_is_covered_by_the_first_epoch_that_reaches_it(
    dataset: Dataset, policy: Policy
) -> None:
    other, run = dataset.run("other"), dataset.run("r", policy=policy)
    with pytest.raises(EpochError, match="epoch 0 of run 'r': the dataset holds"):
        run.covering(0)
    fill(dataset, 0, 4)
    assert run.covering(0).number == 0
    fill(dataset, 4, 8)
    assert (run.epoch(1).number, other.epoch(0).watermark) == (1, 8)
    assert [run.covering(n).number for n in range(9)] == [0] * 5 + [1] * 4
    if policy == "new":
        assert run.covering(9).number == 1, "nothing new"
    fill(dataset, 8, 9)
    newest = run.covering(9)
    assert (newest.number, newest.watermark) == (2, 9)
    dataset.erase("k0")
    after_erased = run.covering(0)
    assert after_erased.number == (3 if policy == "all" else 2)


def test_a_waiting_reader_is_asked_again_and_pins_no_epoch_early(dataset: Dataset) -> None:
    run = dataset.run("r", policy="new")
    chunks = run.chunks(Share.of(2, (0, 1)), 0, patience=0)
    assert [next(chunks), next(chunks)] == [None, None]
    fill(dataset, 0, 5)
    read = [next(chunks), next(chunks)]
    assert [(each[0].number, each[1].tolist()) for each in read if each] == [
        (0, [0, 1]),  # a single batch, so that training begins soon
        (0, [2, 3, 4]),
    ]
    assert run.pin(1) is None
    fill(dataset, 5, 6)
    each = next(chunks)
    assert each is not None
    assert (each[0].number, each[1].tolist()) == (1, [0])
    assert next(chunks) is None


@pytest.mark.parametrize("feature", [Tensor("int64"), Text()])
def test_a_few_mib_of_whole_batches_are_gathered_at_a_time(sqlite_url: str, feature: Any) -> None:
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("samples", {"x": feature})
        dataset.insert([{"x": 1 if isinstance(feature, Tensor) else "one"}])
        epoch = dataset.run("r").epoch(0)
    size = CACHED_BYTES if isinstance(feature, Tensor) else COPIED_BYTES
    for record_bytes in (0, 1, 96, 97, 1000, COPIED_BYTES, 4 * COPIED_BYTES):
        epoch.source = SimpleNamespace(record_bytes=record_bytes)
        rows = max(1, min(GATHERED_ROWS, size // max(1, record_bytes)))
        for batch_size in (1, 2, 7, 1000, 2 * CHUNK_ROWS):
            chunk = epoch.chunk_rows(batch_size)
            assert chunk % batch_size == 0
            assert chunk == batch_size or rows - batch_size < chunk <= rows
        assert epoch.chunk_rows() == rows


def test_positions_and_samples_are_read_in_whole_batches(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(dataset, 0, 20)
    epoch = dataset.run("r").epoch(0)
    monkeypatch.setattr("registry.training.chunks.CACHED_BYTES", 8 * epoch.source.record_bytes)
    offsets = np.arange(1, 20)
    pairs = list(epoch.samples(offsets, 3))
    assert [len(positions) for positions, _ in pairs] == [6, 6, 6, 1]
    assert np.concatenate([p for p, _ in pairs]).tolist() == epoch.positions(offsets).tolist()
    for positions, columns in pairs:
        assert list(columns["n"]) == positions.tolist()
    narrow = [columns["n"].tolist() for columns in epoch.columns(offsets)]
    assert [len(part) for part in narrow] == [16, 3]
    assert list(itertools.chain(*narrow)) == epoch.positions(offsets).tolist()
    assert [len(part["n"]) for part in epoch.columns(offsets, 3)] == [12, 7]


def test_whole_batches_are_views_of_the_parts_that_were_read() -> None:
    parts = [{"n": np.arange(after, after + 4)} for after in (0, 4)]
    numbers = [batch["n"] for batch in batching.batches(parts, 2)]
    assert [number.tolist() for number in numbers] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for number, part in zip(numbers, [parts[0], parts[0], parts[1], parts[1]], strict=True):
        assert np.shares_memory(number, part["n"])


def test_a_replay_refuses_exactly_the_erased_samples_that_it_drew(
    dataset: Dataset,
) -> None:
    run = dataset.run("r", policy=Replay(0.5))
    fill(dataset, 0, 8)
    run.epoch(0)
    fill(dataset, 8, 16)
    epoch = run.epoch(1)
    drawn = set(epoch.positions(np.arange(12)).tolist()) & set(range(8))
    assert len(drawn) == 4
    erased: list[int] = []
    for position in range(8):
        dataset.erase(f"k{position}")
        if position in drawn:
            erased.append(position)
        if not erased:
            assert run.epoch(1).size == 12
            continue
        with pytest.raises(ErasedError, match=r"run\.record\(consumed=20\), then") as caught:
            run.epoch(1)
        assert caught.value.positions == erased
        assert caught.value.keys == [f"k{n}" for n in erased]


def test_a_replay_of_as_many_samples_as_new_rows_has_the_older_ones_too(
    reg: Registry, dataset: Dataset
) -> None:
    fill(dataset, 0, 8)
    dataset.run("r", policy=Replay(1.0)).epoch(0)
    fill(dataset, 8, 12)
    for number in range(8, 12):
        dataset.update(f"k{number}", n=-number)
    for opened in (dataset, reg.open("samples")):  # pinned now, and pinned before
        epoch = opened.run("r").epoch(1)
        assert epoch.size == epoch.watermark - epoch.since == 8
        read = sorted(serials(epoch))
        assert read[:4] == [-11, -10, -9, -8]
        assert set(read[4:]) < set(range(8))


def test_an_epoch_of_all_rows_needs_no_index_file(dataset: Dataset, cache: Path) -> None:
    run = dataset.run("r", policy="new")
    for number, (after, until) in enumerate([(0, 5), (5, 7)]):
        fill(dataset, after, until)
        assert sorted(serials(run.epoch(number))) == list(range(after, until))
    assert list(cache.glob("*/epochs/*")) == []


def test_replaying_an_earlier_epoch_does_not_hide_that_a_run_was_further(
    reg: Registry, dataset: Dataset
) -> None:
    fill(dataset, 0, 5)
    run = dataset.run("r")
    for number in (0, 1, 0):
        run.epoch(number)
    reg.open("samples").run("r").epoch(0)
    with reg.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM epochs WHERE number = 1")
    for later in (run, reg.open("samples").run("r")):
        for number in (0, 1):
            with pytest.raises(DivergenceError, match=r"reached epoch 1 at position 5 .* no such"):
                later.epoch(number)


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_setting_mirrors_are_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache"
    if given is None:
        monkeypatch.delenv("REGISTRY_CACHE")
    else:
        monkeypatch.setenv("REGISTRY_CACHE", given)
    assert cache_folder() == user_cache_path("registry")
