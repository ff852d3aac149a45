"""What an epoch was made of, compared with a count over all rows of the log."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from registry import ClassLabel, Dataset, Registry, Replay, Tensor
from registry.errors import EpochError, ErasedError
from registry.samples.features import Feature
from registry.training import lineage
from registry.training.policy import Policy
from tests.support.commands import run

FEATURES: dict[str, Feature] = {
    "n": Tensor("int64"),
    "label": ClassLabel(["cat", "dog", "cow"]),
    "kind": ClassLabel(2),
}


@pytest.fixture
def grown(reg: Registry) -> Dataset:
    return reg.create("animals", FEATURES, splits={"train": 0.8, "test": 0.2})


def grow(dataset: Dataset, first: int) -> None:
    """Insert samples; revise new and old ones, some twice; retract some and insert one again."""

    def insert(numbers: range, label: int, source: str | None) -> None:
        rows = [{"n": n, "label": (n + label) % 3, "kind": n % 2} for n in numbers]
        dataset.insert(rows, keys=[f"k{n}" for n in numbers], source=source)

    insert(range(first, first + 20), 0, "camera")
    insert(range(first + 5, first + 8), 1, None)
    insert(range(first + 6, first + 9), 2, "anna")
    if first:
        insert(range(0, first, 3), 1, "anna")
        insert(range(0, first, 6), 2, "ben")
    for number in (first + 10, first + 11, max(0, first - 4)):
        dataset.retract(f"k{number}")
    insert(range(first + 11, first + 12), 0, "again")


@pytest.mark.parametrize("policy", ["all", "new", Replay(0.5)], ids=str)
@pytest.mark.parametrize("split", [None, "train"])
def test_an_epoch_was_made_of_what_the_log_says(
    grown: Dataset, policy: Policy, split: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "_ROWS", 7)
    monkeypatch.setattr(lineage, "_CHUNK", 11)
    training = grown.run("r", policy=policy, split=split, seed=3)
    for number in range(3):
        grow(grown, 20 * number)
        grown.tag(f"t{number}")
        epoch = training.epoch(number)
        held = epoch.positions(np.arange(epoch.size)).tolist()
        rows = {row.position: row for row in grown.entries()}
        first = {row.key: row.position for row in reversed(rows.values())}
        recent = [position for position in held if position >= epoch.since]
        old = [position for position in recent if first[rows[position].key] < epoch.since]
        labels = Counter(label for batch in epoch.batches(5) for label in batch["label"].tolist())
        grow(grown, 20 * number)  # later rows change nothing
        made_of = training.lineage(number)
        assert made_of.size == epoch.size == sum(made_of.sources.values())
        assert (made_of.new, made_of.revised) == (len(recent) - len(old), len(old))
        assert number == 0 or policy != "all" or made_of.revised
        assert made_of.sources == Counter(rows[position].source for position in held)
        assert made_of.classes["label"] == {
            name: labels[index] for index, name in enumerate(["cat", "dog", "cow"])
        }
        assert sum(made_of.classes["kind"].values()) == epoch.size
        assert str(made_of.version) == f"animals@{epoch.watermark}:{epoch.chain.hex()}"
        assert (made_of.tags, made_of.schema, made_of.erased) == ([f"t{number}"], 0, 0)
        entries = list(training.entries(number))
        assert sorted(entry.position for entry in entries) == sorted(held)
        assert all(entry == rows[entry.position] for entry in entries)
        assert entries == sorted(entries, key=lambda entry: entry.position) or policy != "all"


def test_sources_are_listed_by_their_counts_and_names_on_every_database(grown: Dataset) -> None:
    sample = {"n": 0, "label": 0, "kind": 0}
    for source in ("anna", "anna", "camera", None, "ben"):
        grown.insert([sample], source=source)
    training = grown.run("r")
    training.epoch(0)
    assert list(training.lineage(0).sources) == ["anna", None, "ben", "camera"]


def test_an_epoch_whose_samples_were_erased_still_says_what_it_was(grown: Dataset) -> None:
    grow(grown, 0)
    training = grown.run("r")
    before = training.lineage(training.epoch(0).number)
    label = grown.get("k1")["label"]
    name = ["cat", "dog", "cow"][label]
    grown.erase("k1")
    with pytest.raises(ErasedError):
        training.epoch(0)
    after = training.lineage(0)
    assert (after.size, after.erased, after.sources) == (before.size, 1, before.sources)
    assert after.classes["label"] == {
        **before.classes["label"],
        name: before.classes["label"][name] - 1,
    }
    assert [entry.key for entry in training.entries(0) if entry.erased] == ["k1"]


def test_an_epoch_that_is_not_pinned_is_an_error_and_is_not_pinned(grown: Dataset) -> None:
    grow(grown, 0)
    training = grown.run("r")
    for number, held in ((0, "none yet"), (1, "epochs 0 to 0"), (-1, "epochs 0 to 0")):
        for use in (training.lineage, training.entries):
            with pytest.raises(EpochError, match=f"has not pinned epoch {number}; it has {held}"):
                use(number)
        training.epoch(0)
    assert training.last is not None
    assert training.last.number == 0


def test_the_command_shows_an_epoch_and_lists_its_samples(url: str, grown: Dataset) -> None:
    grow(grown, 0)
    grown.tag("gold")
    training = grown.run("r", policy="new")
    training.epoch(0)
    grow(grown, 20)
    training.epoch(1)
    shown = run("epoch", "animals", "r", 1, url=url).stdout
    properties = [line.split() for line in shown.splitlines()]
    made_of = training.lineage(1)
    assert ["new", str(made_of.new)] in properties
    assert ["revised", str(made_of.revised)] in properties
    assert ["sources", "camera:", str(made_of.sources["camera"])] in properties
    assert ["label", "cat:", str(made_of.classes["label"]["cat"])] in properties
    as_json = json.loads(run("epoch", "animals", "r", 0, "--json", url=url).stdout)
    assert (as_json["tags"], as_json["since"], as_json["number"]) == (["gold"], 0, 0)
    assert as_json["classes"]["kind"] == dict(training.lineage(0).classes["kind"])
    assert {"source": None, "samples": 1} in as_json["sources"]
    lines = run("epoch", "animals", "r", 1, "--keys", "--json", url=url).stdout.splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert keys == [entry.key for entry in training.entries(1)]
    table = run("epoch", "animals", "r", 1, "--keys", url=url).stdout.splitlines()
    assert table[0].split() == ["position", "source", "key"]
    assert [line.split()[-1] for line in table[1:]] == keys
    assert "has not pinned epoch 2" in run("epoch", "animals", "r", 2, url=url, code=1).stderr
