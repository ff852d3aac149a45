"""A sample's newest revisions, the epochs that held them, and keys by their beginning."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from registry import ClassLabel, Dataset, Registry, Replay, Text
from registry.catalog.sample_history import (
    epochs_holding,
    find_keys,
    newest_of_keys,
    newest_revisions,
    value_at,
)
from registry.errors import InvalidSampleError
from tests.storage.test_newest_revision import plans
from tests.support.datasets import FIXED, digit

_STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["cat", "dog", None]),
        st.sampled_from(["all", "new", "few", "cats", "train"]),
    ),
    min_size=8,
    max_size=16,
)
"""A key, its new class or None to retract it, and the run that then pins an epoch."""


@given(steps=_STEPS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_epochs_that_held_a_revision_are_those_that_list_its_position(
    reg: Registry, steps: list[tuple[str, str | None, str]]
) -> None:
    features = {"label": ClassLabel(["cat", "dog", "lynx"])}
    if "pets" in reg.names():
        reg.drop("pets")
    pets = reg.create("pets", features, splits={"train": 0.5, "test": 0.5})
    pets.insert([{"label": 0}], keys=["a"])
    runs = {
        "all": pets.run("all"),
        "new": pets.run("new", policy="new"),
        "few": pets.run("few", policy=Replay(0.5)),
        "cats": pets.run("cats", where={"label": "cat"}),
        "train": pets.run("train", split="train"),
    }
    keys = {"a"}
    for key, label, name in steps:
        if label is not None:
            pets.insert([{"label": label}], keys=[key])
            keys.add(key)
        elif key in keys:
            pets.retract(key)
        run = runs[name]
        last = run.last
        run.begin(0 if last is None else last.number + 1, 0)
    held = {
        (name, epoch.pin.number): {entry.position for entry in run.entries(epoch.pin.number)}
        for name, run in runs.items()
        for epoch in run.epochs(100)
    }
    for key in keys:
        revisions = newest_revisions(pets, key, limit=100)
        for revision, listed in zip(revisions, epochs_holding(pets, revisions), strict=True):
            holding = {each for each in held if revision.entry.position in held[each]}
            certain, possible = (
                {
                    (each.run, number)
                    for each in listed
                    for number in range(each.first, each.last + 1)
                    if each.certain is sure
                }
                for sure in (True, False)
            )
            assert certain <= holding <= certain | possible
            assert {run for run, _ in possible} <= {"few"}


def test_the_newest_revisions_of_a_key_come_with_what_superseded_them(reg: Registry) -> None:
    notes = reg.create("notes", {"text": Text()})
    for letter in "abc":
        notes.insert([{"text": letter}], keys=["one"])
        notes.insert([{"text": letter}], keys=["two"])
    notes.retract("one")
    listed = newest_revisions(notes, "one", limit=3)
    assert [(r.entry.position, r.sample, r.superseded_at) for r in listed] == [
        (6, None, None),
        (4, {"text": "c"}, 6),
        (2, {"text": "b"}, 4),
    ]
    assert [r.entry.position for r in newest_revisions(notes, "one", before=2)] == [0]
    # Of a version: what came later is not there.
    early = reg.open("notes@5")
    assert [(r.entry.position, r.superseded_at) for r in newest_revisions(early, "one")] == [
        (4, None),
        (2, 4),
        (0, 2),
    ]
    assert [value_at(notes, position, "text") for position in (4, 6, 7, -1)] == [
        "c",
        None,
        None,
        None,
    ]
    assert value_at(notes, 4, "other") is None
    notes.erase("two")
    assert {r.sample and r.sample["text"] for r in newest_revisions(notes, "two")} == {None}
    assert value_at(notes, 1, "text") is None


def test_keys_are_listed_by_their_beginning_whatever_other_datasets_have(
    reg: Registry,
) -> None:
    keys = ["b/1", "a", "b/3", "c", "b/2", "b", "b\U0001f600"]
    opened = []
    for name in ("first", "notes", "third"):
        opened.append(reg.create(name, {"label": ClassLabel(2)}))
        for _ in range(2):  # two revisions of each
            opened[-1].insert([{"label": _}] * len(keys), keys=keys)
    opened[0].insert([{"label": 0}], keys=["b/0"])
    opened[2].insert([{"label": 0}], keys=["b/4"])
    assert find_keys(opened[1], "b") == ["b", "b/1", "b/2", "b/3", "b\U0001f600"]
    assert find_keys(opened[1], "b/", limit=2) == ["b/1", "b/2"]
    assert find_keys(opened[0], "b/") == ["b/0", "b/1", "b/2", "b/3"]
    assert find_keys(opened[1], "d") == []
    assert find_keys(opened[1], "")[0] == "a"
    with pytest.raises(InvalidSampleError):
        find_keys(opened[1], "\0")


def test_revisions_and_keys_are_read_by_their_index(reg: Registry, digits: Dataset) -> None:
    digits.insert([digit(n) for n in range(50)], keys=[f"k{n}" for n in range(50)])
    with reg.engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    revised = reg.create("revised", FIXED)
    revised.insert([digit(n) for n in range(300)], keys=["k"] * 300)
    with plans(reg.engine) as used:
        assert len(newest_revisions(revised, "k", limit=3)) == 3
        assert [each.entry.position for each in newest_of_keys(revised, ["k", "none"])] == [299]
        assert find_keys(revised, "k") == ["k"]
    assert any("ix_samples_key" in line for line in used)
    assert not any("Seq Scan" in line or "SCAN samples" in line for line in used), used
