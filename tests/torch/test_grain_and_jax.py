"""Epochs as data sources of Grain, and their batches as arrays of JAX."""

from __future__ import annotations

import numpy as np
import pytest

import registry
from registry import ClassLabel, Tensor


def test_grain_reads_each_sample_of_an_epoch_once(sqlite_url: str) -> None:
    grain = pytest.importorskip("grain", reason="needs Grain, which `.ci/run` tests in a step")
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("samples", {"n": Tensor("int64"), "label": ClassLabel(3)})
        dataset.insert({"n": np.arange(50), "label": np.arange(50) % 3})
        epoch = dataset.run("r").epoch(0)
        order = epoch[:]["n"].tolist()
        source = grain.MapDataset.source(epoch)
        assert [source[i]["n"] for i in range(len(source))] == order
        batches = list(source.shuffle(seed=1).batch(8).to_iter_dataset())
        read = [n for batch in batches for n in batch["n"].tolist()]
        assert sorted(read) == list(range(50))
        assert read != order
        assert all(np.array_equal(batch["n"] % 3, batch["label"]) for batch in batches)
        sharded = [source[index::2].to_iter_dataset() for index in range(2)]
        assert [[each["n"] for each in part] for part in sharded] == [order[::2], order[1::2]]


def test_batches_become_arrays_of_jax(sqlite_url: str) -> None:
    jnp = pytest.importorskip("jax.numpy", reason="needs JAX, which `.ci/run` tests in a step")
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("samples", {"x": Tensor("float32", (2,)), "label": ClassLabel(3)})
        dataset.insert({"x": np.ones((6, 2), np.float32), "label": np.arange(6) % 3})
        for batch in dataset.run("r").epoch(0).batches(4):
            arrays = {name: jnp.asarray(column) for name, column in batch.items()}
            assert {name: str(array.dtype) for name, array in arrays.items()} == {
                "x": "float32",
                "label": "int32",
            }
            assert all(np.array_equal(arrays[name], batch[name]) for name in batch)
