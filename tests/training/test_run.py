"""Runs and epochs: every sample exactly once, in an order that replays permanently."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import delete, event, func, join, select

import registry
from registry import ClassLabel, Dataset, Epoch, Registry, Replay, Run, Tensor, Text
from registry.errors import (
    DivergenceError,
    EpochError,
    ErasedError,
    FeatureError,
    RewindError,
    RunMismatchError,
)
from registry.samples.features import Feature
from registry.storage.database import models
from registry.storage.database.exchange import Query
from registry.storage.database.pipeline import PipelinedConnection
from registry.storage.log.following import Growth, await_growth
from registry.training.policy import Policy
from tests.support.processes import started
from tests.support.serial_samples import NARROW, WIDE, Row, check_machine, sample
from tests.support.workers import FEATURES, POLICIES, Epochs, keep_changing, train

numbers = itertools.count()

SPLITS = {"train": 0.7, "test": 0.3}


def rows(batch: Mapping[str, Any]) -> list[Row]:
    columns = ([plain(value) for value in column.tolist()] for column in batch.values())
    return list(zip(*columns, strict=True))


def plain(value: object) -> object:
    """Return a value with tuples in place of lists, so that it can be hashed."""
    return tuple(value) if isinstance(value, list) else value


def serials(epoch: Epoch, **options: Any) -> list[int]:
    return [n for batch in epoch.batches(100, **options) for n in batch["serial"].tolist()]


def fill(dataset: Dataset, after: int, until: int) -> None:
    dataset.insert(
        [sample(n) for n in range(after, until)], keys=[f"k{n}" for n in range(after, until)]
    )


def joined(shards: Sequence[Iterator[dict[str, Any]]]) -> list[list[Row]]:
    """Return the global steps that the workers' batches make up."""
    steps = itertools.zip_longest(*shards, fillvalue={})
    return [[row for batch in step for row in rows(batch)] for step in steps]


@pytest.fixture
def dataset(reg: Registry) -> Dataset:
    """An empty dataset with splits."""
    return reg.create("samples", NARROW, splits=SPLITS)


Sample = Mapping[str, object]
"""A sample in the model: the values that it was inserted with, by feature."""
ADDED: dict[str, tuple[Feature, object]] = {
    "text": (Text(), "ø"),
    "pair": (Tensor("float32", (2,)), (0.5, 0.5)),
    "more": (Text(), ""),
    "mark": (Tensor("int16"), -1),
}
"""Features that are added while a dataset is in use, with their defaults."""
DEFAULTS = {name: default for name, (_, default) in ADDED.items()}
MIXED_LABELS = [0, 1, 2, 3]


@dataclass
class Pinned:
    """An epoch in the model: its watermark, its features, and its samples in order."""

    watermark: int
    chain: bytes
    start: int
    features: Mapping[str, Feature]
    samples: list[Sample]
    needed: set[object]
    """The serial numbers of samples without which the epoch cannot be opened."""

    @property
    def rows(self) -> list[Row]:
        return [row_of(sample, self.features) for sample in self.samples]

    @property
    def stop(self) -> int:
        return self.start + len(self.samples)


def row_of(sample: Sample, features: Iterable[str]) -> Row:
    """Return what reading a sample in these features must result in."""
    return tuple(sample[name] if name in sample else DEFAULTS[name] for name in features)


KEYS = st.sampled_from([f"k{n}" for n in range(12)])
SHARDS = st.sampled_from([1, 2, 4])
SIZES = st.integers(1, 9)
POLICY = st.sampled_from(["all", "new", Replay(0.5)])
WHERE = st.sampled_from([None, {"label": [0, 1, 2, 3, 4, 5]}])


class Training(RuleBasedStateMachine):
    """A run on a changing dataset, and a model of it: the log and the epochs as lists.

    ``features`` are the dataset's, ``streamed`` those that it had when the run was opened, and
    ``schemas`` has each of them with the position from which on it was in force. ``versions`` has
    the position and the features of each tag, and ``papers`` the epochs of runs on these versions,
    by name and number. ``samples`` are all that there ever were, by serial number, and ``mixed``
    the serial numbers in a mix of two more runs.
    """

    def __init__(self, reg: Registry, cache: Path) -> None:
        super().__init__()
        self.reg = reg
        self.cache = cache
        self.name = f"d{next(numbers)}"
        self.log: list[tuple[str, Sample | None]] = []
        self.epochs: list[Pinned] = []
        self.serial = itertools.count()
        self.added: set[str] = set()
        self.erased: set[object] = set()
        self.versions: dict[str, tuple[int, Mapping[str, Feature]]] = {}
        self.papers: dict[tuple[str, int], Pinned] = {}
        self.samples: dict[object, Sample] = {}
        self.mixed: list[object] = []
        self.following: tuple[Iterator[dict[str, Any]], int, int] | None = None

    @initialize(
        policy=POLICY,
        split=st.sampled_from([None, "train"]),
        features=st.sampled_from([NARROW, WIDE]),
        where=WHERE,
    )
    def begin(
        self,
        policy: Policy,
        split: str | None,
        features: dict[str, Feature],
        where: dict[str, list[int]] | None,
    ) -> None:
        self.features = self.streamed = features
        self.schemas = [(0, features)]
        self.policy = policy
        self.labels = range(len(ADDED) + 20) if where is None else where["label"]
        self.dataset = self.reg.create(self.name, features, splits=SPLITS)
        self.run = self.dataset.run("run", seed=5, split=split, policy=policy, where=where)
        self.insert([f"k{n}" for n in range(12)])

    # The model.

    def latest(self, watermark: int) -> dict[str, tuple[int, Sample | None]]:
        """Return each key's last position and sample before the watermark."""
        revisions = ((k, (p, sample)) for p, (k, sample) in enumerate(self.log[:watermark]))
        return {k: v for k, v in revisions if self.run.split in (None, self.dataset.split_of(k))}

    def population(
        self, number: int, watermark: int
    ) -> tuple[dict[object, Sample], dict[object, Sample], int]:
        """Return an epoch's new samples by serial number, the older ones, and how many it draws."""
        since = self.epochs[number - 1].watermark if number and self.policy != "all" else 0
        alive = [
            (p, s)
            for p, s in self.latest(watermark).values()
            if s is not None and s["label"] in self.labels
        ]
        new, older = (
            {s["serial"]: s for p, s in alive if (p >= since) == side} for side in (True, False)
        )
        draws = math.floor(0.5 * len(new) + 0.5) if isinstance(self.policy, Replay) else 0
        return new, older, min(len(older), draws)

    @property
    def pinned(self) -> int:
        return self.epochs[-1].stop if self.epochs else 0

    @property
    def reachable(self) -> int:
        """The samples that can be read without waiting, in at most two more epochs."""
        new, _, draws = self.population(len(self.epochs), len(self.log))
        return self.pinned + (2 if self.policy == "all" else 1) * (len(new) + draws if new else 0)

    def sequence(self, start: int, stop: int) -> list[Row]:
        samples = [sample for epoch in self.epochs for sample in epoch.samples][start:stop]
        assert len(samples) == stop - start
        return [row_of(sample, self.streamed) for sample in samples]

    def reach(self, stop: int) -> None:
        """Check the epochs that reading up to here must have pinned, and add them to the model."""
        while self.pinned < stop:
            self.take_note(self.run.epoch(len(self.epochs)))

    def take_note(self, epoch: Epoch) -> None:
        number, head = len(self.epochs), self.dataset.head
        before = self.epochs[-1] if self.epochs else Pinned(0, b"", 0, {}, [], set())
        assert (epoch.number, epoch.since, epoch.start) == (number, before.watermark, before.stop)
        assert (epoch.watermark, epoch.chain) == (len(self.log), head.chain)
        assert dict(epoch.features) == self.features
        read = [row for batch in epoch.batches(100) for row in rows(batch)]
        new, older, draws = self.population(number, epoch.watermark)
        assert epoch.size == len(read) == len(set(read)) == len(new) + draws
        assert new.keys() <= {row[0] for row in read} <= new.keys() | older.keys()
        samples = [{**new, **older}[row[0]] for row in read]
        # A draw by conditions counts all older samples that meet them.
        needed = {row[0] for row in read} | (older.keys() if self.run.where else set())
        pinned = Pinned(epoch.watermark, epoch.chain, epoch.start, self.features, samples, needed)
        assert read == pinned.rows
        self.epochs.append(pinned)

    # What happens to the dataset.

    def sample(self) -> Sample:
        """Return a new sample, which leaves out some of the added features."""
        serial, label = next(self.serial), self.features["label"]
        assert isinstance(label, ClassLabel)
        whole = {
            "serial": serial,
            "label": serial % label.count,
            "text": "å" * (serial % 7) + f"{serial}",
            "pair": (serial, -serial),
            "more": f"{serial}",
            "mark": serial % 100,
        }
        omitted = {name for name in self.added if (serial + len(name)) % 3 == 0}
        return {name: whole[name] for name in self.features if name not in omitted}

    @rule(keys=st.lists(KEYS, min_size=1, max_size=12))
    def insert(self, keys: list[str]) -> None:
        new = [self.sample() for _ in keys]
        self.dataset.insert(new, keys=keys)
        self.log += zip(keys, new, strict=True)
        self.samples.update({each["serial"]: each for each in new})

    @rule(key=KEYS)
    def update(self, key: str) -> None:
        if (before := dict(self.log).get(key)) is not None:
            values = self.sample()
            self.dataset.update(key, values)
            self.samples[values["serial"]] = {**before, **values}
            self.log.append((key, self.samples[values["serial"]]))

    @rule(key=KEYS)
    def retract(self, key: str) -> None:
        if dict(self.log).get(key) is not None:
            self.dataset.retract(key)
            self.log.append((key, None))

    @rule(other=st.booleans(), data=st.data())
    def change_schema(self, other: bool, data: st.DataObject) -> None:
        """Add a class or a feature, by this dataset or in another process."""
        dataset = self.reg.open(self.name) if other else self.dataset
        choices = ["label", *(name for name in ADDED if name not in self.features)]
        name = data.draw(st.sampled_from(choices))
        if name == "label":
            label = self.features["label"]
            assert isinstance(label, ClassLabel)
            dataset.add_classes("label", 1)
            self.features = {**self.features, "label": ClassLabel(label.count + 1)}
        else:
            feature, default = ADDED[name]
            dataset.add_feature(name, feature, default=default)
            self.features = {**self.features, name: feature}
            self.added.add(name)
        self.schemas.append((len(self.log), self.features))

    @precondition(lambda self: self.epochs and not self.erased)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        """Erase a key, once: epochs that held it break, and none that is pinned from now on."""
        trained = {sample["serial"] for sample in self.epochs[-1].samples}
        held = {key for key, s in self.log if s is not None and s["serial"] in trained}
        key = data.draw(st.sampled_from(sorted(held)))
        self.dataset.erase(key)
        self.erased = {s["serial"] for k, s in self.log if k == key and s is not None}
        self.log.append((key, None))
        self.following = None

    @precondition(lambda self: self.log)
    @rule(data=st.data(), name=st.sampled_from(["gold", "paper"]))
    def tag(self, data: st.DataObject, name: str) -> None:
        at = data.draw(st.none() | st.integers(1, len(self.log)))
        self.dataset.tag(name, at=at, move=True)
        # What is tagged now has features that no row has used yet.
        features = self.features
        if at is not None:
            features = next(each for since, each in reversed(self.schemas) if since < at)
        self.versions[name] = (len(self.log) if at is None else at, features)

    # What the trainer does.

    @rule()
    def pin(self) -> None:
        number = len(self.epochs)
        if self.population(number, len(self.log))[0]:
            self.take_note(self.run.epoch(number, timeout=0))
        else:
            with pytest.raises(EpochError, match=f"epoch {number} of run 'run'"):
                self.run.epoch(number, timeout=0)

    @precondition(lambda self: self.epochs)
    @rule(data=st.data(), count=SHARDS, size=SIZES, drop=st.booleans())
    def replay(self, data: st.DataObject, count: int, size: int, drop: bool) -> None:
        number = data.draw(st.integers(0, len(self.epochs) - 1))
        if self.erased & self.epochs[number].needed:
            with pytest.raises(ErasedError, match=f"epoch {number} of run 'run'"):
                self.run.epoch(number)
            return
        expected = self.epochs[number].rows
        start = data.draw(st.integers(0, len(expected)))
        epoch = self.run.epoch(number)
        shards = [
            epoch.batches(size, shard=(index, count), start=start, drop_remainder=drop)
            for index in range(count)
        ]
        left, whole = expected[start:], size * count
        steps = [left[at : at + whole] for at in range(0, len(left), whole)]
        if drop and steps and len(steps[-1]) < whole:
            steps.pop()
        assert joined(shards) == steps

    @rule(data=st.data(), count=SHARDS, size=SIZES, recorded=st.booleans())
    def resume(self, data: st.DataObject, count: int, size: int, recorded: bool) -> None:
        intact = [epoch.stop for epoch in self.epochs if self.erased & epoch.needed]
        start = data.draw(st.integers(max(intact, default=0), self.pinned))
        whole = size * count
        steps = data.draw(st.integers(0, (self.reachable - start) // whole))
        if recorded:
            self.run.record(start, rewind=True)
        shards = [
            itertools.islice(
                self.run.stream(size, shard=(index, count), start=None if recorded else start),
                steps,
            )
            for index in range(count)
        ]
        read_steps = joined(shards)
        assert [len(step) for step in read_steps] == [whole] * steps
        self.reach(start + steps * whole)
        read = [row for step in read_steps for row in step]
        assert read == self.sequence(start, start + steps * whole)

    @rule(size=SIZES, steps=st.integers(1, 3))
    def follow(self, size: int, steps: int) -> None:
        """Read on with an iterator that stays open while the dataset grows."""
        if self.following is None:
            self.following = (self.run.stream(size, start=self.pinned), self.pinned, size)
        batches, after, size = self.following
        for _ in range(min(steps, (self.reachable - after) // size)):
            batch = next(batches)
            self.reach(after + size)
            assert rows(batch) == self.sequence(after, after + size)
            after += size
        self.following = (batches, after, size)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        """Train on a tagged version: every epoch has its samples, with the features it had."""
        tag = data.draw(st.sampled_from(sorted(self.versions)))
        position, features = self.versions[tag]
        version = self.reg.open(f"{self.name}@{tag}")
        assert dict(version.features) == features
        samples = {s["serial"]: s for s in dict(self.log[:position]).values() if s is not None}
        assert len(version) == len(samples)
        name = f"on-{version.version}-{len(features)}-{features['label']}"
        number = sum(run == name for run, _ in self.papers)
        if self.erased & samples.keys():
            if number:
                with pytest.raises(ErasedError, match=f"epoch 0 of run '{re.escape(name)}'"):
                    version.run(name).epoch(0)
        elif samples:
            epoch = version.run(name, seed=5).epoch(number)
            read = [row for batch in epoch.batches(100) for row in rows(batch)]
            assert sorted(read) == sorted(row_of(s, features) for s in samples.values())
            drawn = [samples[row[0]] for row in read]
            self.papers[name, number] = Pinned(
                position, epoch.chain, epoch.start, features, drawn, {*samples}
            )

    def mix(self, dataset: Dataset) -> registry.Mix:
        """Return a mix of all samples and those of some labels, under policies of their own."""
        every = dataset.run("mix-every", seed=1, policy=self.policy)
        some = dataset.run("mix-some", seed=2, policy="new", where={"label": MIXED_LABELS})
        return registry.mix({every: 2, some: 1}, seed=3)

    def mixable(self) -> bool:
        """Return whether both parts of the mix have samples, and none was erased."""
        labels = (s["label"] for s in dict(self.log).values() if s is not None)
        return not self.erased and any(label in MIXED_LABELS for label in labels)

    @precondition(mixable)
    @rule(data=st.data(), count=SHARDS, size=SIZES, reopened=st.booleans())
    def read_mix(self, data: st.DataObject, count: int, size: int, reopened: bool) -> None:
        """Read a mix from anywhere: what was read before, and then what comes next."""
        mix = self.mix(self.reg.open(self.name) if reopened else self.dataset)
        start = data.draw(st.integers(0, len(self.mixed)))
        steps = data.draw(st.integers(1, 1 + 12 // (size * count)))
        shards = [
            itertools.islice(mix.batches(size, shard=(index, count), start=start), steps)
            for index in range(count)
        ]
        read = [row for step in joined(shards) for row in step]
        assert len(read) == steps * size * count
        assert read == [row_of(self.samples[row[0]], mix.features) for row in read]
        known = self.mixed[start : start + len(read)]
        assert [row[0] for row in read[: len(known)]] == known
        self.mixed += [row[0] for row in read[len(known) :]]

    @rule(lost=st.booleans())
    def die(self, lost: bool) -> None:
        """Restart: only the database stays and, unless it is ``lost``, the cache."""
        self.following = None
        self.dataset = self.reg.open(self.name)
        self.run, self.streamed = self.dataset.run("run"), self.features
        assert (self.run.policy, self.run.seed) == (self.policy, 5)
        if lost:
            shutil.rmtree(self.cache, ignore_errors=True)

    @invariant()
    def no_epoch_is_pinned_before_its_first_sample_is_read(self) -> None:
        with self.reg.engine.connect() as connection:
            count = connection.execute(
                select(func.count())
                .select_from(join(join(models.EpochRow, models.RunRow), models.DatasetRow))
                .where(models.DatasetRow.name == self.name, models.RunRow.name.not_like("mix-%"))
            ).scalar()
        assert count == len(self.epochs) + len(self.papers)

    def teardown(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        dataset = self.reg.open(self.name)
        if self.mixed and not self.erased:
            batches = itertools.islice(self.mix(dataset).batches(1, start=0), len(self.mixed))
            assert [serial for batch in batches for serial in batch["serial"]] == self.mixed
        pins = {**self.papers, **{("run", n): pinned for n, pinned in enumerate(self.epochs)}}
        # From the last to the first: a mirror that knows what came later must not let it show.
        for (run, number), pinned in reversed(pins.items()):
            if self.erased & pinned.needed:
                with pytest.raises(ErasedError):
                    dataset.run(run).epoch(number)
                continue
            epoch = dataset.run(run).epoch(number)
            assert dict(epoch.features) == pinned.features
            again = [row for batch in epoch.batches(5) for row in rows(batch)]
            assert again == pinned.rows


@pytest.mark.usefixtures("short_chunks")
def test_epochs_always_have_each_live_sample_once_and_replay(reg: Registry, cache: Path) -> None:
    check_machine(lambda: Training(reg, cache), examples=12, steps=30)


@pytest.mark.usefixtures("short_chunks")
def test_a_stopped_run_continues_with_exactly_the_remaining_samples(
    reg: Registry, dataset: Dataset
) -> None:
    fill(dataset, 0, 50)
    run, whole = dataset.run("r", seed=2), []
    for batch in itertools.islice(run.stream(16), 12):
        whole.append(rows(batch))
        fill(dataset, 50 + 3 * len(whole), 53 + 3 * len(whole))
    assert run.at(12 * 16 - 1).number >= 2
    for count in (1, 2, 4):
        for step in range(12):
            again = reg.open("samples").run("r")
            if step % 2:
                again.record(16 * step, rewind=True)
            start = None if step % 2 else 16 * step
            shards = [
                itertools.islice(
                    again.stream(16 // count, shard=(i, count), start=start), 12 - step
                )
                for i in range(count)
            ]
            assert joined(shards) == whole[step:]


def test_workers_agree_on_epochs_while_the_dataset_changes(
    reg: Registry, url: str, cache: Path
) -> None:
    dataset = reg.create("shared", FEATURES)
    dataset.insert([{"writer": 0, "serial": 0}])
    spawn = multiprocessing.get_context("spawn")
    start, done, reached, epochs = spawn.Barrier(4), spawn.Event(), spawn.Queue(), 4
    workers = [  # two for each of two cache directories, as on two machines
        (train, (url, f"{cache}{n % 2}", start, epochs, reached)) for n in range(4)
    ]
    running = started((keep_changing, (url, done)), *workers)
    results: list[dict[str, Epochs]] = [reached.get(timeout=120) for _ in workers]
    done.set()
    running.join()
    assert running.exitcode == 0
    assert results == [results[0]] * 4
    for name in POLICIES:
        assert len(results[0][name]) == epochs
        for since, watermark, chain, size, _, samples in results[0][name]:
            assert since < watermark
            assert dataset.entries(watermark - 1, watermark)
            assert str(reg.open(f"shared@{watermark}:{chain.hex()}").version)
            assert size == len(samples)
    watermarks = [epoch[1] for epoch in results[0]["every"]]
    assert sorted({*watermarks}) == watermarks


@pytest.mark.parametrize("policy", list(POLICIES.values()), ids=list(POLICIES))
def test_threads_that_share_a_run_agree_on_epochs(dataset: Dataset, policy: Policy) -> None:
    fill(dataset, 0, 40)
    run = dataset.run("r", split="train", policy=policy)
    for number in range(4):
        barrier, epochs = threading.Barrier(4), []

        def reach(number: int = number) -> None:
            barrier.wait(30)  # noqa: B023
            epoch = run.epoch(number)
            epochs.append((epoch.watermark, serials(epoch)))  # noqa: B023

        together(reach, 4)
        assert len(epochs) == 4
        assert epochs == [epochs[0]] * 4
        fill(dataset, 40 + 20 * number, 60 + 20 * number)


def test_new_rows_become_a_batch_in_three_exchanges_with_the_server(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges: list[int] = []
    run_queries = PipelinedConnection._run

    def counted(connection: PipelinedConnection, queries: Sequence[Query]) -> Any:
        exchanges.append(len(queries))
        return run_queries(connection, queries)

    with registry.connect(postgresql_url) as reg, registry.connect(postgresql_url) as labeler:
        dataset = reg.create("d", {"serial": Tensor("int64", ())})
        batches = dataset.run("r", policy="new").stream(1)
        rows = labeler.open("d")
        for serial in range(2):
            rows.insert([{"serial": serial}])
            assert next(batches)["serial"].tolist() == [serial]
        event.listen(reg.engine, "before_cursor_execute", lambda *given: pytest.fail(given[2]))
        rows.insert([{"serial": 2}])
        monkeypatch.setattr(PipelinedConnection, "_run", counted)
        assert next(batches)["serial"].tolist() == [2]
    # Whether the epoch is pinned; the head and the new rows; the pin.
    assert exchanges == [1, 2, 2]


def test_a_waiting_worker_takes_a_pin_of_samples_since_retracted(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it slept, a sample was inserted, pinned by another worker, and retracted."""
    fill(dataset, 0, 3)
    run, other = (dataset.run("r", policy="new") for _ in range(2))
    run.epoch(0)
    awake = [True]

    def sleep_through(*arguments: Any) -> Growth | None:
        if awake:
            awake.clear()  # now, since the other worker waits, too
            fill(dataset, 3, 4)
            assert other.epoch(1).size == 1
            dataset.retract("k3")
        return await_growth(*arguments)

    monkeypatch.setattr("registry.training.pinning.await_growth", sleep_through)
    assert serials(run.epoch(1, timeout=2)) == [3]


def test_new_epochs_have_new_and_revised_samples_and_wait_for_them(dataset: Dataset) -> None:
    fill(dataset, 0, 10)
    run = dataset.run("tail", policy="new")
    assert sorted(serials(run.epoch(0))) == list(range(10))
    with pytest.raises(EpochError, match="epoch 1 of run 'tail': the dataset holds nothing new"):
        run.epoch(1, timeout=0.05)
    dataset.retract("k1")
    with pytest.raises(EpochError, match="the dataset holds nothing new"):
        run.epoch(1, timeout=0.05)
    fill(dataset, 10, 12)
    dataset.update("k2", serial=102)
    dataset.update("k10", serial=110)
    dataset.retract("k3")
    assert sorted(serials(run.epoch(1))) == [11, 102, 110]
    later = threading.Timer(0.3, fill, (dataset, 12, 14))
    later.start()
    assert sorted(serials(run.epoch(2))) == [12, 13]
    later.join()
    assert sorted(serials(run.epoch(0))) == list(range(10))


def test_a_stream_of_new_samples_has_each_revision_once(dataset: Dataset) -> None:
    fill(dataset, 0, 20)
    stream = dataset.run("tail", policy="new").stream(5)
    read = [n for batch in itertools.islice(stream, 4) for n in batch["serial"].tolist()]
    for after in range(20, 60, 10):
        later = threading.Timer(0.05, fill, (dataset, after, after + 10))
        later.start()
        read += [n for batch in itertools.islice(stream, 2) for n in batch["serial"].tolist()]
        later.join()
    assert sorted(read) == list(range(60))


def test_a_replay_draws_older_samples_by_its_ratio_and_seed(dataset: Dataset) -> None:
    fill(dataset, 0, 20)
    dataset.retract("k0")
    runs = {
        (seed, ratio, again): dataset.run(
            f"{seed} {ratio} {again}", seed=seed, policy=Replay(ratio)
        )
        for seed in (1, 2)
        for ratio in (0, 0.5, 1.5, 100)
        for again in (False, True)
    }
    drawn: dict[tuple[int, float, bool], list[list[int]]] = {settings_: [] for settings_ in runs}
    for run in runs.values():
        assert sorted(serials(run.epoch(0))) == list(range(1, 20))
    for number, (after, until) in enumerate([(20, 25), (25, 26), (26, 32)], start=1):
        fill(dataset, after, until)
        new = until - after
        for settings_, run in runs.items():
            samples = serials(run.epoch(number))
            assert len(set(samples)) == len(samples)
            older = [n for n in samples if n < after]
            assert sorted(n for n in samples if n >= after) == list(range(after, until))
            assert 0 not in older
            assert len(older) == min(after - 1, math.floor(settings_[1] * new + 0.5))
            drawn[settings_].append(sorted(older))
    for (seed, ratio, _), draws in drawn.items():
        assert draws == drawn[seed, ratio, True], "the same seed draws the same"
    assert drawn[1, 0.5, True] != drawn[2, 0.5, True]
    assert drawn[1, 0.5, True][0] != drawn[1, 0.5, True][2]


def test_a_run_keeps_its_settings_and_refuses_others(reg: Registry, dataset: Dataset) -> None:
    dataset.run("r", seed=4, split="train", policy=Replay(0.25))
    again = reg.open("samples").run("r")
    assert (again.seed, again.split, again.policy) == (4, "train", Replay(0.25))
    assert dataset.run("r", policy=Replay(0.25)).name == "r"
    for other in (
        {"policy": "all"},
        {"policy": "new"},
        {"policy": Replay(0.5)},
        {"seed": 5},
        {"split": "test"},
    ):
        (name,) = other
        with pytest.raises(
            RunMismatchError, match=f"run 'r' has {name} .*, or choose another name"
        ):
            dataset.run("r", **other)
    assert dataset.run("default").policy == "all"


@pytest.mark.parametrize("ratio", [-0.1, 1e9, math.inf, math.nan, True, "1", None])
def test_an_invalid_ratio_is_refused(ratio: Any) -> None:
    with pytest.raises(FeatureError, match=f"a number from 0 to 1,000,000, not {ratio!r}"):
        Replay(ratio)


def test_consumed_samples_are_recorded_with_the_run(reg: Registry, dataset: Dataset) -> None:
    fill(dataset, 0, 10)
    run = dataset.run("r")
    assert run.consumed == 0
    stream = run.stream(4)
    first, second = next(stream), next(stream)
    assert run.consumed == 0, "reading is not training"
    run.record(4)
    again = reg.open("samples").run("r")
    assert again.consumed == 4
    assert rows(next(again.stream(4))) == rows(second)
    assert rows(next(again.stream(4, start=0))) == rows(first)
    for wrong in (lambda: run.record(-1), lambda: run.advance(-1), lambda: run.record(2**63)):
        with pytest.raises(EpochError, match="samples cannot have been consumed"):
            wrong()


def test_consumed_samples_decrease_only_on_request(reg: Registry, dataset: Dataset) -> None:
    run, other = dataset.run("r"), reg.open("samples").run("r")
    run.record(368)
    with pytest.raises(
        RewindError, match=r"has consumed 368 samples, so recording 128 .*rewind=True.*advance"
    ) as caught:
        other.record(128)
    assert (caught.value.consumed, caught.value.asked) == (368, 128)
    other.record_at_least(128)
    other.record(368)
    assert run.consumed == 368
    run.record(128, rewind=True)
    assert other.consumed == 128
    assert other.advance(32) == 160
    run.record(2**63 - 2)
    assert run.advance(1) == 2**63 - 1
    with pytest.raises(EpochError, match="1 more samples cannot have been consumed"):
        run.advance(1)
    assert run.consumed == 2**63 - 1


@pytest.mark.usefixtures("dataset")
def test_consumed_samples_of_many_workers_add_up(url: str) -> None:
    runs = [registry.connect(url).open("samples").run("r") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda n: runs[n % 4].advance(3), range(40)))
        assert sorted(counts) == list(range(3, 123, 3))
        recorded = list(pool.map(lambda n: _recorded(runs[n % 4], 200 - n % 7), range(70)))
    assert runs[0].consumed == max(recorded) == 200
    for run in runs:
        run.log.engine.dispose()


def _recorded(run: Run, samples: int) -> int:
    with suppress(RewindError):
        run.record(samples)
    return run.consumed


def test_a_run_does_not_continue_past_its_databases_epochs(
    reg: Registry, dataset: Dataset, cache: Path
) -> None:
    fill(dataset, 0, 10)
    run = dataset.run("r")
    with pytest.raises(
        DivergenceError, match=r"sample 1, .* has pinned end at sample 0: it is older"
    ):
        run.at(1)
    run.epoch(0)
    run.epoch(1)
    with pytest.raises(DivergenceError, match=r"sample 21, .* has pinned end at sample 20"):
        run.at(21)
    run.record(25)
    with pytest.raises(DivergenceError, match="sample 25"):
        next(run.stream(5))
    with reg.engine.begin() as connection:
        connection.execute(delete(models.EpochRow).where(models.EpochRow.number == 1))
    for later in (run, reg.open("samples").run("r")):
        with pytest.raises(
            DivergenceError, match=r"reached epoch 1 at position 10 .* no such epoch"
        ):
            later.epoch(1)
    shutil.rmtree(cache)
    assert reg.open("samples").run("r").epoch(1).start == 10


def test_epochs_are_pinned_in_order_and_only_with_samples(dataset: Dataset) -> None:
    run = dataset.run("r")
    with pytest.raises(EpochError, match="epoch 0 of run 'r': the dataset holds no sample yet"):
        run.epoch(0)
    with pytest.raises(EpochError, match="epoch 1 of run 'r' cannot begin before epoch 0 has"):
        run.epoch(1)
    for past in (2**63, 2**70):  # more than the databases can hold
        with pytest.raises(EpochError, match=f"epoch {past} of run 'r' cannot begin before"):
            run.epoch(past)
    with pytest.raises(EpochError, match="epochs count from 0"):
        run.epoch(-1)
    later = threading.Timer(0.1, fill, (dataset, 0, 3))
    later.start()
    assert len(next(run.stream(2))["serial"]) == 2, "a stream waits for the first sample"
    later.join()
    epoch = run.epoch(0)
    for start in (-1, 4):
        with pytest.raises(EpochError, match=rf"epoch 0 has samples \[0, 3\), not {start}"):
            list(epoch.batches(1, start=start))
    assert list(epoch.batches(1, start=3)) == [], "nothing is left"
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(FeatureError, match="the index counts from 0"):
            epoch.batches(1, shard=shard)


def test_a_sample_stays_in_its_split_and_a_run_reads_only_its_split(dataset: Dataset) -> None:
    fill(dataset, 0, 100)
    runs = {split: dataset.run(split, split=split) for split in SPLITS}
    homes = {n: dataset.split_of(f"k{n}") for n in range(200)}

    def keys(run: Run, number: int) -> set[int]:
        return {n % 1000 for n in serials(run.epoch(number))}

    for split, run in runs.items():
        assert keys(run, 0) == {n for n in range(100) if homes[n] == split}
    fill(dataset, 100, 200)
    for n in range(0, 200, 7):
        dataset.update(f"k{n}", serial=n + 1000)
    dataset.retract("k1")
    dataset.insert([sample(1)], keys=["k1"])
    for split, run in runs.items():
        assert keys(run, 1) == {n for n in range(200) if homes[n] == split}
        assert (
            dataset.run(f"new {split}", split=split, policy="new").epoch(0).size
            == run.epoch(1).size
        )


def together(work: Callable[[], None], count: int) -> None:
    """Call a function in several threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
