"""The files of a mirror: their paths, contents and locks.

A mirror is a folder with a file ``state`` and a subfolder per generation. Where a generation is
found to be damaged or to have diverged from the database, a new one replaces it; processes that
have mapped the old one keep it. The old folder is removed once no process holds a lock on its
records; processes that open them by name hold one. The files of a generation only grow, except for
rows that are repaired or erased in place:

=========  ====================================================================================
records    fixed-width records as `checksums.SealedRows`, at ``position * stride``;
           others end to end
places     for records that differ in length: `PLACE` per position
buckets    uint16 per position
changes    `CHANGE` per row that supersedes or retracts
anchors    `ANCHOR` per page that was appended: positions where the chain is known
erased     `ERASED` per erasure in the database, in its order, up to the last that was applied here
=========  ====================================================================================

Only erasures are synced to disk. Other data that is incomplete after a power cut fails the checks
against seals and sums, and is read from the database again. The state is replaced atomically
(`state_file`), after the rows that it counts are written. Bytes past the sizes in the state are a
torn tail.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO
from uuid import uuid4
from zlib import crc32

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec
from registry.storage.log.hash_chain import GENESIS
from registry.storage.log.page import Page
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.state_file import read_summed, write_summed

FORMAT = 2
"""A mirror in another format is not read, but built again from the database."""
PLACE = np.dtype([("end", "<u8"), ("seal", "<u8")])
"""The byte offset in ``records`` at which a record ends, and its seal (`seal_record`)."""
CHANGE = np.dtype([("position", "<i8"), ("supersedes", "<i8"), ("retracted", "?")])
"""A row's position, the position of the revision it replaces, and whether it is a retraction."""
ANCHOR = np.dtype([("position", "<i8"), ("bytes", "<i8"), ("chain", "V16"), ("buckets", "<i8")])
"""The chain after the first ``position`` rows, the bytes of their records, and the CRC-32 of the
buckets since the anchor before."""
ERASED = np.dtype([("position", "<i8"), ("chain", "V16")])
"""The position of a row that has lost its record permanently, and the chain after it."""
SUMMED = ("buckets", "changes", "anchors", "erased")
"""Files that are read as a whole. The state has a CRC-32 of each."""
FILES = ("records", "places", *SUMMED)


@dataclass(frozen=True)
class State:
    """What a mirror holds: the first ``position`` rows of the log, after which it has this chain.

    ``chain`` is 32 hexadecimal digits. ``sizes`` are the bytes of each file that count, ``sums``
    the CRC-32 of those in `SUMMED`. ``parted`` is the lowest position at which the mirror was ever
    cut back because the database held another history; None if it never was.
    """

    generation: int
    position: int
    chain: str
    sizes: dict[str, int]
    sums: dict[str, int]
    parted: int | None = None

    @classmethod
    def empty(cls, generation: int) -> State:
        """Return the state of a generation without rows."""
        return cls(generation, 0, GENESIS.hex(), dict.fromkeys(FILES, 0), dict.fromkeys(SUMMED, 0))

    @property
    def erased(self) -> int:
        """The number of the database's erasures that are applied here."""
        return self.sizes["erased"] // ERASED.itemsize


def draft_of(place: Path) -> Path:
    """Return a random path for a new version of a file: no process on any machine uses it."""
    return place.with_name(f".{uuid4().hex}")


def load(folder: Path) -> State | None:
    """Read the state; None if there is none, it is damaged or of another format."""
    fields = read_summed(folder / "state")
    if fields is None or fields.pop("format") != FORMAT:
        return None
    return State(**fields)


def publish(folder: Path, state: State) -> None:
    """Make a state the current one, atomically. The caller holds the mirror's lock."""
    write_summed(folder / "state", {"format": FORMAT, **vars(state)})


def path(folder: Path, generation: int, name: str) -> Path:
    """Return the path of a generation's file, one of `FILES`."""
    return folder.joinpath(str(generation), name)


def complete(folder: Path, state: State) -> bool:
    """Return whether every file is at least as long as the state says.

    A shorter one must not be mapped: reading past its end would kill the process by SIGBUS.
    """
    try:
        return all(
            path(folder, state.generation, name).stat().st_size >= size
            for name, size in state.sizes.items()
        )
    except FileNotFoundError:
        return False


def checksum(file: BinaryIO, length: int, start: int, copy: BinaryIO | None = None) -> int:
    """Return the CRC-32 of a file's next ``length`` bytes, continued from ``start``.

    ``start`` is the CRC-32 of the bytes before. The bytes are also written to ``copy``, if given.
    """
    while length and (data := file.read(min(length, 1 << 20))):
        start, length = crc32(data, start), length - len(data)
        if copy is not None:
            copy.write(data)
    return start


def seal_record(record: bytes | memoryview, position: int, end: int) -> int:
    """Return the seal of a variable-width record: a hash of its bytes, position and end."""
    return xxh3_64_intdigest(record, (position << 32) ^ end)


def blank_rows(codec: Codec, positions: Positions) -> Rows:
    """Return erased rows of fixed width: zeros with seals that do not match."""
    width = codec.header.itemsize
    rows = SealedRows(width).seal(np.zeros(len(positions), f"V{width}"), positions)
    # Inverted, a seal never matches by accident, and is the same each time a row is erased.
    rows.view("<u4")[:, -1] ^= np.uint32(0xFFFFFFFF)
    return rows


def blank_seals(
    records: Sequence[bytes], positions: Positions, ends: Sequence[int]
) -> npt.NDArray[np.uint64]:
    """Return the seals of erased rows of variable width: inverted, so that they do not match."""
    places = zip(records, positions.tolist(), ends, strict=True)
    return ~np.array([seal_record(*place) for place in places], np.uint64)


def hold(file: IO[bytes], *, alone: bool = False) -> None:
    """Lock a file until it is closed here and every mapping of it is gone.

    The lock is shared, or exclusive if ``alone``. Raises `BlockingIOError` if another process holds
    a lock that conflicts.
    """
    if sys.platform != "win32":  # Windows removes no file that is open
        import fcntl  # noqa: PLC0415

        # Never wait: a child that was forked while its parent held the exclusive lock shares it,
        # and may keep it for as long as it runs.
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def contents(page: Page, codec: Codec, first: int) -> dict[str, npt.NDArray[Any]]:
    """Return what a page adds to ``records`` and ``places``.

    ``first`` is the byte offset in ``records`` at which the page's records begin.
    """
    positions = np.arange(page.start, page.stop)
    held, erased = page.held, page.erased - page.start
    if page.sizes is None:
        records = np.frombuffer(page.data, f"V{codec.header.itemsize}")
        # Rows without a record keep their slot, since a row's offset is its position * stride.
        if not held.all():
            records, kept = np.zeros(len(page), records.dtype), records
            records[held] = kept
        rows = SealedRows(codec.header.itemsize).seal(records, positions)
        rows[erased] = blank_rows(codec, page.erased)
        return {"records": rows, "places": np.empty(0, PLACE)}
    sizes = np.zeros(len(page), np.int64)
    sizes[held] = page.sizes
    places = np.empty(len(page), PLACE)
    ends = np.cumsum(sizes)
    places["end"] = ends + first
    data = memoryview(page.data)
    places["seal"] = [
        seal_record(data[end - size : end], position, end + first)
        for position, size, end in zip(
            positions.tolist(), sizes.tolist(), ends.tolist(), strict=True
        )
    ]
    # An erased row takes no bytes here, and gets a seal that no retraction has.
    nothing = [b""] * len(erased)
    places["seal"][erased] = blank_seals(nothing, page.erased, places["end"][erased].tolist())
    return {"records": np.frombuffer(page.data, np.uint8), "places": places}


def _changes(page: Page) -> npt.NDArray[Any]:
    changes = np.empty(len(page.superseding), CHANGE)
    changes["position"] = page.superseding
    changes["supersedes"] = page.supersedes
    changes["retracted"] = np.isin(page.superseding, page.retracted)
    return changes
