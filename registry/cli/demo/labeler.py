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
from registry.training.run import Run

BURST_SIZE = 120
"""Samples that are inserted at a time."""
BURST_PAUSE = 0.5
"""Seconds between two bursts of labels."""
POLL_SECONDS = 0.05
"""Seconds between two looks at what is trained on, or at the dataset's head."""
WRONG_SHARE = 0.05
"""The share of labels that are wrong at first."""


@dataclass(frozen=True)
class Digits:
    """The handwritten digits: images of shape (n, 8, 8), uint8, and their true labels, int64."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    keys: list[str]

    @classmethod
    def load(cls) -> Digits:
        from sklearn.datasets import load_digits  # noqa: PLC0415  # heavy, and an extra

        pixels, labels = load_digits(return_X_y=True)
        keys = [f"digit-{number:04d}" for number in range(len(labels))]
        return cls(pixels.reshape(-1, 8, 8).astype(np.uint8), labels, keys)

    def insert(
        self, dataset: Dataset, numbers: npt.NDArray[np.intp], labels: npt.NDArray[np.int64]
    ) -> None:
        dataset.insert(
            {"image": self.images[numbers], "label": labels[numbers]},
            keys=[self.keys[number] for number in numbers],
            source="labeler",
        )

    def correct(self, dataset: Dataset, numbers: Iterable[int]) -> None:
        for number in numbers:
            dataset.update(self.keys[number], label=self.labels[number], source="reviewer")


def training_run(digits: Dataset) -> Run:
    """Return the run that the demo trains on."""
    return digits.run("demo", seed=7, split="train")


def label(dataset: Dataset) -> None:
    """Insert the test split with true labels, then the rest in bursts.

    The wrong labels of a burst are corrected after the next one. A burst waits until the one before
    the last is trained on, so that the dataset grows while the model trains, on a slow machine too.
    """
    run = training_run(dataset)
    digits = Digits.load()
    splits = np.array([dataset.split_of(key) for key in digits.keys])
    # First and whole: the trainer measures its accuracy on it from the first epoch on.
    digits.insert(dataset, np.flatnonzero(splits == "test"), digits.labels)
    # Seeded, so that every demo makes the same mistakes.
    rng = np.random.default_rng(5)
    is_wrong = rng.random(len(splits)) < WRONG_SHARE
    first_labels = np.where(is_wrong, (digits.labels + 1) % 10, digits.labels)
    rest = rng.permutation(np.flatnonzero(splits == "train"))
    previous: npt.NDArray[np.intp] = rest[:0]
    for burst in np.array_split(rest, -(-len(rest) // BURST_SIZE)):
        before = dataset.head.position
        digits.insert(dataset, burst, first_labels)
        digits.correct(dataset, previous[is_wrong[previous]])
        previous = burst
        time.sleep(BURST_PAUSE)
        while (pin := run.last) is None or pin.watermark < before:
            time.sleep(POLL_SECONDS)
    digits.correct(dataset, previous[is_wrong[previous]])


def main() -> None:
    with connect(sys.argv[1]) as registry:
        label(registry.open("digits"))


if __name__ == "__main__":
    main()
