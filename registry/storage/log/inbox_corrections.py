"""Removal of rejected rows that a later change corrects, in the transaction of that change.

A change corrects the older rejected rows of its key and its source whose features it all sets: an
insert sets all features, a retraction leaves none to be set, and an update sets those that it
names. Rows of another source stay: someone else has to decide about them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, delete, select, text

from registry.samples.json_codec import parse_json
from registry.storage.database.models import InboxRow
from registry.storage.log.changes import Change
from registry.storage.log.inbox_rejected import SOURCE, rejected
from registry.storage.log.inbox_waiting import measure, read_texts
from registry.storage.log.raw_text import decode, raw, readable

Item = TypeVar("Item")

# As in the index, and not with a parameter: otherwise neither database uses a partial index.
_INDEXED = text("length(inbox.key) <= 512")
_TOGETHER = 1000
"""The most keys or ids in one statement; SQLite allows 32,766 parameters."""
_UNKNOWN = frozenset({"\0"})
"""Names of features that no update sets, since no feature has such a name."""
_MOST_BYTES = 1 << 20
"""Bytes of a rejected row whose features are compared; a larger row is kept after an update."""


@dataclass(frozen=True)
class Correction:
    """An accepted change: its key, its source, and the features that it sets (None for all).

    ``before`` is its id in the inbox, or None if it did not come from there: then every rejected
    row that there is precedes it.
    """

    key: str
    source: str
    names: frozenset[str] | None
    before: int | None = None

    @classmethod
    def of(cls, change: Change, before: int | None = None) -> Correction | None:
        """Return the correction that a change makes; None for a change without a key."""
        if change.key is None:
            return None
        # The fields of a row that will be rejected may be any JSON.
        fields = change.fields if isinstance(change.fields, Mapping) else {}
        names = frozenset(fields) if change.action == "update" else None
        return cls(change.key, change.source or SOURCE, names, before)


def discard_corrected(
    connection: Connection, dataset_id: int, corrections: Sequence[Correction]
) -> int:
    """Remove the rejected rows that the corrections replace; return their number.

    Rows that another transaction has locked are kept.
    """
    if not corrections or not _any_rejected(connection, dataset_id):
        return 0
    by_key: defaultdict[str, list[Correction]] = defaultdict(list)
    for each in corrections:
        by_key[each.key].append(each)
    numbers = [*_corrected(connection, dataset_id, by_key)]
    for some in _parts(numbers):
        connection.execute(delete(InboxRow).where(InboxRow.id.in_(some)))
    return len(numbers)


def rejected_keys(
    connection: Connection, dataset_id: int, source: str, keys: Sequence[str]
) -> list[str]:
    """Return those of the keys that a source has rejected rows of, once for each row."""
    if not keys or not _any_rejected(connection, dataset_id):
        return []
    rows = select(InboxRow.key).where(*rejected(dataset_id), _INDEXED, InboxRow.source == source)
    return [
        key
        for some in _parts(keys)
        for key in connection.scalars(rows.where(InboxRow.key.in_(some)))
        if key is not None
    ]


def _any_rejected(connection: Connection, dataset_id: int) -> bool:
    # Usually there are no rejected rows, which one search of a small index shows.
    anything = select(InboxRow.id).where(*rejected(dataset_id)).limit(1)
    return connection.execute(anything).first() is not None


def _corrected(
    connection: Connection, dataset_id: int, by_key: Mapping[str, Sequence[Correction]]
) -> Iterator[int]:
    """Yield the ids of the rejected rows that the corrections of their keys replace."""
    for keys in _parts(sorted(by_key)):
        rows = connection.execute(
            select(InboxRow.id, InboxRow.key, raw(InboxRow.source, connection.dialect.name))
            .where(*rejected(dataset_id), _INDEXED, InboxRow.key.in_(keys))
            # A transaction of a person may hold a row for any time, and every writer would wait.
            .with_for_update(skip_locked=True)
        ).all()
        for number, key, stored_source in rows:
            source = SOURCE if stored_source is None else readable(stored_source)
            later = [
                each
                for each in by_key[key or ""]
                if each.source == source and (each.before is None or number < each.before)
            ]
            if any(each.names is None for each in later) or (
                later and _names(connection, number) <= frozenset().union(*map(_set_by, later))
            ):
                yield number


def _set_by(correction: Correction) -> frozenset[str]:
    return correction.names or frozenset()


def _names(connection: Connection, number: int) -> frozenset[str]:
    """Return the features that a rejected row sets; `_UNKNOWN` where they cannot be read."""
    if measure(connection, [number])[number].size > _MOST_BYTES:
        return _UNKNOWN
    (row,) = read_texts(connection, [number])
    try:
        fields = parse_json(decode(row.fields or "", "fields"))
    except ValueError:
        return _UNKNOWN
    # Without names, it would seem to be corrected by any update.
    return frozenset(fields) if isinstance(fields, dict) and fields else _UNKNOWN


def _parts(values: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(values), _TOGETHER):
        yield values[start : start + _TOGETHER]
