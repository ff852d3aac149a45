"""Beginning a generation of a mirror with the first rows of the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.mirror import files
from registry.mirror.files import SUMMED, State
from registry.mirror.view import View


def cut(folder: Path, view: View, position: int, generation: int) -> State:
    """Copy the rows before an anchor's position and return their state, unpublished.

    It counts no erasure as applied: the database may have others by now.
    """
    _, size, chain = view.anchor(position)
    sizes = {
        "records": size,
        "places": position * files.PLACE.itemsize if len(view.places) else 0,
        "buckets": position * 2,
        "changes": int(np.searchsorted(view.changes["position"], position)) * files.CHANGE.itemsize,
        "anchors": int(np.searchsorted(view.anchors["position"], position, side="right"))
        * files.ANCHOR.itemsize,
        "erased": 0,
    }
    sums = {}
    for name, length in sizes.items():
        target = files.path(folder, generation, name)
        target.parent.mkdir(exist_ok=True)
        sums[name] = _copy(files.path(folder, view.state.generation, name), target, length)
    before = view.state.parted
    return replace(
        State.empty(generation),
        position=position,
        chain=chain.hex(),
        sizes=sizes,
        sums={name: sums[name] for name in SUMMED},
        parted=min(position, before if before is not None else position),
    )


def _copy(source: Path, target: Path, length: int) -> int:
    """Copy the first bytes of a file and return their sum."""
    with source.open("rb") as origin, target.open("wb") as copy:
        return files.checksum(origin, length, 0, copy)
