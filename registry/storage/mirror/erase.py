"""Rows of a mirror whose samples were erased: overwritten where they lie, for good.

A blank row is zeros under a seal that is not theirs, so that whoever reads it takes it for damaged
and asks the database, which knows that it was erased. Its place is noted in the file ``erased``,
with the chain after it, which cannot be computed again. So no database that still has its record,
an older copy or a standby that lags, brings it back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions
from registry.samples.codec import Codec
from registry.storage.log.erasures import Erased
from registry.storage.log.page import Page
from registry.storage.mirror import appender, layout
from registry.storage.mirror.layout import ERASED, PLACE, State
from registry.storage.mirror.snapshot import View

_Writes = list[tuple[int, memoryview]]
Entries = npt.NDArray[Any]
"""Entries of the file ``erased``."""


def listed(folder: Path, state: State) -> Entries:
    """Read which rows are erased here, those included that the mirror has not come to yet.

    None of them where the list is damaged.
    """
    if not state.erased:
        return np.empty(0, ERASED)
    data = layout.path(folder, state.generation, "erased").read_bytes()[: state.sizes["erased"]]
    whole = crc32(data) == state.sums["erased"]
    return np.frombuffer(data if whole else b"", ERASED)


def agree(page: Page, chain: bytes, entries: Entries, known: Mapping[int, bytes]) -> bool:
    """Tell whether a page that follows the value ``chain`` has the rows that entries stand for.

    ``known`` has the value after each row that the page lacks itself.
    """
    values = page.chain_values(chain, known)
    found = [values[position - page.start] for position in entries["position"].tolist()]
    expected: list[bytes] = entries["chain"].tolist()
    return found == expected


def emptied(page: Page, positions: Positions) -> Page:
    """Return a page of which these rows have lost their records, if they had any."""
    gone = np.isin(page.positions, positions)
    if not gone.any():
        return page
    width = page.codec.header.itemsize
    sizes = np.full(len(gone), width) if page.sizes is None else page.sizes
    ends = np.cumsum(sizes)
    parts = zip((ends - sizes)[~gone].tolist(), ends[~gone].tolist(), strict=True)
    return replace(
        page,
        data=b"".join(page.data[start:end] for start, end in parts),
        sizes=None if page.sizes is None else page.sizes[~gone],
        erased=np.union1d(page.erased, page.positions[gone]),
    )


def blank(folder: Path, state: State, codec: Codec, rows: Sequence[Erased]) -> State | None:
    """Overwrite rows and note them; return the state that counts them, for the caller to publish.

    What was done of it already, before a crash, is done again. The owner holds the mirror's lock.
    None where damage hides the place of a row.
    """
    positions = np.array([row.position for row in rows if row.position < state.position], np.int64)
    if len(positions):
        writes = _fixed if codec.fixed_width else _variable
        found = writes(folder, state, codec, positions)
        if found is None:
            return None
        for name, each in found.items():
            _overwrite(layout.path(folder, state.generation, name), each)
    entries = np.array([(row.position, row.chain) for row in rows], ERASED)
    data = entries.view(np.uint8).data
    size = state.sizes["erased"]
    place = layout.path(folder, state.generation, "erased")
    place.touch()
    with place.open("r+b", buffering=0) as file:
        file.seek(size)
        appender.write_all(file, data)
    return replace(
        state,
        sizes={**state.sizes, "erased": size + len(data)},
        sums={**state.sums, "erased": crc32(data, state.sums["erased"])},
    )


def _fixed(_: Path, __: State, codec: Codec, positions: Positions) -> dict[str, _Writes] | None:
    rows = layout.blank_rows(codec, positions)
    stride = rows.shape[1]
    return {
        "records": [(p * stride, row.data) for p, row in zip(positions.tolist(), rows, strict=True)]
    }


def _variable(
    folder: Path, state: State, codec: Codec, positions: Positions
) -> dict[str, _Writes] | None:
    view = View(folder, state, codec)
    records, broken = view.take_records(positions)
    places = view.places[positions]
    blanks = [bytes(len(record)) for record in records]
    ends = places["end"].tolist()
    seals = layout.blank_seals(blanks, positions, ends)
    # Where a row is damaged, its end may be, too, and what lies before that another row's.
    if (broken & (places["seal"] != seals)).any():
        return None
    places["seal"] = seals
    return {
        # First, so that rows which are half overwritten are known for what they are.
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
        for offset, data in writes:
            file.seek(offset)
            appender.write_all(file, data)
        # The state may reach the disk first, and then these rows would never be looked at again.
        os.fsync(file.fileno())
