"""What every project offers, and what its batches must hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Kind = Literal["numbers", "texts", "images"]
BATCHES: dict[Kind, int] = {"numbers": 256, "texts": 256, "images": 32}
"""Samples of a batch."""
X: dict[Kind, str] = {"numbers": "x", "texts": "text", "images": "image"}
"""The feature next to the label."""
SIZE = (224, 224)
"""Height and width to which images are resized."""
WORKERS = 2
"""Worker processes where a project uses some: one for each core of the documented machine."""
TOLERANCE = 16
"""The mean difference of two images in levels: projects resize by different filters."""
Batch: TypeAlias = tuple[Any, Any]
"""Numbers as an array, texts as a sequence of str or bytes, images as an array; and labels."""


@dataclass(frozen=True)
class Samples:
    """Samples of one kind: an array of numbers, or a list of texts or files; and int32 labels."""

    kind: Kind
    x: Any
    label: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def batch(self) -> int:
        return BATCHES[self.kind]

    def rows(self) -> Iterable[tuple[Any, int]]:
        """Return pairs of a sample and its label."""
        return zip(self.x, self.label.tolist(), strict=True)


@dataclass(frozen=True)
class Loader:
    """Makes the batches of one shuffled epoch, which are consumed in a loop.

    ``take_all`` is given where a training loop needs no Python, as Keras's; it returns the samples.
    """

    batches: Callable[[], Iterable[Batch]]
    take_all: Callable[[], int] | None = None

    def consume(self) -> int:
        """Take all batches of an epoch; return how many samples they have."""
        if self.take_all is not None:
            return self.take_all()
        return sum(len(label) for _, label in self.batches())


def decode(file: bytes) -> npt.NDArray[np.uint8]:
    """Return an image as these projects' examples do: by Pillow, resized by its bilinear filter."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    return np.asarray(image.resize(SIZE[::-1], Image.Resampling.BILINEAR))


def check(name: str, loader: Loader, samples: Samples) -> None:
    """Check that an epoch has each sample once, in another order; a few may lack in the end.

    Raises `AssertionError` if not.
    """
    numbers = {_identity(samples, one): row for row, one in enumerate(samples.x)}
    rows: list[int] = []
    for x, label in loader.batches():
        labels = np.asarray(label)
        if samples.kind == "images":
            found = labels.tolist()  # the label of an image is its number
            for image, row in zip(np.asarray(x), found, strict=True):
                difference = np.abs(image.astype(float) - decode(samples.x[row]))
                assert difference.mean() < TOLERANCE, f"{name}: another image"
        else:
            values = np.asarray(x) if samples.kind == "numbers" else x
            found = [numbers[_identity(samples, one)] for one in values]
            assert np.array_equal(labels, samples.label[found]), f"{name}: other labels"
        rows += found
    # Each worker process may drop a batch that is not full.
    assert len(rows) > len(samples) - (WORKERS + 1) * samples.batch, f"{name}: samples lack"
    assert len(set(rows)) == len(rows), f"{name}: a sample comes twice"
    assert rows != sorted(rows), f"{name}: not shuffled"


def _identity(samples: Samples, one: Any) -> Any:
    """Return what tells one sample from the others: of numbers the bytes, of a text its bytes."""
    if samples.kind == "numbers":
        return np.asarray(one, np.float32).tobytes()
    return one.encode() if isinstance(one, str) else bytes(one)
