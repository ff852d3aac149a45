"""Balanced mixes: a run for each class, in equal shares."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from registry import ClassLabel, Dataset, Mix, Registry, Tensor
from registry.errors import EpochError, FeatureError, RunMismatchError
from registry.samples.features import Feature
from registry.training.balanced_runs import BalancedRuns
from registry.training.schedule import LARGEST

CLASSES = ["cat", "dog", "lynx"]


@pytest.fixture
def animals(reg: Registry) -> Dataset:
    """100 cats, 10 dogs and 1 lynx; ``score`` is below 90 for all but 10 cats."""
    features: dict[str, Feature] = {"label": ClassLabel(CLASSES)}
    features |= {"score": Tensor("int32"), "serial": Tensor("int64")}
    dataset = reg.create("animals", features, splits={"train": 0.9, "test": 0.1})
    labels = [*[0] * 100, *[1] * 10, 2]
    insert(dataset, labels)
    return dataset


def insert(dataset: Dataset, labels: list[int]) -> None:
    start = dataset.head.position
    numbers = range(start, start + len(labels))
    rows = [{"label": n, "score": s, "serial": s} for s, n in zip(numbers, labels, strict=True)]
    dataset.insert(rows, keys=[f"k{n}" for n in numbers])


def labels(mix: Mix, batches: int = 10, **options: Any) -> Counter[int]:
    taken = itertools.islice(mix.batches(30, **options), batches)
    return Counter(label for batch in taken for label in batch["label"].tolist())


def names(mix: Mix) -> list[str]:
    return [part.run.name for part in mix.parts]


def test_every_class_has_an_equal_share_of_a_run_of_its_own(
    reg: Registry, animals: Dataset
) -> None:
    mix = animals.balanced("even", by="label", seed=7)
    assert names(mix) == ["even/cat", "even/dog", "even/lynx"]
    assert labels(mix) == {0: 100, 1: 100, 2: 100}
    assert [part.run.where for part in mix.parts] == [{"label": [name]} for name in CLASSES]
    assert {(part.run.seed, part.weight) for part in mix.parts} == {(7, 1)}
    mix.record(60)
    again = reg.open("animals").balanced("even", by="label")
    assert (again.consumed, again.seed) == (60, 7)
    assert labels(again, 8) == labels(mix, 8, start=60)


def test_a_balanced_mix_keeps_the_classes_that_it_began_with(
    reg: Registry, animals: Dataset
) -> None:
    first = animals.balanced("even", by="label", classes=[1, "cat"])
    assert names(first) == ["even/cat", "even/dog"]
    animals.add_classes("label", ["fox"])
    insert(animals, [3])
    again = reg.open("animals").balanced("even", by="label")
    assert names(again) == names(first)
    assert again.features["label"] == ClassLabel([*CLASSES, "fox"])
    with pytest.raises(RunMismatchError, match=r"classes \['cat', 'dog'\], not \['fox'\]; leave"):
        animals.balanced("even", by="label", classes=["fox"])
    # By the dataset that was opened before the class was added.
    assert len(animals.balanced("later", by="label").parts) == 4


def test_a_class_without_samples_is_named_and_nothing_is_created(animals: Dataset) -> None:
    animals.add_classes("label", ["fox"])
    with pytest.raises(
        EpochError,
        match=r"no sample of class 'fox' of 'label' .*classes=\['cat', 'dog', 'lynx'\]",
    ):
        animals.balanced("even", by="label")
    with pytest.raises(EpochError, match=r"'dog', 'lynx', 'fox' .* that meets the other"):
        animals.balanced("even", by="label", where={"score": (None, 50)})
    home = animals.split_of("k110")
    other = "test" if home == "train" else "train"
    with pytest.raises(EpochError, match=f"split '{other}' has no sample of class .*'lynx'"):
        animals.balanced("even", by="label", classes=CLASSES, split=other)
    # An erased sample has no class.
    animals.erase("k110")
    with pytest.raises(EpochError, match="no sample of class 'lynx'"):
        animals.balanced("even", by="label", classes=CLASSES)
    assert animals.runs() == []


def test_settings_are_those_of_all_runs(reg: Registry, animals: Dataset) -> None:
    options: dict[str, Any] = {"classes": ["cat", "dog"], "policy": "new", "split": "train"}
    mix = animals.balanced("even", by="label", where={"score": (20, None)}, **options)
    assert [(part.run.policy, part.run.split) for part in mix.parts] == [("new", "train")] * 2
    serials = [n for batch in itertools.islice(mix.batches(10), 30) for n in batch["serial"]]
    assert min(serials) >= 20
    assert animals.balanced("even", by="label", where={"score": (20, None)}).consumed == 0
    for other in ({"seed": 3}, {"policy": "all"}, {"split": "test"}, {"where": {"score": 1}}):
        with pytest.raises(RunMismatchError, match=f"run 'even/cat' has {next(iter(other))} "):
            animals.balanced("even", by="label", **other)
    animals.tag("gold")
    insert(animals, [0] * 500)
    fixed = reg.open("animals@gold").balanced("fixed", by="label")
    batches = itertools.islice(fixed.batches(10), 40)
    assert max(n for batch in batches for n in batch["serial"]) < 111


def test_classes_may_be_counted_and_may_not_be_nonsense(reg: Registry, animals: Dataset) -> None:
    counted = reg.create("counted", {"label": ClassLabel(3), "n": Tensor("int32")})
    counted.insert([{"label": n % 3, "n": n} for n in range(9)])
    assert names(counted.balanced("even", by="label")) == ["even/0", "even/1", "even/2"]
    for message, options in (
        ("'score' is no ClassLabel, so that it has no classes to balance", {"by": "score"}),
        ("'bird' is no class; the classes are 'cat'", {"by": "label", "classes": ["bird"]}),
        ("condition on 'label', which .* classes=", {"by": "label", "where": {"label": "cat"}}),
        ("'colour', which is no feature", {"by": "label", "where": {"colour": "red"}}),
        ("'score' is no class; the", {"by": "label", "classes": {"score"}}),
        (r"at least one class of 'label', .* not \[\]", {"by": "label", "classes": []}),
        ("list of .* such as .*, not 'cat'", {"by": "label", "classes": "cat"}),
    ):
        with pytest.raises(FeatureError, match=message):
            animals.balanced("even", **options)
    counted.add_classes("label", LARGEST)
    with pytest.raises(FeatureError, match="4,099 classes of 'label' would be"):
        counted.balanced("all", by="label")
    assert len(counted.runs()) == 3
    animals.run("even/dog")
    with pytest.raises(RunMismatchError, match="run 'even/dog' exists and is not that of class"):
        animals.balanced("even", by="label")
    assert [run.name for run in animals.runs()] == ["even/dog"]


def test_workers_that_begin_together_have_the_same_classes(
    reg: Registry, animals: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker creates the runs, of other classes, while this one counts samples."""
    count = BalancedRuns._check_samples

    def count_late(*arguments: Any) -> None:
        monkeypatch.undo()
        reg.open("animals").balanced("even", by="label", classes=["cat", "dog"])
        count(*arguments)

    monkeypatch.setattr(BalancedRuns, "_check_samples", count_late)
    assert names(animals.balanced("even", by="label")) == ["even/cat", "even/dog"]
    assert len(animals.runs()) == 2
