"""The files of a mirror: their paths, contents and locks.

A mirror is a folder with a file ``state`` and a subfolder per generation, a number. The files of a
generation only grow, except for rows that are repaired or erased in place:

=========  ====================================================================================
records    a row per position, as `RowLayout` has it, at ``position * stride``
values     the values of variable width, as units (`value_units`)
buckets    uint16 per position
changes    `CHANGE` per row that supersedes or retracts
anchors    `ANCHOR` per page that was appended: positions where the chain is known
erased     `ERASED` per erasure in the database, in its order, up to the last that was applied here
=========  ====================================================================================

The folder ``columns`` has values that are derived from the records and the database (`columns`).
All records of a generation are in the layout of one schema (`MirrorState.layout`). Older records
are brought to it when they are appended.

Where a generation is damaged, has diverged from the database or has an older layout than its log, a
new one replaces it; processes that have mapped the old one keep it. The old folder is removed once
no process holds a lock on its records (`lock_file`); processes that open them by name hold one.

Only erasures are synced to disk. Other data that is incomplete after a power cut fails the checks
against seals and sums, and is read from the database again.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows
from registry.storage.log.page import Page
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.packed import Packed
from registry.storage.mirror.row_layout import NO_UNITS, RowLayout
from registry.storage.mirror.value_units import NO_VALUES

CHANGE = np.dtype([("position", "<i8"), ("supersedes", "<i8"), ("retracted", "?")])
"""A row's position, the position of the revision it replaces, and whether it is a retraction."""
ANCHOR = np.dtype([("position", "<i8"), ("bytes", "<i8"), ("chain", "V16"), ("buckets", "<i8")])
"""The chain after the first ``position`` rows, the bytes that they take, and the CRC-32 of the
buckets since the anchor before. The bytes are those in ``values`` where the records' width varies,
and else those in ``records``."""
ERASED = np.dtype([("position", "<i8"), ("chain", "V16")])
"""The position of a row that has lost its record permanently, and the chain after it."""
SUMMED = ("buckets", "changes", "anchors", "erased")
"""Files that are read as a whole. The state has a CRC-32 of each."""
FILES = ("records", "values", *SUMMED)


# A new batch of rows asks for some twenty paths, and making one takes longer than reading the file.
@lru_cache(maxsize=64)
def top_path(folder: Path, name: str) -> Path:
    """Return the path of a file of the mirror that belongs to no generation."""
    return folder / name


@lru_cache(maxsize=256)
def file_path(folder: Path, generation: int, name: str) -> Path:
    """Return the path of a generation's file, one of `FILES`."""
    return folder.joinpath(str(generation), name)


def draft_path(path: Path) -> Path:
    """Return a random path for a new version of a file: no process on any machine uses it."""
    return path.with_name(f".{uuid4().hex}")


def blank_rows(width: int, positions: Positions) -> Rows:
    """Return erased rows of records of a fixed width: zeros with seals that do not match."""
    rows = SealedRows(width).seal(np.zeros(len(positions), f"V{width}"), positions)
    # Inverted, a seal never matches by accident, and is the same each time a row is erased.
    rows.view("<u4")[:, -1] ^= np.uint32(0xFFFFFFFF)
    return rows


def lock_file(file: IO[bytes], *, exclusive: bool = False) -> None:
    """Lock a file until it is closed here and every mapping of it is gone.

    The lock is shared unless it is ``exclusive``. Raises `BlockingIOError` if another process holds
    a lock that conflicts.
    """
    if sys.platform != "win32":  # Windows removes no file that is open
        import fcntl  # noqa: PLC0415

        # Never wait: a child that was forked while its parent held the exclusive lock shares it,
        # and may keep it for as long as it runs.
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def sealed_records(page: Page, first: int) -> dict[str, npt.NDArray[Any]]:
    """Return what a page, in the layout of the files, adds to ``records`` and ``values``.

    ``first`` is the number of units in ``values`` before those of the page.
    """
    packed = pack(page)
    if packed is None:
        return {"records": _fixed_rows(page), "values": NO_VALUES}
    begins = first + np.cumsum(packed.totals) - packed.totals
    return {"records": variable_rows(page, packed, begins), "values": packed.units}


def pack(page: Page) -> Packed | None:
    """Return the records of a page as arrays; None if they have a fixed width."""
    return None if page.sizes is None else Packed.of_records(page.codec, page.data, page.sizes)


def variable_rows(page: Page, packed: Packed, begins: Positions) -> Rows:
    """Return the rows of a page; ``begins`` are the first units of the records that it holds."""
    layout, positions = RowLayout(page.codec), np.arange(page.start, page.stop)
    headers, sums = packed.rows[:, : layout.header], packed.sums()
    if len(begins) < len(page):
        held = page.held
        headers, sums = _spread(headers, held, 0), _spread(sums, held, 0)
        begins = _spread(begins, held, NO_UNITS)
    rows = layout.seal(headers, begins, sums, positions)
    rows[page.erased - page.start] = blank_rows(layout.width, page.erased)
    return rows


def _spread(values: npt.NDArray[Any], held: npt.NDArray[np.bool_], other: int) -> npt.NDArray[Any]:
    """Return an item for each row: that of its record, or ``other`` if it has none."""
    items = np.full((len(held), *values.shape[1:]), other, values.dtype)
    items[held] = values
    return items


def _fixed_rows(page: Page) -> Rows:
    width = page.codec.header.itemsize
    records = np.frombuffer(page.data, f"V{width}")
    # Rows without a record keep their slot, since a row's offset is its position * stride.
    if len(records) < len(page):
        slots = np.zeros(len(page), records.dtype)
        slots[page.held] = records
        records = slots
    positions = np.arange(page.start, page.stop)
    rows = SealedRows(width).seal(records, positions)
    # A retraction's slot is zeros with a seal that matches; an erased row's seal must not.
    rows[page.erased - page.start] = blank_rows(width, page.erased)
    return rows


def change_entries(page: Page) -> npt.NDArray[Any]:
    """Return what a page adds to ``changes``."""
    changes = np.empty(len(page.superseding), CHANGE)
    changes["position"] = page.superseding
    changes["supersedes"] = page.supersedes
    changes["retracted"] = np.isin(page.superseding, page.retracted)
    return changes
