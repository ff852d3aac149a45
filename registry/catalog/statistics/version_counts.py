"""Counting the rows of a version, from the facts of the rows that were counted of its log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from registry.catalog.statistics.count_state import CountState, load_counts, store_counts
from registry.catalog.statistics.row_counter import RowCounter, counted_of, last_row
from registry.catalog.statistics.row_store import BLOCK, DamagedStoreError
from registry.samples.schema import Schema
from registry.storage.database.transactions import read
from registry.storage.log.reader import Log
from registry.storage.log.version import Version

KEPT_VERSIONS = 16
"""Versions whose counts are kept, the last ones that were asked for."""


def count_version(
    log: Log, counter: RowCounter, whole: CountState, version: Version, most: int | None
) -> CountState:
    """Return the counts of a version's rows, after counting at most ``most`` more of them.

    ``whole`` are the counts of its log, whose rows are counted first.
    """
    schema = log.schemas.numbered(version.schema or 0)
    path = counter.path.with_name("versions") / f"{version.watermark}-{version.chain[:16]}"
    state = load_counts(path)
    if state is None or (state.generation, state.erased) != (whole.generation, whole.erased):
        state = CountState(whole.generation, erased=whole.erased)
    state.sources, state.counted = whole.sources, counted_of(schema)
    until = min(version.watermark, whole.position)
    if most is not None:
        until = min(until, state.position + most)
    if state.position < until:
        try:
            _count(counter, whole, state, schema, until)
        except DamagedStoreError:
            return state  # the next update of the log's counts repairs it
        state.chain = log.chain_reached(until) or state.chain
        state.last_row = read(log.engine, last_row, log.dataset_id, until - 1)
        state.counted_at = datetime.now(UTC)
        path.parent.mkdir(exist_ok=True)
        store_counts(path, state)
        _remove_oldest(path.parent)
    return state


def _count(
    counter: RowCounter, whole: CountState, state: CountState, schema: Schema, until: int
) -> None:
    store, terms = counter.store(whole), counter.terms(whole, counted_of(schema))
    while state.position < until:
        start, stop = state.position, min(until, (state.position // BLOCK + 1) * BLOCK)
        facts = store.read(start, stop)
        state.tally.add(facts, store.superseded(facts, start), terms)
        state.position = stop


def _remove_oldest(folder: Path) -> None:
    paths = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in paths[:-KEPT_VERSIONS]:
        path.unlink(missing_ok=True)
