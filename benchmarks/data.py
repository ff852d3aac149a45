"""The samples that are read and written: the same ones in every run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import registry
from benchmarks.server import Database
from registry import ClassLabel, Dataset, Registry, Tensor
from registry.samples.features import Features

SEED = 20240229
PIECE = 10**6
NUMBERS = Features({"x": Tensor("float32", (10,)), "label": ClassLabel(10)})
"""Records of 44 bytes."""
IMAGES = Features({"image": Tensor("uint8", (3072,))})
"""Records of 3 KiB: as many bytes as a colour image of 32 by 32."""


@dataclass(frozen=True)
class Samples:
    """Columns to insert, and their keys."""

    features: Features
    columns: dict[str, Any]
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def insert(self, reg: Registry, name: str) -> Dataset:
        """Insert everything into a new dataset."""
        dataset = reg.create(name, self.features)
        dataset.insert(self.columns, keys=self.keys)
        return dataset


def numbers(rows: int, first: int = 0) -> Samples:
    """``first`` is the number of the first row: other rows have other values and keys."""
    rng = np.random.default_rng(SEED + first)
    x = rng.standard_normal((rows, 10), np.float32)
    label = rng.integers(0, 10, rows, np.int32)
    return Samples(NUMBERS, {"x": x, "label": label}, _keys(rows, first))


def images(rows: int) -> Samples:
    """Noise: like image files, it does not compress."""
    rng = np.random.default_rng(SEED)
    image = rng.integers(0, 256, (rows, 3072), np.uint8)
    return Samples(IMAGES, {"image": image}, _keys(rows))


@contextmanager
def loaded(database: Database, datasets: dict[str, Samples]) -> Iterator[Registry]:
    """Lend a registry that holds the datasets and is at rest, ready to be read."""
    with registry.connect(database.url) as reg:
        for name, samples in datasets.items():
            samples.insert(reg, name)
        database.settle()
        yield reg


def grow(dataset: Dataset, rows: int) -> None:
    """Insert so many new rows of `numbers`, in pieces: ten million would take much memory."""
    for after in range(0, rows, PIECE):
        piece = numbers(min(PIECE, rows - after), dataset.head.position)
        dataset.insert(piece.columns, keys=piece.keys)


def _keys(rows: int, first: int = 0) -> list[str]:
    return [f"sample-{row:09}" for row in range(first, first + rows)]
