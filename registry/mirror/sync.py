"""Keeping a mirror in step with its database, and its files free of damage."""

from __future__ import annotations

import shutil
import threading
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from registry.cursor import Log, pages
from registry.errors import DivergenceError, DivergenceWarning, MirrorError
from registry.mirror import files
from registry.mirror.files import SUMMED, Appender, State
from registry.mirror.summed import read_summed, write_summed
from registry.mirror.view import View
from registry.page import Page
from registry.seals import Positions

FEW = 1024
"""Rows whose chain is sooner computed than asked for."""
SCANNED = 1 << 16
REPAIRED = 4096
"""Rows that are read again where one of them is broken."""


class Mirror:
    """The local copy of one log, in a folder that all processes of the machine share.

    One process at a time brings it up to date, under a lock; all map its files. Safe to share
    between threads. Raises `OSError` where the folder cannot be used.
    """

    def __init__(self, log: Log, root: Path) -> None:
        self.log = log
        self.folder = root / log.uid
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file_lock = FileLock(self.folder / "lock")
        self._thread_lock = threading.RLock()
        self._trusted: State | None = None
        self._view: View | None = None

    def sync(self, until: int, chain: bytes) -> View:
        """Return the log's rows up to ``until`` at least, where the database has this chain.

        What is there already is not read again. Where the mirror holds another history than the
        database, it is cut back to where they part, with a `DivergenceWarning`.
        """
        with self._thread_lock:
            while True:
                state = self._load()
                if state is None or state.position < until or not self._agrees(state, until, chain):
                    with self._file_lock:
                        state = self._bring(until, chain)
                with suppress(FileNotFoundError):  # another process began the next generation
                    if self._view is None or self._view.state != state:
                        self._view = View(self.folder, state, self.log.codec)
                    return self._view

    def view(self) -> View | None:
        """Return the rows that are there already; None where there is no mirror yet."""
        state = self._load()
        return None if state is None else View(self.folder, state, self.log.codec)

    def shared(self, view: View, until: int) -> int:
        """Return the last position up to which mirror and database are known to agree."""
        anchors = view.anchors[view.anchors["position"] <= until]
        low, high = 0, len(anchors)  # anchors before low agree, those from high on do not
        while low < high:
            middle = (low + high) // 2
            anchor = anchors[middle]
            if self.log.chain_at(int(anchor["position"])) == anchor["chain"].tobytes():
                low = middle + 1
            else:
                high = middle
        return int(anchors[low - 1]["position"]) if low else 0

    def shared_with(self, until: int, chain: bytes) -> int | None:
        """Return a position up to which the database has the history that has this chain.

        The last one if the mirror still holds that history; None if it tells nothing about it.
        """
        view = self.view()
        if view is None:
            return None
        if until <= view.position and view.chain_at(until) == chain:
            return self.shared(view, until)
        return view.state.parted

    def repair(self, view: View, positions: Positions, until: int, chain: bytes) -> None:
        """Read the rows at broken positions again from the database, into their old places.

        Raises `DivergenceError` unless its first ``until`` rows are still those in the view.
        """
        # A record begins where the one before it ends, so that place may be the broken one.
        before = positions if self.log.codec.fixed_width else np.maximum(positions - 1, 0)
        with self._thread_lock, self._file_lock:
            for block in np.unique(np.append(positions, before) // REPAIRED).tolist():
                after = block * REPAIRED
                self._rewrite(view, after, min(after + REPAIRED, until), chain, until)

    def scan(self, view: View, until: int, chain: bytes, *, again: bool = False) -> None:
        """Check the first ``until`` rows, of fixed width, unless that was done; mend them.

        It was done if the file's times are as this class last left them, and not ``again``.
        """
        for after in range(0 if again else self._sound(view.state), until, SCANNED):
            positions = np.arange(after, min(after + SCANNED, until))
            broken = view.seals.broken(view.rows[after : after + len(positions)], positions)
            if broken.any():
                self.repair(view, positions[broken], until, chain)
        if self._sound(view.state) < until:
            self._stamp(view.state, until)

    def _sound(self, state: State) -> int:
        """Return up to where the records are known to be undamaged, going by the file's times."""
        found = read_summed(self.folder / "scanned")
        if found is None or found["file"] != self._look(state):
            return 0
        return int(found["until"])

    def _stamp(self, state: State, until: int) -> None:
        with suppress(OSError):  # then they are looked through again
            stamp = {"file": self._look(state), "until": until}
            write_summed(self.folder / "scanned", stamp)

    def _look(self, state: State) -> list[int]:
        found = files.path(self.folder, state.generation, "records").stat()
        return [found.st_ino, found.st_size, found.st_mtime_ns]

    def _rewrite(self, view: View, after: int, until: int, chain: bytes, watermark: int) -> None:
        offset = after * view.seals.stride
        if not self.log.codec.fixed_width:
            after, offset, _ = view.anchor(after)
        for page in pages(self.log, after, until):
            confirm(self.log, watermark, chain)
            columns = files.contents(page, self.log.codec, offset)
            places = {"records": offset, "places": page.start * files.PLACE.itemsize}
            for name, column in columns.items():
                path = files.path(self.folder, view.state.generation, name)
                with path.open("r+b", buffering=0) as file:
                    file.seek(places[name])
                    files.write_all(file, column.reshape(-1).view(np.uint8).data)
            offset += columns["records"].nbytes

    def restart(self, view: View) -> None:
        """Begin anew with empty files: these are damaged where they cannot be mended row by row."""
        with self._thread_lock, self._file_lock:
            if not view.gone:
                self._begin(State.empty(self._next_generation()))

    def _load(self) -> State | None:
        """Read the state; None unless all files hold what it says."""
        state = files.load(self.folder)
        if state is None or not files.complete(self.folder, state):
            return None
        if state != self._trusted and not self._sums_hold(state):
            return None
        self._trusted = state
        return state

    def _sums_hold(self, state: State) -> bool:
        """Check the sums; what this process has checked before is not read again."""
        known = self._trusted
        if known is None or known.generation != state.generation or known.position > state.position:
            known = State.empty(state.generation)
        try:
            for name in SUMMED:
                place = files.path(self.folder, state.generation, name)
                with place.open("rb") as file:
                    file.seek(known.sizes[name])
                    left = state.sizes[name] - known.sizes[name]
                    if files.checksum(file, left, known.sums[name]) != state.sums[name]:
                        return False
        except FileNotFoundError:  # another process has just begun the next generation
            return False
        return True

    def _agrees(self, state: State, until: int, chain: bytes) -> bool:
        """Tell whether mirror and database hold the same rows, as far as both go or ``until``."""
        if state.position == until:
            return bytes.fromhex(state.chain) == chain
        found = self.log.chain_at(state.position)
        if found is not None:
            return found.hex() == state.chain
        # The mirror goes further than this database: a replica that lags, or a restored one.
        return View(self.folder, state, self.log.codec).chain_at(until) == chain

    def _bring(self, until: int, chain: bytes) -> State:
        """Bring the files up to a position; the lock is held."""
        state = self._load()
        if state is None:
            state = self._begin(State.empty(self._next_generation()))
        found = self._next(state, until, chain)
        if found is None and not self._agrees(state, until, chain):
            state = self._cut_back(state, until)
        if state.position < until:
            before, sound = state.position, 0 if state.position == 0 else self._sound(state)
            with Appender(self.folder, state, self.log.codec) as appender:
                for page in found or pages(self.log, state.position, until):
                    at_stop = chain if page.stop == until else self.log.chain_at(page.stop)
                    if at_stop is None:
                        raise MirrorError(f"the log lost its row {page.stop - 1} while being read")
                    appender.append(page, at_stop)
                self._trusted = state = appender.state
            if sound or not before:
                self._stamp(state, state.position if sound >= before else sound)
        return state

    def _next(self, state: State, until: int, chain: bytes) -> list[Page] | None:
        """Read a few rows that are all that is missing; None if they do not lead to the chain."""
        if not 0 < until - state.position <= FEW:
            return None
        found, value = list(pages(self.log, state.position, until)), bytes.fromhex(state.chain)
        for page in found:
            value = page.chain_values(value)[-1]
        return found if value == chain else None

    def _cut_back(self, state: State, until: int) -> State:
        """Go on in a new generation from where the mirror and the database part."""
        view = View(self.folder, state, self.log.codec)
        position = self.shared(view, until)
        warnings.warn(
            f"the mirror in {self.folder} holds {state.position} rows, but agrees with the database"
            f" only up to position {position}: was the database restored, or did it fail over? The"
            " rows from there on are read again",
            DivergenceWarning,
            stacklevel=2,
        )
        _, size, chain = view.anchor(position)
        sizes = {
            "records": size,
            "places": position * files.PLACE.itemsize if len(view.places) else 0,
            "buckets": position * 2,
            "changes": int(np.searchsorted(view.changes["position"], position))
            * files.CHANGE.itemsize,
            "anchors": int(np.searchsorted(view.anchors["position"], position, side="right"))
            * files.ANCHOR.itemsize,
        }
        fresh = State.empty(self._next_generation())
        sums = {}
        for name, length in sizes.items():
            target = files.path(self.folder, fresh.generation, name)
            target.parent.mkdir(exist_ok=True)
            sums[name] = _copy(files.path(self.folder, state.generation, name), target, length)
        kept = {name: sums[name] for name in SUMMED}
        parted = min(position, state.parted if state.parted is not None else position)
        state = replace(fresh, position=position, chain=chain.hex(), sizes=sizes, sums=kept)
        return self._begin(replace(state, parted=parted))

    def _begin(self, state: State) -> State:
        """Make a generation the current one and remove the others."""
        # There is always a folder, so that the number of a generation is never given again.
        (self.folder / str(state.generation)).mkdir(exist_ok=True)
        files.publish(self.folder, state)
        for old in self._generations():
            if old != state.generation:
                # Processes that have mapped its files keep them.
                shutil.rmtree(self.folder / str(old), ignore_errors=True)
        return state

    def _next_generation(self) -> int:
        return max(self._generations(), default=-1) + 1

    def _generations(self) -> list[int]:
        return [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]


def confirm(log: Log, until: int, chain: bytes) -> None:
    """Raise `DivergenceError` unless the database's first ``until`` rows have this chain."""
    found = log.chain_at(until)
    if found != chain:
        said = "ends before" if found is None else f"has {found.hex()} there, another history"
        raise DivergenceError(
            f"rows of the log up to position {until} ({chain.hex()}) are to be read again, but the "
            f"database's log {said}: was it restored, or did it fail over?"
        )


def _copy(source: Path, target: Path, length: int) -> int:
    """Copy the first bytes of a file and return their sum."""
    with source.open("rb") as origin, target.open("wb") as copy:
        return files.checksum(origin, length, 0, copy)
