"""Erasing rows of a mirror: they are overwritten in place, permanently.

A blank row is zeros with a seal that does not match. A reader takes it for damaged and asks the
database, which reports that it was erased. The file ``erased`` holds the row's position and the
chain after it, which cannot be computed again. A database that still has the record, such as an
older copy or a standby that lags, therefore cannot bring it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
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
from registry.storage.mirror.layout import ERASED, PLACE, blank_rows, blank_seals, file_path
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import MirrorState

_Writes = list[tuple[int, memoryview]]
"""Offsets in a file, in bytes, and what to write there."""
_WRITE_BYTES = 1 << 20
"""Bytes from which on adjacent rows are not written together."""
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
        writes = (_fixed_blanks if view.fixed_width else _variable_blanks)(view, positions)
        if writes is None:
            return None
        for name, each in writes.items():
            _overwrite(file_path(folder, state.generation, name), each)
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


def _fixed_blanks(view: View, positions: Positions) -> dict[str, _Writes] | None:
    rows = blank_rows(view.seals.width, positions)
    stride, data = view.seals.stride, rows.reshape(-1).data
    return {
        "records": [
            (position * stride, data[n * stride : (n + 1) * stride])
            for n, position in enumerate(positions.tolist())
        ]
    }


def _variable_blanks(view: View, positions: Positions) -> dict[str, _Writes] | None:
    records, broken = view.file_records(positions)
    places = view.places[positions]
    blanks = [bytes(len(record)) for record in records]
    ends = places["end"].tolist()
    seals = blank_seals(blanks, positions, ends)
    # A damaged row's end may be wrong, and the bytes before it those of another row, which would be
    # lost. Rows with the seal of a blank row were erased by an attempt that did not finish.
    if (broken & (places["seal"] != seals)).any():
        return None
    places["seal"] = seals
    return {
        # Places before records: after a crash in between, the seals already are those of blank
        # rows. The other way round, half-erased rows would look damaged at the check above.
        "places": [
            (position * PLACE.itemsize, memoryview(place.tobytes()))
            for position, place in zip(positions.tolist(), places, strict=True)
        ],
        "records": [
            (end - len(record), memoryview(record))
            for end, record in zip(ends, blanks, strict=True)
        ],
    }


def _overwrite(path: Path, writes: _Writes) -> None:
    with path.open("r+b", buffering=0) as file:
        for offset, data in _joined(writes):
            file.seek(offset)
            appender.write_all(file, memoryview(data))
        # The state could reach the disk before these writes. After a power cut the rows would then
        # count as erased, though the disk still has their records.
        os.fsync(file.fileno())


def _joined(writes: _Writes) -> Iterator[tuple[int, bytearray]]:
    """Yield the writes, with those that follow each other in the file as one, up to some size."""
    start, joined = 0, bytearray()
    for offset, data in writes:
        if joined and (offset != start + len(joined) or len(joined) >= _WRITE_BYTES):
            yield start, joined
            joined = bytearray()
        if not joined:
            start = offset
        joined += data
    if joined:
        yield start, joined
