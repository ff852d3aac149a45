"""The files of a mirror: where they lie, what they hold and how they grow.

A mirror is a folder with a file ``state`` and a subfolder per generation; a new generation replaces
one that turned out damaged or diverged, while processes that mapped the old one keep it. The old
one's folder is removed once no process holds a lock on its records, as those do that open them by
name. A generation's files only ever grow, but for rows that are repaired or erased where they lie:

=========  ====================================================================================
records    fixed-width records as sealed rows (`seals.SealedRows`), at ``position * stride``;
           others end to end
places     for records that differ in length: `PLACE` per position
buckets    uint16 per position
changes    `CHANGE` per row that supersedes or retracts
anchors    `ANCHOR` per page that was appended: where the chain is known
erased     `ERASED` per erasure in the database, in its order, up to the last that was applied here
=========  ====================================================================================

Only erasures are synced to disk: what else a power cut leaves behind does not pass the seals and
sums below, and comes from the database again. The state is replaced as a whole (`summed`) after the
rows that it counts; what lies beyond it in the files is a torn tail.
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
PLACE = np.dtype([("end", "<u8"), ("seal", "<u8")])
"""Where a record ends among the records, and its hash with its position and end."""
CHANGE = np.dtype([("position", "<i8"), ("supersedes", "<i8"), ("retracted", "?")])
ANCHOR = np.dtype([("position", "<i8"), ("bytes", "<i8"), ("chain", "V16"), ("buckets", "<i8")])
"""The chain after the first ``position`` rows, whose records take so many bytes, and the CRC-32 of
the buckets since the anchor before."""
ERASED = np.dtype([("position", "<i8"), ("chain", "V16")])
"""A row that has lost its record for good, and the chain after it."""
SUMMED = ("buckets", "changes", "anchors", "erased")
"""Files that are read as a whole, so that a CRC-32 of each is enough."""
FILES = ("records", "places", *SUMMED)


@dataclass(frozen=True)
class State:
    """How far a mirror goes: committed bytes and sums of each file, and the chain at its end.

    ``parted`` is the least position from which on it ever dropped the rows of another history.
    """

    generation: int
    position: int
    chain: str
    sizes: dict[str, int]
    sums: dict[str, int]
    parted: int | None = None

    @classmethod
    def empty(cls, generation: int) -> State:
        return cls(generation, 0, GENESIS.hex(), dict.fromkeys(FILES, 0), dict.fromkeys(SUMMED, 0))

    @property
    def erased(self) -> int:
        """How many of the database's erasures are applied here."""
        return self.sizes["erased"] // ERASED.itemsize


def draft_of(place: Path) -> Path:
    """Return where to write what shall replace a file; no process on any machine writes there."""
    return place.with_name(f".{uuid4().hex}")


def load(folder: Path) -> State | None:
    """Read the state; None where there is none that can be trusted."""
    fields = read_summed(folder / "state")
    if fields is None or fields.pop("format") != FORMAT:
        return None
    return State(**fields)


def publish(folder: Path, state: State) -> None:
    """Make a state the current one, in one step."""
    write_summed(folder / "state", {"format": FORMAT, **vars(state)})


def path(folder: Path, generation: int, name: str) -> Path:
    return folder.joinpath(str(generation), name)


def complete(folder: Path, state: State) -> bool:
    """Tell whether every file is as long as the state says."""
    try:
        return all(
            path(folder, state.generation, name).stat().st_size >= size
            for name, size in state.sizes.items()
        )
    except FileNotFoundError:
        return False


def checksum(file: BinaryIO, length: int, start: int, copy: BinaryIO | None = None) -> int:
    """Return the CRC-32 of a file's next bytes after ``start``, that of those before."""
    while length and (data := file.read(min(length, 1 << 20))):
        start, length = crc32(data, start), length - len(data)
        if copy is not None:
            copy.write(data)
    return start


def seal_record(record: bytes | memoryview, position: int, end: int) -> int:
    """Return the seal of a record that differs from others in length."""
    return xxh3_64_intdigest(record, (position << 32) ^ end)


def blank_rows(codec: Codec, positions: Positions) -> Rows:
    """Return what stands for erased rows of fixed width: zeros under seals that are not theirs."""
    width = codec.header.itemsize
    rows = SealedRows(width).seal(np.zeros(len(positions), f"V{width}"), positions)
    rows.view("<u4")[:, -1] ^= np.uint32(0xFFFFFFFF)
    return rows


def blank_seals(
    records: Sequence[bytes], positions: Positions, ends: Sequence[int]
) -> npt.NDArray[np.uint64]:
    """Return the seals of erased rows that differ in length, which are not their records'."""
    places = zip(records, positions.tolist(), ends, strict=True)
    return ~np.array([seal_record(*place) for place in places], np.uint64)


def hold(file: IO[bytes], *, alone: bool = False) -> None:
    """Lock a file for as long as it is open here or mapped, which keeps it open.

    Raises `BlockingIOError` where another holds it alone, or it is to be held alone and is not.
    """
    if sys.platform != "win32":  # where a file that is open cannot be removed
        import fcntl  # noqa: PLC0415

        # A process that was forked while its parent held it alone may keep that lock for long.
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def contents(page: Page, codec: Codec, first: int) -> dict[str, npt.NDArray[Any]]:
    """Return a page's share of ``records`` and ``places``; ``first`` is its first byte's offset."""
    positions = np.arange(page.start, page.stop)
    held, erased = page.held, page.erased - page.start
    if page.sizes is None:
        records = np.frombuffer(page.data, f"V{codec.header.itemsize}")
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
    nothing = [b""] * len(erased)
    places["seal"][erased] = blank_seals(nothing, page.erased, places["end"][erased].tolist())
    return {"records": np.frombuffer(page.data, np.uint8), "places": places}


def _changes(page: Page) -> npt.NDArray[Any]:
    changes = np.empty(len(page.superseding), CHANGE)
    changes["position"] = page.superseding
    changes["supersedes"] = page.supersedes
    changes["retracted"] = np.isin(page.superseding, page.retracted)
    return changes
