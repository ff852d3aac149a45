"""The samples that are read and written, which are the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import registry
from benchmarks.server import Database
from registry import ClassLabel, Dataset, Registry, Tensor, Text
from registry.samples.features import Features

SEED = 20240229
PIECE = 10**6
NUMBERS = Features({"x": Tensor("float32", (10,)), "label": ClassLabel(10)})
"""Records of 44 bytes."""
IMAGES = Features({"image": Tensor("uint8", (3072,))})
"""Records of 3 KiB, the bytes of a colour image of 32 by 32 pixels."""
TEXTS = Features({"text": Text(), "label": ClassLabel(10)})
LONG, SHORT = (200, 4000), (20, 200)
"""The least and the most bytes of a text."""


@dataclass(frozen=True)
class Samples:
    """Columns to insert, and their keys."""

    features: Features
    columns: dict[str, Any]
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def insert(self, reg: Registry, name: str) -> Dataset:
        """Insert all samples into a new dataset."""
        dataset = reg.create(name, self.features)
        dataset.insert(self.columns, keys=self.keys)
        return dataset


def numbers(rows: int, first: int = 0) -> Samples:
    """Return rows of `NUMBERS`; ``first`` is the number of the first one, which is in its key."""
    rng = np.random.default_rng(SEED + first)
    x = rng.standard_normal((rows, 10), np.float32)
    label = rng.integers(0, 10, rows, np.int32)
    return Samples(NUMBERS, {"x": x, "label": label}, _keys(rows, first))


def texts(rows: int, lengths: tuple[int, int], first: int = 0) -> Samples:
    """Return rows of `TEXTS`; a text begins with the number of its row."""
    rng = np.random.default_rng(SEED + first)
    letters = rng.integers(ord("a"), ord("z") + 1, PIECE, np.uint8).tobytes().decode()
    sizes = rng.integers(lengths[0], lengths[1] + 1, rows)
    starts = rng.integers(0, len(letters) - lengths[1], rows)
    text = [
        f"{row:09} {letters[start : start + size - 10]}"
        for row, start, size in zip(
            range(first, first + rows), starts.tolist(), sizes.tolist(), strict=True
        )
    ]
    label = rng.integers(0, 10, rows, np.int32)
    return Samples(TEXTS, {"text": text, "label": label}, _keys(rows, first))


def images(rows: int) -> Samples:
    """Return rows of `IMAGES` that hold noise: like image files, it cannot be compressed."""
    rng = np.random.default_rng(SEED)
    image = rng.integers(0, 256, (rows, 3072), np.uint8)
    return Samples(IMAGES, {"image": image}, _keys(rows))


@contextmanager
def loaded(database: Database, datasets: dict[str, Samples]) -> Iterator[Registry]:
    """Yield a registry with the datasets; the server has no work left from inserting them."""
    with registry.connect(database.url) as reg:
        for name, samples in datasets.items():
            samples.insert(reg, name)
        database.settle()
        yield reg


def grow(dataset: Dataset, rows: int, make: Callable[[int, int], Samples] = numbers) -> None:
    """Insert new rows in pieces: ten million at once would take much memory.

    ``make`` returns them by their count and the number of the first one.
    """
    for after in range(0, rows, PIECE):
        piece = make(min(PIECE, rows - after), dataset.head.position)
        dataset.insert(piece.columns, keys=piece.keys)


def _keys(rows: int, first: int = 0) -> list[str]:
    return [f"sample-{row:09}" for row in range(first, first + rows)]
