"""Runs on a version: all of their epochs hold the same samples, however the dataset grows."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from sqlalchemy import update

import registry
from registry import Dataset, Registry, Replay, Run, Tensor
from registry.errors import DivergenceError, EpochError, ErasedError, FeatureError, RunMismatchError
from registry.storage.database.models import RunRow
from tests.support.datasets import FIXED, digit
from tests.support.growing_datasets import due, rows, yielded


@pytest.fixture
def run(reg: Registry, digits: Dataset) -> Run:
    """A run on a version of 35 samples, of which some were revised since."""
    digits.insert([digit(n) for n in range(40)], keys=[f"k{n}" for n in range(40)])
    for n in range(5):
        digits.retract(f"k{n}")
    digits.tag("gold")
    digits.update("k7", label=0)
    digits.insert([digit(n) for n in range(100, 120)])
    return reg.open("digits@gold").run("paper", seed=1)


def test_every_epoch_holds_the_samples_of_the_version(
    reg: Registry, digits: Dataset, run: Run
) -> None:
    gold = reg.open("digits@gold")
    assert (run.version, run.policy) == (gold.version, "all")
    assert repr(run) == f"<run 'paper': split None, policy 'all', version {str(gold.version)!r}>"
    orders = []
    for number in range(3):
        epoch = run.epoch(number)
        assert (epoch.watermark, epoch.size, epoch.start) == (45, 35, 35 * number)
        assert epoch.chain.hex() == gold.version.chain
        orders.append(yielded(epoch))
        assert orders[-1] == due(digits, epoch)
        assert {row[1] for row in orders[-1] if row[0][0] == [7, 0]} == {7}
        digits.insert([digit(200 + number)])
    assert len({repr(order) for order in orders}) == 3
    assert len({repr(sorted(order)) for order in orders}) == 1
    assert digits.run("later").epoch(0).size == 58


def test_a_run_on_a_version_stays_when_the_tag_moves_or_goes(
    reg: Registry, digits: Dataset, run: Run
) -> None:
    order, version = yielded(run.epoch(0)), run.version
    digits.tag("gold", move=True)
    again = reg.open("digits").run("paper", seed=1)
    assert (again.version, yielded(again.epoch(0)), again.epoch(1).watermark) == (
        version,
        order,
        45,
    )
    with pytest.raises(RunMismatchError, match=f"'paper' is on {version}, not on digits@66:"):
        reg.open("digits@gold").run("paper")
    digits.untag("gold")
    assert [each.version for each in digits.runs()] == [version]
    assert reg.open("digits@45").run("paper").version == version


def test_a_run_on_a_version_has_its_features(reg: Registry, digits: Dataset, run: Run) -> None:
    order = yielded(run.epoch(0))
    digits.tag("plain")
    digits.add_feature("score", Tensor("float32"), default=0.5)
    digits.tag("scored")
    digits.insert([{**digit(7), "score": 1.0}])
    digits.add_classes("label", 2)
    for name, features in {"plain": [*FIXED], "scored": [*FIXED, "score"]}.items():
        version = reg.open(f"digits@{name}")
        of_version = version.run(name)
        assert [*of_version.features] == [*of_version.epoch(0).features] == features
        (batch,) = islice(of_version.stream(66), 1)
        assert [*batch] == features
        assert digits.run(name).features == version.features
    assert set(batch["score"].tolist()) == {0.5}
    assert yielded(run.epoch(0)) == order
    assert [*run.epoch(1).features] == [*run.features] == [*FIXED]
    with pytest.raises(
        RunMismatchError, match=r"digits@66:[0-9a-f]* with its other features; open"
    ):
        reg.open("digits@scored").run("plain")


def test_a_run_is_on_a_version_or_grows(reg: Registry, digits: Dataset, run: Run) -> None:
    digits.run("grows")
    with pytest.raises(RunMismatchError, match="'grows' is on no version, not on digits@45:"):
        reg.open("digits@gold").run("grows")
    with pytest.raises(RunMismatchError, match=f"'paper' is on {run.version}, not on digits@44:"):
        reg.open("digits@44").run("paper")
    for policy in ("new", Replay(0.5)):
        with pytest.raises(
            FeatureError, match=r"digits@45:.* never has anything new, so that a run"
        ):
            reg.open("digits@gold").run("another", policy=policy)
    assert reg.open("digits@gold").run("paper", policy="all").version == run.version
    assert [each.name for each in digits.runs()] == ["grows", "paper"]


def test_a_run_on_a_version_is_one_sequence_on_any_number_of_workers(
    reg: Registry, digits: Dataset, run: Run
) -> None:
    whole = [row for batch in islice(run.stream(8), 12) for row in rows(batch)]
    for number in (1, 2, 4):
        digits.insert([digit(300 + number)])
        run.record(16, rewind=True)
        again = reg.open("digits").run("paper")
        shards = [again.stream(8 // number, shard=(index, number)) for index in range(number)]
        steps = [rows(next(shard)) for _ in range(10) for shard in shards]
        assert [row for step in steps for row in step] == whole[16:]


def test_a_version_without_samples_is_an_error_and_nobody_waits(
    reg: Registry, digits: Dataset, run: Run
) -> None:
    empty = reg.open("digits@0").run("empty", split="train")
    digits.insert([digit(500)])
    reason = "epoch 0 of run 'empty': the version .* at position 0, holds no sample for it"
    for wait in (lambda: empty.epoch(0), lambda: empty.begin(0), lambda: next(empty.stream(1))):
        with pytest.raises(EpochError, match=reason):
            wait()
    assert run.begin(0) is not None


def test_the_newest_epoch_of_a_version_is_any_of_its_epochs(digits: Dataset, run: Run) -> None:
    first = run.covering(3)
    digits.insert([digit(400)])
    assert run.covering(digits.head.position).number == first.number == 0
    assert run.last is not None
    assert run.last.number == 0


def test_no_epoch_of_a_version_is_said_to_continue_after_an_erasure(
    digits: Dataset, run: Run
) -> None:
    mix = registry.mix({run: 1, digits.run("other"): 1})
    next(mix.batches(4))
    digits.erase("k9")
    unread = registry.mix({run: 1, digits.run("new"): 1})
    for read in (lambda: run.epoch(1), lambda: next(mix.batches(64)), lambda: unread.begin(0)):
        with pytest.raises(ErasedError, match="as do all epochs of this run") as error:
            read()
        assert "take a run of another name" in str(error.value)
        assert not {"skip", "record"} & {*re.split(r"\W", str(error.value))}


def test_a_run_on_another_history_is_not_continued(
    reg: Registry, digits: Dataset, run: Run
) -> None:
    with reg.engine.begin() as connection:
        connection.execute(update(RunRow).values(chain=bytes(16)))
    reopened = digits.run("paper")
    with pytest.raises(DivergenceError, match=r"'paper' is on the version at position 45 .* has "):
        reopened.epoch(0)
    with reg.engine.begin() as connection:
        connection.execute(update(RunRow).values(watermark=70))
    with pytest.raises(
        DivergenceError, match=r"at position 70 .* log ends before: was it restored"
    ):
        digits.run("paper").epoch(0)
    assert run.pinned(0) is None
