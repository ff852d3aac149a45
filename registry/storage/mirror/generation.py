"""The generations of a mirror: each begins empty, or with the first rows of the one before."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.storage.mirror import layout
from registry.storage.mirror.layout import SUMMED, State
from registry.storage.mirror.snapshot import View


def begin(folder: Path, state: State) -> State:
    """Make a generation the current one and remove the others; the mirror's lock is held."""
    # There is always a folder, so that the number of a generation is never given again.
    (folder / str(state.generation)).mkdir(exist_ok=True)
    layout.publish(folder, state)
    sweep(folder, state)
    return state


def sweep(folder: Path, current: State) -> None:
    """Remove all generations but the current one, and but those that are held."""
    for old in _generations(folder):
        if old != current.generation:
            _remove(folder, old)


def cleared(folder: Path) -> State:
    """Return the state of the next generation, without rows, unpublished.

    It knows of the erasures that the one before did, so that a database which does not, since it is
    an older copy or lags behind, brings nothing of them back.
    """
    before, state = layout.load(folder), State.empty(next_generation(folder))
    if before is None or not before.erased:
        return state
    size, total = before.sizes["erased"], before.sums["erased"]
    target = layout.path(folder, state.generation, "erased")
    target.parent.mkdir(exist_ok=True)
    try:
        if _copy(layout.path(folder, before.generation, "erased"), target, size) != total:
            return state
    except FileNotFoundError:
        return state
    return replace(
        state,
        sizes={**state.sizes, "erased": size},
        sums={**state.sums, "erased": total},
    )


def cut(folder: Path, view: View, position: int) -> State:
    """Copy the rows before an anchor's position to the next generation and return their state.

    It is unpublished, and counts no erasure as applied: the database may have others by now.
    """
    generation = next_generation(folder)
    _, size, chain = view.anchor(position)
    sizes = {
        "records": size,
        "places": position * layout.PLACE.itemsize if len(view.places) else 0,
        "buckets": position * 2,
        "changes": int(np.searchsorted(view.changes["position"], position))
        * layout.CHANGE.itemsize,
        "anchors": int(np.searchsorted(view.anchors["position"], position, side="right"))
        * layout.ANCHOR.itemsize,
        "erased": 0,
    }
    sums = {}
    for name, length in sizes.items():
        target = layout.path(folder, generation, name)
        target.parent.mkdir(exist_ok=True)
        sums[name] = _copy(layout.path(folder, view.state.generation, name), target, length)
    before = view.state.parted
    return replace(
        State.empty(generation),
        position=position,
        chain=chain.hex(),
        sizes=sizes,
        sums={name: sums[name] for name in SUMMED},
        parted=min(position, before if before is not None else position),
    )


def next_generation(folder: Path) -> int:
    return max(_generations(folder), default=-1) + 1


def _generations(folder: Path) -> list[int]:
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]


def _remove(folder: Path, generation: int) -> None:
    # Processes that have mapped its files keep them, but a graph opens them by name.
    try:
        with layout.path(folder, generation, "records").open("r+b") as file:
            layout.hold(file, alone=True)
            shutil.rmtree(folder / str(generation), ignore_errors=True)
    except BlockingIOError:
        pass
    except OSError:  # there is none, or it cannot be locked here
        shutil.rmtree(folder / str(generation), ignore_errors=True)


def _copy(source: Path, target: Path, length: int) -> int:
    """Copy the first bytes of a file and return their sum."""
    with source.open("rb") as origin, target.open("wb") as copy:
        return layout.checksum(origin, length, 0, copy)
