"""What a batch comes to: which of its rows are written, and over which older ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry.errors import RegistryError, SampleNotFoundError
from registry.storage.log.head import Head
from registry.storage.log.lookup import Latest, Stored

Amend = Callable[[bytes | None], bytes | None]
"""Makes a key's next record of its latest one, which is None where that was a retraction."""


@dataclass(frozen=True)
class Batch:
    """Keys, records (None retracts) and sources to append, in order: all of them or none.

    ``fresh`` says that the keys were made for this batch, so that no row can have them yet.
    """

    keys: Sequence[str]
    records: Sequence[bytes | Amend | None]
    sources: Sequence[str | None]
    fresh: bool = False

    def compared(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield each key with the record that its latest one is compared with, if there is one."""
        for key, record in zip(self.keys, self.records, strict=True):
            yield key, record if isinstance(record, bytes) else None


@dataclass(frozen=True)
class Report:
    """What an append did, in samples; ``head`` is the dataset's head after it.

    ``inserted`` samples were not alive before, ``revised`` ones were, ``retracted`` ones no
    longer are, and ``unchanged`` ones had that very record already.
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
            later.head,
        )


Outcome = Report | RegistryError
"""What became of a batch that others came with."""


@dataclass(frozen=True)
class Plan:
    """The rows that a batch comes to, and the counts for its report."""

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
    """Compare a batch with what its keys hold, as if its rows came one after another.

    ``position`` is that of the first row; ``read`` returns the record at a position, and is needed
    where the batch amends. Raises `SampleNotFoundError` for a key to retract or
    amend that the dataset never had.
    """
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
        if old is not None and old.record == record:
            counts["unchanged"] += 1
            continue
        alive = old is not None and old.record is not None
        counts["retracted" if record is None else "revised" if alive else "inserted"] += 1
        latest[key] = Latest(position + len(keys), record)
        keys.append(key)
        records.append(record)
        supersedes.append(old.position if old else None)
        sources.append(source)
    return Plan(keys, records, supersedes, sources, **counts)


def _amended(
    key: str, old: Latest | None, change: Amend, read: Callable[[int], bytes] | None
) -> tuple[Latest, bytes | None]:
    """Return the key's latest revision, with its record, and what a change makes of that."""
    if old is None:
        raise SampleNotFoundError(key)
    record = old.record
    if isinstance(record, Stored):
        assert read is not None
        record = read(old.position)
    return Latest(old.position, record), change(record)


def _all_new(batch: Batch) -> bool:
    return {*map(type, batch.records)} == {bytes} and len({*batch.keys}) == len(batch.keys)
