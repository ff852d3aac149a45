"""Erasing rows of a mirror: they are overwritten in place, permanently.

A blank row is zeros with a seal that does not match, and its values are zeros, too. A reader takes
it for damaged and asks the database, which reports that it was erased. The file ``erased`` holds
the row's position and the chain after it, which cannot be computed again. A database that still has
the record, such as an older copy or a standby that lags, therefore cannot bring it back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions
from registry.storage.database.transactions import read
from registry.storage.log.erasures import Erased, erased_at
from registry.storage.log.page import Page
from registry.storage.log.reader import Log
from registry.storage.mirror import appender
from registry.storage.mirror.columns import blank_columns
from registry.storage.mirror.in_place import overwrite, row_writes, unit_writes
from registry.storage.mirror.layout import ERASED, blank_rows, file_path
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import MirrorState
from registry.storage.mirror.value_units import UNIT

MAPPED_BYTES = 1 << 20
"""The least length of a file of values that lacks some of what was erased. Programs that copy files
may write all of it."""
Entries = npt.NDArray[Any]
"""Entries of the file ``erased``, of dtype `ERASED`."""


def read_erased(folder: Path, state: MirrorState) -> Entries:
    """Read which rows are erased here, including rows that the mirror does not hold yet.

    Empty if the list is damaged.
    """
    if not state.erased:
        return np.empty(0, ERASED)
    # Past the state's size there may be a torn tail, which the checksum does not cover.
    data = file_path(folder, state.generation, "erased").read_bytes()[: state.sizes["erased"]]
    whole = crc32(data) == state.sums["erased"]
    return np.frombuffer(data if whole else b"", ERASED)


def erased_rows(log: Log, positions: Positions) -> list[Erased]:
    """Return which of the rows at these positions the database has erased."""
    # Without a query where nothing is asked, as for nearly all pages.
    if not len(positions):
        return []
    return read(log.engine, erased_at, log.dataset_id, positions.tolist())


def entries_match(page: Page, chain: bytes, entries: Entries, known: Mapping[int, bytes]) -> bool:
    """Return whether a page, which follows the value ``chain``, has the rows of these entries.

    ``known`` maps the position of each row that is erased in the page to the value after it.
    """
    values = page.chain_values(chain, known)
    computed = [values[position - page.start] for position in entries["position"].tolist()]
    expected: list[bytes] = entries["chain"].tolist()
    return computed == expected


def without_records(page: Page, positions: Positions) -> Page:
    """Return the page without the records of the rows at these positions."""
    removed = np.isin(page.positions, positions)
    if not removed.any():
        return page
    width = page.codec.header.itemsize
    # One entry per record, not per row: retractions and erased rows have none.
    sizes = np.full(len(removed), width) if page.sizes is None else page.sizes
    ends = np.cumsum(sizes)
    parts = zip((ends - sizes)[~removed].tolist(), ends[~removed].tolist(), strict=True)
    return replace(
        page,
        data=b"".join(page.data[start:end] for start, end in parts),
        sizes=None if page.sizes is None else page.sizes[~removed],
        erased=np.union1d(page.erased, page.positions[removed]),
    )


def lengthen_values(folder: Path, state: MirrorState) -> None:
    """Lengthen the file of values, which takes no space on the disk.

    Here, rows that were erased before they came have no values. On a host where they came earlier,
    the file is longer, and a graph that is made there maps as much of it: at most `MAPPED_BYTES`,
    or twice what is here where that is more. How much it was cannot be known here. The caller holds
    the mirror's lock.
    """
    path, size = file_path(folder, state.generation, "values"), 2 * state.sizes["values"]
    # Where files may not be so long, this host can still read its own graphs.
    with suppress(OSError):
        if path.stat().st_size < max(size, MAPPED_BYTES):
            # To more than is asked for, so that few appends do it.
            os.truncate(path, max(2 * size, MAPPED_BYTES))


def erase_rows(folder: Path, view: View, rows: Sequence[Erased]) -> MirrorState | None:
    """Overwrite rows and list them in ``erased``; return the state for the caller to publish.

    ``view`` is of the state that is published now.

    Safe to repeat after a crash. The caller holds the mirror's lock. Returns None if a row cannot
    be located because of damage.
    """
    state = view.state
    # Rows past the mirror's end are only listed, and will be appended without their records.
    positions = np.array([row.position for row in rows if row.position < state.position], np.int64)
    if len(positions):
        if not (view.fixed_width or _blank_values(view, positions)):
            return None
        # Synced: the state could reach the disk before. After a power cut the rows would then count
        # as erased, though the disk still has their records.
        blanks = blank_rows(view.seals.width, positions)
        overwrite(view.path, row_writes(blanks, positions), synced=True)
        blank_columns(folder / str(state.generation), positions)
    entries = np.array([(row.position, row.chain) for row in rows], ERASED)
    data = entries.view(np.uint8).data
    size = state.sizes["erased"]
    path = file_path(folder, state.generation, "erased")
    path.touch()  # the mode r+b does not create it
    with path.open("r+b", buffering=0) as file:
        file.seek(size)  # over a torn tail, if an earlier attempt left one
        appender.write_all(file, data)
    return replace(
        state,
        sizes={**state.sizes, "erased": size + len(data)},
        sums={**state.sums, "erased": crc32(data, state.sums["erased"])},
    )


def _blank_values(view: View, positions: Positions) -> bool:
    """Overwrite the values of rows by zeros; return False if a row does not say where they are."""
    rows, broken = view.sealed_rows(positions)
    # Blank rows were erased by an attempt that did not finish, after their values.
    blank = (rows == blank_rows(view.seals.width, positions)).all(axis=1)
    if (broken & ~blank).any():
        return False
    fields = view.layout.fields(rows[~broken])
    totals = view.layout.unit_counts(fields).sum(axis=1)
    zeros = np.zeros((totals.max(initial=0), UNIT // 8), np.int64)
    # Before the rows: a blank row no longer says where its values are.
    writes = unit_writes((zeros[:total] for total in totals.tolist()), fields["begin"])
    overwrite(view.values_path, writes, synced=True)
    return True
