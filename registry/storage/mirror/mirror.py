"""Keeping a mirror in step with its database, and its files free of damage."""

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
from registry.storage.log.erasures import Erased, erased_between, erased_from
from registry.storage.log.head import seen
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
        self._thread_lock = ThreadLock()
        self._trusted: State | None = None
        self._view: View | None = None

    def sync(self, until: int, chain: bytes, erased: int | None = None) -> View:
        """Return the log's rows up to ``until`` at least, where the database has this chain.

        What is there already is not read again, but what the database has erased, ``erased`` rows
        if that is known, is overwritten here. Where the mirror holds another history than the
        database, it is cut back to where they part, with a `DivergenceWarning`.
        """
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
                    with self._file_lock():
                        state = self._bring(until, chain, erased)
                with suppress(FileNotFoundError):  # another process began the next generation
                    if self._view is None or self._view.state != state:
                        self._view = View(self.folder, state, self.log.codec)
                    return self._view

    def view(self) -> View | None:
        """Return the rows that are there already; None where there is no mirror yet."""
        state = self._load()
        return None if state is None else View(self.folder, state, self.log.codec)

    @property
    def erasures(self) -> int | None:
        """How many of the database's erasures are applied; None where there is no mirror yet."""
        state = layout.load(self.folder)
        return None if state is None else state.erased

    def erased(self, positions: Positions) -> list[Erased]:
        """Return those of these rows that the database has erased."""
        if not len(positions):
            return []
        place = (self.log.dataset_id, int(positions.min()), int(positions.max()) + 1)
        found = read(self.log.engine, lambda connection: erased_between(connection, *place))
        return [row for row in found if row.position in positions]

    def listed(self, view: View) -> Positions:
        """Return which rows are known here as erased by now, whatever this database says."""
        state = layout.load(self.folder)
        if state is None or state.generation != view.state.generation:
            return np.array(list(view.erased), np.int64)
        positions: Positions = listed(self.folder, state)["position"]
        return positions

    def withheld(self, view: View) -> Positions:
        """Return which rows are erased here, but not in this database, which is older or lags."""
        positions = self.listed(view)
        if not len(positions) or self._seen(0)[1] >= len(positions):
            return positions[:0]
        return np.setdiff1d(positions, [row.position for row in self.erased(positions)])

    def shared(self, view: View, until: int) -> int:
        """Return the last position up to which mirror and database are known to agree."""
        anchors = view.anchors[view.anchors["position"] <= until]
        low, high = 0, len(anchors)  # anchors before low agree, those from high on do not
        while low < high:
            middle = (low + high) // 2
            anchor = anchors[middle]
            if self.log.chain_reached(int(anchor["position"])) == anchor["chain"].tobytes():
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
        with self._thread_lock, self._file_lock():
            for block in np.unique(np.append(positions, before) // REPAIRED).tolist():
                after = block * REPAIRED
                stop = min(after + REPAIRED, until)
                place, erased = (self.folder, view, after, stop), self.listed(view)
                if not rewrite(self.log, *place, (until, chain), erased):
                    self._restart(view)
                    return

    def scan(self, view: View, until: int, chain: bytes, *, again: bool = False) -> None:
        """Check the first ``until`` rows, of fixed width, unless that was done; mend them.

        Rows that were erased stay as they are.

        It was done if the file's times are as this class last left them, and not ``again``.
        """
        for after in range(0 if again else sound(self.folder, view.state), until, SCANNED):
            positions = np.arange(after, min(after + SCANNED, until))
            rows = view.rows[after : after + len(positions)]
            broken = positions[view.seals.broken(rows, positions)]
            if len(broken):
                broken = np.setdiff1d(broken, self.listed(view))
            damaged = np.setdiff1d(broken, [row.position for row in self.erased(broken)])
            if len(damaged):
                self.repair(view, damaged, until, chain)
        if sound(self.folder, view.state) < until:
            stamp(self.folder, view.state, until)

    def restart(self, view: View) -> None:
        """Begin anew with empty files: these are damaged where they cannot be mended row by row."""
        with self._thread_lock, self._file_lock():
            self._restart(view)

    def _file_lock(self) -> FileLock:
        """Return the lock between processes: a new object, as one from before a fork is refused."""
        return FileLock(self.folder / "lock")

    def _restart(self, view: View) -> None:
        if not view.gone:
            begin(self.folder, cleared(self.folder))

    def _load(self) -> State | None:
        """Read the state; None unless all files hold what it says."""
        state = layout.load(self.folder)
        if state is None or not layout.complete(self.folder, state):
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
                place = layout.path(self.folder, state.generation, name)
                with place.open("rb") as file:
                    file.seek(known.sizes[name])
                    left = state.sizes[name] - known.sizes[name]
                    if layout.checksum(file, left, known.sums[name]) != state.sums[name]:
                        return False
        except FileNotFoundError:  # another process has just begun the next generation
            return False
        return True

    def _seen(self, position: int) -> tuple[bytes | None, int]:
        """Read the database's chain at a position, and how many rows it has erased."""
        place = (self.log.dataset_id, position)
        return read(self.log.engine, lambda connection: seen(connection, *place))

    def _agrees(self, state: State, until: int, chain: bytes, found: bytes | None) -> bool:
        """Tell whether mirror and database hold the same rows, as far as both go or ``until``.

        ``found`` is the database's chain where the mirror ends.
        """
        if state.position == until:
            return bytes.fromhex(state.chain) == chain
        if found is not None:
            return found.hex() == state.chain
        # The mirror goes further than this database: a replica that lags, or a restored one.
        return View(self.folder, state, self.log.codec).chain_at(until) == chain

    def _bring(self, until: int, chain: bytes, erased: int) -> State:
        """Bring the files up to a position and a number of erasures; the lock is held."""
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
            known = sound(self.folder, state) if before else 0
            with Appender(self.folder, state, self.log.codec) as appender:
                for read_page in found or pages(self.log, state.position, until):
                    page = self._without_erased(read_page, appender.state, entries)
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
        # Last, so that no page which was read before is left out.
        return self._erase(state, until, chain) if blanks or state.erased < erased else state

    def _erase(self, state: State, until: int, chain: bytes) -> State:
        """Apply the database's erasures since the last that was."""
        place = (self.log.dataset_id, state.erased)
        rows = read(self.log.engine, lambda connection: erased_from(connection, *place))
        known = sound(self.folder, state) if state.position else 0
        erased = blank(self.folder, state, self.log.codec, rows)
        if erased is None:  # in a new generation, they are blank from the start
            begin(self.folder, cleared(self.folder))
            return self._bring(until, chain, state.erased + len(rows))
        layout.publish(self.folder, erased)
        if known:
            stamp(self.folder, erased, known)
        self._trusted = erased
        return erased

    def _without_erased(self, page: Page, before: State, entries: Entries) -> Page | None:
        """Return a page without the records of rows that are erased here.

        None where the entries are of another history than the page, which follows that state.
        """
        inside = entries[(entries["position"] >= page.start) & (entries["position"] < page.stop)]
        if len(inside):
            known = {row.position: row.chain for row in self.erased(page.erased)}
            if not agree(page, bytes.fromhex(before.chain), inside, known):
                return None
        return emptied(page, inside["position"])

    def _cut_list(self, state: State) -> None:
        """Begin a generation with the same rows, but without what is known as erased."""
        view = View(self.folder, state, self.log.codec)
        begin(self.folder, cut(self.folder, view, state.position))

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
        return begin(self.folder, cut(self.folder, view, position))
