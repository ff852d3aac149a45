"""Reading of NumPy archives (``.npz``): an array per feature, with a row per sample.

The members of the zip archive are read as parallel streams, a block of rows at a time, without
`numpy.load`. So an array may be larger than the memory, a small file that unpacks to gigabytes
takes the memory of one block, and nothing is unpickled.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from registry.errors import ImportFileError
from registry.io.row import FieldMapping, FileRow, as_group, as_key, columns_of, fingerprint
from registry.samples.features import LARGEST_RECORD, Features

BLOCK_BYTES = 4 << 20
"""Bytes of all arrays' rows that are read together; a larger row is a block alone."""
_MOST_ROWS = 1024
_SUFFIX = ".npy"
_format: Any = np.lib.format  # untyped in some versions of NumPy
_HEADERS = {
    (1, 0): _format.read_array_header_1_0,
    (2, 0): _format.read_array_header_2_0,
}
# `zipfile` raises the last two for compression methods that it lacks and for encrypted members.
_DAMAGE = (BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


class _Array(NamedTuple):
    """A stream of an array's rows; ``shape`` and ``dtype`` are those of one row."""

    name: str
    file: IO[bytes]
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def width(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    def take(self, count: int) -> npt.NDArray[Any]:
        """Return the next rows, ``(count, *shape)``; raises `ValueError` if data is missing."""
        size = count * self.width
        data = bytearray()
        # A read may return less than was asked for.
        while len(data) < size and (part := self.file.read(size - len(data))):
            data += part
        if len(data) < size:
            raise ValueError(f"array {self.name!r} ends within this row or one soon after it")
        # NumPy takes any byte for a bool, and a value of 2 would be neither true nor 1.
        if self.dtype.kind == "b" and data.strip(b"\0\1"):
            raise ValueError(f"array {self.name!r} holds bytes that are no bool")
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape)


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the file's samples; ``key`` and ``group`` name the arrays of their keys and groups.

    An empty text is no group. Raises `ImportFileError` for an array that would need unpickling, and
    with the row for damage.
    """
    number = 0
    try:
        with ZipFile(path) as archive, ExitStack() as stack:
            names = [name.removesuffix(_SUFFIX) for name in archive.namelist()]
            columns = columns_of(names, features, key, mapping, group)
            arrays = {}
            # All are open at once, as a row has a value of each. The set has each array once: two
            # features may share it, and a stream has one position.
            for name in {*columns.values(), *(n for n in (key, group) if n is not None)}:
                file = stack.enter_context(archive.open(name + _SUFFIX))
                arrays[name] = _array(name, file)
            for block, count in _blocks(arrays):
                for row in range(count):
                    number += 1
                    values = {name: block[column][row] for name, column in columns.items()}
                    row_key = as_key(block[key][row], key) if key is not None else None
                    row_group = None
                    if group is not None and (value := block[group][row].item()) != "":
                        row_group = as_group(value, group)
                    raw = fingerprint(values.values())
                    yield FileRow(number, values, row_key, raw, group=row_group)
    except _DAMAGE as error:
        _refuse(path, number, f"the file is damaged or no archive of NumPy's ({error})")
    except (ValueError, KeyError) as error:
        _refuse(path, number, str(error))


def _refuse(path: Path, row_count: int, reason: str) -> NoReturn:
    # Before the first row, the error concerns the file as a whole.
    line = row_count + 1 if row_count else None
    raise ImportFileError(reason, file=str(path), line=line, unit="row") from None


def _array(name: str, file: IO[bytes]) -> _Array:
    """Read an array's header; raises `ValueError` if its rows cannot be read one by one."""
    version = _format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"array {name!r} is of version {version} of NumPy's format")
    shape, fortran, dtype = _HEADERS[version](file)
    # Objects (kind O) are pickled, and unpickling runs code from the file.
    if dtype.kind not in "biufU":
        raise ValueError(
            f"array {name!r} is of dtype {dtype}; numbers, bools and text (dtype U) are taken"
        )
    if not shape or min(shape[1:], default=1) < 1 or shape[0] < 0:
        raise ValueError(f"array {name!r} has shape {shape}; it needs a row of values per sample")
    # In Fortran order the values of one row are spread over the whole array.
    if fortran and len(shape) > 1:
        raise ValueError(
            f"array {name!r} is in Fortran order; save numpy.ascontiguousarray(…) of it instead"
        )
    array = _Array(name, file, shape[0], shape[1:], dtype)
    # A header of a few bytes may claim rows of any size, and `take` would allocate one.
    if not 0 < array.width <= LARGEST_RECORD:
        raise ValueError(
            f"array {name!r} has rows of {array.width:,} bytes; they take 1 to {LARGEST_RECORD:,}"
        )
    return array


def _blocks(arrays: dict[str, _Array]) -> Iterator[tuple[dict[str, npt.NDArray[Any]], int]]:
    """Yield the next rows of each array, by its name, and their number."""
    lengths = {name: array.rows for name, array in arrays.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"the arrays differ in length: {lengths}")
    rows_left = next(iter(lengths.values()))
    # The bytes of all arrays together: wide rows make blocks of few rows.
    width = sum(array.width for array in arrays.values())
    block_rows = max(1, min(_MOST_ROWS, BLOCK_BYTES // width))
    while rows_left:
        count = min(rows_left, block_rows)
        yield {name: array.take(count) for name, array in arrays.items()}, count
        rows_left -= count
