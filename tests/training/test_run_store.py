"""Runs in the database: none reads or changes what belongs to another."""

from __future__ import annotations

from typing import Any

import pytest

from registry import Registry, Replay, Run, Tensor
from registry.errors import DivergenceError, EpochError, FeatureError, RunMismatchError

END = 2**63
"""The first number that the databases cannot hold."""


@pytest.fixture
def runs(reg: Registry) -> list[Run]:
    """Three runs, of which two share a dataset, and two a name."""
    datasets = [reg.create(name, {"n": Tensor("int64")}) for name in ("samples", "other")]
    for dataset in datasets:
        dataset.insert([{"n": n} for n in range(10)])
    return [datasets[0].run("r"), datasets[0].run("s"), datasets[1].run("r")]


def test_recording_changes_one_run_alone(runs: list[Run]) -> None:
    expected = [1, 2, 3]
    for run, samples in zip(runs, expected, strict=True):
        run.record(samples)
    for index, run in enumerate(runs):
        run.record(20 + index)
        expected[index] = 20 + index
        assert [each.consumed for each in runs] == expected
        run.record_at_least(30 + index)
        assert run.advance(5) == 35 + index
        expected[index] = 35 + index
        assert [each.consumed for each in runs] == expected
        run.record(index, rewind=True)
        expected[index] = index
        assert [each.consumed for each in runs] == expected


def test_the_largest_number_of_consumed_samples_is_reached_and_not_passed(runs: list[Run]) -> None:
    run = runs[0]
    assert run.advance(0) == 0
    assert run.advance(END - 1) == END - 1
    assert run.advance(0) == END - 1
    for samples in (1, END - 1):
        with pytest.raises(EpochError, match=f"{samples} more samples cannot have been consumed"):
            run.advance(samples)
    for wrong in (lambda: run.advance(END), lambda: run.record_at_least(END)):
        with pytest.raises(EpochError, match=f"{END} samples cannot have been consumed"):
            wrong()
    assert [each.consumed for each in runs] == [END - 1, 0, 0]


def test_pins_belong_to_one_run(runs: list[Run]) -> None:
    for run, epochs in zip(runs, (3, 1, 2), strict=True):
        assert run.last is None
        for number in range(epochs):
            assert run.pin(number) is None
            assert run.pinned(number) is None
            assert run.pin(run.epoch(number).number) == run.last
    for run, epochs in zip(runs, (3, 1, 2), strict=True):
        assert run.last is not None
        assert run.last.number == epochs - 1
        assert run.last.end == 10 * epochs
        assert [run.pin(n) is None for n in range(4)] == [n >= epochs for n in range(4)]


def test_what_no_database_can_hold_is_not_pinned(runs: list[Run]) -> None:
    run = runs[0]
    run.epoch(0)
    for number in (END - 1, END, 2**70):
        assert run.pin(number) is None
        assert run.pin(-number) is None
        assert run.pinned(number) is None
        with pytest.raises(EpochError, match=f"epoch {number} of run 'r' cannot begin before"):
            run.epoch(number)
        with pytest.raises(DivergenceError, match=f"is to continue at sample {number}, but"):
            run.locate(number)


@pytest.mark.parametrize("seed", [0, 1, END - 1])
def test_a_run_keeps_its_seed_and_refuses_any_other(reg: Registry, seed: int) -> None:
    dataset = reg.create("samples", {"n": Tensor("int64")})
    dataset.run("r", seed=seed)
    assert dataset.run("r").seed == dataset.run("r", seed=seed).seed == seed
    for other in {0, 1, END - 1} - {seed}:
        with pytest.raises(RunMismatchError, match=f"run 'r' has seed {seed}, not {other}"):
            dataset.run("r", seed=other)
    for invalid in (-1, END):
        with pytest.raises(FeatureError, match=f"seed {invalid} is not in"):
            dataset.run("s", seed=invalid)
    assert [run.name for run in dataset.runs()] == ["r"]


def test_the_runs_of_a_dataset_are_listed_by_name_with_their_settings(reg: Registry) -> None:
    settings: dict[str, dict[str, Any]] = {
        "b": {"seed": 3, "split": "one", "policy": "new"},
        "a": {"seed": 0, "split": None, "policy": "all"},
        "c": {"seed": END - 1, "split": "two", "policy": Replay(0.1)},
    }
    for name in ("samples", "other"):
        dataset = reg.create(name, {"n": Tensor("int64")}, splits={"one": 0.5, "two": 0.5})
        for run, options in settings.items():
            dataset.run(f"{run} of {name}", **options)
    listed = {
        run.name: {"seed": run.seed, "split": run.split, "policy": run.policy}
        for run in reg.open("samples").runs()
    }
    assert list(listed) == ["a of samples", "b of samples", "c of samples"]
    assert listed == {f"{name} of samples": options for name, options in settings.items()}
