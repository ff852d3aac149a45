"""Keeping a mirror in step with its database, and its files free of damage."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
from filelock import FileLock

from registry.cursor import Log, pages
from registry.errors import DivergenceWarning, MirrorError
from registry.mirror import files
from registry.mirror.files import SUMMED, Appender, State
from registry.mirror.view import View
from registry.seals import Positions

SCANNED = 1 << 16
REPAIRED = 4096
"""Rows that are read again where one of them is broken."""


class Mirror:
    """The local copy of one log, in a folder that all processes of the machine share.

    One process at a time brings it up to date, under a lock; all map its files. Safe to share
    between threads. Raises `OSError` where the folder cannot be used.
    """

    def __init__(self, log: Log, root: Path) -> None:
        self._log = log
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
            state = self._load()
            if state is None or state.position < until or not self._agrees(state, until, chain):
                with self._locked():
                    state = self._bring(until, chain)
            if self._view is None or self._view.state != state:
                self._view = View(self.folder, state, self._log.codec)
            return self._view

    def shared(self, view: View, until: int) -> int:
        """Return the last position up to which mirror and database are known to agree."""
        anchors = view.anchors[view.anchors["position"] <= until]
        low, high = 0, len(anchors)  # anchors before low agree, those from high on do not
        while low < high:
            middle = (low + high) // 2
            anchor = anchors[middle]
            if self._log.chain_at(int(anchor["position"])) == anchor["chain"].tobytes():
                low = middle + 1
            else:
                high = middle
        return int(anchors[low - 1]["position"]) if low else 0

    def shared_with(self, until: int) -> int:
        """Return the last position up to which the database is known to hold the same rows."""
        state = self._load()
        return self.shared(View(self.folder, state, self._log.codec), until) if state else 0

    def repair(self, view: View, positions: Positions) -> None:
        """Read the rows at broken positions again from the database, into their old places."""
        with self._thread_lock, self._locked():
            for block in np.unique(positions // REPAIRED).tolist():
                after = block * REPAIRED
                self._rewrite(view, after, min(after + REPAIRED, view.position))

    def scan(self, view: View) -> None:
        """Check every row of fixed width if the file changed behind our back, and repair it."""
        if self._sound(view.state):
            return
        with self._thread_lock, self._locked():
            for after in range(0, view.position, SCANNED):
                positions = np.arange(after, min(after + SCANNED, view.position))
                broken = view.seals.broken(view.rows[after : after + SCANNED], positions)
                if broken.any():
                    self.repair(view, positions[broken])
            self._stamp(view.state)

    def _sound(self, state: State) -> bool:
        """Tell whether the records are as this class last left them, going by the file's times."""
        try:
            return (self.folder / "scanned").read_text() == self._look(state)
        except FileNotFoundError:
            return False

    def _stamp(self, state: State) -> None:
        (self.folder / "scanned").write_text(self._look(state))

    def _look(self, state: State) -> str:
        found = files.path(self.folder, state.generation, "records").stat()
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"

    def _rewrite(self, view: View, after: int, until: int) -> None:
        fixed = self._log.codec.fixed_width
        offset = 0
        if fixed:
            offset = after * view.seals.stride
        else:
            after, offset, _ = view.anchor(after)
        for page in pages(self._log, after, until):
            columns = files.contents(page, self._log.codec, offset)
            places = {"records": offset, "places": page.start * files.PLACE.itemsize}
            for name, column in columns.items():
                path = files.path(self.folder, view.state.generation, name)
                with path.open("r+b", buffering=0) as file:
                    file.seek(places[name])
                    files.write_all(file, column.reshape(-1).view(np.uint8).data)
            offset += columns["records"].nbytes

    def restart(self) -> None:
        """Begin anew with empty files: these are damaged where they cannot be mended row by row."""
        with self._thread_lock, self._locked():
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
        for name in SUMMED:
            place = files.path(self.folder, state.generation, name)
            with place.open("rb") as file:
                file.seek(known.sizes[name])
                found, left = known.sums[name], state.sizes[name] - known.sizes[name]
                while left:
                    data = file.read(min(left, 1 << 20))
                    found, left = crc32(data, found), left - len(data)
                if found != state.sums[name]:
                    return False
        return True

    def _agrees(self, state: State, until: int, chain: bytes) -> bool:
        """Tell whether mirror and database hold the same rows, as far as both go or ``until``."""
        if state.position == until:
            return bytes.fromhex(state.chain) == chain
        found = self._log.chain_at(state.position)
        if found is not None:
            return found.hex() == state.chain
        # The mirror goes further than this database: a replica that lags, or a restored one.
        return View(self.folder, state, self._log.codec).chain_at(until) == chain

    def _bring(self, until: int, chain: bytes) -> State:
        """Bring the files up to a position; the lock is held."""
        state = self._load()
        if state is None:
            state = self._begin(State.empty(self._next_generation()))
        if not self._agrees(state, until, chain):
            state = self._cut_back(state, until)
        if state.position < until:
            sound = state.position == 0 or self._sound(state)
            with Appender(self.folder, state, self._log.codec) as appender:
                for page in pages(self._log, state.position, until):
                    at_stop = chain if page.stop == until else self._log.chain_at(page.stop)
                    if at_stop is None:
                        raise MirrorError(f"the log lost its row {page.stop - 1} while being read")
                    appender.append(page, at_stop)
                self._trusted = state = appender.state
            if sound:
                self._stamp(state)
        return state

    def _cut_back(self, state: State, until: int) -> State:
        """Go on in a new generation from where the mirror and the database part."""
        view = View(self.folder, state, self._log.codec)
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
        return self._begin(
            replace(fresh, position=position, chain=chain.hex(), sizes=sizes, sums=kept)
        )

    def _begin(self, state: State) -> State:
        """Make a generation the current one and remove the others."""
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

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._file_lock:
            yield


def _copy(source: Path, target: Path, length: int) -> int:
    """Copy the first bytes of a file and return their sum."""
    found = 0
    with source.open("rb") as origin, target.open("wb") as copy:
        while length:
            data = origin.read(min(length, 1 << 20))
            copy.write(data)
            found, length = crc32(data, found), length - len(data)
    return found
