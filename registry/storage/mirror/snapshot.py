"""The rows of a mirror at one moment, as memory maps that are read in any order.

`open_view` maps the files that a state counts. It checks nothing: rows are checked by their seals
when they are taken, the other files by `View.intact` when they are needed as a whole.

A row is found by its position, and the values of variable width by what their row says of them
(`RowLayout`). Those are checked by the sums in the row.

All records are in the layout of one schema, that of the files. What is taken is projected to the
schema that is asked for, and to that of each row where the chain is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from mmap import PROT_READ, mmap
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from registry.samples.schema import Schema
from registry.storage.log.hash_chain import NONE, extend_past
from registry.storage.log.schemas import Schemas
from registry.storage.log.watermark import GENESIS
from registry.storage.mirror.file_lease import FileLease
from registry.storage.mirror.layout import (
    ANCHOR,
    CHANGE,
    ERASED,
    file_path,
)
from registry.storage.mirror.layouts import file_schema, schemas_between
from registry.storage.mirror.mapped_rows import MappedRows
from registry.storage.mirror.state import MirrorState, load_state

DTYPES: dict[str, npt.DTypeLike] = {
    "records": np.uint8,
    "values": np.int64,
    "buckets": "<u2",
    "changes": CHANGE,
    "anchors": ANCHOR,
    "erased": ERASED,
}


class View(MappedRows):
    """The first ``position`` rows of a log, in files that other processes may append to.

    ``schema`` is one with the layout of the files. Maps are backed by the page cache, so the
    process's own memory does not grow with the log. Thread-safe.
    """

    def __init__(
        self,
        folder: Path,
        state: MirrorState,
        schema: Schema,
        schemas: Schemas,
        maps: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        super().__init__(schema, maps["records"], maps["values"])
        self.state = state
        self._folder = folder
        self._generation = folder / str(state.generation)
        self._schemas = schemas
        self._maps = maps

    @property
    def path(self) -> Path:
        """The path of the file ``records``."""
        return self._generation / "records"

    def named(self, folder: Path, position: int) -> View:
        """Return the view of the first rows, in files of another name, whatever folder has it."""
        view = copy(self)
        view._generation, view.position = folder, position  # noqa: SLF001  # of this class
        view.values = self.values[: self.units_before(position)]
        return view

    @property
    def values_path(self) -> Path:
        """The path of the file ``values``, which may not exist where the width is fixed."""
        return self._generation / "values"

    @property
    def replaced(self) -> bool:
        """Whether another generation has replaced these files, which stay mapped here."""
        state = load_state(self._folder)
        return state is None or state.generation != self.state.generation

    def lease(self) -> FileLease:
        """Lock the file of the records against removal while the returned object lives.

        Raises `FileNotFoundError` or `BlockingIOError` if another process is removing it.
        """
        return FileLease.lock(self.path).checked(self.path)

    @property
    def buckets(self) -> npt.NDArray[np.uint16]:
        """The bucket of each row's key, shape ``(position,)``."""
        return self._maps["buckets"]

    @property
    def changes(self) -> npt.NDArray[Any]:
        """The rows that supersede or retract, by position, dtype `CHANGE`."""
        return self._maps["changes"]

    @property
    def anchors(self) -> npt.NDArray[Any]:
        """Positions where the chain is known, in order, dtype `ANCHOR`."""
        return self._maps["anchors"]

    @cached_property
    def erased(self) -> dict[int, bytes]:
        """The chain after each erased row of the view, by the row's position."""
        # The file lists rows past the end of the mirror, too.
        entries = self._maps["erased"]
        rows = zip(entries["position"].tolist(), entries["chain"].tolist(), strict=True)
        return {position: chain for position, chain in rows if position < self.position}

    def intact(self, after: int, until: int) -> bool:
        """Return whether changes, anchors and the buckets in ``[after, until)`` are undamaged."""
        for name in ("changes", "anchors"):
            if crc32(self._maps[name].view(np.uint8).data) != self.state.sums[name]:
                return False
        # From the anchor before the range to the one after it: a CRC is of all between two anchors.
        first, last = np.searchsorted(self.anchors["position"], [after + 1, until])
        start = self.anchor(after)[0]
        for anchor in self.anchors[first : last + 1]:
            stop = int(anchor["position"])
            if crc32(self.buckets[start:stop].data) != anchor["buckets"]:
                return False
            start = stop
        return True

    def anchor(self, position: int) -> tuple[int, int, bytes]:
        """Return the last anchor at or before a position, as its position, bytes and chain."""
        index = int(np.searchsorted(self.anchors["position"], position, side="right")) - 1
        if index < 0:
            return 0, 0, GENESIS
        anchor = self.anchors[index]
        return int(anchor["position"]), int(anchor["bytes"]), anchor["chain"].tobytes()

    def chain_values(
        self, after: int, until: int, chain: bytes, known: Mapping[int, bytes] | None = None
    ) -> list[bytes]:
        """Return the chain after each row of ``[after, until)``, from the value before them.

        ``known`` maps the position of each erased row to the value after it; None means the rows
        that the view lists as erased. Seals are not checked: damage results in other values.
        """
        positions = np.arange(after, until)
        part = slice(*np.searchsorted(self.changes["position"], [after, until]))
        changed = self.changes["position"][part] - after
        supersedes = np.full(len(positions), NONE, np.int64)
        supersedes[changed] = self.changes["supersedes"][part]
        records: list[bytes | None] = []
        for start, stop, schema in schemas_between(self._schemas, after, until):
            records += self._stored(start, stop, schema)
        # A retraction's slot holds zeros in a file of fixed width, but its record counts as empty.
        for retracted in changed[self.changes["retracted"][part]].tolist():
            records[retracted] = None
        erased = self.erased if known is None else known
        stored = {p - after: value for p, value in erased.items() if after <= p < until}
        return extend_past(stored, chain, supersedes, self.buckets[after:until], records)

    def _stored(self, after: int, until: int, schema: Schema) -> list[bytes]:
        """Return the records at ``[after, until)``, all of one schema, as the log has them."""
        if self.fixed_width:
            width = schema.codec.header.itemsize
            return [row[:width].tobytes() for row in self.sealed_rows(np.arange(after, until))[0]]
        parts = (self.take_unchecked(part, schema) for part in self.parts(after, until))
        return [record for part in parts for record in part.records(schema.codec)]

    def chain_at(self, position: int) -> bytes:
        """Compute the chain after the first ``position`` rows, from the last anchor before."""
        after, _, chain = self.anchor(position)
        values: Sequence[bytes] = self.chain_values(after, position, chain)
        return values[-1] if values else chain


def open_view(folder: Path, state: MirrorState, schemas: Schemas) -> View:
    """Map the files that a state counts, whose layout is that of one of the schemas.

    Raises `FileNotFoundError` if the generation has been removed.
    """
    schema = file_schema(schemas, state)
    assert schema is not None
    # All of them now: later, another process may have removed some with their generation.
    maps = {name: _mapped(folder, state, name, dtype) for name, dtype in DTYPES.items()}
    return View(folder, state, schema, schemas, maps)


def _mapped(folder: Path, state: MirrorState, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    count = state.sizes[name] // np.dtype(dtype).itemsize
    if not count:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    with file_path(folder, state.generation, name).open("rb") as file:
        # Only what the state counts: the file may have grown, or end in a torn tail.
        mapping = mmap(file.fileno(), state.sizes[name], prot=PROT_READ)
    return np.frombuffer(mapping, dtype, count)
