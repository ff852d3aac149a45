"""Writing of TFRecord files of ``tf.train.Example``, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.io.files.tf_example import Example
from registry.io.files.tfrecord import LENGTH, checksum
from registry.io.live_samples import Samples
from registry.samples.features import ClassLabel, Feature, Features, Ragged, Tensor


@contextmanager
def writer(path: Path, features: Features, key: str) -> Iterator[Callable[[Samples], None]]:
    """Write a record per sample: the key, then a list per feature.

    Whole numbers and bools are int64 lists, and floats of up to 32 bits are float lists, in C
    order. Arrays that neither represents exactly (uint64, float64, some NaNs) are one string of
    the little-endian values, which ``tf.io.decode_raw`` reads (uint64 as int64). Classes are names
    or, without names, indexes.
    """
    with path.open("xb") as file:

        def write(samples: Samples) -> None:
            for row, name in enumerate(samples.keys):
                example = Example()
                example.features.feature[key].bytes_list.value.append(name.encode())
                for feature, column in samples.columns.items():
                    _put(example.features.feature[feature], features[feature], column[row])
                # Otherwise the order of the features may differ from record to record.
                data = example.SerializeToString(deterministic=True)
                head = LENGTH.pack(len(data))
                file.write(head + checksum(head) + data + checksum(data))

        yield write


def _put(target: Any, feature: Feature, value: Any) -> None:
    if isinstance(feature, Tensor | Ragged):
        _put_array(target, np.asarray(value).reshape(-1))
    elif isinstance(feature, ClassLabel) and feature.names is None:
        target.int64_list.value.append(int(value))
    else:
        text = feature.names[value] if isinstance(feature, ClassLabel) else value  # type: ignore[index]
        target.bytes_list.value.append(text.encode() if isinstance(text, str) else text)


def _put_array(target: Any, array: npt.NDArray[Any]) -> None:
    if array.dtype.kind in "bi" or (array.dtype.kind == "u" and array.dtype.itemsize < 8):
        # An empty list would leave the kind unset, and the reader refuses a feature without one.
        target.int64_list.SetInParent()
        target.int64_list.value.extend(array.astype(np.int64).tolist())
    elif array.dtype.kind == "f" and array.dtype.itemsize < 8 and _survives(array):
        target.float_list.SetInParent()
        target.float_list.value.extend(array.tolist())
    else:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        target.bytes_list.value.append(little.tobytes())


def _survives(array: npt.NDArray[Any]) -> bool:
    """Return whether the bits survive conversion to Python's floats; those of some NaNs do not."""
    if not np.isnan(array).any():
        return True
    back = np.array(array.tolist(), np.float32).astype(array.dtype)
    return back.tobytes() == array.tobytes()
