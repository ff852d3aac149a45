"""Lines of text files, compressed by gzip or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from registry.errors import ImportFileError
from registry.samples.features import LARGEST_RECORD

LONGEST_LINE = LARGEST_RECORD
"""Bytes that a line may have."""
_BOM = b"\xef\xbb\xbf"


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the file's lines with their line ends, numbered from 1, without a byte-order mark.

    Raises `ImportFileError` for a line that is too long and for damaged gzip data, and `OSError`.
    """
    number = 0
    try:
        with open_file(path) as file:
            # The limit keeps a file without line ends from being read into memory whole.
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                # `readline` returns one byte more than is allowed only if the line is too long.
                if len(line) > LONGEST_LINE:
                    reason = f"over {LONGEST_LINE} bytes without a line end"
                    raise ImportFileError(reason, file=str(path), line=number)
                yield number, line.removeprefix(_BOM) if number == 1 else line
    # BadGzipFile is an OSError: left to the caller, it would read as an error of the file system.
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the gzip data is damaged or ends too soon ({error})"
        raise ImportFileError(reason, file=str(path), line=number + 1) from None


def beginning(path: Path, size: int) -> bytes:
    """Return up to ``size`` bytes from the beginning of a file, without a byte-order mark.

    Damaged gzip data ends it; raises `OSError`.
    """
    with open_file(path) as file:
        try:
            return file.read(size).removeprefix(_BOM)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return b""


def decode(raw: bytes) -> str:
    """Decode UTF-8; raises `ValueError` with the reason."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {raw[error.start]:#04x} at column {error.start + 1} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def open_file(path: Path) -> IO[bytes]:
    """Open a file to read its bytes, unpacked if it is packed by gzip."""
    # `readline` unpacks no more than it returns, so a gzip bomb takes the memory of one line.
    is_packed = path.suffix.lower() in (".gz", ".tgz")
    return cast("IO[bytes]", gzip.open(path)) if is_packed else path.open("rb")
