"""What batches amend: a few bytes of a request may make a record of many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from registry.errors import RegistryError
from registry.storage.log.batch import Batch
from registry.storage.log.lookup import Latest, size_of

AMENDED_BYTES = 16 << 20
"""Bytes of records that are amended before the new ones are inserted, unless one batch has more."""


def amended(batch: Batch | RegistryError, known: Mapping[str, Latest]) -> Iterator[Latest]:
    """Yield the revisions whose records the batch amends."""
    if isinstance(batch, Batch) and known:
        for key, record in zip(batch.keys, batch.records, strict=True):
            if callable(record) and key in known:
                yield known[key]


def groups_of(
    batches: Sequence[Batch | RegistryError], known: Mapping[str, Latest]
) -> Iterator[Sequence[Batch | RegistryError]]:
    """Divide batches, so that those of a group amend `AMENDED_BYTES` at most, or are a single one.

    There is at least one group, which is empty if there is no batch.
    """
    start = total = 0
    for number, batch in enumerate(batches):
        size = sum(map(size_of, amended(batch, known)))
        total += size
        if total > AMENDED_BYTES and number > start:
            yield batches[start:number]
            start, total = number, size
    yield batches[start:]
