"""The revisions of a sample, with their values in the schema that a dataset is open with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from registry.catalog.extent import Extent
from registry.samples.keys import check_key
from registry.storage.database.transactions import read
from registry.storage.log import entries
from registry.storage.log.entries import Entry, Revision
from registry.storage.log.reader import Log


def latest_sample(log: Log, extent: Extent, key: str) -> dict[str, Any]:
    """Return a live sample's values; raises `SampleNotFoundError` if there is none."""
    revision = latest(log, extent, key)
    if revision is not None and revision.sample is not None:
        return revision.sample
    raise read(log.engine, entries.missing, log.dataset_id, key, extent.end())


def latest(log: Log, extent: Extent, key: str) -> Revision | None:
    """Return the newest revision of a key; None if there is none."""
    check_key(key)
    row = read(log.engine, entries.latest, log.dataset_id, key, extent.end())
    return _decoded(log, extent, [row])[0] if row else None


def history(log: Log, extent: Extent, key: str) -> list[Revision]:
    """Return all revisions of a key, oldest first."""
    check_key(key)
    rows = read(log.engine, entries.history, log.dataset_id, key, extent.end())
    return _decoded(log, extent, rows)


def entries_between(log: Log, start: int, stop: int) -> list[Entry]:
    """Return the log's rows at positions ``[start, stop)``, without their records."""
    return read(log.engine, entries.entries, log.dataset_id, start, stop)


def _decoded(
    log: Log, extent: Extent, rows: Sequence[tuple[Entry, bytes | None]]
) -> list[Revision]:
    # Only now: one that was read before the end could be older than the schema of a row.
    schema = extent.schema
    held = [entry.position for entry, record in rows if record is not None]
    stored = [record for _, record in rows if record is not None]
    samples = map(schema.codec.decode_one, log.schemas.brought(held, stored, schema))
    return [Revision(entry, None if r is None else next(samples)) for entry, r in rows]
