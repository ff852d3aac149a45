"""The values of an `Image` feature, as the bytes of a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from registry.samples.features import LARGEST_RECORD, Encoding
from registry.samples.image_checks import check_size
from registry.samples.image_header import check_file
from registry.samples.pillow import png_of_array, png_of_image
from registry.samples.text import path_problem


def image_file(value: Any, encoding: Encoding | None) -> bytes:
    """Return the bytes of an image: of a file or its path, of Pillow's image, or of an array.

    The last two become PNG files. Raises `ValueError` if they are no complete file of the encoding
    (any, with None), and `RegistryError` for an array without Pillow.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
    elif isinstance(value, Path):
        return _file_at(value, encoding)
    elif isinstance(value, np.ndarray):
        _check_array(value)
        _check_png_fits("an array", encoding)
        data = png_of_array(value)
    elif _is_pillow_image(value):
        check_size(*value.size)
        _check_png_fits("an image of Pillow", encoding)
        data = png_of_image(value)
    else:
        path = "; for a file, give its pathlib.Path" if isinstance(value, str) else ""
        kind = f"a value of type {type(value).__name__}" if value is not None else "None"
        raise ValueError(f"{kind} is not bytes, a pathlib.Path, a PIL image or a uint8 array{path}")
    check_file(data, encoding)
    return data


def _file_at(path: Path, encoding: Encoding | None) -> bytes:
    # Of the file system, which may not be able to say it.
    if problem := path_problem(path):
        raise ValueError(f"the path {str(path)!r} {problem}")
    try:
        # A pipe or a device: reading it might block, or never end.
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file that can be read to its end")
        # Checked before the file is read, which would take as much memory as the file is long.
        if (size := path.stat().st_size) > LARGEST_RECORD:
            raise ValueError(
                f"{path} has {size:,} bytes; at most {LARGEST_RECORD:,} fit in a record"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        check_file(data, encoding)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return data


def _check_array(array: np.ndarray[Any, Any]) -> None:
    if array.dtype != np.uint8:
        raise ValueError(f"an image is an array of uint8, not of {array.dtype.name}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise ValueError(
            f"shape {array.shape} is not (height, width) or (height, width, 1, 3 or 4)"
        )
    check_size(array.shape[1], array.shape[0])


def _check_png_fits(what: str, encoding: Encoding | None) -> None:
    if encoding not in (None, "png"):
        raise ValueError(
            f"{what} is stored as png, and the feature takes {encoding} files; give their bytes"
        )


def _is_pillow_image(value: Any) -> bool:
    # Whoever has an image of Pillow's has imported it: this needs no import.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)
