"""Another attempt of one rejected row of an inbox, whose outcome the caller learns at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, delete, select, update

from registry.errors import InvalidSampleError, RegistryError
from registry.samples.features import LARGEST_RECORD
from registry.storage.database.models import InboxRow
from registry.storage.log.batch import Batch, Outcome, Report
from registry.storage.log.changes import batches
from registry.storage.log.inbox_changes import change_of, reason_of, too_large
from registry.storage.log.inbox_corrections import Correction, discard_corrected
from registry.storage.log.inbox_rejected import of_source, rejected, without_fields
from registry.storage.log.inbox_waiting import measure, read_texts
from registry.storage.log.schemas import Schemas
from registry.storage.log.writer import Writer, transact_in


class RejectedRowNotFoundError(RegistryError):
    """No rejected row has this id; it may have been moved or removed, or be locked.

    Remedy: ``registry inbox ls`` lists the rows that can be tried again.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no rejected row {number}; it may have been moved or removed")
        self.number = number


def retry_now(
    schemas: Schemas,
    number: int,
    fields: Mapping[str, Any] | None,
    source: str | None,
) -> Report:
    """Apply a rejected row: see `Inbox.retry_now`."""
    attempts: list[Outcome] = []

    def work(writer: Writer) -> Outcome:
        connection = writer.connection
        this_row = rejected(writer.dataset_id, [number])
        wanted = select(InboxRow.id).where(*this_row, *of_source(source))
        # A transaction of a person may hold the row for any time, and every writer would wait.
        if connection.execute(wanted.with_for_update(skip_locked=True)).first() is None:
            # An attempt that was committed, but whose answer was lost, has removed the row.
            return attempts[-1] if attempts else RejectedRowNotFoundError(number)
        outcome = _apply(writer, number, fields)
        attempts.append(outcome)
        return outcome

    outcome = transact_in(schemas, work)
    if isinstance(outcome, RegistryError):
        raise outcome
    return outcome


def _apply(writer: Writer, number: int, fields: Mapping[str, Any] | None) -> Outcome:
    connection, this_row = writer.connection, InboxRow.id == number
    if fields is None and (error := connection.scalar(_reason_of_empty(number))) is not None:
        return InvalidSampleError(f"the rejected row has no fields to try again: {error}")
    batch, correction = _read(writer, number, fields)
    (outcome,) = writer.append([batch])
    if isinstance(outcome, Report):
        connection.execute(delete(InboxRow).where(this_row))
        if correction is not None:
            discard_corrected(connection, writer.dataset_id, [correction])
    elif fields is None:
        # Not the reason against other fields: those are not the row's.
        connection.execute(update(InboxRow).where(this_row).values(error=reason_of(outcome)))
    return outcome


def _reason_of_empty(number: int) -> Select[str | None]:
    return select(InboxRow.error).where(InboxRow.id == number, without_fields())


def _read(
    writer: Writer, number: int, fields: Mapping[str, Any] | None
) -> tuple[Batch | RegistryError, Correction | None]:
    # Measured first: a row of any size may have been inserted.
    size = measure(writer.connection, [number])[number].size
    if size > LARGEST_RECORD:
        return InvalidSampleError(too_large(size)), None
    (texts,) = read_texts(writer.connection, [number])
    change = change_of(texts, fields)
    if isinstance(change, RegistryError):
        return change, None
    (batch,) = batches(writer.schema, [[change]])
    return batch, Correction.of(change, number)
