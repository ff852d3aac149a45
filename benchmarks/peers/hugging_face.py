"""Hugging Face datasets: Arrow files on disk, shuffled by index or through a buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torch.utils.data import DataLoader

from benchmarks.peers import arrow
from benchmarks.peers.loader import WORKERS, Batch, Loader, Samples, X, decode

SHARDS, BUFFER = 64, 10_000
"""Shards and samples of the shuffle buffer, of about the sizes in the project's guide."""


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    datasets.disable_progress_bars()
    datasets.Dataset(arrow.table(samples)).save_to_disk(folder)
    stored = datasets.load_from_disk(folder)
    # As arrays, texts would be padded to the longest one, and files lose zeros at their end.
    if samples.kind == "numbers":
        stored = stored.with_format("numpy")
    name = X[samples.kind]

    def arrays(parts: Iterable[dict[str, Any]]) -> Iterator[Batch]:
        for part in parts:
            yield _x(samples, part[name]), part["label"]

    def map_style() -> Iterator[Batch]:
        return arrays(stored.shuffle().iter(samples.batch))

    def flattened() -> Iterator[Batch]:
        return arrays(stored.shuffle().flatten_indices(keep_in_memory=True).iter(samples.batch))

    def iterable() -> Iterator[Batch]:
        shuffled = stored.to_iterable_dataset(SHARDS).shuffle(buffer_size=BUFFER)
        return arrays(shuffled.iter(samples.batch))

    loader = DataLoader(
        stored,
        samples.batch,
        shuffle=True,
        collate_fn=partial(_collated, samples),
        num_workers=WORKERS,
        persistent_workers=True,
    )
    return {
        "shuffled": Loader(map_style),
        "shuffled and flattened": Loader(flattened),
        "an iterable": Loader(iterable),
        f"{WORKERS} worker processes": Loader(lambda: loader),
    }


def _x(samples: Samples, values: Any) -> Any:
    return np.stack([decode(file) for file in values]) if samples.kind == "images" else values


def _collated(samples: Samples, rows: list[dict[str, Any]]) -> Batch:
    values = [row[X[samples.kind]] for row in rows]
    x = np.stack(values) if samples.kind == "numbers" else _x(samples, values)
    return x, np.array([row["label"] for row in rows])
