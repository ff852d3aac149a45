"""The fields of rejected rows, to be completed before the rows are tried again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from registry.samples.features import LARGEST_RECORD
from registry.samples.json_codec import parse_json
from registry.storage.database.models import InboxRow
from registry.storage.database.transactions import read, write
from registry.storage.log.inbox_rejected import of_source, rejected, retriable
from registry.storage.log.inbox_waiting import measure, read_texts
from registry.storage.log.raw_text import decode


@dataclass(frozen=True)
class RejectedFields:
    """The fields of a rejected row; empty if it has none, or none that can be read."""

    id: int
    fields: Mapping[str, Any]


def rejected_fields(
    engine: Engine, dataset_id: int, ids: Sequence[int] | None, source: str | None = None
) -> Iterator[RejectedFields]:
    """Yield the fields of rejected rows one at a time, all or those with the ids or the source.

    Rows of which `Inbox.retry` makes no attempt are left out.
    """
    wanted = (*rejected(dataset_id, ids), *retriable(ids), *of_source(source))
    numbers = select(InboxRow.id).where(*wanted).order_by(InboxRow.id)
    for number in read(engine, lambda connection: connection.scalars(numbers).all()):
        # In a transaction: `measure` needs one, for its savepoint.
        yield RejectedFields(number, write(engine, _fields, number))


def complete(engine: Engine, dataset_id: int, number: int, fields: Mapping[str, Any]) -> int:
    """Replace a rejected row's fields and let it wait; return 0 if it is not rejected any more."""
    change = update(InboxRow).where(*rejected(dataset_id, [number]))
    values = {"fields": dict(fields), "error": None, "rejected_at": None}
    return write(engine, lambda connection: connection.execute(change.values(values)).rowcount)


def set_error(engine: Engine, dataset_id: int, number: int, reason: str) -> None:
    """Replace the reason of a rejected row."""
    change = update(InboxRow).where(*rejected(dataset_id, [number])).values(error=reason)
    write(engine, lambda connection: connection.execute(change))


def _fields(connection: Connection, number: int) -> Mapping[str, Any]:
    # Measured first: a row of any size may have been inserted.
    if (row := measure(connection, [number]).get(number)) is None or row.size > LARGEST_RECORD:
        return {}
    for texts in read_texts(connection, [number]):
        try:
            parsed = parse_json(decode(texts.fields or "null", "fields"))
        except ValueError:
            break
        return parsed if isinstance(parsed, dict) else {}
    return {}
