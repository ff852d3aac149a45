"""Training runs as `tf.data` datasets. The only place that knows TensorFlow's dtypes and specs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from registry.codec import Column
from registry.errors import FeatureError
from registry.features import ClassLabel, Feature, Features, Ragged, Tensor
from registry.training import Run

Names = str | Sequence[str]


class StreamDataset(tf.data.Dataset):  # type: ignore[misc]  # TensorFlow ships no types
    """A run's samples for ever, epoch after epoch, in batches of ``batch_size``.

    Elements are dicts by feature, or ``(x, y)`` where those are named; a list of names makes a
    dict of them. A batch has the shape ``(batch_size, *shape)`` and the feature's dtype: class
    labels are int32, `Text`, `Bytes` and `Image` (its encoded bytes) are strings and `Ragged` is a
    RaggedTensor. Every batch is full; they straddle epochs.

    Each iterator starts at the run's first sample. An epoch is pinned when its first sample is
    read, which is a little before it is trained on: batches are prefetched.
    """

    def __init__(
        self, run: Run, *, batch_size: int, x: Names | None = None, y: Names | None = None
    ) -> None:
        pages = tf.data.Dataset.from_generator(
            lambda: _tensors(run.features, run.parts()), output_signature=_signature(run.features)
        )
        select = _selector(run.features, x, y)
        batches = pages.rebatch(batch_size, drop_remainder=True).map(select)
        # The pages come from a database, so no other process can read a share of their files.
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        self._whole = batches.prefetch(tf.data.AUTOTUNE).with_options(options)
        super().__init__(self._whole._variant_tensor)  # noqa: SLF001  # as tf.data's own subclasses

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._whole]

    @property
    def element_spec(self) -> Any:
        """The dtypes and shapes of a batch."""
        return self._whole.element_spec


def _tensors(features: Features, parts: Iterator[dict[str, Column]]) -> Iterator[dict[str, Any]]:
    for columns in parts:
        yield {name: _tensor(features[name], column) for name, column in columns.items()}


def _tensor(feature: Feature, column: Column) -> Any:
    if isinstance(feature, Ragged):
        values = np.concatenate([np.empty(0, feature.dtype), *column], dtype=feature.dtype)
        lengths = np.array([len(value) for value in column], np.int64)
        return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)
    return column


def _signature(features: Features) -> dict[str, tf.TypeSpec]:
    return {name: _spec(feature) for name, feature in features.items()}


def _spec(feature: Feature) -> tf.TypeSpec:
    """Return the spec of a column of any number of rows."""
    if isinstance(feature, Tensor):
        return tf.TensorSpec((None, *feature.shape), feature.dtype)
    if isinstance(feature, ClassLabel):
        return tf.TensorSpec((None,), tf.int32)
    if isinstance(feature, Ragged):
        return tf.RaggedTensorSpec((None, None), feature.dtype)
    return tf.TensorSpec((None,), tf.string)


def _selector(
    features: Features, x: Names | None, y: Names | None
) -> Callable[[Mapping[str, Any]], Any]:
    for names in (x, y):
        for name in [names] if isinstance(names, str) else names or ():
            if name not in features:
                known = ", ".join(map(repr, features))
                raise FeatureError(f"no feature named {name!r}; the features are {known}")
    if x is None and y is not None:
        raise FeatureError("y was named without x; name both, or neither for dicts")

    def select(batch: Mapping[str, Any]) -> Any:
        if x is None:
            return batch
        return _pick(batch, x) if y is None else (_pick(batch, x), _pick(batch, y))

    return select


def _pick(batch: Mapping[str, Any], names: Names) -> Any:
    return batch[names] if isinstance(names, str) else {name: batch[name] for name in names}
