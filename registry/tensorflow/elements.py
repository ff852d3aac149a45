"""What a batch is made of: dtypes, shapes, and what a model is given of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from registry.errors import FeatureError
from registry.samples.codec import Codec, Column
from registry.samples.features import ClassLabel, Feature, Features, Image, Ragged, Tensor

Names = str | Sequence[str] | Mapping[str, str]
"""A feature's name, or several: a dict of them by feature, or by the names that a model has."""


@dataclass(frozen=True)
class Elements:
    """What a user asked for: features by name as x, y and weight, and how to decode images."""

    features: Features
    x: Names | None = None
    y: Names | None = None
    weight: Names | None = None
    channels: int = 3
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in self._named:
            if name not in self.features:
                known = ", ".join(map(repr, self.features))
                raise FeatureError(f"no feature named {name!r}; the features are {known}")
        if self.x is None and self.y is not None:
            raise FeatureError("y was named without x; name both, or neither for dicts")
        if self.y is None and self.weight is not None:
            raise FeatureError("weight was named without y; name x, y and weight")

    @property
    def wanted(self) -> list[str]:
        """The features that a batch holds, in order."""
        return [name for name in self.features if name in self._named or self.x is None]

    @property
    def _named(self) -> list[str]:
        return [name for names in (self.x, self.y, self.weight) for name in _features(names)]

    @property
    def images(self) -> list[str]:
        """The wanted features that are encoded images."""
        return [name for name in self.wanted if isinstance(self.features[name], Image)]

    def select(self, batch: Mapping[str, Any]) -> Any:
        """Return a dict by feature as x, (x, y) or (x, y, weight)."""
        if self.x is None:
            return dict(batch)
        parts = [
            _pick(batch, names) for names in (self.x, self.y, self.weight) if names is not None
        ]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def decode_images(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Decode one sample's images to uint8, shape ``(height, width, channels)``."""
        return {name: self._decode(name, value) for name, value in sample.items()}

    def _decode(self, name: str, value: Any) -> Any:
        feature = self.features[name]
        if not isinstance(feature, Image):
            return value
        decode = tf.io.decode_jpeg if feature.encoding == "jpeg" else tf.io.decode_png
        image = decode(value, self.channels)
        if self.image_size is None:
            return image
        resized = tf.image.resize(image, self.image_size)
        return tf.saturate_cast(tf.round(resized), tf.uint8)


def _pick(batch: Mapping[str, Any], names: Names) -> Any:
    if isinstance(names, str):
        return batch[names]
    keys = names if isinstance(names, Mapping) else _features(names)
    return {key: batch[name] for key, name in zip(keys, _features(names), strict=True)}


def _features(names: Names | None) -> Sequence[str]:
    if isinstance(names, str):
        return [names]
    return list(names.values() if isinstance(names, Mapping) else names or ())


def row_decoder(codec: Codec, wanted: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
    """Return a graph function from fixed-width records, uint8 ``(count, width)``, to columns."""
    fields: Mapping[str, Any] = codec.header.fields or {}
    places = dict(zip(codec.features, codec.header.names or (), strict=True))

    def decode(rows: Any) -> dict[str, Any]:
        return {
            name: _from_bytes(rows, codec.features[name], *fields[places[name]][:2])
            for name in wanted
        }

    return decode


def _from_bytes(rows: Any, feature: Feature, field: np.dtype[Any], offset: int) -> Any:
    base = field.base
    cut = tf.reshape(rows[:, offset : offset + field.itemsize], (-1, *field.shape, base.itemsize))
    if base == np.bool_:
        return tf.not_equal(cut[..., 0], 0)
    if base.itemsize == 1:
        cut = cut[..., 0]
    dtype = tf.int32 if isinstance(feature, ClassLabel) else tf.as_dtype(base.newbyteorder("="))
    return tf.bitcast(cut, dtype)


def arrays(features: Features, columns: Mapping[str, Column], wanted: Sequence[str]) -> Any:
    """Return columns as what `signature` describes."""
    return {name: _array(features[name], columns[name]) for name in wanted}


def _array(feature: Feature, column: Column) -> Any:
    if isinstance(feature, Ragged):
        values = np.concatenate([np.empty(0, feature.dtype), *column], dtype=feature.dtype)
        return values, np.array([len(value) for value in column], np.int64)
    return column


def row_arrays(features: Features, columns: Mapping[str, Column], wanted: Sequence[str]) -> Any:
    """Return columns with one value for each row: of a `Ragged` feature, its bytes."""
    return {name: _row_array(features[name], columns[name]) for name in wanted}


def _row_array(feature: Feature, column: Column) -> Column:
    if not isinstance(feature, Ragged):
        return column
    texts = np.empty(len(column), object)
    texts[:] = [value.tobytes() for value in column]
    return texts


def row_signature(features: Features, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the specs of what `row_arrays` returns of any number of rows."""
    text = tf.TensorSpec((None,), tf.string)
    specs = {name: _spec(features[name]) for name in wanted}
    return {name: text if isinstance(spec, tuple) else spec for name, spec in specs.items()}


def unpacked(features: Features, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Make RaggedTensors of the values of `Ragged` features that `row_arrays` has packed."""
    return {name: _unpack(features[name], column) for name, column in batch.items()}


def _unpack(feature: Feature, column: Any) -> Any:
    if not isinstance(feature, Ragged):
        return column
    dtype = np.dtype(feature.dtype)
    rows = tf.reshape(
        tf.io.decode_raw(tf.strings.reduce_join(column), tf.uint8), (-1, dtype.itemsize)
    )
    lengths = tf.cast(tf.strings.length(column) // dtype.itemsize, tf.int64)
    values = _from_bytes(rows, feature, dtype, 0)
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def signature(features: Features, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the specs of columns of any number of rows; a `Ragged` one is values and lengths."""
    return {name: _spec(features[name]) for name in wanted}


def _spec(feature: Feature) -> Any:
    if isinstance(feature, Tensor):
        return tf.TensorSpec((None, *feature.shape), feature.dtype)
    if isinstance(feature, ClassLabel):
        return tf.TensorSpec((None,), tf.int32)
    if isinstance(feature, Ragged):
        return tf.TensorSpec((None,), feature.dtype), tf.TensorSpec((None,), tf.int64)
    return tf.TensorSpec((None,), tf.string)


def joined(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Make RaggedTensors of values and lengths."""
    return {
        name: tf.RaggedTensor.from_row_lengths(*column, validate=False)
        if isinstance(column, tuple)
        else column
        for name, column in columns.items()
    }
