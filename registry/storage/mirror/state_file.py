"""Small files that are replaced often: read whole, or not at all, whoever is killed while writing.

Such a file has two slots, each a checksum, a number and JSON. Writing fills the one that holds the
lower number, in place; reading takes the sound one with the higher number. Renaming a new file over
the old one would be as safe, but ext4 then writes the new one's blocks out before it goes on
(``auto_da_alloc``), which takes milliseconds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zlib import crc32

SLOT = 4096
"""Bytes of a slot; what has no room in it cannot be written."""


def read_summed(place: Path) -> dict[str, Any] | None:
    """Read what `write_summed` wrote last; None where there is nothing that can be trusted."""
    try:
        return _newest(place.read_bytes())[1]
    except FileNotFoundError:
        return None


def write_summed(place: Path, fields: dict[str, Any]) -> None:
    """Replace the contents. Writers that do not share a lock may lose to one another."""
    file = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        number = _newest(os.pread(file, 2 * SLOT, 0))[0] + 1
        text = b"%d %s" % (number, json.dumps(fields).encode())
        data = b"%08x %s" % (crc32(text), text)
        if len(data) > SLOT:
            raise ValueError(f"{place}: {len(data)} bytes do not fit in {SLOT}")
        written = os.pwrite(file, data.ljust(SLOT), number % 2 * SLOT)
        if written < SLOT:  # as on a disk that is full
            os.pwrite(file, data.ljust(SLOT)[written:], number % 2 * SLOT + written)
    finally:
        os.close(file)


def _newest(data: bytes) -> tuple[int, dict[str, Any] | None]:
    slots = [_opened(data[start : start + SLOT]) for start in (0, SLOT)]
    return max(slots, key=lambda slot: slot[0])


def _opened(slot: bytes) -> tuple[int, dict[str, Any] | None]:
    """Return a slot's number and fields; 0 and None unless it is sound."""
    total, _, text = slot.rstrip(b" ").partition(b" ")
    try:
        if int(total, 16) != crc32(text):
            return 0, None
        number, _, fields = text.partition(b" ")
        return int(number), json.loads(fields)
    except ValueError:
        return 0, None
