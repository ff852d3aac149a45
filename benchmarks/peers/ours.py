"""The registry's `EpochDataset`, consumed in the graph as by Keras."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import registry
from benchmarks.peers.loader import SIZE, Batch, Loader, Samples, X
from benchmarks.quiet import quiet
from registry import ClassLabel, Image, Tensor, Text
from registry.samples.features import Feature
from registry.training.run import Run

with quiet():
    import tensorflow as tf

    from registry.tensorflow import EpochDataset, StreamDataset

RUN = "peers"


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    pinned = run(samples, folder)
    return {"": in_graph(samples, lambda: epoch(samples, pinned))}


def run(samples: Samples, folder: Path) -> Run:
    """Insert the samples into a dataset in a folder, with the mirror there; return a run."""
    os.environ["REGISTRY_CACHE"] = str(folder / "cache")
    reg = registry.connect(f"sqlite:///{folder / 'registry.db'}")
    feature: dict[str, Feature] = {
        "numbers": Tensor("float32", (10,)),
        "texts": Text(),
        "images": Image("jpeg"),
    }
    classes = int(samples.label.max()) + 1
    name = X[samples.kind]
    features: dict[str, Feature] = {name: feature[samples.kind], "label": ClassLabel(classes)}
    dataset = reg.create("samples", features)
    dataset.insert({name: samples.x, "label": samples.label})
    return dataset.run(RUN)


def epoch(samples: Samples, of: Run) -> tf.data.Dataset:
    return EpochDataset(of.epoch(0), drop_remainder=True, **_options(samples))


def stream(samples: Samples, of: Run) -> tf.data.Dataset:
    """Return as many batches of the stream as an epoch has."""
    batches = StreamDataset(of, start=0, **_options(samples))
    return batches.take(len(samples) // samples.batch)


def _options(samples: Samples) -> dict[str, Any]:
    options = {"batch_size": samples.batch, "x": X[samples.kind], "y": "label"}
    return {**options, "image_size": SIZE} if samples.kind == "images" else options


def in_graph(samples: Samples, make: Callable[[], tf.data.Dataset]) -> Loader:
    dataset = make()
    count = tf.function(lambda: dataset.reduce(np.int64(0), lambda batches, *_: batches + 1))
    count.get_concrete_function()

    def batches() -> Iterable[Batch]:
        return dataset.as_numpy_iterator()  # type: ignore[no-any-return]

    return Loader(batches, lambda: samples.batch * int(count()))
