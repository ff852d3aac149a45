"""Which split a key is in, or a group."""

from __future__ import annotations

from collections.abc import Mapping

from registry.errors import InvalidSampleError
from registry.samples.buckets import buckets
from registry.samples.keys import check_group, check_key
from registry.samples.splits import Interval
from registry.storage.database.transactions import read
from registry.storage.log import entries
from registry.storage.log.reader import Log


def split_of(
    log: Log, splits: Mapping[str, Interval], key: str | None, group: str | None
) -> str | None:
    """Return the split of a key, or of a group; see `Dataset.split_of`."""
    check_group(group)
    bucket = None
    if key is not None:
        check_key(key)
        bucket = read(log.engine, entries.bucket_of, log.dataset_id, key)
    hashed = key if group is None else group
    if hashed is None:
        raise InvalidSampleError("a split is that of a key or of a group; give one of them")
    if bucket is None:
        bucket = int(buckets([hashed])[0])
    return next((name for name, (start, stop) in splits.items() if start <= bucket < stop), None)
