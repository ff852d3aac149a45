"""Small files that are replaced often and atomically, even if the writer is killed.

A file has two slots of `SLOT` bytes, each a checksum, a number and JSON. Writing overwrites the
slot with the lower number; reading takes the valid slot with the higher number. A write that was
interrupted leaves a slot whose checksum does not match, and the other slot still counts.

Renaming a new file over the old one would be as safe. But ext4 then flushes the new file's blocks
first (``auto_da_alloc``), which takes milliseconds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

SLOT = 4096
"""Bytes of a slot; more than that cannot be written."""
_SUM = 9
"""Bytes of the checksum and the space after it."""


def read_fields(path: Path) -> dict[str, Any] | None:
    """Read what `write_fields` wrote last; None if there is no file or no valid slot."""
    try:
        # Not `Path.read_bytes`: these files are read several times for each batch of new rows.
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # slower
            fields = _newest(file.read(2 * SLOT))[1]
    except FileNotFoundError:
        return None
    return None if fields is None else json.loads(fields)


def write_fields(path: Path, fields: dict[str, Any]) -> None:
    """Replace the contents.

    Writers that do not share a lock may overwrite one another's updates. Raises `ValueError` if
    the fields do not fit in a slot.
    """
    # Without O_TRUNC: the other slot must stay, or a crash in this write would lose both.
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        number = _newest(os.pread(file, 2 * SLOT, 0))[0] + 1
        text = b"%d %s" % (number, json.dumps(fields).encode())
        data = b"%08x %s" % (crc32(text), text)
        if len(data) > SLOT:
            raise ValueError(f"{path}: {len(data)} bytes do not fit in {SLOT}")
        # Padded, so that no rest of a longer text stays in the slot.
        written = os.pwrite(file, data.ljust(SLOT), number % 2 * SLOT)
        if written < SLOT:  # a full disk: the second call raises the error
            os.pwrite(file, data.ljust(SLOT)[written:], number % 2 * SLOT + written)
    finally:
        os.close(file)


def _newest(data: bytes) -> tuple[int, bytes | None]:
    """Return the number and the fields, as JSON, of the slot that was written last."""
    first, second = data[:SLOT], data[SLOT : 2 * SLOT]
    # The one with the greater number, as it stands there, is read; the other if this one is broken.
    for slot in (first, second) if _number(first) > _number(second) else (second, first):
        parsed = _parsed(slot)
        if parsed[1] is not None:
            return parsed
    return 0, None


def _number(slot: bytes) -> int:
    """Return the number in a slot that may be broken; 0 if there is none."""
    number = slot[_SUM : slot.find(b" ", _SUM)]
    return int(number) if number.isdigit() else 0


def _parsed(slot: bytes) -> tuple[int, bytes | None]:
    """Return a slot's number and fields, as JSON; 0 and None unless its checksum matches."""
    total, _, text = slot.rstrip(b" ").partition(b" ")
    try:
        if int(total, 16) != crc32(text):
            return 0, None
        number, _, fields = text.partition(b" ")
        return int(number), fields
    except ValueError:
        return 0, None
