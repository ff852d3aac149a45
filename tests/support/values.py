"""Values of any bits for a feature, and texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from registry import Bytes, ClassLabel, Image, Tensor, Text
from registry.samples.features import Feature
from tests.support.image_files import JPEG

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def value(feature: Feature, rng: np.random.Generator, text: st.DataObject) -> Any:
    """A value of any bits: floats are NaNs of any payload, too."""
    if isinstance(feature, ClassLabel):
        return int(rng.integers(feature.count))
    if isinstance(feature, Text):
        return text.draw(TEXT)
    if isinstance(feature, Bytes | Image):
        return (JPEG if isinstance(feature, Image) else b"") + rng.bytes(int(rng.integers(40)))
    shape = feature.shape if isinstance(feature, Tensor) else (int(rng.integers(4)), *feature.shape)
    dtype = np.dtype(feature.dtype)
    data = rng.bytes(math.prod(shape) * dtype.itemsize)
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, dtype).reshape(shape).copy()
    if dtype.kind == "f":
        # Signaling NaNs become quiet ones wherever a processor takes them up.
        bits = array.view(f"u{dtype.itemsize}")
        bits[np.isnan(array)] |= np.array(np.nan, dtype).view(bits.dtype)
    return array
