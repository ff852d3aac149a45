"""Lines of text files, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from registry.errors import ImportFileError
from registry.samples.features import LARGEST_RECORD

LONGEST_LINE = LARGEST_RECORD
"""Bytes that one line may have: a file without line ends must not be taken into memory whole."""
_BOM = b"\xef\xbb\xbf"


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the file's lines with their ends, numbered from 1, without a byte-order mark."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    reason = f"over {LONGEST_LINE} bytes without a line end"
                    raise ImportFileError(reason, file=str(path), line=number)
                yield number, line.removeprefix(_BOM) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = f"the gzip data is damaged or ends too soon ({error})"
        raise ImportFileError(reason, file=str(path), line=number + 1) from None


def decode(raw: bytes) -> str:
    """Decode UTF-8; raises `ValueError` with the reason."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {raw[error.start]:#04x} at column {error.start + 1} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _open(path: Path) -> IO[bytes]:
    # Unpacking stops at the longest line, so a gzip bomb takes no more memory than a long line.
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")
