"""How many samples of an epoch are new or revised, from what was counted of the log's rows."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from registry import ClassLabel, Dataset, Registry, Replay, Tensor
from registry.catalog import epoch_origins as module
from registry.catalog.epoch_comparisons import EpochComparisons
from registry.catalog.epoch_origins import epoch_origins
from registry.catalog.statistics.count import statistics_of
from registry.samples.features import Feature

FEATURES: dict[str, Feature] = {"label": ClassLabel(["cat", "dog"]), "size": Tensor("int8")}
RUNS: dict[str, dict[str, Any]] = {
    "all": {},
    "new": {"policy": "new"},
    "few": {"policy": Replay(0.5)},
    "train": {"split": "train"},
    "cats": {"where": {"label": "cat"}},
    "ada": {"where": {"source": ["ada"]}},
}


def grow(pets: Dataset, step: int) -> None:
    keys = [f"pet-{number}" for number in range(10 * step, 10 * step + 20)]
    samples = [{"label": (step + number) % 2, "size": step} for number in range(20)]
    pets.insert(samples, keys=keys, source=None if step % 2 else "ada")
    for number in (0, 3):
        pets.update(keys[number], size=-step - 1, source="bob")
        pets.update(keys[number + 10], label="dog")
    pets.retract(keys[5])
    pets.retract(keys[15])
    pets.insert([{"label": 0, "size": 7}], keys=[keys[15]])


def test_the_origins_of_epochs_are_those_of_their_lineage(reg: Registry) -> None:
    pets = reg.create("pets", FEATURES, splits={"train": 0.6, "test": 0.4})
    runs = {name: pets.run(name, **settings) for name, settings in RUNS.items()}
    for step in range(4):
        grow(pets, step)
        for run in runs.values():
            run.epoch(step, timeout=0)
    statistics_of(pets)
    for name, run in runs.items():
        pins = [each.pin for each in run.epochs(10)]
        counted = epoch_origins(pets, run.settings, pins)
        assert [*counted] == [0, 1, 2, 3]
        for pin in pins:
            lineage, origins = run.lineage(pin.number), counted[pin.number]
            assert (origins.new, origins.revised) == (lineage.new, lineage.revised), name
            since = {each.position for each in run.entries(pin.number)}
            labels = [_label(pets, each) for each in since if each >= pin.since]
            assert origins.classes == {"label": Counter(labels)}, name


def _label(pets: Dataset, position: int) -> int:
    (page,) = pets.pages(position, position + 1)
    return int(page["label"][0])


def test_epochs_whose_rows_are_not_known_are_left_out(
    reg: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = reg.create("pets", FEATURES)
    run, sized = pets.run("all"), pets.run("sized", where={"size": (0, None)})
    for step in range(3):
        grow(pets, step)
        for each in (run, sized):
            each.epoch(step)
        if step == 1:
            statistics_of(pets)
    pins = [each.pin for each in run.epochs(10)]
    # Epoch 2 ends after the rows that were counted.
    assert [*epoch_origins(pets, run.settings, pins)] == [0, 1]
    assert epoch_origins(pets, sized.settings, [each.pin for each in sized.epochs(10)]) == {}
    monkeypatch.setattr(module, "READ_ROWS", pins[0].watermark)
    assert [*epoch_origins(pets, run.settings, pins)] == [0]
    # The rest is found out behind the call, and kept.
    comparisons = EpochComparisons()
    assert 0 in comparisons.origins(pets, run.settings, pins)
    while [*comparisons.origins(pets, run.settings, pins)] != [0, 1]:
        time.sleep(0.01)
    comparisons.close()
    monkeypatch.setattr(module, "MOST_ROWS", pins[0].watermark - 1)
    assert 0 not in epoch_origins(pets, run.settings, pins)
