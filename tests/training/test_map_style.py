"""Epochs as map-style datasets: the samples at offsets, one by one and many at once."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest

from registry import Bytes, ClassLabel, Dataset, Epoch, Ragged, Registry, Tensor, Text
from registry.errors import ErasedError, OffsetError, RegistryError
from registry.training import offset_table
from registry.training.map_style import GatheredSamples

FEATURES = {
    "n": Tensor("int64"),
    "x": Tensor("float32", (3,)),
    "label": ClassLabel(4),
    "text": Text(),
    "blob": Bytes(),
    "tokens": Ragged("int32", (2,)),
}
NARROW = {name: FEATURES[name] for name in ("n", "x", "label")}
SIZE = 60


def sample(n: int) -> dict[str, Any]:
    tokens = np.arange(2 * (n % 4), dtype=np.int32).reshape(-1, 2) + n
    fixed = {"n": n, "x": np.array([n, 0.5, -n], np.float32), "label": n % 4}
    return {**fixed, "text": f"söme {n}", "blob": bytes([n % 256]) * (n % 3), "tokens": tokens}


@pytest.fixture(params=[FEATURES, NARROW], ids=["of any width", "of fixed width"])
def dataset(reg: Registry, request: pytest.FixtureRequest) -> Dataset:
    dataset = reg.create("samples", request.param)
    rows = [{name: sample(n)[name] for name in request.param} for n in range(SIZE)]
    dataset.insert(rows, keys=[f"k{n}" for n in range(SIZE)])
    dataset.retract("k5")  # so that positions differ from ranks
    return dataset


@pytest.fixture
def epoch(dataset: Dataset) -> Epoch:
    return dataset.run("r", seed=3).epoch(0)


def assert_samples(samples: Any, numbers: list[int]) -> None:
    """Check that these are the samples of these numbers, with values of the features' types."""
    assert [int(each["n"]) for each in samples] == numbers
    for each, n in zip(samples, numbers, strict=True):
        for name, value in each.items():
            expected = sample(n)[name]
            assert type(value) is type(expected) or np.asarray(value).dtype.kind in "if"
            assert np.array_equal(value, expected), name


def order(epoch: Epoch) -> list[int]:
    return [n for batch in epoch.batches(7) for n in batch["n"].tolist()]


@pytest.mark.parametrize("lookups", [1, SIZE])
def test_offsets_lead_to_the_samples_of_the_epochs_batches(
    epoch: Epoch, monkeypatch: pytest.MonkeyPatch, lookups: int
) -> None:
    # With the table of positions from the first read on, or from a later one on.
    monkeypatch.setattr(offset_table, "LOOKUPS", lookups)
    numbers, rng = order(epoch), random.Random(0)
    assert len(epoch) == len(numbers) == SIZE - 1
    assert_samples([epoch[i] for i in range(len(epoch))], numbers)
    assert_samples([epoch[np.int64(-i)] for i in range(1, SIZE)], numbers[::-1])
    assert_samples(epoch, numbers)
    for count in (0, 1, 2, 200):
        offsets = [rng.randrange(-len(epoch), len(epoch)) for _ in range(count)]
        expected = [numbers[i] for i in offsets]
        gathered = epoch.__getitems__(offsets)
        assert_samples(gathered, expected)
        assert [each["n"] for each in gathered[1:]] == expected[1:]
        for given in (offsets, tuple(offsets), np.array(offsets, np.int32)):
            assert epoch[given]["n"].tolist() == gathered.columns["n"].tolist() == expected
    for cut in (slice(None), slice(3, 9), slice(-4, None, 2), slice(None, None, -1), slice(8, 2)):
        columns = epoch[cut]
        assert_samples(GatheredSamples(columns), numbers[cut])
        batch = next(epoch.batches(4))
        assert [column.dtype for column in columns.values()] == [c.dtype for c in batch.values()]


def test_a_copy_in_another_process_has_the_same_samples(epoch: Epoch) -> None:
    assert_samples(epoch.__getitems__([4, 2]), order(epoch)[4:1:-2])
    assert_samples(pickle.loads(pickle.dumps(epoch)).__getitems__([4, 2]), order(epoch)[4:1:-2])


def test_an_offset_without_a_sample_is_an_index_error_that_names_it(epoch: Epoch) -> None:
    for outside in (SIZE - 1, -SIZE, 2**62, -(2**70)):
        message = rf"has samples \[0, 59\), not {outside}$"
        with pytest.raises(IndexError, match=message):
            _ = epoch[outside]
        with pytest.raises(OffsetError, match=message):
            _ = epoch[[0, outside]]
        with pytest.raises(RegistryError, match=message):
            epoch.__getitems__([outside, 1])


def test_what_is_no_offset_is_a_type_error(epoch: Epoch) -> None:
    values: list[Any] = ["x", [0.5], [[1]], [True, False], ["a"], [None], {}, None, 1.5]
    for wrong in values:
        with pytest.raises(TypeError, match="offset"):
            _ = epoch[wrong]


def test_a_sample_that_is_erased_while_the_epoch_is_open_is_not_returned(
    dataset: Dataset, epoch: Epoch
) -> None:
    offset = order(epoch).index(7)
    assert epoch.__getitems__([offset] * SIZE)[0]["n"] == 7
    dataset.erase("k7")
    dataset.run("other").epoch(0)  # brings the mirror up to date
    for read in (lambda: epoch[offset], lambda: epoch.__getitems__([0, offset])):
        with pytest.raises(ErasedError, match=r"epoch 0 of run 'r' held a sample .*'k7'"):
            read()
