"""Batches of changes, and the rows of the log that each results in.

`resolve` compares a `Batch` with the latest revision of each of its keys. The `Plan` that it
returns has the rows to write and, for each, the position of the older row that it supersedes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry.errors import RegistryError, SampleNotFoundError
from registry.storage.log.head import Head
from registry.storage.log.lookup import Latest, Stored

Amend = Callable[[bytes | None], bytes | None]
"""Computes a key's next record from its latest one, which is None for a retraction."""


@dataclass(frozen=True)
class Batch:
    """Keys, records (None retracts) and sources to append in order, all of them or none.

    ``fresh`` says that the keys were generated for this batch, so that no row can have them yet.
    """

    keys: Sequence[str]
    records: Sequence[bytes | Amend | None]
    sources: Sequence[str | None]
    fresh: bool = False

    def compared(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield each key with its new record, or with None where that is not known yet."""
        for key, record in zip(self.keys, self.records, strict=True):
            yield key, record if isinstance(record, bytes) else None


@dataclass(frozen=True)
class Report:
    """What an append did, in samples; ``head`` is the dataset's head after it.

    ``inserted`` samples were not live before, ``revised`` ones were, ``retracted`` ones no longer
    are, and ``unchanged`` ones already had the same record.
    """

    inserted: int
    revised: int
    retracted: int
    unchanged: int
    head: Head

    def __add__(self, later: Report) -> Report:
        return Report(
            self.inserted + later.inserted,
            self.revised + later.revised,
            self.retracted + later.retracted,
            self.unchanged + later.unchanged,
            # The end of the log after both; heads do not add up.
            later.head,
        )


Outcome = Report | RegistryError
"""The result of one batch among several: its report, or the error that rejected it."""


@dataclass(frozen=True)
class Plan:
    """The rows that a batch results in, one item per row, and the counts for its report."""

    keys: Sequence[str]
    records: Sequence[bytes | None]
    supersedes: Sequence[int | None]
    sources: Sequence[str | None]
    inserted: int
    revised: int = 0
    retracted: int = 0
    unchanged: int = 0

    def report(self, head: Head) -> Report:
        return Report(self.inserted, self.revised, self.retracted, self.unchanged, head)


def resolve(
    batch: Batch,
    known: Mapping[str, Latest],
    position: int,
    read: Callable[[int], bytes] | None = None,
) -> Plan:
    """Compare a batch with the latest revisions of its keys, as if its rows were applied in turn.

    ``known`` has the latest revision of each of the batch's keys that the dataset ever had.
    ``position`` is that of the first row to be written. ``read`` returns the record at a position
    and is required where the batch amends. Raises `SampleNotFoundError` for a key to retract or
    amend that the dataset never had.
    """
    # The fast path for new keys. A repeated key must not take it: its second row supersedes the
    # first, and that link would be missing from the log.
    if batch.fresh or (not known and _all_new(batch)):
        count = len(batch.keys)
        return Plan(batch.keys, batch.records, [None] * count, batch.sources, inserted=count)  # type: ignore[arg-type]
    latest = dict(known)
    keys: list[str] = []
    records: list[bytes | None] = []
    supersedes: list[int | None] = []
    sources: list[str | None] = []
    counts = {"inserted": 0, "revised": 0, "retracted": 0, "unchanged": 0}
    for key, given, source in zip(batch.keys, batch.records, batch.sources, strict=True):
        old = latest.get(key)
        if callable(given):
            old, record = _amended(key, old, given, read)
        elif old is None and given is None:
            raise SampleNotFoundError(key)
        else:
            record = given
        # `Stored` equals no record: what it represents is known to differ from this one.
        if old is not None and old.record == record:
            counts["unchanged"] += 1
            continue
        alive = old is not None and old.record is not None
        counts["retracted" if record is None else "revised" if alive else "inserted"] += 1
        # Before the key is added to the list, whose length is the offset of this row. Unchanged
        # rows are skipped and take no position.
        latest[key] = Latest(position + len(keys), record)
        keys.append(key)
        records.append(record)
        supersedes.append(old.position if old else None)
        sources.append(source)
    return Plan(keys, records, supersedes, sources, **counts)


def _amended(
    key: str, old: Latest | None, change: Amend, read: Callable[[int], bytes] | None
) -> tuple[Latest, bytes | None]:
    """Return the key's latest revision with its record read, and the amended record."""
    if old is None:
        raise SampleNotFoundError(key)
    record = old.record
    if isinstance(record, Stored):
        assert read is not None
        record = read(old.position)
    return Latest(old.position, record), change(record)


def _all_new(batch: Batch) -> bool:
    return {*map(type, batch.records)} == {bytes} and len({*batch.keys}) == len(batch.keys)
