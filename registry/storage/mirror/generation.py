"""The generations of a mirror.

Files that other processes may have mapped are never shortened. Where rows have to be dropped, a new
generation of files is made in another folder, empty or with the first rows of the one before. A
newer layout also takes a new generation (`conversion`). The new state is published, and then the
old generation's folder is removed.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from registry.storage.mirror.layout import ANCHOR, CHANGE, SUMMED, file_path, lock_file
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import MirrorState, checksum, load_state, publish_state


def begin_generation(folder: Path, state: MirrorState) -> MirrorState:
    """Publish a generation and remove the others. The caller holds the mirror's lock."""
    # Even if it is empty: `next_generation` counts the folders, and would use its number again.
    (folder / str(state.generation)).mkdir(exist_ok=True)
    # Published before the removal: a crash in between leaves a complete generation either way.
    publish_state(folder, state)
    remove_generations(folder, except_for=state)
    return state


def remove_generations(folder: Path, except_for: MirrorState) -> None:
    """Remove every generation except one and those that a process has locked."""
    for generation in _generations(folder):
        if generation != except_for.generation:
            _remove(folder, generation)


def empty_generation(folder: Path, layout: str) -> MirrorState:
    """Return the state, not yet published, of a next generation without rows.

    ``layout`` is as in `MirrorState`. The generation keeps the list of erasures. Otherwise a
    database that lacks some of them, because it is an older copy or lags, would bring their records
    back.
    """
    before, state = load_state(folder), MirrorState.empty(next_generation(folder), layout)
    if before is None or not before.erased:
        return state
    size, total = before.sizes["erased"], before.sums["erased"]
    target = file_path(folder, state.generation, "erased")
    target.parent.mkdir(exist_ok=True)
    # A list that is damaged or gone is left out; the database's erasures are then applied again.
    try:
        if _copy(file_path(folder, before.generation, "erased"), target, size) != total:
            return state
    except FileNotFoundError:
        return state
    return replace(
        state,
        sizes={**state.sizes, "erased": size},
        sums={**state.sums, "erased": total},
    )


def copy_generation(folder: Path, view: View, position: int) -> MirrorState:
    """Copy the first rows to the next generation; return its state, not yet published.

    ``position`` is that of an anchor, or 0. The state counts no erasure as applied: the database
    may have others by now.
    """
    generation = next_generation(folder)
    folder.joinpath(str(generation)).mkdir()
    sizes = {
        "records": position * view.seals.stride,
        "values": 0 if view.fixed_width else view.anchor(position)[1],
        "erased": 0,
        **sizes_before(view, position),
    }
    sums = {name: copy_file(folder, view, generation, name, sizes[name]) for name in sizes}
    parted = view.state.parted
    return replace(
        state_before(view, generation, position, sizes, sums),
        parted=position if parted is None else min(position, parted),
    )


def sizes_before(view: View, position: int) -> dict[str, int]:
    """Return how many bytes the rows before an anchor have in files without records."""
    return {
        "buckets": position * 2,
        "changes": int(np.searchsorted(view.changes["position"], position)) * CHANGE.itemsize,
        # Right: the anchor at the position itself is kept, since it holds the chain there.
        "anchors": int(np.searchsorted(view.anchors["position"], position, side="right"))
        * ANCHOR.itemsize,
    }


def state_before(
    view: View, generation: int, position: int, sizes: dict[str, int], sums: dict[str, int]
) -> MirrorState:
    """Return the state of a generation that holds the rows of a view before an anchor."""
    return replace(
        view.state,
        generation=generation,
        position=position,
        chain=view.anchor(position)[2].hex(),
        sizes=sizes,
        sums={name: sums[name] for name in SUMMED},
    )


def copy_file(folder: Path, view: View, generation: int, name: str, length: int) -> int:
    """Copy the first bytes of a view's file to another generation; return their CRC-32."""
    source = file_path(folder, view.state.generation, name)
    return _copy(source, file_path(folder, generation, name), length)


def next_generation(folder: Path) -> int:
    """Return a number above those of all generations in the folder."""
    # By the folders, not by the state: one whose removal was refused still has its number.
    return max(_generations(folder), default=-1) + 1


def _generations(folder: Path) -> list[int]:
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]


def _remove(folder: Path, generation: int) -> None:
    # A file that is unlinked stays readable where it is mapped. A TensorFlow graph, however, opens
    # the records by name whenever an iterator is made, so whoever may do that holds a shared lock.
    try:
        with file_path(folder, generation, "records").open("r+b") as file:
            lock_file(file, exclusive=True)
            shutil.rmtree(folder / str(generation), ignore_errors=True)
    except BlockingIOError:  # in use; a later update removes it
        pass
    except OSError:  # it has no records, or this file system has no locks
        shutil.rmtree(folder / str(generation), ignore_errors=True)


def _copy(source: Path, target: Path, length: int) -> int:
    """Copy the first ``length`` bytes of a file and return their CRC-32."""
    if not length:  # then there may be no such file
        target.touch()
        return 0
    with source.open("rb") as original, target.open("wb") as copy:
        return checksum(original, length, 0, copy)
