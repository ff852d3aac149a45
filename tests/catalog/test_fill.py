"""A new dataset that is filled from another one, without some of its features."""

from __future__ import annotations

import random
from typing import Any

import pytest

import registry
from registry import ClassLabel, Dataset, Ragged, Registry, Tensor, Text
from registry.catalog.copy import rows
from registry.catalog.copy.into import Filled, Selection, fill_dataset
from registry.errors import DatasetExistsError, DivergenceError, FeatureError, RegistryError
from registry.samples.features import Feature

FEATURES: dict[str, Feature] = {
    "text": Text(),
    "label": ClassLabel(["cat", "dog"]),
    "boxes": Ragged("float32", (4,)),
}
SELECTION = Selection(["boxes"], {"text": "note"})


@pytest.fixture
def old(reg: Registry) -> Dataset:
    return reg.create("old", FEATURES, splits={"train": 0.7, "test": 0.3}, description="boxes")


def write(dataset: Dataset, chance: random.Random, count: int) -> None:
    """Insert, revise, retract and erase samples of 30 keys in groups."""
    for _ in range(count):
        number = chance.randrange(30)
        key, classes = f"k{number}", dataset.features["label"]
        assert isinstance(classes, ClassLabel)
        action = chance.choice(["insert", "insert", "update", "retract", "erase"])
        sample = {
            "text": f"t{chance.randrange(3)}" * chance.randrange(1, 9),
            "label": chance.randrange(classes.count),
            "boxes": [[chance.random()] * 4] * chance.randrange(3),
        }
        try:
            if action == "insert":
                group = f"g{number // 5}"
                dataset.insert([sample], keys=[key], groups=[group], source=f"s{number}")
            elif action == "update":
                dataset.update(key, boxes=sample["boxes"])
            elif action == "retract":
                dataset.retract(key)
            elif chance.random() < 0.2:
                dataset.erase(key)
        except RegistryError:
            pass  # there is no such sample


def history(dataset: Dataset, key: str, *, renamed: bool) -> list[Any]:
    """Return what a key's rows hold, without those that are equal to the one before."""
    result: list[Any] = []
    for revision in dataset.history(key):
        if revision.entry.erased:
            continue
        sample = None if revision.sample is None else dict(revision.sample)
        if renamed and sample is not None:
            del sample["boxes"]
            sample["note"] = sample.pop("text")
        plain = sample and {
            name: getattr(v, "tolist", lambda v=v: v)() for name, v in sample.items()
        }
        if not result and plain is None:
            continue  # all rows before were erased
        if not result or result[-1][0] != plain:
            result.append((plain, revision.entry.source, revision.entry.group))
    return result


def filled(reg: Registry, target: Registry, **options: Any) -> Filled:
    return fill_dataset(reg, "old", target, "new", SELECTION, **options)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_new_dataset_has_the_history_splits_groups_and_sources_of_the_old_one(
    reg: Registry, old: Dataset, sqlite_url: str, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(elsewhere)
    target = registry.connect(f"{sqlite_url}2") if elsewhere else reg
    monkeypatch.setattr(rows, "BLOCK_ROWS", 7)
    write(old, chance, 40)
    old.add_feature("pose", Tensor("int8", (2,)), 7)
    old.add_classes("label", ["lynx"])
    write(old, chance, 40)

    positions: list[int] = []

    def interrupt(count: int, position: int) -> None:
        positions.append(position)
        if count > 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(reg, target, progress=interrupt)
    known = len(target.open("new").entries())
    first = filled(reg, target)
    new = target.open("new")
    # In blocks, each of which is stored with how far it goes.
    assert (first.rows, known > 9) == (old.head.position - positions[-1], True)
    assert len(positions) > 3
    assert list(new.features) == ["note", "label", "pose"]
    assert (new.splits, new.description) == (old.splits, "boxes")
    assert new.schema.defaults == {"pose": 7}
    assert len(new) == len(old) > 5
    for key in {entry.key for entry in old.entries()}:
        assert history(new, key, renamed=False) == history(old, key, renamed=True)
        # A key of which all rows were erased is not in the new one.
        assert not new.history(key) or new.split_of(key) == old.split_of(key)
    assert new.verify()[0].differs is None
    assert filled(reg, target).rows == 0
    # What came since is added, and what was changed in the new one alone stays.
    new.insert([{"note": "own", "label": 0}], keys=["own"])
    new.insert([{"note": "other", "label": 1}], keys=["k0"])
    row = {"text": "x", "label": 2, "boxes": [], "pose": [1, 2]}
    old.insert([row], keys=["later"])
    assert filled(reg, target).report.inserted == 1
    assert [new.get(key)["note"] for key in ("own", "k0", "later")] == ["own", "other", "x"]
    if elsewhere:
        target.close()


def test_a_dataset_is_filled_up_to_a_version_and_follows_a_renamed_source(
    reg: Registry, old: Dataset
) -> None:
    sample = {"text": "a", "label": 0, "boxes": []}
    old.insert([sample] * 3, keys=["a", "b", "c"])
    version = fill_dataset(reg, "old@2", reg, "new", SELECTION).version
    assert (version.watermark, len(reg.open("new"))) == (2, 2)
    reg.rename("old", "older")
    assert fill_dataset(reg, "older", reg, "new", SELECTION).report.inserted == 1


def test_a_dataset_that_cannot_be_filled_is_an_error_that_changes_nothing(
    reg: Registry, old: Dataset
) -> None:
    old.insert([{"text": "a", "label": 0, "boxes": []}], keys=["a"])
    for selection, reason in (
        (Selection(["box"]), "'box' is no feature; the features are 'text', 'label', 'boxes'"),
        (Selection([], {"boks": "x"}), "'boks' is no feature"),
        (Selection([], {"text": "label"}), "two features would be named 'label'"),
        (Selection(list(FEATURES)), "at least one feature"),
    ):
        with pytest.raises(FeatureError, match=reason):
            fill_dataset(reg, "old", reg, "new", selection)
    for into in ("old", "taken"):
        names = reg.names()
        reg.create("taken", FEATURES) if "taken" not in names else None
        with pytest.raises(DatasetExistsError):
            fill_dataset(reg, "old", reg, into, SELECTION)
    assert (reg.names(), len(reg.open("taken"))) == (["old", "taken"], 0)
    filled(reg, reg)
    with pytest.raises(FeatureError, match=r"'text' of.*'new' has no such feature.*--drop-feature"):
        fill_dataset(reg, "old", reg, "new", Selection())
    old.add_classes("label", ["lynx"])
    with pytest.raises(FeatureError, match="registry alter new"):
        filled(reg, reg)
    reg.open("new").add_classes("label", ["lynx", "puma"])
    old.insert([{"text": "a", "label": "lynx", "boxes": []}], keys=["b"])
    assert filled(reg, reg).report.inserted == 1
    old.add_feature("age", Tensor("int8"), 1)
    reg.open("new").add_feature("age", Tensor("int8"), 2)
    with pytest.raises(FeatureError, match="'new' have 2 as 'age', and those of 'old' have 1:"):
        filled(reg, reg)
    without = Selection(["boxes", "age"], {"text": "note"})
    assert fill_dataset(reg, "old", reg, "new", without).rows == 0
    reg.drop("old")
    reg.create("old", FEATURES)
    with pytest.raises(DivergenceError, match=r"filled up to old@2:.* no version of 'old'"):
        filled(reg, reg)
