"""The elements of datasets: their dtypes and shapes, and the parts that a model takes.

A chunk of samples is in one of two forms:

- By column, as `row_decoder` returns it: that of a `Ragged` feature is a pair of all its items, one
  after another, and the int64 number of them in each row.
- By row (`row_arrays`): every feature has one value per row, so that rows can be cut apart. Of a
  `Ragged` feature it is the bytes, as a string. `ragged_from_bytes` makes RaggedTensors of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from registry.errors import FeatureError
from registry.samples.codec import Codec, Column
from registry.samples.features import ClassLabel, Feature, Features, Image, Ragged, Tensor
from registry.tensorflow.graph_definition import operation
from registry.tensorflow.image_decoding import decode_image
from registry.tensorflow.image_fitting import fit_boxes, fit_image
from registry.tensorflow.image_options import ImageOptions

IMAGE_SHAPE = "image_shape"
"""The name of the height and width that an image had before it was resized."""
_SHAPES = "image_shape\0"
"""The same as a column of a batch: no feature has this name."""
Names = str | Sequence[str] | Mapping[str, str]
"""One feature's name, a sequence of names, or a mapping from a model's names to features' names."""


@dataclass(frozen=True)
class Elements:
    """The features that a user chose as x, y and weight, and how their images are decoded.

    `IMAGE_SHAPE` may be among them. Raises `FeatureError` for a name that is not a feature's, for y
    without x, for weight without y, and for options that do not fit the features.
    """

    features: Features
    x: Names | None = None
    y: Names | None = None
    weight: Names | None = None
    options: ImageOptions = field(default_factory=ImageOptions)

    def __post_init__(self) -> None:
        for name in self._named:
            if name not in self.features and name != IMAGE_SHAPE:
                known = ", ".join(map(repr, self.features))
                raise FeatureError(f"no feature named {name!r}; the features are {known}")
        if self.x is None and self.y is not None:
            raise FeatureError("y was named without x; name both, or neither for dicts")
        if self.y is None and self.weight is not None:
            raise FeatureError("weight was named without y; name x, y and weight")
        if self._has_shapes and len(self.images) != 1:
            raise FeatureError(
                f"{IMAGE_SHAPE!r} is that of one decoded image, but there are {len(self.images)} "
                "among x, y and weight"
            )
        self.options.check(self.features, self.wanted, self.images)

    @property
    def wanted(self) -> list[str]:
        """The features that a batch holds, in the dataset's order; all of them without x."""
        return [name for name in self.features if name in self._named or self.x is None]

    @property
    def _named(self) -> list[str]:
        return [name for names in (self.x, self.y, self.weight) for name in _features(names)]

    @property
    def images(self) -> list[str]:
        """The wanted features that are images to decode."""
        return [
            name
            for name in self.wanted
            if self.options.decoded and isinstance(self.features[name], Image)
        ]

    @property
    def _has_shapes(self) -> bool:
        return IMAGE_SHAPE in self._named and IMAGE_SHAPE not in self.features

    @property
    def _boxes(self) -> list[str]:
        """The wanted features with boxes of an image that is resized."""
        fitted = self.options.size is not None and self.images
        return [name for name in self.options.formats if fitted and name in self.wanted]

    def select(self, batch: Mapping[str, Any]) -> Any:
        """Return x, (x, y) or (x, y, weight) of a dict by feature; without x, the dict.

        Boxes are fitted to images that were resized.
        """
        batch, options = dict(batch), self.options
        shapes = batch.pop(_SHAPES, None)
        if options.size is not None:
            for name in self._boxes:
                form = options.formats[name]
                batch[name] = fit_boxes(batch[name], form, shapes, options.size, options.ratio)
        if self.x is None:
            return batch
        if self._has_shapes:
            batch[IMAGE_SHAPE] = shapes
        parts = [
            _pick(batch, names) for names in (self.x, self.y, self.weight) if names is not None
        ]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def decode_images(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return one sample with its images decoded to uint8 ``(height, width, channels)``."""
        decoded = dict(sample)
        for name in self.images:
            if name in sample:
                image = self._decode(name, sample[name])
                if self._has_shapes or self._boxes:
                    decoded[_SHAPES] = tf.shape(image)[:2]
                if self.options.size is not None:
                    image = fit_image(image, self.options.size, self.options.ratio)
                decoded[name] = image
        return decoded

    def _decode(self, name: str, file: Any) -> Any:
        image = self.features[name]
        assert isinstance(image, Image)
        return decode_image(file, image.encoding, self.options.channels)


def _pick(batch: Mapping[str, Any], names: Names) -> Any:
    if isinstance(names, str):
        return batch[names]
    keys = names if isinstance(names, Mapping) else _features(names)
    return {key: batch[name] for key, name in zip(keys, _features(names), strict=True)}


def _features(names: Names | None) -> Sequence[str]:
    if isinstance(names, str):
        return [names]
    return list(names.values() if isinstance(names, Mapping) else names or ())


def row_decoder(
    codec: Codec, wanted: Sequence[str], *, by_row: bool = False
) -> Callable[[Any, Sequence[Any]], dict[str, Any]]:
    """Return a graph function from records to columns.

    It takes the records' headers, uint8 ``(count, header or more)``, and the values of the wanted
    features of variable width, a vector of strings each. The column of a `Ragged` feature is a pair
    of all items and int64 lengths, or with ``by_row`` its bytes (`row_arrays`).
    """
    fields: Mapping[str, Any] = codec.header.fields or {}
    names = dict(zip(codec.features.fixed, codec.header.names or (), strict=False))
    variable = [name for name in codec.features.variable if name in wanted]

    def decode(rows: Any, values: Sequence[Any]) -> dict[str, Any]:
        columns = dict(zip(variable, values, strict=True))
        return {
            name: _from_bytes(rows, codec.features[name], *fields[names[name]][:2])
            if name in names
            else columns[name]
            if by_row
            else _from_string(codec.features[name], columns[name])
            for name in wanted
        }

    return decode


def _from_bytes(rows: Any, feature: Feature, field: np.dtype[Any], offset: int) -> Any:
    """Return the column of a field that is ``offset`` bytes into each row."""
    base = field.base
    part = operation(
        "Slice", rows, np.array([0, offset], np.int32), np.array([-1, field.itemsize], np.int32)
    )
    shape = [-1, *field.shape]
    if base == np.bool_:  # which `Bitcast` cannot make
        return operation(
            "NotEqual", operation("Reshape", part, np.array(shape, np.int32)), np.uint8(0)
        )
    # `Bitcast` drops the last dimension only if the size of an item changes.
    if base.itemsize > 1:
        shape.append(base.itemsize)
    # `Bitcast` reads the bytes in the machine's order, which the records' must be.
    dtype = tf.int32 if isinstance(feature, ClassLabel) else tf.as_dtype(base.newbyteorder("="))
    return operation("Bitcast", operation("Reshape", part, np.array(shape, np.int32)), type=dtype)


def _from_string(feature: Feature, column: Any) -> Any:
    """Return the column of a feature of variable width, given the bytes of its values."""
    return _pair_from_bytes(feature, column) if isinstance(feature, Ragged) else column


def row_arrays(
    features: Features, columns: Mapping[str, Column], wanted: Sequence[str]
) -> dict[str, Column]:
    """Return columns with one value for each row; that of a `Ragged` feature is its bytes."""
    return {name: _row_array(features[name], columns[name]) for name in wanted}


def _row_array(feature: Feature, column: Column) -> Column:
    if not isinstance(feature, Ragged):
        return column
    # Objects, not NumPy's `S`, which strips trailing zero bytes and so changes lengths.
    values = np.empty(len(column), object)
    values[:] = [value.tobytes() for value in column]
    return values


def row_specs(features: Features, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the specs of what `row_arrays` returns for any number of rows."""
    return {name: _spec(features[name]) for name in wanted}


def _spec(feature: Feature) -> Any:
    if isinstance(feature, Tensor):
        return tf.TensorSpec((None, *feature.shape), feature.dtype)
    if isinstance(feature, ClassLabel):
        return tf.TensorSpec((None,), tf.int32)
    return tf.TensorSpec((None,), tf.string)


def column_specs(features: Features, wanted: Sequence[str], *, by_row: bool) -> dict[str, Any]:
    """Return the specs of what `row_decoder` makes."""
    if by_row:
        return row_specs(features, wanted)
    return {name: _column_spec(features[name]) for name in wanted}


def _column_spec(feature: Feature) -> Any:
    if not isinstance(feature, Ragged):
        return _spec(feature)
    items = tf.TensorSpec((None, *feature.shape), feature.dtype)
    return items, tf.TensorSpec((None,), tf.int64)


def ragged_from_bytes(features: Features, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch of what `row_arrays` returned, with RaggedTensors in place of the bytes."""
    ragged = {n: _ragged_from_bytes(features[n], batch[n]) for n in features if n in batch}
    return {**batch, **ragged}


def _ragged_from_bytes(feature: Feature, column: Any) -> Any:
    if not isinstance(feature, Ragged):
        return column
    return tf.RaggedTensor.from_row_lengths(*_pair_from_bytes(feature, column), validate=False)


def _pair_from_bytes(feature: Ragged, column: Any) -> tuple[Any, Any]:
    item = np.dtype((feature.dtype, feature.shape))
    rows = tf.reshape(
        tf.io.decode_raw(tf.strings.reduce_join(column), tf.uint8), (-1, item.itemsize)
    )
    lengths = tf.cast(tf.strings.length(column) // item.itemsize, tf.int64)
    return _from_bytes(rows, feature, item, 0), lengths
