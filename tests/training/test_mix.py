"""Mixes: each part goes through its run's own samples, in fixed shares, wherever it is resumed."""

from __future__ import annotations

import itertools
import math
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

import registry
from registry import ClassLabel, Dataset, Epoch, Image, Mix, Registry, Replay, Run, Tensor, Text
from registry.errors import (
    DivergenceError,
    EpochError,
    ErasedError,
    FeatureError,
    ImageError,
    MixPositionError,
    RewindError,
    RunNotFoundError,
    TransientError,
)
from registry.samples.features import Feature
from registry.training import run_store
from registry.training.schedule import BLOCK, SMALL_PARTS
from tests.support.image_files import chunk
from tests.support.serial_samples import NARROW, WIDE, Row, check_machine, sample

numbers = itertools.count()


def rows(batch: Mapping[str, Any]) -> list[Row]:
    return list(zip(*(column.tolist() for column in batch.values()), strict=True))


def fill(dataset: Dataset, *serials: int) -> None:
    samples = [sample(serial, dataset.features) for serial in serials]
    dataset.insert(samples, keys=[f"k{serial}" for serial in serials])


def read(mix: Mix | Run, batches: int, size: int = 10, **options: Any) -> list[int]:
    """Return the serial numbers of the first batches."""
    stream = mix.batches if isinstance(mix, Mix) else mix.stream
    taken = itertools.islice(stream(size, **options), batches)
    return [serial for batch in taken for serial in batch["serial"].tolist()]


@pytest.fixture
def pair(reg: Registry) -> tuple[Dataset, Dataset]:
    """Two datasets: one with the serial numbers 0 to 49, the other from 1000 to 1019."""
    one, two = reg.create("one", NARROW), reg.create("two", NARROW)
    fill(one, *range(50))
    fill(two, *range(1000, 1020))
    return one, two


@dataclass
class Part:
    """A part in the model: its log and its epochs as lists."""

    policy: Any
    log: list[tuple[str, int | None]] = field(default_factory=list)
    epochs: list[tuple[int, int, list[Row]]] = field(default_factory=list)
    """Of each epoch: since, watermark and its samples in order."""

    @property
    def alive(self) -> list[tuple[int, int]]:
        latest = {key: (position, n) for position, (key, n) in enumerate(self.log)}
        return [(position, n) for position, n in latest.values() if n is not None]

    @property
    def samples(self) -> list[Row]:
        return [row for *_, each in self.epochs for row in each]

    def due(self) -> tuple[set[int], set[int], int]:
        """Return the next epoch's newer samples, the older ones, and how many it draws of those."""
        watermark = len(self.log)
        starts = [0]
        if self.epochs and self.policy != "all":
            since, before, _ = self.epochs[-1]
            repeats = len(self.epochs) > 1 and since < self.epochs[-2][1]
            starts = [before, 2 * since - watermark if repeats else since, 0]
        for since in starts:
            newer = {n for position, n in self.alive if position >= since}
            if newer:
                break
        older = {n for _, n in self.alive} - newer
        draws = math.floor(0.5 * len(newer) + 0.5) if isinstance(self.policy, Replay) else 0
        return newer, older, min(len(older), draws)

    def take_note(self, epoch: Epoch, features: Mapping[str, Feature]) -> None:
        """Check an epoch that has just been pinned, and add it to the model."""
        newer, older, draws = self.due()
        samples = [row for batch in epoch.batches(100) for row in rows(batch)]
        serials = {int(str(row[0])) for row in samples}
        assert epoch.watermark == len(self.log)
        assert epoch.start == len(self.samples)
        assert epoch.size == len(samples) == len(set(samples)) == len(newer) + draws
        assert newer <= serials <= newer | older
        assert set(samples) == {tuple(sample(n, features).values()) for n in serials}
        self.epochs.append((epoch.since, epoch.watermark, samples))


class Mixing(RuleBasedStateMachine):
    """A mix of two runs on datasets that change, and a model of it."""

    def __init__(self, reg: Registry, cache: Path) -> None:
        super().__init__()
        self.reg, self.cache = reg, cache
        self.names = [f"d{next(numbers)}" for _ in range(2)]
        self.serial = itertools.count()
        self.read = 0

    @initialize(
        policies=st.tuples(*[st.sampled_from(["all", "new", Replay(0.5)])] * 2),
        weights=st.sampled_from([(0.5, 0.5), (0.7, 0.3), (1, 20)]),
        features=st.sampled_from([NARROW, WIDE]),
        counts=st.tuples(*[st.integers(3, 12)] * 2),
    )
    def begin(self, policies: Any, weights: Any, features: Any, counts: Any) -> None:
        self.features, self.weights = features, weights
        self.parts = [Part(policy) for policy in policies]
        for name, policy in zip(self.names, policies, strict=True):
            self.reg.create(name, features).run("run", seed=5, policy=policy)
        self.open()
        for number, count in enumerate(counts):
            self.insert(number, [f"k{n}" for n in range(count)])

    def open(self) -> None:
        self.datasets = [self.reg.open(name) for name in self.names]
        self.runs = [dataset.run("run") for dataset in self.datasets]
        self.mix = registry.mix(zip(self.runs, self.weights, strict=True), seed=9)

    def take_note(self) -> None:
        """Check the epochs that were pinned since; the datasets have not changed meanwhile."""
        for part, run in zip(self.parts, self.runs, strict=True):
            for pinned in run.epochs(10_000)[len(part.epochs) :]:
                part.take_note(run.epoch(pinned.pin.number), self.features)

    def sequence(self, start: int, stop: int) -> list[Row]:
        samples = [part.samples for part in self.parts]
        parts, ranks = self.mix._schedule.locate(np.arange(start, stop))
        pairs = zip(parts.tolist(), ranks.tolist(), strict=True)
        return [samples[part][rank] for part, rank in pairs]

    @rule(
        number=st.integers(0, 1),
        keys=st.lists(st.sampled_from([f"k{n}" for n in range(20)]), min_size=1, max_size=8),
    )
    def insert(self, number: int, keys: list[str]) -> None:
        new = list(itertools.islice(self.serial, len(keys)))
        samples = [sample(n, self.features) for n in new]
        self.datasets[number].insert(samples, keys=keys)
        self.parts[number].log += zip(keys, new, strict=True)

    @rule(number=st.integers(0, 1), data=st.data())
    def retract(self, number: int, data: st.DataObject) -> None:
        log = self.parts[number].log
        keys = sorted(key for key, serial in dict(log).items() if serial is not None)
        if (
            len(keys) > 2
        ):  # with one, each batch would take many epochs; with none, there is an error
            key = data.draw(st.sampled_from(keys))
            self.datasets[number].retract(key)
            log.append((key, None))

    @rule(
        data=st.data(),
        count=st.sampled_from([1, 2, 4]),
        size=st.integers(1, 9),
        steps=st.integers(1, 4),
        recorded=st.booleans(),
    )
    def resume(
        self, data: st.DataObject, count: int, size: int, steps: int, recorded: bool
    ) -> None:
        start = data.draw(st.integers(0, self.read))
        if recorded:
            self.mix.record(start, rewind=True)
        shards = [
            itertools.islice(
                self.mix.batches(size, shard=(i, count), start=None if recorded else start), steps
            )
            for i in range(count)
        ]
        read = [row for step in zip(*shards, strict=True) for batch in step for row in rows(batch)]
        self.take_note()
        stop = start + steps * size * count
        assert read == self.sequence(start, stop)
        self.read = max(self.read, stop)

    @rule(lost=st.booleans())
    def die(self, lost: bool) -> None:
        """Restart: only the database stays and, unless it is ``lost``, the cache."""
        self.open()
        if lost:
            shutil.rmtree(self.cache, ignore_errors=True)

    @invariant()
    def no_epoch_is_pinned_before_a_batch_needs_it(self) -> None:
        reached = self.mix._schedule.before(self.read)
        for part, run, count in zip(self.parts, self.runs, reached, strict=True):
            pins = run.epochs(10_000)
            assert len(pins) == len(part.epochs)
            assert all(each.pin.start < count for each in pins[1:])

    def teardown(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        if self.read:
            self.open()
            batches = itertools.islice(self.mix.batches(1, start=0), self.read)
            assert [row for batch in batches for row in rows(batch)] == self.sequence(0, self.read)
            for run, part in zip(self.runs, self.parts, strict=True):
                alone = itertools.islice(run.stream(1, start=0), len(part.samples))
                assert [row for batch in alone for row in rows(batch)] == part.samples


@pytest.mark.usefixtures("short_chunks")
def test_a_mix_always_has_its_runs_samples_in_its_order(reg: Registry, cache: Path) -> None:
    check_machine(lambda: Mixing(reg, cache), examples=6, steps=15)


@pytest.mark.usefixtures("short_chunks")
def test_a_stopped_mix_continues_on_any_number_of_workers(
    reg: Registry, pair: tuple[Dataset, Dataset]
) -> None:
    one, two = pair
    whole: list[int] = []
    mix = registry.mix({one.run("r", policy="new"): 0.7, two.run("r"): 0.3}, seed=3)
    for step, batch in enumerate(itertools.islice(mix.batches(16), 12)):
        whole += batch["serial"].tolist()
        fill(one, *range(50 + 3 * step, 53 + 3 * step))
        fill(two, 1020 + step)
    for count in (1, 2, 4):
        for step in (0, 1, 5, 11):
            again = registry.mix(
                [(reg.open("one").run("r"), 7), (reg.open("two").run("r"), 3)], seed=3
            )
            again.record(16 * step, rewind=True)
            start = None if step % 2 else 16 * step
            shards = [
                read(again, 12 - step, 16 // count, shard=(i, count), start=start)
                for i in range(count)
            ]
            steps = np.stack(shards).reshape(count, 12 - step, -1).transpose(1, 0, 2)
            assert steps.ravel().tolist() == whole[16 * step :]


@pytest.mark.parametrize("policy", ["new", Replay(0.5)])
def test_a_run_with_nothing_new_repeats_its_newest_samples(
    pair: tuple[Dataset, Dataset], policy: Any
) -> None:
    """And then those of twice as many rows, so that few samples do not make many epochs."""
    one, two = pair
    run, other = one.run("r", policy=policy), two.run("r")
    mix = registry.mix({run: 1, other: 1})
    read(mix, 10)
    fill(one, *range(50, 54))
    read(mix, 50, start=100)
    pins = [each.pin for each in run.epochs(100)]
    assert [pin.since for pin in pins[:8]] == [0, 50, 50, 46, 38, 22, 0, 0]
    sizes = [50, 4, 4, 8, 16, 32, 54, 54]
    if policy != "new":  # half as many older ones, as far as there are
        sizes = [50, 6, 6, 12, 24, 48, 54, 54]
    assert [pin.size for pin in pins[:8]] == sizes
    # What the run does alone follows, and then waits for new samples.
    samples = read(mix, 60, start=0)
    own = [serial for serial in samples if serial < 1000]
    assert read(run, len(own), 1, start=0) == own
    with pytest.raises(EpochError, match="nothing new"):
        run.epoch(len(pins), timeout=0)
    fill(one, 60)
    read(mix, (pins[-1].end - 300) // 5 + 2, start=600)
    assert run.epoch(len(pins)).since == 54, "new samples come first again"


def test_a_run_whose_newest_samples_are_gone_repeats_all(pair: tuple[Dataset, Dataset]) -> None:
    one, two = pair
    run = one.run("r", policy="new")
    mix = registry.mix({run: 1, two.run("r"): 1})
    read(mix, 10)
    fill(one, *range(50, 56))
    read(mix, 1, start=100)
    for serial in range(50, 56):
        one.retract(f"k{serial}")
    read(mix, 10, start=110)
    assert [each.pin.size for each in run.epochs(100)[1:3]] == [6, 50]


def test_a_run_without_samples_is_an_error_that_names_it(
    reg: Registry, pair: tuple[Dataset, Dataset]
) -> None:
    one, two = pair
    empty = reg.create("empty", NARROW, splits={"train": 0.5, "test": 0.5})
    run = empty.run("rare", split="test", where={"label": [3]})
    mix = registry.mix({one.run("r"): 1000, run: 1})
    batches = mix.batches(4)
    with pytest.raises(
        EpochError,
        match=r"run 'rare' of dataset 'empty' .* 'test' holds no sample yet where label is 3; in",
    ):
        next(batches)
    fill(empty, *range(3, 200, 10))
    assert len(read(mix, 4)) == 40
    gone = registry.mix({two.run("r"): 1})
    read(gone, 1)
    for serial in range(1000, 1020):
        two.retract(f"k{serial}")
    with pytest.raises(EpochError, match="epoch 1 with: the dataset holds no sample;"):
        read(gone, 2, start=20)


def test_the_position_of_a_mix_is_recorded_in_its_runs(
    pair: tuple[Dataset, Dataset],
) -> None:
    one, two = pair
    a, b = one.run("a"), two.run("b")
    mix = registry.mix({a: 0.7, b: 0.3, one.run("never"): 0})
    read(mix, 20)
    assert mix.consumed == 0, "reading is not training"
    assert one.run("never").last is None
    mix.record(100)
    assert (mix.consumed, a.consumed, b.consumed) == (100, 70, 30)
    one.run("never").record(5)
    assert mix.advance(28) == mix.consumed == 128
    with pytest.raises(RewindError, match=r"<mix of 'a' .* has consumed 128 .*recording 90"):
        mix.record(90)
    mix.record_at_least(90)
    assert mix.consumed == 128
    mix.record(90, rewind=True)
    assert read(mix, 2) == read(mix, 2, start=90)
    b.advance(8)
    with pytest.raises(MixPositionError, match=r"63 by 'a' of 'one', 35 by 'b'.*mix\.record") as at:
        _ = mix.consumed
    for change in (lambda: mix.advance(1), lambda: mix.record(95), lambda: mix.batches(8)):
        with pytest.raises(MixPositionError):
            change()
    assert a.consumed + b.consumed == 98, "nothing was changed"
    assert 90 <= at.value.reached < 94
    mix.record(at.value.reached, rewind=True)
    assert mix.consumed == at.value.reached
    for wrong in (-1, 2**63):
        with pytest.raises(EpochError, match=f"{wrong} samples cannot have been consumed"):
            mix.record(wrong)
    one.remove_run("a")
    with pytest.raises(RunNotFoundError, match="'a'"):
        _ = mix.consumed


def test_positions_of_many_workers_add_up(reg: Registry, url: str) -> None:
    for name in ("one", "two"):
        reg.create(name, NARROW)
    opened = [registry.connect(url) for _ in range(4)]
    mixes = [
        registry.mix([(each.open(name).run("r"), 1) for name in ("one", "two")]) for each in opened
    ]
    with ThreadPoolExecutor(4) as pool:
        positions = list(pool.map(lambda n: mixes[n % 4].advance(3), range(20)))
        assert sorted(positions) == list(range(3, 63, 3))
        list(pool.map(lambda n: mixes[n % 4].record_at_least(100 - n), range(20)))
    assert mixes[0].consumed == 100
    for each in opened:
        each.close()


def test_a_mix_of_two_databases_is_recorded_in_both_or_says_how_far_it_is(
    reg: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = reg.create("one", NARROW)
    with registry.connect(f"sqlite:///{tmp_path}/other.db") as other:
        two = other.create("two", NARROW)
        fill(one, *range(10))
        fill(two, *range(1000, 1010))
        mix = registry.mix({one.run("r"): 1, two.run("r"): 1})
        # In one order, or two processes could wait for each other.
        turned = registry.mix({two.run("r"): 1, one.run("r"): 1})
        orders = [[engine for engine, _ in each._store.databases] for each in (mix, turned)]
        assert orders[0] == orders[1]
        assert mix.advance(10) == 10
        assert sorted(read(mix, 1, 20, start=0)) == [*range(10), *range(1000, 1010)]

        def fail(*_: Any) -> None:
            raise TransientError

        monkeypatch.setattr(run_store, "set_consumed", fail)
        with pytest.raises(TransientError):
            mix.advance(4)
        monkeypatch.undo()
        assert (mix.consumed, one.run("r").consumed) == (10, 5)
        monkeypatch.setattr("registry.training.mix._PAUSE", 0.001)
        two.run("r").advance(3)  # as after a crash between the two commits
        with pytest.raises(MixPositionError) as caught:
            _ = mix.consumed
        mix.record(caught.value.reached, rewind=True)
        assert mix.consumed in (10, 11)
        # Another worker records in one database after the other, while the mix is read.
        two.run("r").advance(3)
        repair = threading.Timer(0.05, mix.record, (16,), {"rewind": True})
        monkeypatch.setattr("registry.training.mix._PAUSE", 0.1)
        repair.start()
        assert mix.consumed == 16
        repair.join()


def test_an_epoch_that_is_missing_in_the_database_is_no_other_epoch(
    pair: tuple[Dataset, Dataset],
) -> None:
    mix = registry.mix({pair[0].run("r"): 1, pair[1].run("r"): 1})
    with pytest.raises(
        DivergenceError, match=r"'r' is to continue at sample 50, .* end at sample 0"
    ):
        read(mix, 1, start=100)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((0.5, -0.1), r"run 'b' of dataset 'two' has the weight -0\.1: a weight is a finite"),
        ((0.5, math.nan), "run 'b' of dataset 'two' has the weight nan"),
        ((math.inf, 1), "run 'a' of dataset 'one' has the weight inf"),
        ((10**400, 1), "run 'a' of dataset 'one' has the weight 1000"),
        ((1, "2"), "run 'b' of dataset 'two' has the weight '2'"),
        ((True, 1), "run 'a' of dataset 'one' has the weight True"),
        ((0, 0.0), "run 'a' of dataset 'one', like all of the mix, has the weight 0"),
    ],
)
def test_an_invalid_weight_is_refused_with_its_run(
    pair: tuple[Dataset, Dataset], weights: Any, message: str
) -> None:
    runs = pair[0].run("a"), pair[1].run("b")
    with pytest.raises(FeatureError, match=message):
        registry.mix(zip(runs, weights, strict=True))


def test_what_is_no_mix_is_refused(pair: tuple[Dataset, Dataset]) -> None:
    one, two = pair
    run = one.run("r")
    cases: list[tuple[Any, str]] = [
        ({}, "from 1 to 4,096 runs, not 0"),
        ([run, two.run("r")], "takes runs with their weights"),
        (run, "takes runs with their weights, .*, not Run"),
        ({one: 1}, r"takes runs, reg\.open\(…\)\.run\(…\), not <dataset 'one'>"),
        ([(run, 1), (one.run("r"), 2)], "run 'r' of dataset 'one' is in the mix twice"),
        (
            [(run, BLOCK * 1e3), *[(one.run(f"{n}"), 1) for n in range(SMALL_PARTS + 1)]],
            f"run '0' .* and {SMALL_PARTS} others have weights, such as 1.0, below 1/65,536",
        ),
    ]
    for runs, message in cases:
        with pytest.raises(FeatureError, match=message):
            registry.mix(runs)
    for seed in (-1, 2**63):
        with pytest.raises(FeatureError, match=rf"seed {seed} is not in \[0, 2\*\*63\)"):
            registry.mix({run: 1}, seed=seed)
    assert not hasattr(registry.mix({run: 1}), "shape")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"serial": Tensor("int64")},
            "'one' has the feature 'label', and run 'b' .*'two' does not",
        ),
        ({**NARROW, "x": Text()}, "'two' has the feature 'x', and run 'a' .* does not"),
        (
            {**NARROW, "serial": Tensor("int32")},
            r"run 'b' of dataset 'two': feature 'serial' is int32, and int64 in run 'a'",
        ),
        ({**NARROW, "serial": Tensor("int64", (1,))}, r"'serial' is int64\[1\], and int64 in"),
        ({**NARROW, "label": ClassLabel(9)}, "'label' is class:9, and class:10 in run 'a'"),
        (
            {**NARROW, "label": ClassLabel(list("0123456789"))},
            r"'label' is class:0,1,.*, and class",
        ),
    ],
)
def test_runs_with_other_features_are_refused(
    reg: Registry, features: dict[str, Feature], message: str
) -> None:
    runs = reg.create("one", NARROW).run("a"), reg.create("two", features).run("b")
    with pytest.raises(FeatureError, match=message):
        registry.mix(dict.fromkeys(runs, 1))


def test_other_classes_are_refused_with_the_first_that_differs(reg: Registry) -> None:
    def run(name: str, *classes: str) -> Run:
        return reg.create(name, {"label": ClassLabel(classes)}).run("r")

    first = run("one", "cat", "dog")
    with pytest.raises(FeatureError, match=r"has 'fox' as class 1, which is 'dog' in run 'r' of"):
        registry.mix({first: 1, run("two", "cat", "fox"): 1})
    with pytest.raises(FeatureError, match="'label' has 1 class more, such as 'fox', than in"):
        registry.mix({first: 1, run("three", "cat", "dog", "fox"): 1})


def test_features_may_come_in_another_order(reg: Registry) -> None:
    one, two = (
        reg.create(name, dict(pairs))
        for name, pairs in (("one", [*WIDE.items()]), ("two", [*WIDE.items()][::-1]))
    )
    fill(one, *range(10))
    fill(two, *range(10, 20))
    (batch,) = itertools.islice(registry.mix({one.run("r"): 1, two.run("r"): 1}).batches(20), 1)
    assert list(batch) == list(WIDE)
    assert sorted(rows(batch)) == [tuple(sample(n, WIDE).values()) for n in range(20)]


def test_an_open_mix_keeps_its_features_while_classes_and_features_are_added(
    reg: Registry, pair: tuple[Dataset, Dataset]
) -> None:
    one, two = pair
    early = one.run("early")
    assert list(early.epoch(0).features) == ["serial", "label"]
    one.add_feature("pose", Tensor("float32", (2,)), 0.5)
    # Runs of one dataset have one schema, though it was changed between them.
    mix = registry.mix({early: 1, reg.open("one").run("late"): 1})
    assert list(mix.features) == ["serial", "label", "pose"]
    batches = mix.batches(10)
    next(batches)
    one.add_classes("label", 1)
    one.add_feature("mass", Tensor("int64"), 3)
    one.insert([{"serial": 50, "label": 10, "pose": [1, 2], "mass": 4}])
    later = [batch for _, batch in zip(range(20), batches, strict=False)]
    assert all(list(batch) == ["serial", "label", "pose"] for batch in later)
    values = {
        (serial, *pose)
        for batch in later
        for serial, pose in zip(batch["serial"].tolist(), batch["pose"].tolist(), strict=True)
    }
    assert values == {(50, 1.0, 2.0), *((serial, 0.5, 0.5) for serial in range(50))}
    with pytest.raises(FeatureError, match="feature 'mass', and run 'r' of dataset 'two' does not"):
        registry.mix({reg.open("one").run("late"): 1, two.run("r"): 1})


def test_a_mix_continues_after_an_epoch_with_erased_samples(
    reg: Registry, pair: tuple[Dataset, Dataset]
) -> None:
    one, _ = pair

    def make() -> Mix:
        return registry.mix({reg.open("one").run("r"): 1, reg.open("two").run("r"): 3}, seed=1)

    mix = make()
    (erased, *_) = {*range(50)} - {*read(mix, 4)}
    mix.record(40)
    one.erase(f"k{erased}")
    with pytest.raises(ErasedError, match=rf"epoch 0 of run 'r' held .*'k{erased}'") as caught:
        read(make(), 30)
    place = int(str(caught.value).partition("mix.skip(")[2].partition(")")[0])
    mix = make()
    mix.skip(place)
    assert mix.consumed == place
    after = [serial for serial in read(mix, 30) if serial < 1000]
    assert sorted(after[:49]) == sorted({*range(50)} - {erased})


def test_an_image_that_cannot_be_decoded_is_named_with_its_dataset(reg: Registry) -> None:
    datasets = [reg.create(name, {"image": Image("png")}) for name in ("one", "two")]
    for dataset in datasets:
        dataset.insert([{"image": np.full((2, 2, 3), 7, np.uint8)}], keys=["intact"])
    intact = datasets[1].get("intact")["image"]
    broken = intact[:33] + chunk(b"IDAT", b"none") + chunk(b"IEND", b"")
    datasets[1].insert([{"image": broken}], keys=["broken"])
    mix = registry.mix({dataset.run("r"): 1 for dataset in datasets})
    with pytest.raises(ImageError, match=r"'two', position 1, key 'broken', feature 'image'"):
        list(itertools.islice(mix.batches(2, decode_images=True), 4))
