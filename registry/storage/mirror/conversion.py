"""Bringing a mirror's records to a newer layout, in a new generation that is filled from the old.

Records are converted a chunk at a time, so that little memory is used, and nothing is read from the
database. A row that is damaged or blank keeps the difference between its seal and the right one, so
that it is still damaged or blank in the new files.

Where records differ in length, the length of a damaged one is not known. Then only the rows up to
the anchor before it are converted, and the others are read from the database as new ones are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions
from registry.samples.projection import Projection
from registry.samples.schema import Schema
from registry.storage.mirror.appender import write_all
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.generation import (
    copy_file,
    next_generation,
    sizes_before,
    state_before,
)
from registry.storage.mirror.layout import PLACE, file_path, seal_record, sealed_places
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import MirrorState

CHUNK_ROWS = 1 << 14
"""Rows that are converted at a time, at most."""
CHUNK_BYTES = 1 << 22
"""Bytes of records that are converted at a time, unless one row has more."""
BLANK = np.uint32(0xFFFFFFFF)
"""The difference between the seal of a blank row of fixed width and the right one."""


@dataclass(frozen=True)
class _Chunk:
    """What rows from position ``start`` on add to ``records`` and ``places``.

    ``ends`` are the byte offsets in ``records`` at which the rows end.
    """

    start: int
    data: memoryview
    ends: Positions
    places: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, PLACE))


def convert_generation(folder: Path, view: View, schema: Schema) -> MirrorState:
    """Convert the rows of a view to the layout of a newer schema; return a state to publish.

    The caller holds the mirror's lock.
    """
    generation = next_generation(folder)
    try:
        return _convert(folder, generation, view, schema)
    except BaseException:
        # A disk that was full would stay full.
        shutil.rmtree(folder / str(generation), ignore_errors=True)
        raise


def _convert(folder: Path, generation: int, view: View, schema: Schema) -> MirrorState:
    anchors, position = view.anchors.copy(), 0
    sizes = {"records": 0, "places": 0, "erased": view.state.sizes["erased"]}
    folder.joinpath(str(generation)).mkdir()
    with (
        file_path(folder, generation, "records").open("xb", buffering=0) as records,
        file_path(folder, generation, "places").open("xb", buffering=0) as places,
    ):
        for chunk in _chunks(view, schema):
            write_all(records, chunk.data)
            write_all(places, chunk.places.view(np.uint8).data)
            position = chunk.start + len(chunk.ends)
            part = slice(*np.searchsorted(anchors["position"], [chunk.start + 1, position + 1]))
            anchors["bytes"][part] = chunk.ends[anchors["position"][part] - chunk.start - 1]
    # Less than what was converted if a damaged row is near.
    position, _, _ = view.anchor(position)
    sizes |= sizes_before(view, position)
    sums = {
        name: copy_file(folder, view, generation, name, sizes[name])
        for name in ("buckets", "changes", "erased")
    }
    anchors = anchors[: sizes["anchors"] // anchors.itemsize]
    data = anchors.tobytes()
    file_path(folder, generation, "anchors").write_bytes(data)
    if position:
        sizes["records"] = int(anchors["bytes"][-1])
        sizes["places"] = 0 if schema.codec.fixed_width else position * PLACE.itemsize
    columns = view.path.with_name("columns")
    if position == view.position and columns.exists():
        # Values are the same in every layout, and take long to read again.
        shutil.copytree(columns, folder / str(generation) / "columns")
    state = state_before(view, generation, position, sizes, {**sums, "anchors": crc32(data)})
    return replace(state, layout=schema.layout)


def _chunks(view: View, schema: Schema) -> Iterator[_Chunk]:
    """Yield the converted rows, up to a damaged one whose length is not known."""
    projection = schema.projection(view.schema)
    start = offset = 0
    while start < view.position:
        positions = np.arange(start, min(start + CHUNK_ROWS, view.position))
        if not view.fixed_width:
            chunk = _variable(view, projection, positions, offset)
        elif not schema.codec.fixed_width:
            chunk = _lengthened(view, projection, positions, offset)
        else:
            chunk = _fixed(view, projection, positions)
        if chunk is None:
            return
        yield chunk
        start, offset = start + len(chunk.ends), int(chunk.ends[-1])


def _fixed(view: View, projection: Projection, positions: Positions) -> _Chunk:
    """Convert rows of fixed width to others of fixed width."""
    rows = view.rows[positions[0] : positions[-1] + 1]
    differences = view.seals.differences(rows, positions)
    records = projection.forward_rows(rows[:, : view.seals.width])
    # Rows without a record are zeros, not defaults.
    records[_retracted(view, positions) | (differences == BLANK)] = 0
    seals = SealedRows(records.shape[1])
    sealed = seals.seal(records.view(f"V{seals.width}")[:, 0], positions)
    seals.seal_differently(sealed, differences)
    return _Chunk(int(positions[0]), sealed.reshape(-1).data, (positions + 1) * seals.stride)


def _lengthened(
    view: View, projection: Projection, positions: Positions, offset: int
) -> _Chunk | None:
    """Convert rows of fixed width to records that differ in length; None if one is damaged."""
    rows = view.rows[positions[0] : positions[-1] + 1]
    differences = view.seals.differences(rows, positions)
    blank = differences == BLANK
    if (blank != (differences != 0)).any():
        return None
    held = ~(_retracted(view, positions) | blank)
    records = projection.forward_rows(rows[held, : view.seals.width])
    sizes = np.where(held, records.shape[1], 0)
    return _with_places(records.tobytes(), sizes, positions, offset, blank)


def _variable(
    view: View, projection: Projection, positions: Positions, offset: int
) -> _Chunk | None:
    """Convert records that differ in length; None if one of them is damaged."""
    ends = view.places["end"][positions]
    before = int(view.places["end"][positions[0] - 1]) if positions[0] else 0
    positions = positions[: max(1, int(np.searchsorted(ends, before + CHUNK_BYTES)))]
    records, blank = view.file_records(positions)
    for row in np.flatnonzero(blank).tolist():
        place = view.places[positions[row]]
        seal = seal_record(records[row], int(positions[row]), int(place["end"]))
        if int(place["seal"]) != seal ^ 0xFFFFFFFFFFFFFFFF:
            return None
    # A blank record keeps its length.
    converted = [
        bytes(record) if is_blank else projection.forward(record)
        for record, is_blank in zip(records, blank.tolist(), strict=True)
    ]
    sizes = np.fromiter(map(len, converted), np.int64, len(converted))
    return _with_places(b"".join(converted), sizes, positions, offset, blank)


def _with_places(
    data: bytes, sizes: Positions, positions: Positions, offset: int, blank: npt.NDArray[np.bool_]
) -> _Chunk:
    start = int(positions[0])
    places = sealed_places(data, sizes, start, offset, blank)
    return _Chunk(start, memoryview(data), places["end"].astype(np.int64), places)


def _retracted(view: View, positions: Positions) -> npt.NDArray[np.bool_]:
    """Return which of these consecutive rows are retractions."""
    part = slice(*np.searchsorted(view.changes["position"], [positions[0], positions[-1] + 1]))
    changes = view.changes[part]
    retracted = np.zeros(len(positions), bool)
    retracted[changes["position"][changes["retracted"]] - positions[0]] = True
    return retracted
