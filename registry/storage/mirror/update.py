"""Bringing a mirror's files up to a watermark of its database.

`Updater.update` takes these steps, and publishes a state after each that writes:

1. Without a usable state, an empty generation begins.
2. If the mirror and the database have different chains, they hold different histories: the first
   rows, up to the last anchor at which they agree, are copied to a new generation.
3. If the files' layout is older than that of a missing row or of the schema that is asked for, the
   rows are converted to a new generation in the newest layout (`conversion`).
4. The missing rows are read, brought to the layout and appended, page by page.
5. Rows that the database has erased since are overwritten.

A process that is killed in between leaves a state that counts complete rows. The caller holds the
mirror's locks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from registry.errors import DivergenceWarning, MirrorError
from registry.storage.database.transactions import read
from registry.storage.log.divergence import last_common
from registry.storage.log.erasures import erased_from
from registry.storage.log.page import Page
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.appender import open_appender
from registry.storage.mirror.conversion import convert_generation
from registry.storage.mirror.damage_scan import record_scan, scanned_until
from registry.storage.mirror.erase import (
    Entries,
    entries_match,
    erase_rows,
    erased_rows,
    lengthen_values,
    read_erased,
    without_records,
)
from registry.storage.mirror.generation import (
    begin_generation,
    copy_generation,
    empty_generation,
    remove_generations,
)
from registry.storage.mirror.layouts import file_schema, in_layout, is_known
from registry.storage.mirror.snapshot import View, open_view
from registry.storage.mirror.state import MirrorState, StateReader, publish_state

FEW_ROWS = 1024
"""Up to so many rows, computing the chain is faster than a query for it."""


@dataclass(frozen=True)
class Updater:
    """Updates the files of one mirror."""

    log: Log
    folder: Path
    states: StateReader

    def update(
        self, watermark: Watermark, erased: int, schema: int, page: Page | None = None
    ) -> MirrorState:
        """Bring the files up to a watermark and a number of erasures; return the new state.

        ``page`` may have the last rows before the watermark, if they were read already.
        Their layout is then at least as new as that of the schema numbered ``schema``.
        """
        state = self.states.load()
        if state is None or not self._has_known_layout(state):
            state = self.begin()
        missing = self._few_rows(state, watermark, page)
        if missing is None and not self.agrees(state, watermark, self._chain_at(state, watermark)):
            state = self._cut_back(state, watermark.position)
        if state.position < watermark.position:
            schema = max(schema, self.log.schemas.before(watermark.position).number)
        if not self.covers(state, schema):
            before, state = state, self._convert(state)
            # The rows that follow a damaged one are read again, too.
            missing = missing if state.position == before.position else None
        blank = False
        if state.position < watermark.position:
            rows = missing or pages(self.log, state.position, watermark.position)
            appended = self._append(state, rows, watermark)
            # The erasures listed here belong to another history: drop the list, and let the
            # database's be applied from the first on.
            if appended is None:
                self._drop_erased()
                return self.update(watermark, erased, schema)
            state, blank = appended
        remove_generations(self.folder, except_for=state)
        # Erase last: a page that was read before an erasure still brings its record. Blank rows in
        # a page may mean that the database has erased more than ``erased`` says.
        if blank or state.erased < erased:
            state = self._erase(state, watermark, schema)
        if state.erased and not self._fixed_width(state):
            lengthen_values(self.folder, state)
        return state

    def begin(self) -> MirrorState:
        """Begin a generation without rows, in the newest layout."""
        layout = self.log.schemas.newest.layout
        return begin_generation(self.folder, empty_generation(self.folder, layout))

    def covers(self, state: MirrorState, schema: int) -> bool:
        """Return whether the files have the layout of the schema of a number, or a newer one.

        False if the layout is unknown here.
        """
        present = file_schema(self.log.schemas, state)
        return present is not None and present.number >= schema

    def _fixed_width(self, state: MirrorState) -> bool:
        schema = file_schema(self.log.schemas, state)
        return schema is not None and schema.codec.fixed_width

    def agrees(self, state: MirrorState, watermark: Watermark, chain: bytes | None) -> bool:
        """Return whether mirror and database hold the same rows, as far as both have them.

        ``watermark`` is the database's; ``chain`` is its value at the mirror's end, None if the
        database does not have so many rows.
        """
        if state.position == watermark.position:
            return state.watermark == watermark
        if chain is not None:
            return chain.hex() == state.chain
        # The mirror has more rows than this database, which is a replica that lags or was restored.
        # Compare at the watermark, or every lagging replica would cut the mirror back.
        view = open_view(self.folder, state, self.log.schemas)
        return view.chain_at(watermark.position) == watermark.chain

    def _chain_at(self, state: MirrorState, watermark: Watermark) -> bytes | None:
        """Read the database's chain at the mirror's end."""
        if state.position == watermark.position:
            return watermark.chain
        # Below the watermark the database must have the row, so a standby that lags is waited for.
        reached = state.position < watermark.position
        return (self.log.chain_reached if reached else self.log.chain_at)(state.position)

    def _few_rows(
        self, state: MirrorState, watermark: Watermark, page: Page | None
    ) -> list[Page] | None:
        """Read the missing rows if they are at most `FEW_ROWS`; None unless they lead to the chain.

        Computing the chain here saves the queries that otherwise compare the histories.
        """
        if not 0 < watermark.position - state.position <= FEW_ROWS:
            return None
        after, until = state.position, watermark.position
        if page is not None and (page.start, page.stop) == (after, until):
            missing = [page]
        else:
            missing = list(pages(self.log, after, until))
        chain = state.watermark.chain
        for each in missing:
            chain = each.chain_values(chain)[-1]
        return missing if chain == watermark.chain else None

    def _append(
        self, state: MirrorState, rows: Iterable[Page], watermark: Watermark
    ) -> tuple[MirrorState, bool] | None:
        """Append pages; return the new state, and whether any of their rows is erased.

        None if the list of erasures belongs to another history than the rows.
        """
        # Read before the files are written, which changes the times that it compares.
        scanned = scanned_until(self.folder, state) if state.position else 0
        entries, blank = read_erased(self.folder, state), False
        schema = file_schema(self.log.schemas, state)
        assert schema is not None
        with open_appender(self.folder, state) as appender:
            for page in rows:
                blanked = self._without_erased(page, appender.state, entries)
                if blanked is None:
                    return None
                at_end = page.stop == watermark.position
                chain = watermark.chain if at_end else self.log.chain_reached(page.stop)
                if chain is None:
                    raise MirrorError(f"the log lost its row {page.stop - 1} while being read")
                appender.append(in_layout(blanked, schema), chain)
                blank = blank or len(blanked.erased) > 0
            after = appender.state
        self.states.trust(after)
        if scanned >= state.position:
            # All rows before were scanned, and what was appended is undamaged.
            record_scan(self.folder, after, after.position)
        elif scanned:
            record_scan(self.folder, after, scanned)
        return after, blank

    def _without_erased(self, page: Page, before: MirrorState, entries: Entries) -> Page | None:
        """Return a page, which follows the state, without the records of rows erased here.

        None if the entries belong to another history than the page.
        """
        inside = entries[(entries["position"] >= page.start) & (entries["position"] < page.stop)]
        if len(inside):
            rows = erased_rows(self.log, page.erased)
            known = {row.position: row.chain for row in rows}
            if not entries_match(page, before.watermark.chain, inside, known):
                return None
        return without_records(page, inside["position"])

    def _erase(self, state: MirrorState, watermark: Watermark, schema: int) -> MirrorState:
        """Apply the database's erasures that follow the last one applied here."""
        rows = read(self.log.engine, erased_from, self.log.dataset_id, state.erased)
        scanned = scanned_until(self.folder, state) if state.position else 0
        erased = erase_rows(self.folder, open_view(self.folder, state, self.log.schemas), rows)
        if erased is None:  # damaged; in an empty generation, these rows are blank from the start
            self.begin()
            return self.update(watermark, state.erased + len(rows), schema)
        publish_state(self.folder, erased)
        if scanned:
            record_scan(self.folder, erased, scanned)
        self.states.trust(erased)
        return erased

    def _drop_erased(self) -> None:
        """Begin a generation with the same rows, but an empty list of erasures."""
        state = self.states.load()
        if state is not None:
            view = open_view(self.folder, state, self.log.schemas)
            begin_generation(self.folder, copy_generation(self.folder, view, state.position))

    def _cut_back(self, state: MirrorState, until: int) -> MirrorState:
        """Begin a generation with the rows before the mirror and the database diverge."""
        view = open_view(self.folder, state, self.log.schemas)
        position = last_common_anchor(self.log, view, until)
        warnings.warn(
            f"the mirror in {self.folder} holds {state.position} rows, but agrees with the database"
            f" only up to position {position}: was the database restored, or did it fail over? The"
            " rows from there on are read again",
            DivergenceWarning,
            stacklevel=2,
        )
        return begin_generation(self.folder, copy_generation(self.folder, view, position))

    def _has_known_layout(self, state: MirrorState) -> bool:
        if is_known(self.log, state):
            return True
        warnings.warn(
            f"the mirror in {self.folder} has features that the database does not have: was the"
            " database restored, or did it fail over? All rows are read again",
            DivergenceWarning,
            stacklevel=2,
        )
        return False

    def _convert(self, state: MirrorState) -> MirrorState:
        """Begin a generation with the same rows in the newest layout."""
        if not state.position:
            return self.begin()
        scanned = scanned_until(self.folder, state)
        view = open_view(self.folder, state, self.log.schemas)
        converted = convert_generation(self.folder, view, self.log.schemas.newest)
        begin_generation(self.folder, converted)
        if scanned:
            record_scan(self.folder, converted, min(scanned, converted.position))
        return converted


def last_common_anchor(log: Log, view: View, until: int) -> int:
    """Return the last anchor's position, at most ``until``, where mirror and database agree."""
    anchors = view.anchors[view.anchors["position"] <= until]
    chains = {int(anchor["position"]): anchor["chain"].tobytes() for anchor in anchors}
    return last_common(
        list(chains), lambda position: log.chain_reached(position) == chains[position]
    )
