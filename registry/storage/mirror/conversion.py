"""Bringing a mirror's records to a newer layout, in a new generation that is filled from the old.

Records are converted a chunk at a time, so that little memory is used, and nothing is read from the
database. A row that is damaged or blank keeps the difference between its seal and the right one, so
that it is still damaged or blank in the new files.

Where the new records vary in width, a damaged row does not say where its values are. Then only the
rows up to the anchor before it are converted, and the others are read from the database as new ones
are. Damaged values of a row that is not damaged itself are copied, and still do not match its sums.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows
from registry.samples.schema import Schema
from registry.storage.mirror.appender import write_all
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.generation import (
    copy_file,
    next_generation,
    sizes_before,
    state_before,
)
from registry.storage.mirror.layout import blank_rows, file_path
from registry.storage.mirror.packed import divided
from registry.storage.mirror.row_layout import NO_UNITS, RowLayout
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import MirrorState
from registry.storage.mirror.value_conversion import ValueConversion
from registry.storage.mirror.value_units import NO_VALUES, UNIT, Units

CHUNK_ROWS = 1 << 14
"""Rows that are converted at a time, at most."""
CHUNK_UNITS = 1 << 17
"""Units of values that are converted at a time, unless one row has more."""
BLANK = np.uint32(0xFFFFFFFF)
"""The difference between the seal of a blank row and the right one."""


@dataclass(frozen=True)
class _Chunk:
    """What rows from position ``start`` on add to ``records`` and ``values``.

    ``ends`` are the bytes that the rows up to each one take, as the anchors have them.
    """

    start: int
    rows: Rows
    values: Units
    ends: Positions


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
    sizes = {"records": 0, "values": 0, "erased": view.state.sizes["erased"]}
    folder.joinpath(str(generation)).mkdir()
    with (
        file_path(folder, generation, "records").open("xb", buffering=0) as records,
        file_path(folder, generation, "values").open("xb", buffering=0) as values,
    ):
        for chunk in _chunks(view, schema):
            write_all(records, chunk.rows.reshape(-1).data)
            write_all(values, chunk.values.reshape(-1).view(np.uint8).data)
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
        sizes["records"] = position * RowLayout(schema.codec).seals.stride
        sizes["values"] = 0 if schema.codec.fixed_width else int(anchors["bytes"][-1])
    columns = view.path.with_name("columns")
    if position == view.position and columns.exists():
        # Values are the same in every layout, and take long to read again.
        shutil.copytree(columns, folder / str(generation) / "columns")
    state = state_before(view, generation, position, sizes, {**sums, "anchors": crc32(data)})
    return replace(state, layout=schema.layout)


def _chunks(view: View, schema: Schema) -> Iterator[_Chunk]:
    """Yield the converted rows, up to a damaged one that would have to say where its values are."""
    start = units = 0
    conversion = ValueConversion(view, schema)
    while start < view.position:
        positions: Positions = np.arange(start, min(start + CHUNK_ROWS, view.position))
        if schema.codec.fixed_width:
            yield _fixed(view, schema, positions)
        else:
            chunk = _variable(view, conversion, positions, units)
            if chunk is None:
                return
            yield chunk
            positions, units = positions[: len(chunk.ends)], int(chunk.ends[-1]) // UNIT
        start += len(positions)


def _fixed(view: View, schema: Schema, positions: Positions) -> _Chunk:
    """Convert rows of fixed width to others of fixed width."""
    rows = view.rows[positions[0] : positions[-1] + 1]
    differences = view.seals.differences(rows, positions)
    records = schema.projection(view.schema).forward_rows(rows[:, : view.seals.width])
    # Rows without a record are zeros, not defaults.
    records[_retracted(view, positions) | (differences == BLANK)] = 0
    seals = SealedRows(records.shape[1])
    sealed = seals.seal(records.view(f"V{seals.width}")[:, 0], positions)
    seals.seal_differently(sealed, differences)
    return _Chunk(int(positions[0]), sealed, NO_VALUES, (positions + 1) * seals.stride)


def _variable(
    view: View, conversion: ValueConversion, positions: Positions, first: int
) -> _Chunk | None:
    """Convert rows to those of records whose width varies; None if one of them is damaged.

    ``first`` is the number of units before theirs. Blank rows lose the units that they had.
    """
    rows = view.rows[positions[0] : positions[-1] + 1]
    differences = view.seals.differences(rows, positions)
    blank = differences == BLANK
    if (blank != (differences != 0)).any():
        return None
    held = ~(_retracted(view, positions) | blank)
    totals: Positions = np.zeros(len(rows), np.int64)
    totals[held] = conversion.totals(rows[held])
    part = next(divided(totals, CHUNK_UNITS))
    rows, held, totals = rows[part], held[part], totals[part]
    begins = np.where(held, first + np.cumsum(totals) - totals, NO_UNITS)
    sealed = conversion.rows(rows, held, begins, positions[part])
    sealed[blank[part]] = blank_rows(conversion.layout.width, positions[part][blank[part]])
    units = conversion.units(rows[held], totals[held])
    return _Chunk(int(positions[0]), sealed, units, (first + np.cumsum(totals)) * UNIT)


def _retracted(view: View, positions: Positions) -> npt.NDArray[np.bool_]:
    """Return which of these consecutive rows are retractions."""
    part = slice(*np.searchsorted(view.changes["position"], [positions[0], positions[-1] + 1]))
    changes = view.changes[part]
    retracted = np.zeros(len(positions), bool)
    retracted[changes["position"][changes["retracted"]] - positions[0]] = True
    return retracted
