"""Batches of samples as NumPy arrays, with images decoded by Pillow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

import numpy as np

from registry.errors import FeatureError, ImageError
from registry.samples.arrays import Positions
from registry.samples.codec import Column
from registry.samples.features import Features, Image
from registry.samples.pillow import MODES, Decode, decoder
from registry.storage.database.transactions import read
from registry.storage.log.reader import Log
from registry.storage.log.records import sample_at
from registry.training import batching
from registry.training.log_positions import log_and_position

Part = tuple[Positions, Mapping[str, Column]]
"""The positions of some samples (`log_positions`), and the samples as columns."""
_POSITION = ""
"""The name of the column of positions, which no feature can have."""


def image_batches(
    logs: Sequence[Log],
    features: Features,
    parts: Iterable[Part],
    batch_size: int,
    channels: int,
) -> Iterator[dict[str, Column]]:
    """Yield batches as `batching.batches` does, with images decoded.

    The column of an image feature is an object array of uint8 arrays ``(height, width, channels)``.
    Raises `RegistryError` without Pillow and `FeatureError` for a number of channels other than 1,
    3 and 4, both before the first batch is asked for. The iterator raises `ImageError` for an image
    that cannot be decoded.
    """
    if channels not in MODES:
        raise FeatureError(f"{channels} channels: images are decoded to 1, 3 or 4")
    names = [name for name, feature in features.items() if isinstance(feature, Image)]
    return _batches(logs, names, parts, batch_size, decoder(channels))


def _batches(
    logs: Sequence[Log],
    names: Sequence[str],
    parts: Iterable[Part],
    batch_size: int,
    decode: Decode,
) -> Iterator[dict[str, Column]]:
    with_positions = ({_POSITION: positions, **columns} for positions, columns in parts)
    # Decoded only here: the images of a part, which is a few MiB of files, might take gigabytes.
    for batch in batching.batches(with_positions, batch_size):
        positions = batch.pop(_POSITION)
        for name in names:
            images = np.empty(len(positions), object)
            for row, file in enumerate(batch[name]):
                try:
                    images[row] = decode(file)
                except Exception as error:  # noqa: BLE001  # Pillow raises what it likes
                    _refuse(*log_and_position(logs, int(positions[row])), name, error)
            batch[name] = images
        yield batch


def _refuse(log: Log, position: int, feature: str, error: Exception) -> NoReturn:
    dataset, key, _ = read(log.engine, sample_at, log.dataset_id, position)
    reason = str(error) or type(error).__name__
    raise ImageError(reason, dataset, position=position, key=key, feature=feature) from error
