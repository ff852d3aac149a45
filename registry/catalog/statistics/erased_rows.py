"""Taking the content of erased rows out of what was counted.

The term of an erased row in the counts changes, and that of the row that supersedes it. Both are
taken away with what is known of the rows, which are then blanked, and added again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from registry.catalog.statistics.count_state import CountState
from registry.catalog.statistics.row_facts import ERASED, NO_CLASS, successors
from registry.catalog.statistics.row_store import RowStore
from registry.catalog.statistics.tally import Terms
from registry.samples.arrays import Positions
from registry.storage.database.transactions import read
from registry.storage.log.erasures import erased_from
from registry.storage.log.reader import Log

_ROWS = 1 << 16
"""Rows that are taken at a time."""


def erase_counted(log: Log, store: RowStore, state: CountState, terms: Terms) -> None:
    """Apply the database's erasures that follow the last one that was applied.

    One that is killed meanwhile leaves a damaged store, so that all rows are counted again.
    """
    erased = read(log.engine, erased_from, log.dataset_id, state.erased)
    if not erased:
        return
    positions = np.array([row.position for row in erased], np.int64)
    # Others will be read without their content when it is their turn.
    positions = np.unique(positions[positions < state.position])
    if len(positions):
        later = read(log.engine, successors, log.dataset_id, positions.tolist(), state.position)
        affected = np.union1d(positions, later)
        _add(store, state, terms, affected, -1)
        for part in _divided(positions):
            facts = store.take(part)
            facts.rows["size"] = np.where(facts.held, ERASED, facts.rows["size"])
            facts.labels[:] = NO_CLASS
            store.replace(part, facts)
        _add(store, state, terms, affected, 1)
    state.erased += len(erased)
    state.last_erased = erased[-1].position


def _add(store: RowStore, state: CountState, terms: Terms, positions: Positions, sign: int) -> None:
    for part in _divided(positions):
        facts = store.take(part)
        state.tally.add(facts, store.superseded(facts), terms, sign)


def _divided(positions: Positions) -> Iterator[Positions]:
    for start in range(0, len(positions), _ROWS):
        yield positions[start : start + _ROWS]
