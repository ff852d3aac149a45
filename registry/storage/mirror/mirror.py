"""Bringing a mirror up to date with its database, and checking and repairing its files.

`Mirror.sync` compares the mirror's chain with the database's. If the mirror has too few rows, pages
are appended; if the chains differ, the mirror is cut back to the last anchor at which they agree;
then rows that the database has erased are overwritten. One process does this at a time, under a
file lock. Readers do not take it: they map the files that the state counts, and check each row's
seal when they read it.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock

from registry.errors import DivergenceWarning, MirrorError
from registry.samples.arrays import Positions
from registry.storage.database.fork_safety import ThreadLock
from registry.storage.database.transactions import read
from registry.storage.log.divergence import last_common
from registry.storage.log.erasures import Erased, erased_between, erased_from
from registry.storage.log.head import chain_and_erasures
from registry.storage.log.page import Page
from registry.storage.log.reader import Log, pages
from registry.storage.mirror import layout
from registry.storage.mirror.appender import Appender
from registry.storage.mirror.damage_scan import sound, stamp
from registry.storage.mirror.erase import Entries, agree, blank, emptied, listed
from registry.storage.mirror.generation import begin, cleared, cut, sweep
from registry.storage.mirror.layout import SUMMED, State
from registry.storage.mirror.repair import rewrite
from registry.storage.mirror.snapshot import View

FEW = 1024
"""Up to so many rows, computing the chain is faster than a query for it."""
SCANNED = 1 << 16
"""Rows that are checked at a time when the records are scanned."""
REPAIRED = 4096
"""Rows of a block; where one is damaged, its whole block is read again."""


class Mirror:
    """The local copy of one log, in a folder that all processes of the machine share.

    Safe to share between threads. Methods raise `OSError` if the folder cannot be used.
    """

    def __init__(self, log: Log, root: Path) -> None:
        self.log = log
        self.folder = root / log.uid
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread_lock = ThreadLock()
        self._trusted: State | None = None
        self._view: View | None = None

    def sync(self, until: int, chain: bytes, erased: int | None = None) -> View:
        """Return a view of at least the log's first ``until`` rows, which end in this chain.

        Only rows that the mirror lacks are read. Rows that the database has erased are overwritten;
        ``erased`` is their number, or None if it has to be read. If the mirror and the database
        hold different histories, warns with `DivergenceWarning` and cuts the mirror back to where
        they diverge.
        """
        # Always the threads' lock before the file's: the other order could deadlock.
        with self._thread_lock:
            while True:
                state, found = self._load(), None
                if erased is None or (state is not None and state.position > until):
                    found, erased = self._seen(state.position if state is not None else 0)
                if (
                    state is None
                    or state.position < until
                    or state.erased < erased
                    or not self._agrees(state, until, chain, found)
                ):
                    # What was read without the lock is only a hint; `_bring` reads the state again.
                    with self._file_lock():
                        state = self._bring(until, chain, erased)
                with suppress(FileNotFoundError):  # another process has removed this generation
                    if self._view is None or self._view.state != state:
                        self._view = View(self.folder, state, self.log.codec)
                    return self._view

    def view(self) -> View | None:
        """Return a view of the rows that are here already; None if there is no usable mirror."""
        state = self._load()
        return None if state is None else View(self.folder, state, self.log.codec)

    @property
    def erasures(self) -> int | None:
        """The number of the database's erasures that are applied; None if there is no mirror."""
        state = layout.load(self.folder)
        return None if state is None else state.erased

    def erased(self, positions: Positions) -> list[Erased]:
        """Return which of the rows at these positions the database has erased."""
        if not len(positions):
            return []
        after, until = int(positions.min()), int(positions.max()) + 1
        rows = read(self.log.engine, erased_between, self.log.dataset_id, after, until)
        return [row for row in rows if row.position in positions]

    def listed(self, view: View) -> Positions:
        """Return the positions of rows that are erased here by now, whatever this database says."""
        state = layout.load(self.folder)
        if state is None or state.generation != view.state.generation:
            # The list on disk is that of other files; the one mapped by the view is still right.
            return np.array(list(view.erased), np.int64)
        positions: Positions = listed(self.folder, state)["position"]
        return positions

    def withheld(self, view: View) -> Positions:
        """Return the rows that are erased here but not in this database, which is older or lags."""
        positions = self.listed(view)
        if not len(positions) or self._seen(0)[1] >= len(positions):
            return positions[:0]
        return np.setdiff1d(positions, [row.position for row in self.erased(positions)])

    def shared(self, view: View, until: int) -> int:
        """Return the last anchor's position, at most ``until``, where mirror and database agree."""
        anchors = view.anchors[view.anchors["position"] <= until]
        chains = {int(anchor["position"]): anchor["chain"].tobytes() for anchor in anchors}
        return last_common(
            list(chains), lambda position: self.log.chain_reached(position) == chains[position]
        )

    def shared_with(self, until: int, chain: bytes) -> int | None:
        """Return a position up to which the database agrees with the history that has this chain.

        While the mirror holds that history, this is the last anchor before the divergence. Once it
        was cut back, it is the lowest position of a cut. None if it never was, or does not exist.
        """
        view = self.view()
        if view is None:
            return None
        if until <= view.position and view.chain_at(until) == chain:
            return self.shared(view, until)
        return view.state.parted

    def repair(self, view: View, positions: Positions, until: int, chain: bytes) -> None:
        """Read the damaged rows at these positions from the database again and write them in place.

        Begins a new generation if that is impossible. Raises `DivergenceError` unless the first
        ``until`` rows of the database still have this chain.
        """
        # A variable-width record begins where the one before it ends, so the entry of that one may
        # be what is damaged.
        before = positions if self.log.codec.fixed_width else np.maximum(positions - 1, 0)
        with self._thread_lock, self._file_lock():
            for block in np.unique(np.append(positions, before) // REPAIRED).tolist():
                after = block * REPAIRED
                stop = min(after + REPAIRED, until)
                place, erased = (self.folder, view, after, stop), self.listed(view)
                if not rewrite(self.log, *place, (until, chain), erased):
                    self._restart(view)
                    return  # the view's files have been replaced: nothing is left to repair in them

    def scan(self, view: View, until: int, chain: bytes, *, again: bool = False) -> None:
        """Check the first ``until`` rows, of fixed width, and repair those that are damaged.

        Erased rows are left alone. Rows that are known to be undamaged (`damage_scan`) are
        skipped, unless ``again`` is true.
        """
        for after in range(0 if again else sound(self.folder, view.state), until, SCANNED):
            positions = np.arange(after, min(after + SCANNED, until))
            # A slice of the map, not a copy as `take_rows` makes.
            rows = view.rows[after : after + len(positions)]
            broken = positions[view.seals.broken(rows, positions)]
            # Blank rows look broken, too: leave out those erased here, then those erased there.
            if len(broken):
                broken = np.setdiff1d(broken, self.listed(view))
            damaged = np.setdiff1d(broken, [row.position for row in self.erased(broken)])
            if len(damaged):
                self.repair(view, damaged, until, chain)
        if sound(self.folder, view.state) < until:
            stamp(self.folder, view.state, until)

    def restart(self, view: View) -> None:
        """Begin an empty generation, as these files have damage that cannot be repaired by row."""
        with self._thread_lock, self._file_lock():
            self._restart(view)

    def _file_lock(self) -> FileLock:
        """Return the lock between processes: a new object, since one from before a fork fails."""
        return FileLock(self.folder / "lock")

    def _restart(self, view: View) -> None:
        if not view.gone:  # else another process has replaced these files already
            begin(self.folder, cleared(self.folder))

    def _load(self) -> State | None:
        """Read the state; None unless the files have its sizes and sums."""
        state = layout.load(self.folder)
        if state is None or not layout.complete(self.folder, state):
            return None
        if state != self._trusted and not self._sums_hold(state):
            return None
        self._trusted = state
        return state

    def _sums_hold(self, state: State) -> bool:
        """Return whether the sums hold, reading only what this process has not checked before."""
        known = self._trusted
        if known is None or known.generation != state.generation or known.position > state.position:
            known = State.empty(state.generation)
        try:
            for name in SUMMED:
                place = layout.path(self.folder, state.generation, name)
                with place.open("rb") as file:
                    file.seek(known.sizes[name])
                    left = state.sizes[name] - known.sizes[name]
                    if layout.checksum(file, left, known.sums[name]) != state.sums[name]:
                        return False
        except FileNotFoundError:  # another process has removed this generation
            return False
        return True

    def _seen(self, position: int) -> tuple[bytes | None, int]:
        """Read the database's chain at a position, and the number of rows it has erased."""
        return read(self.log.engine, chain_and_erasures, self.log.dataset_id, position)

    def _agrees(self, state: State, until: int, chain: bytes, found: bytes | None) -> bool:
        """Return whether mirror and database hold the same rows, as far as both have them.

        ``chain`` is the database's at ``until``, ``found`` the one at the mirror's end; None if the
        database does not have so many rows.
        """
        if state.position == until:
            return bytes.fromhex(state.chain) == chain
        if found is not None:
            return found.hex() == state.chain
        # The mirror has more rows than this database, which is a replica that lags or was restored.
        # Compare at ``until``, or every lagging replica would cut the mirror back.
        return View(self.folder, state, self.log.codec).chain_at(until) == chain

    def _bring(self, until: int, chain: bytes, erased: int) -> State:
        """Bring the files up to a position and a number of erasures. The caller holds the locks."""
        state = self._load()
        if state is None:
            state = begin(self.folder, cleared(self.folder))
        found = self._next(state, until, chain)
        if found is None:
            chain_at = self.log.chain_reached if state.position < until else self.log.chain_at
            at_end = chain if state.position == until else chain_at(state.position)
            if not self._agrees(state, until, chain, at_end):
                state = self._cut_back(state, until)
        blanks = False
        if state.position < until:
            before, entries = state.position, listed(self.folder, state)
            # Read before the files are written, which changes the times that it goes by.
            known = sound(self.folder, state) if before else 0
            with Appender(self.folder, state, self.log.codec) as appender:
                for read_page in found or pages(self.log, state.position, until):
                    page = self._without_erased(read_page, appender.state, entries)
                    # The erasures listed here belong to another history: drop the list, and let the
                    # database's be applied from the first on.
                    if page is None:
                        self._cut_list(appender.state)
                        return self._bring(until, chain, erased)
                    at_stop = chain if page.stop == until else self.log.chain_reached(page.stop)
                    if at_stop is None:
                        raise MirrorError(f"the log lost its row {page.stop - 1} while being read")
                    appender.append(page, at_stop)
                    blanks = blanks or len(page.erased) > 0
                self._trusted = state = appender.state
            if known or not before:
                stamp(self.folder, state, state.position if known >= before else known)
        sweep(self.folder, state)
        # Erase last: a page that was read before an erasure still brings its record. Blank rows in
        # a page may mean that the database has erased more than ``erased`` says.
        return self._erase(state, until, chain) if blanks or state.erased < erased else state

    def _erase(self, state: State, until: int, chain: bytes) -> State:
        """Apply the database's erasures that follow the last one applied here."""
        rows = read(self.log.engine, erased_from, self.log.dataset_id, state.erased)
        known = sound(self.folder, state) if state.position else 0
        erased = blank(self.folder, state, self.log.codec, rows)
        if erased is None:  # damaged; in an empty generation, these rows are blank from the start
            begin(self.folder, cleared(self.folder))
            return self._bring(until, chain, state.erased + len(rows))
        layout.publish(self.folder, erased)
        if known:
            stamp(self.folder, erased, known)
        self._trusted = erased
        return erased

    def _without_erased(self, page: Page, before: State, entries: Entries) -> Page | None:
        """Return a page, which follows the state, without the records of rows erased here.

        None if the entries belong to another history than the page.
        """
        inside = entries[(entries["position"] >= page.start) & (entries["position"] < page.stop)]
        if len(inside):
            known = {row.position: row.chain for row in self.erased(page.erased)}
            if not agree(page, bytes.fromhex(before.chain), inside, known):
                return None
        return emptied(page, inside["position"])

    def _cut_list(self, state: State) -> None:
        """Begin a generation with the same rows, but an empty list of erasures."""
        view = View(self.folder, state, self.log.codec)
        begin(self.folder, cut(self.folder, view, state.position))

    def _next(self, state: State, until: int, chain: bytes) -> list[Page] | None:
        """Read the missing rows, if they are at most `FEW`; None unless they lead to the chain.

        Computing the chain here saves the queries with which `_bring` otherwise compares histories.
        """
        if not 0 < until - state.position <= FEW:
            return None
        found, value = list(pages(self.log, state.position, until)), bytes.fromhex(state.chain)
        for page in found:
            value = page.chain_values(value)[-1]
        return found if value == chain else None

    def _cut_back(self, state: State, until: int) -> State:
        """Begin a generation with the rows before the mirror and the database diverge."""
        view = View(self.folder, state, self.log.codec)
        position = self.shared(view, until)
        warnings.warn(
            f"the mirror in {self.folder} holds {state.position} rows, but agrees with the database"
            f" only up to position {position}: was the database restored, or did it fail over? The"
            " rows from there on are read again",
            DivergenceWarning,
            stacklevel=2,
        )
        return begin(self.folder, cut(self.folder, view, position))
