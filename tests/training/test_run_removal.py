"""Removing a run: its epochs are gone, and a run of the same name begins from nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete

import registry
from registry import Dataset, Registry, Run
from registry.errors import DivergenceError, RunNotFoundError, VersionError
from registry.storage.database.models import EpochRow, RunRow
from registry.storage.database.transactions import writing
from registry.storage.mirror.state_file import read_fields, write_fields
from tests.support.datasets import digit
from tests.support.growing_datasets import yielded


@pytest.fixture
def trained(digits: Dataset) -> Run:
    """A run with two epochs, of which the first was trained on."""
    run = digits.run("cnn-1", seed=3)
    for number in range(2):
        digits.insert([digit(n) for n in range(10)])
        run.epoch(number)
    run.record(10)
    return run


def sizes(run: Run) -> list[int]:
    return [epoch.pin.size for epoch in run.epochs(10)]


def lose(reg: Registry, *tables: type[EpochRow | RunRow]) -> None:
    """Remove rows as a dump does not have them."""
    with writing(reg.engine) as connection:
        for table in tables:
            connection.execute(delete(table))


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_of_the_name_of_a_removed_one_begins_from_nothing(
    reg: Registry, url: str, digits: Dataset, trained: Run, epochs: int
) -> None:
    epoch = trained.epoch(1)
    samples = yielded(epoch)
    kept = digits.run("kept")
    kept.epoch(0)
    assert sizes(trained) == [10, 20]
    with registry.connect(url) as other:
        other.open("digits").remove_run("cnn-1")
        assert [each.name for each in digits.runs()] == ["kept"]
        begun = other.open("digits").run("cnn-1", seed=4)
        assert (begun.last, begun.consumed, begun.seed) == (None, 0, 4)
        # This machine remembers epoch 1 of the removed run.
        assert [begun.epoch(number).size for number in range(epochs)] == [20] * epochs
    assert yielded(epoch) == samples, "an open epoch keeps its samples"
    assert sizes(kept) == [20]
    # What is remembered now is the new run's: losing that is noticed.
    lose(reg, EpochRow)
    with pytest.raises(DivergenceError, match=f"reached epoch {epochs - 1} at position 20"):
        digits.run("cnn-1").epoch(0)


def test_a_run_that_was_lost_and_not_removed_still_diverges(
    reg: Registry, digits: Dataset, trained: Run
) -> None:
    lose(reg, EpochRow, RunRow)
    assert digits.run("cnn-1").last is None
    with pytest.raises(DivergenceError, match="reached epoch 1 at position 20"):
        digits.run("cnn-1").epoch(0)
    assert trained.name == "cnn-1"


@pytest.mark.usefixtures("trained")
def test_what_an_earlier_version_remembers_of_a_removed_run_is_forgotten(
    digits: Dataset, cache: Path
) -> None:
    (path,) = (cache / digits._log.uid / "runs").iterdir()
    fields = read_fields(path)
    assert fields is not None
    assert fields.pop("created_at").endswith("+00:00")
    del fields["schema"], fields["older"]
    write_fields(path, fields)
    digits.remove_run("cnn-1")
    assert digits.run("cnn-1").epoch(0).size == 20


@pytest.mark.parametrize("opened", ["trained here", "never used here"])
def test_a_process_that_has_a_removed_run_open_gets_an_error_that_says_so(
    digits: Dataset, trained: Run, opened: str
) -> None:
    run = trained if opened == "trained here" else digits.run("cnn-2")
    digits.remove_run(run.name)
    uses: list[Callable[[], object]] = [
        lambda: run.epoch(0),
        lambda: run.consumed,
        lambda: run.record(11),
        lambda: run.record_at_least(11),
        lambda: run.advance(1),
    ]
    if run is trained:
        uses.append(lambda: run.epoch(1))
    for use in uses:
        with pytest.raises(RunNotFoundError, match=f"run '{run.name}' was removed; open a run of"):
            use()
    assert run.last is None


@pytest.mark.usefixtures("trained")
def test_a_run_that_does_not_exist_is_not_removed(reg: Registry, digits: Dataset) -> None:
    for name, hint in [("cnn-2", "did you mean 'cnn-1'?"), ("\0", "`registry run ls` lists them")]:
        with pytest.raises(RunNotFoundError) as caught:
            digits.remove_run(name)
        assert str(caught.value) == f"no run named {name!r}; {hint}"
    with pytest.raises(VersionError, match="never changes"):
        reg.open(str(digits.version)).remove_run("cnn-1")
    assert [run.name for run in digits.runs()] == ["cnn-1"]
