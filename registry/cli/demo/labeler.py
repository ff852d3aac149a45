"""The demo's labeling process: it inserts samples, some with a wrong label, and corrects them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect

BURST = 120
"""Samples that are inserted at a time."""
PAUSE = 1.0
"""Seconds between two bursts of labels."""
WRONG = 0.05
"""The fraction of labels that are wrong at first."""


@dataclass(frozen=True)
class Drawer:
    """The digits: images of shape (n, 8, 8) and dtype uint8, and their true labels, int64."""

    images: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.int64]
    keys: list[str]

    @classmethod
    def load(cls) -> Drawer:
        from sklearn.datasets import load_digits  # noqa: PLC0415  # heavy, and an extra

        pixels, truth = load_digits(return_X_y=True)
        keys = [f"digit-{number:04d}" for number in range(len(truth))]
        return cls(pixels.reshape(-1, 8, 8).astype(np.uint8), truth, keys)

    def insert(
        self, digits: Dataset, numbers: npt.NDArray[np.intp], labels: npt.NDArray[np.int64]
    ) -> None:
        digits.insert(
            {"image": self.images[numbers], "label": labels[numbers]},
            keys=[self.keys[number] for number in numbers],
            source="labeler",
        )

    def correct(self, digits: Dataset, numbers: Iterable[int]) -> None:
        for number in numbers:
            digits.update(self.keys[number], label=self.truth[number], source="reviewer")


def label(digits: Dataset) -> None:
    """Insert the test split with true labels, then the rest in bursts.

    The wrong labels of a burst are corrected after the next one.
    """
    drawer = Drawer.load()
    splits = np.array([digits.split_of(key) for key in drawer.keys])
    drawer.insert(digits, np.flatnonzero(splits == "test"), drawer.truth)
    rng = np.random.default_rng(5)
    mistaken = rng.random(len(splits)) < WRONG
    guesses = np.where(mistaken, (drawer.truth + 1) % 10, drawer.truth)
    rest = rng.permutation(np.flatnonzero(splits == "train"))
    before: npt.NDArray[np.intp] = rest[:0]
    for burst in np.array_split(rest, -(-len(rest) // BURST)):
        drawer.insert(digits, burst, guesses)
        drawer.correct(digits, before[mistaken[before]])
        before = burst
        time.sleep(PAUSE)
    drawer.correct(digits, before[mistaken[before]])


if __name__ == "__main__":
    with connect(sys.argv[1]) as registry:
        label(registry.open("digits"))
