"""The mirror of a log: a local copy that all processes of a machine share.

`Mirror.sync` reads the mirror's state. If it has too few rows or erasures, or another history than
the database, the files are brought up to date (`update`). One process does this at a time, under a
file lock.

Readers take no lock. They map the files that a state counts (`snapshot`), check each row's seal
when they read it, and have damaged rows repaired. Whatever a writer does meanwhile, the bytes that
they have mapped stay or are replaced by equal ones: files only grow, and rows are dropped by
beginning a new generation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock

from registry.samples.arrays import Positions
from registry.storage.database.fork_safety import ThreadLock
from registry.storage.database.transactions import read
from registry.storage.log.erasures import Erased
from registry.storage.log.head import chain_and_erasures
from registry.storage.log.notifications import Pause
from registry.storage.log.page import Page
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.damage_scan import record_scan, scanned_until
from registry.storage.mirror.erase import erased_rows, read_erased
from registry.storage.mirror.file_lease import FileLease
from registry.storage.mirror.index_checks import INDEX_FOLDER
from registry.storage.mirror.index_files import Indexes
from registry.storage.mirror.layout import top_path
from registry.storage.mirror.layouts import is_known
from registry.storage.mirror.process_lock import try_lock
from registry.storage.mirror.repair import rewrite
from registry.storage.mirror.snapshot import View, open_view
from registry.storage.mirror.state import StateReader, load_state
from registry.storage.mirror.update import Updater, last_common_anchor
from registry.storage.mirror.usage import open_folder

SCAN_ROWS = 1 << 16
"""Rows that are checked at a time when the records are scanned."""
REPAIR_ROWS = 4096
"""Rows of a block; where one is damaged, its whole block is read again."""
_FIRST_PAUSE = 0.001
_LOCK_INTERVAL = 0.05
"""Seconds after which the lock between processes is tried again, at most."""


class Mirror:
    """The local copy of one log, in a folder that all processes of the machine share.

    Safe to share between threads. Methods raise `OSError` if the folder cannot be used.
    """

    def __init__(self, log: Log, folder: Path, lease: FileLease | None = None) -> None:
        self.log = log
        self.folder = folder
        # Held for as long as this object lives, so that nobody removes the mirror meanwhile.
        self._lease = lease
        self._thread_lock = ThreadLock()
        self._states = StateReader(folder)
        self._updater = Updater(log, folder, self._states)
        self._view: View | None = None
        self.indexes: Indexes = Indexes(folder / INDEX_FOLDER)

    def sync(
        self,
        watermark: Watermark,
        erased: int | None = None,
        schema: int = 0,
        page: Page | None = None,
    ) -> View:
        """Return a view of at least the rows before a watermark of the log.

        Its layout is that of the schema numbered ``schema`` or a newer one.
        Only rows that the mirror lacks are read. Rows that the database has erased are overwritten;
        ``erased`` is their number, or None if it has to be read. ``page`` may have the last rows
        before the watermark, if they were read already. If the mirror and the database
        hold different histories, warns with `DivergenceWarning` and cuts the mirror back to where
        they diverge.
        """
        # Always the threads' lock before the file's: the other order could deadlock.
        with self._thread_lock:
            pause = Pause(_FIRST_PAUSE)
            while True:
                state = self._states.load()
                # Without the lock, which a read-only folder cannot have: another process may just
                # have converted the rows to a schema that this one does not know.
                if state is not None and not is_known(self.log, state):
                    state = None
                chain: bytes | None = None
                if erased is None or (state and state.position > watermark.position):
                    chain, erased = self._chain_and_erasures(state.position if state else 0)
                if (
                    state is None
                    or state.position < watermark.position
                    or state.erased < erased
                    or not self._updater.covers(state, schema)
                    or not self._updater.agrees(state, watermark, chain)
                ):
                    # What was read without the lock is only a hint; the state is read again.
                    with try_lock(top_path(self.folder, "lock")) as locked:
                        if locked:
                            state = self._updater.update(watermark, erased, schema, page)
                    if not locked:
                        self._await_other(watermark, pause)
                        continue
                assert state is not None
                with suppress(FileNotFoundError):  # another process has removed this generation
                    if self._view is None or self._view.state != state:
                        self._view = open_view(self.folder, state, self.log.schemas)
                    return self._view

    def view(self) -> View | None:
        """Return a view of the rows that are here already; None if there is no usable mirror."""
        state = self._states.load()
        if state is None or not is_known(self.log, state):
            return None
        return open_view(self.folder, state, self.log.schemas)

    @property
    def erasures(self) -> int | None:
        """The number of the database's erasures that are applied; None if there is no mirror."""
        state = load_state(self.folder)
        return None if state is None else state.erased

    def erased(self, positions: Positions) -> list[Erased]:
        """Return which of the rows at these positions the database has erased."""
        return erased_rows(self.log, positions)

    def erased_here(self, view: View) -> Positions:
        """Return the positions of rows that are erased here by now, whatever this database says."""
        state = load_state(self.folder)
        if state is None or state.generation != view.state.generation:
            # The list on disk is that of other files; the one mapped by the view is still right.
            return np.array(list(view.erased), np.int64)
        positions: Positions = read_erased(self.folder, state)["position"]
        return positions

    def withheld(self, view: View) -> Positions:
        """Return the rows that are erased here but not in this database, which is older or lags."""
        positions = self.erased_here(view)
        if not len(positions) or self._chain_and_erasures(0)[1] >= len(positions):
            return positions[:0]
        return np.setdiff1d(positions, [row.position for row in self.erased(positions)])

    def shared(self, view: View, until: int) -> int:
        """Return the last anchor's position, at most ``until``, where mirror and database agree."""
        return last_common_anchor(self.log, view, until)

    def shared_with(self, watermark: Watermark) -> int | None:
        """Return a position up to which the database agrees with the history of a watermark.

        While the mirror holds that history, this is the last anchor before the divergence. Once it
        was cut back, it is the lowest position of a cut. None if it never was, or does not exist.
        """
        view = self.view()
        if view is None:
            return None
        position = watermark.position
        if position <= view.position and view.chain_at(position) == watermark.chain:
            return self.shared(view, position)
        return view.state.parted

    def repair(self, view: View, positions: Positions, watermark: Watermark) -> None:
        """Read the damaged rows at these positions from the database again and write them in place.

        Begins a new generation if that is impossible. Raises `DivergenceError` unless the database
        still has the watermark.
        """
        with self._thread_lock, self._file_lock():
            for block in np.unique(positions // REPAIR_ROWS).tolist():
                after = block * REPAIR_ROWS
                until = min(after + REPAIR_ROWS, watermark.position)
                erased = self.erased_here(view)
                if not rewrite(self.log, view, after, until, watermark, erased):
                    self._restart(view)
                    return  # the view's files have been replaced: nothing is left to repair in them

    def scan(self, view: View, watermark: Watermark, *, again: bool = False) -> None:
        """Check the rows before a watermark, with their values, and repair those that are damaged.

        Erased rows are left alone. Rows that are known to be undamaged (`damage_scan`) are
        skipped, unless ``again`` is true. Where a repair had to begin a new generation, nothing is
        left to check in the files of the view.
        """
        until = watermark.position
        first = 0 if again else scanned_until(self.folder, view.state)
        for after in range(first, until, SCAN_ROWS):
            positions = np.arange(after, min(after + SCAN_ROWS, until))
            broken = positions[view.broken(after, after + len(positions))]
            # Blank rows look broken, too: leave out those erased here, then those erased there.
            if len(broken):
                broken = np.setdiff1d(broken, self.erased_here(view))
            damaged = np.setdiff1d(broken, [row.position for row in self.erased(broken)])
            if len(damaged):
                self.repair(view, damaged, watermark)
                if view.replaced:
                    return
        if scanned_until(self.folder, view.state) < until:
            record_scan(self.folder, view.state, until)

    def restart(self, view: View) -> None:
        """Begin an empty generation, as these files have damage that cannot be repaired by row."""
        with self._thread_lock, self._file_lock():
            self._restart(view)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which the files are written, among threads and processes."""
        with self._thread_lock, self._file_lock():
            yield

    def _file_lock(self) -> FileLock:
        """Return the lock between processes: a new object, since one from before a fork fails."""
        return FileLock(self.folder / "lock")

    def _await_other(self, watermark: Watermark, pause: Pause) -> None:
        """Wait for the process that holds the lock, which probably adds the rows missing here.

        Returns when it has, and in any case after `_LOCK_INTERVAL`. To wait for the lock instead
        would take until all processes that wait have had it, one after another.
        """
        deadline = time.monotonic() + _LOCK_INTERVAL
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, pause.next()))
            state = load_state(self.folder)
            if state is not None and state.position >= watermark.position:
                return

    def _restart(self, view: View) -> None:
        if not view.replaced:  # else another process has replaced these files already
            self._updater.begin()

    def _chain_and_erasures(self, position: int) -> tuple[bytes | None, int]:
        """Read the database's chain at a position, and the number of rows it has erased."""
        return read(self.log.engine, chain_and_erasures, self.log.dataset_id, position)


def open_mirror(log: Log, root: Path) -> Mirror:
    """Return the mirror of a log under a folder, which is created if it does not exist.

    Raises `OSError` if that is impossible.
    """
    # By the uid: a dataset of the same name in another database is another log.
    folder = root / log.uid
    return Mirror(log, folder, open_folder(folder))
