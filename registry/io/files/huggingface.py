"""Parquet that Hugging Face's library ``datasets`` reads with all its features.

An image is a struct ``{bytes, path}``, and a class is its index. The schema's metadata says what
the columns are, and has the names of the classes. `registry.io.files.parquet` reads such files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from registry.io.files.parquet import arrow_column, arrow_type, open_writer
from registry.io.live_samples import Samples
from registry.samples.features import (
    Bytes,
    ClassLabel,
    Feature,
    Features,
    Image,
    Ragged,
    Tensor,
    Text,
)

_FILE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@contextmanager
def writer(
    path: Path, features: Features, key: str, group: str | None = None
) -> Iterator[Callable[[Samples], None]]:
    """Write columns of keys, of groups if they have a name, and of features.

    They have the metadata of ``datasets``.
    """
    names = [key, *([] if group is None else [group])]
    types = dict.fromkeys(names, pa.string())
    types |= {name: _type(feature) for name, feature in features.items()}
    kinds = dict.fromkeys(names, _value("string"))
    kinds |= {name: _kind(feature) for name, feature in features.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": kinds}})}
    # Nullable: ``datasets`` ignores its metadata for a column that is not.
    schema = pa.schema([*types.items()], metadata=metadata)
    with open_writer(path, schema, features, _column, group) as write:
        yield write


def _type(feature: Feature) -> Any:
    if isinstance(feature, ClassLabel):
        return pa.int64()
    return _FILE if isinstance(feature, Image) else arrow_type(feature)


def _column(feature: Feature, values: Any) -> Any:
    if isinstance(feature, ClassLabel):
        return pa.array(np.ascontiguousarray(values, np.int64))
    if isinstance(feature, Image):
        files = pa.array([*values], pa.binary())
        return pa.StructArray.from_arrays([files, pa.nulls(len(files), pa.string())], type=_FILE)
    return arrow_column(feature, values)


def _kind(feature: Feature) -> Any:
    """Return the JSON form of a feature in ``datasets``."""
    if isinstance(feature, Ragged):
        return _list(_kind(Tensor(feature.dtype, feature.shape)), -1)
    if isinstance(feature, Tensor):
        kind = _value(feature.dtype)
        # From the innermost axis outwards.
        for side in reversed(feature.shape):
            kind = _list(kind, side)
        return kind
    if isinstance(feature, ClassLabel) and feature.names is not None:
        return {"names": [*feature.names], "_type": "ClassLabel"}
    if isinstance(feature, Image):
        return {"_type": "Image"}
    return _value({Text: "string", Bytes: "binary", ClassLabel: "int64"}[type(feature)])


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _list(kind: dict[str, Any], length: int) -> dict[str, Any]:
    # Newer versions call it List, and read this name, too.
    return {"feature": kind, "length": length, "_type": "Sequence"}
