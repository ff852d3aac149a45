"""Epochs of runs with conditions: what they hold, after erasures and damage, from every source."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Epoch, Registry, Replay, Run, Tensor, Text
from registry.errors import CacheWarning, EpochError, ErasedError, FeatureError
from registry.samples.features import Feature
from registry.storage.log.erasures import Erased
from registry.storage.mirror import columns
from registry.storage.mirror.erase import erase_rows
from registry.storage.mirror.mirror import Mirror
from registry.storage.mirror.state import publish_state
from registry.training import mirror_columns, population, value_columns
from registry.training.mirror_columns import MirrorColumns
from registry.training.policy import Policy

CLASSES = ["cat", "dog", "lynx"]
KINDS: dict[str, dict[str, Feature]] = {
    "fixed": {"n": Tensor("int64"), "label": ClassLabel(CLASSES)},
    "variable": {"n": Tensor("int64"), "note": Text(), "label": ClassLabel(CLASSES)},
}
CHOSEN = [n for n in range(1000) if n % 7 != 3]
WHERE = {"label": ["cat", "lynx"], "n": CHOSEN, "source": ["team-a", None]}
"""Conditions that zeros meet, as columns have them for rows that were erased."""
POLICIES: dict[str, Policy] = {"all": "all", "new": "new", "replay": Replay(0.5)}


@dataclass
class Model:
    """A log as a list, and the epochs of each policy as sets of numbers."""

    dataset: Dataset
    kind: str
    log: list[tuple[str, int, str | None]] = field(default_factory=list)
    erased: set[int] = field(default_factory=set)
    """The numbers of the samples that were erased."""

    def sample(self, n: int) -> dict[str, object]:
        whole = {"n": n, "label": n % 3, "note": "ä" * (n % 5)}
        return {name: whole[name] for name in KINDS[self.kind]}

    def insert(self, keys: list[str], source: str | None) -> None:
        numbers = range(len(self.log), len(self.log) + len(keys))
        self.dataset.insert([self.sample(n) for n in numbers], keys=keys, source=source)
        self.log += [(key, n, source) for key, n in zip(keys, numbers, strict=True)]

    def matching(self, watermark: int) -> dict[int, int]:
        """Return the position of each sample that meets `WHERE`, by its number."""
        latest = {key: (p, n, s) for p, (key, n, s) in enumerate(self.log[:watermark])}
        return {
            n: position
            for position, n, source in latest.values()
            if n % 3 != 1 and n % 7 != 3 and source in ("team-a", None) and n not in self.erased
        }


@dataclass
class Pinned:
    """An epoch as it was when it was pinned: its samples in order, and those that it drew from."""

    numbers: list[int]
    older: set[int]


def numbers(epoch: Epoch) -> list[int]:
    return [n for batch in epoch.batches(7) for n in batch["n"].tolist()]


def pin(model: Model, run: Run, policy: Policy, number: int, since: int) -> Pinned:
    """Pin an epoch, and compare it with the model's."""
    epoch = run.epoch(number, timeout=0)
    everything = model.matching(epoch.watermark)
    since = 0 if policy == "all" else since
    new = {n for n, position in everything.items() if position >= since}
    older = everything.keys() - new if isinstance(policy, Replay) else set()
    held = numbers(epoch)
    draws = math.floor(0.5 * len(new) + 0.5) if isinstance(policy, Replay) else 0
    assert new <= {*held} <= new | older
    assert len(held) == len({*held}) == epoch.size == len(new) + min(len(older), draws)
    return Pinned(held, older)


WAYS = ("mirror", "without index", "database")


@contextmanager
def reading_from(way: str, cache: Path) -> Iterator[None]:
    """Have what is opened in the block read an index file, or none, or no mirror at all."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "database":
            blocked = cache.parent / "no folder"
            blocked.touch()
            patch.setenv("REGISTRY_CACHE", str(blocked))
            with pytest.warns(CacheWarning):
                yield
            return
        if way == "without index":
            for folder in cache.glob("*/epochs"):
                shutil.rmtree(folder)
        yield


class Training:
    """A run of each policy with the conditions `WHERE`, on a dataset that changes."""

    def __init__(self, reg: Registry, kind: str) -> None:
        self.reg = reg
        self.random = Random(kind)
        self.model = Model(reg.create("d", KINDS[kind]), kind)
        create = self.model.dataset.run
        self.runs = {name: create(name, where=WHERE, policy=p) for name, p in POLICIES.items()}
        self.epochs: dict[str, list[Pinned]] = {name: [] for name in POLICIES}

    def key(self) -> str:
        return f"k{self.random.randrange(40)}"

    def grow_and_pin(self) -> None:
        since = len(self.model.log) if self.epochs["all"] else 0
        source = self.random.choice(["team-a", "team-b"])
        self.model.insert([self.key() for _ in range(30)], source)
        self.model.insert([self.key() for _ in range(20)], None)
        for name, epochs in self.epochs.items():
            epochs.append(pin(self.model, self.runs[name], POLICIES[name], len(epochs), since))

    def erase(self, key: str) -> None:
        self.model.dataset.erase(key)
        self.model.erased.update(n for k, n, _ in self.model.log if k == key)
        # The retraction that an erasure appends meets no condition.
        self.model.log.append((key, 1, "erase"))

    def replay(self) -> set[str]:
        """Replay all epochs as a new process does; return what happened."""
        outcomes = set()
        dataset = self.reg.open("d")
        for name, epochs in self.epochs.items():
            for number, pinned in enumerate(epochs):
                run = dataset.run(name)
                lost = self.model.erased & ({*pinned.numbers} | pinned.older)
                if lost:
                    match = f"epoch {number} of run '{name}'"
                    with pytest.raises(ErasedError, match=match) as raised:
                        run.epoch(number)
                    named = {self.model.log[position][1] for position in raised.value.positions}
                    assert named <= self.model.erased
                    assert named & lost
                else:
                    assert numbers(run.epoch(number)) == pinned.numbers
                outcomes.add("lost" if lost else "kept")
        return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_filtered_epochs_replay_or_say_that_they_held_erased_samples(
    reg: Registry, cache: Path, kind: str
) -> None:
    training = Training(reg, kind)
    training.grow_and_pin()
    training.grow_and_pin()

    def replay() -> set[str]:
        outcomes = set()
        for way in WAYS:
            with reading_from(way, cache):
                outcomes |= training.replay()
        return outcomes

    assert replay() == {"kept"}
    outcomes = set()
    for key in training.random.sample(sorted({k for k, _, _ in training.model.log}), 4):
        training.erase(key)
        outcomes |= replay()
    assert outcomes == {"kept", "lost"}
    # Epochs that are pinned after erasures are without the erased samples.
    training.grow_and_pin()
    replay()
    assert not any({*e[-1].numbers} & training.model.erased for e in training.epochs.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_that_could_have_drawn_an_erased_sample_draws_no_other(
    reg: Registry, cache: Path, kind: str
) -> None:
    model = Model(reg.create("d", KINDS[kind]), kind)
    run = model.dataset.run("r", where={"label": "cat"}, policy=Replay(0.2))
    for after in (0, 30):
        model.insert([f"k{n}" for n in range(after, after + 30)], None)
        epoch = run.epoch(after // 30)
    held = numbers(epoch)
    assert (epoch.size, epoch.older) == (12, 10)
    undrawn = next(n for n in range(0, 30, 3) if n not in held)
    model.dataset.erase(f"k{undrawn + 1}")  # a dog, which the epoch could not have drawn
    for way in WAYS:
        with reading_from(way, cache):
            assert numbers(reg.open("d").run("r").epoch(1)) == held
    model.dataset.erase(f"k{undrawn}")
    for way in (*WAYS, *WAYS):
        with reading_from(way, cache), pytest.raises(ErasedError, match="may have held") as raised:
            reg.open("d").run("r").epoch(1)
        assert undrawn in raised.value.positions


def test_an_index_that_another_copy_of_the_database_has_made_is_not_taken(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(reg.create("d", KINDS["fixed"]), "fixed")
    run = model.dataset.run("r", where={"label": "cat"}, policy=Replay(0.2))
    for after in (0, 30):
        model.insert([f"k{n}" for n in range(after, after + 30)], None)
        epoch = run.epoch(after // 30)
    held = numbers(epoch)
    erased = next(n for n in range(0, 30, 3) if n not in held)

    # As in a process that reads a copy which has erased this sample, with the same mirror.
    def matches(self: MirrorColumns, tests: Any, after: int, until: int) -> Any:
        return match(self, tests, after, until) & (np.arange(after, until) != erased)

    match = MirrorColumns.matches
    monkeypatch.setattr(MirrorColumns, "matches", matches)
    other = epoch.source.index(run.population(1, 30, 60), None)
    monkeypatch.setattr(MirrorColumns, "matches", match)
    assert (other.size, other.older) == (12, 9)
    assert numbers(reg.open("d").run("r").epoch(1)) == held


@pytest.mark.parametrize("policy", ["new", Replay(1)])
def test_a_filtered_run_continues_anywhere_on_any_number_of_workers(
    reg: Registry, policy: Policy
) -> None:
    model = Model(reg.create("d", KINDS["fixed"]), "fixed")
    run = model.dataset.run("r", where=WHERE, policy=policy)
    sequence: list[int] = []
    for number in range(3):
        model.insert([f"k{number}-{n}" for n in range(40)], "team-a")
        sequence += numbers(run.epoch(number))
    for start, workers in itertools.product((0, 5, 31), (1, 2, 4)):
        steps = (len(sequence) - start) // (3 * workers)
        streams = [run.stream(3, shard=(index, workers), start=start) for index in range(workers)]
        read = [n for _ in range(steps) for each in streams for n in next(each)["n"].tolist()]
        assert read == sequence[start : start + steps * 3 * workers]


def test_an_epoch_without_matching_samples_says_what_none_has(reg: Registry) -> None:
    dataset = reg.create("d", KINDS["fixed"])
    dataset.insert([{"n": 1, "label": "dog"}])
    run = dataset.run("cats", where={"label": "cat", "n": (0, 9)}, policy="new")
    with pytest.raises(EpochError, match=r"holds nothing new where label is 'cat' and 0 <= n < 9$"):
        run.epoch(0, timeout=0)
    assert run.last is None
    version = reg.open(str(dataset.version)).run("none", where={"label": "cat"})
    with pytest.raises(EpochError, match="holds no sample for it where label is 'cat'; choose"):
        version.epoch(0)


def values_files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*/columns/*.[0-9]"))


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make segments, chunks and queries so short that there are several of each."""
    monkeypatch.setattr(columns, "SEGMENT_ROWS", 7)
    monkeypatch.setattr(mirror_columns, "SEGMENT_ROWS", 9)
    monkeypatch.setattr(population, "CHUNK", 20)
    monkeypatch.setattr(value_columns, "SOURCE_ROWS", 5)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_in_a_mirror_changes_no_filter(reg: Registry, cache: Path, kind: str) -> None:
    model = Model(reg.create("d", KINDS[kind]), kind)
    for after, source in ((0, "team-a"), (13, None), (20, "team-b"), (21, "team-a")):
        model.insert([f"k{n}" for n in range(after, after + 17)], source)
    expected = sorted(model.matching(len(model.log)))
    model.dataset.run("plain").epoch(0)  # the mirror is there, and no column
    (records,) = cache.glob("*/*/records")
    damage(records, 97)
    names = itertools.count()

    def check() -> None:
        epoch = model.dataset.run(f"r{next(names)}", where=WHERE).epoch(0)
        assert sorted(numbers(epoch)) == expected
        assert [len(path.read_bytes()) % len(model.log) for path in values_files(cache)] == [0] * 3

    check()
    for suffix in (None, ".segments"):
        for path in values_files(cache):
            damage(path if suffix is None else path.with_suffix(suffix), 41)
        check()
        for path in values_files(cache):
            whole = path if suffix is None else path.with_suffix(suffix)
            # As after a crash: the end is lost, and something else is behind it.
            whole.write_bytes(whole.read_bytes()[:-9] + bytes(4))
        check()
        for path in values_files(cache):
            (path if suffix is None else path.with_suffix(suffix)).unlink()
        check()


def damage(path: Path, every: int) -> None:
    data = bytearray(path.read_bytes())
    for offset in range(every // 2, len(data), every):
        data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_right_where_no_column_can_be_stored(
    reg: Registry, cache: Path, kind: str
) -> None:
    model = Model(reg.create("d", KINDS[kind]), kind)
    model.insert([f"k{n}" for n in range(50)], "team-a")
    model.dataset.run("plain").epoch(0)
    (records,) = cache.glob("*/*/records")
    (records.parent / "columns").touch()
    model.dataset.erase("k6")
    epoch = model.dataset.run("r", where=WHERE).epoch(0)
    assert sorted(numbers(epoch)) == sorted(model.matching(50).keys() - {6})
    assert values_files(cache) == []


def test_runs_of_equal_sizes_keep_their_own_samples(reg: Registry) -> None:
    dataset = reg.create("d", KINDS["variable"])
    dataset.insert([{"n": n, "label": n % 3, "note": "ab"[n % 2]} for n in range(12)])
    conditions: list[dict[str, Any]] = [{"label": 0}, {"label": 1}, {"n": (0, 4)}, {"n": (4, 8)}]
    for _ in range(2):
        sets = [
            {*numbers(dataset.run(str(number), where=where).epoch(0))}
            for number, where in enumerate(conditions)
        ]
        assert sets == [{0, 3, 6, 9}, {1, 4, 7, 10}, {0, 1, 2, 3}, {4, 5, 6, 7}]


def test_a_row_that_is_erased_while_its_value_is_read_leaves_none(
    reg: Registry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(reg.create("d", KINDS["fixed"]), "fixed")
    model.insert([f"k{n}" for n in range(50)], "team-a")
    compute = MirrorColumns._computed

    def computed(self: MirrorColumns, *arguments: Any) -> Any:
        values = compute(self, *arguments).copy()
        monkeypatch.setattr(MirrorColumns, "_computed", compute)
        model.dataset.erase("k20")
        model.dataset.run("other").epoch(0)  # by which the mirror erases the row
        return values

    monkeypatch.setattr(MirrorColumns, "_computed", computed)
    epoch = model.dataset.run("r", where={"n": (5, 21)}).epoch(0)
    assert sorted(numbers(epoch)) == [*range(5, 20)]
    (path,) = values_files(cache)
    assert np.frombuffer(path.read_bytes(), "<i8").tolist() == [*range(20), 0, *range(21, 50)]


@pytest.mark.usefixtures("short_segments")
def test_threads_that_fill_a_column_together_fill_it_once(reg: Registry, cache: Path) -> None:
    model = Model(reg.create("d", KINDS["variable"]), "variable")
    model.insert([f"k{n}" for n in range(300)], "team-a")
    runs = [reg.open("d").run("r", where=WHERE) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda run: numbers(run.epoch(0)), runs))
    assert sorted(read[0]) == sorted(model.matching(300))
    assert read[1:] == read[:1] * 3
    assert [len(path.read_bytes()) % 300 for path in values_files(cache)] == [0] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_no_column_of_a_mirror_keeps_the_values_of_an_erased_sample(
    reg: Registry, cache: Path, kind: str
) -> None:
    model = Model(reg.create("d", KINDS[kind]), kind)
    model.insert([f"k{n}" for n in range(50)], "team-a")
    where = {**WHERE, "note": ["ä", "ää"]} if kind == "variable" else WHERE
    expected = sorted(numbers(model.dataset.run("a", where=where).epoch(0)))
    before = {path: path.read_bytes() for path in values_files(cache)}
    assert len(before) == len(where)
    model.dataset.erase("k6", "k11")
    later = model.dataset.run("b", where=where).epoch(0)
    assert sorted(numbers(later)) == [n for n in expected if n not in (6, 11)]
    for path, values in before.items():
        size = len(values) // 50
        after = path.read_bytes()
        for n in range(50):
            value = slice(n * size, (n + 1) * size)
            assert after[value] == (bytes(size) if n in (6, 11) else values[value])
    assert [*before] == values_files(cache)


def test_an_erasure_does_not_seal_the_damage_of_a_column(reg: Registry, cache: Path) -> None:
    model = Model(reg.create("d", KINDS["fixed"]), "fixed")
    model.insert([f"k{n}" for n in range(50)], "team-a")
    model.dataset.run("a", where=WHERE).epoch(0)
    for path in values_files(cache):
        damage(path, 41)
    model.dataset.erase("k6")
    epoch = model.dataset.run("b", where=WHERE).epoch(0)
    assert sorted(numbers(epoch)) == sorted(model.matching(50).keys() - {6})


def test_a_database_that_lacks_an_erasure_filters_by_the_samples_that_it_has(
    reg: Registry, cache: Path
) -> None:
    model = Model(reg.create("d", KINDS["fixed"]), "fixed")
    model.insert([f"k{n}" for n in range(50)], "team-a")
    run = model.dataset.run("a", where=WHERE)
    epoch = run.epoch(0)
    (folder,) = cache.iterdir()
    mirror = Mirror(run.log, folder)
    view = mirror.view()
    assert view is not None
    # As a process does that uses a newer copy of the database, with the same mirror.
    rows = [Erased(position, f"k{position}", view.chain_at(position + 1)) for position in (6, 8)]
    with mirror.locked():
        erased = erase_rows(folder, view, rows)
        assert erased is not None
        publish_state(folder, erased)
    again = model.dataset.run("b", where=WHERE).epoch(0)
    assert sorted(numbers(again)) == sorted(model.matching(50))
    assert again.class_weights("label") == epoch.class_weights("label")


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_on_what_was_added_hold_for_older_samples_by_its_default(
    reg: Registry, cache: Path, kind: str
) -> None:
    model = Model(reg.create("d", KINDS[kind]), kind)
    model.insert([f"k{n}" for n in range(9)], "team-a")
    before = reg.open("d")
    model.dataset.run("plain").epoch(0)
    model.dataset.add_classes("label", ["bear"])
    model.dataset.add_feature("quality", Tensor("float32"), default=0.5)
    model.dataset.add_feature("place", Text(), default="garden")
    # As in a process that has opened the dataset before the changes.
    runs: dict[str, tuple[dict[str, Any], list[int]]] = {
        "bears": ({"label": "bear"}, [10]),
        "good": ({"quality": (0.5, None), "n": (2, 11)}, [*range(2, 11)]),
        "better": ({"quality": (0.6, None)}, [9, 10]),
        "gardens": ({"place": "garden", "label": "cat"}, [0, 3, 6]),
        "forest": ({"place": ["forest"]}, [9, 10]),
    }
    for name, (where, _) in runs.items():
        before.run(name, where=where)
    added = {"quality": 0.7, "place": "forest"}
    model.dataset.insert([{**model.sample(9), **added}, {**model.sample(10), **added, "label": 3}])
    for way in WAYS:
        with reading_from(way, cache):
            for name, (_, expected) in runs.items():
                assert sorted(numbers(reg.open("d").run(name).epoch(0))) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_class_weights_are_balanced_over_the_samples_of_the_epoch(
    reg: Registry, cache: Path, kind: str
) -> None:
    model = Model(reg.create("d", KINDS[kind]), kind)
    settings: dict[str, Any] = {"w": {"where": WHERE, "policy": Replay(2)}, "plain": {}}
    for until in (50, 60):
        model.insert([f"k{n}" for n in range(len(model.log), until)], "team-a")
        for name, setting in settings.items():
            model.dataset.run(name, **setting).epoch(until // 60)
    for way, name in itertools.product(WAYS, settings):
        with reading_from(way, cache):
            epoch = reg.open("d").run(name).epoch(1)
            counts = np.bincount([n % 3 for n in numbers(epoch)], minlength=3).tolist()
            present = sum(count > 0 for count in counts)
            weights = epoch.class_weights("label")
            assert weights == {
                index: epoch.size / (present * count) if count else 1.0
                for index, count in enumerate(counts)
            }
            assert present == (3 if name == "plain" else 2)
            for other in ("n", "missing"):
                with pytest.raises(FeatureError, match=f"'{other}' is no ClassLabel.* 'label'"):
                    epoch.class_weights(other)
