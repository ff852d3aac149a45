"""The inbox of a dataset: rows that tools insert with plain SQL, and their move to the log.

A tool's transaction may be of any length: its rows have no position yet, so that nobody waits for
them. Committed rows are moved under the lock on the head, in the order of their ids. A row that
does not fit the dataset is rejected: it stays in the inbox, with the reason in ``error``.

A tool can insert rows of any size. They are therefore measured before they are read, and moved some
MiB per transaction. A row that is larger than the largest record is rejected without being read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    delete,
    update,
)

from registry.errors import RegistryError
from registry.samples.features import LARGEST_RECORD
from registry.samples.schema import Schema
from registry.storage.database.models import InboxRow
from registry.storage.database.transactions import read
from registry.storage.log import inbox_rejected
from registry.storage.log.batch import Batch, Report
from registry.storage.log.changes import batches
from registry.storage.log.head import Head
from registry.storage.log.inbox_changes import change_of, reason_of, too_large
from registry.storage.log.inbox_corrections import Correction, discard_corrected
from registry.storage.log.inbox_rejected import LeftOut, Limits, Refused
from registry.storage.log.inbox_retry import retry_now
from registry.storage.log.inbox_rows import InboxEntry, Wanted, listed
from registry.storage.log.inbox_waiting import RowSize, lock_waiting, measure, read_texts
from registry.storage.log.lookup import latest, size_of
from registry.storage.log.schemas import Schemas
from registry.storage.log.writer import Writer, transact_in

_BYTES = 16 << 20
"""Bytes of rows that are moved in one transaction; a single row may be larger."""


@dataclass(frozen=True)
class Drained:
    """What a drain did: ``refused`` rows were rejected and stay in the inbox, with the reason.

    ``removed`` counts rows that had been rejected before and were past the dataset's limits, and
    ``corrected`` rejected rows that left the inbox since a later row corrects them.
    """

    report: Report
    refused: int
    removed: int = 0
    corrected: int = 0

    @property
    def moved(self) -> int:
        """How many rows left the inbox, including those without an effect."""
        report = self.report
        return report.inserted + report.revised + report.retracted + report.unchanged

    @property
    def head(self) -> Head:
        """The dataset's head after the drain."""
        return self.report.head


@dataclass(frozen=True)
class Inbox:
    """The rows in the inbox that belong to one dataset."""

    engine: Engine
    dataset_id: int
    schemas: Schemas

    def drain(self, wait: float | None = None) -> Drained:
        """Move all waiting rows to the log, and remove rejected rows that are past the limits.

        With ``wait``, raises `ConflictError` where the lock on the head cannot be taken within that
        many seconds.
        """
        total: Drained | None = None
        # At least once, even if nothing waits: the report needs the head.
        more = True
        # One transaction per round, so that other writers get the lock between two of them.
        while more:
            more, drained = transact_in(self.schemas, self._move, wait)
            if total is not None:
                drained = Drained(
                    total.report + drained.report,
                    total.refused + drained.refused,
                    corrected=total.corrected + drained.corrected,
                )
            total = drained
        assert total is not None
        return replace(total, removed=self.prune())

    def refused(self, after: int = 0, limit: int | None = None) -> list[Refused]:
        """Return at most ``limit`` rejected rows past id ``after``, in the order of their ids."""
        return list(inbox_rejected.listed(self.engine, self.dataset_id, after, limit))

    def retry(self, ids: Sequence[int] | None = None) -> int:
        """Let rejected rows wait again, all or those with the given ids; return their number.

        Rows to insert that have no fields stay rejected, as nothing of a file's row could be read.
        Without ``ids``, so do rows to insert whose key has a newer revision in the log.
        """
        return inbox_rejected.retry(self.engine, self.dataset_id, ids)

    def left_out(self, ids: Sequence[int] | None = None) -> LeftOut:
        """Return how many rejected rows `retry` with the same ids leaves out."""
        return inbox_rejected.left_out(self.engine, self.dataset_id, ids)

    def discard(self, ids: Sequence[int] | None = None, source: str | None = None) -> int:
        """Remove rejected rows, all or those with the given ids; return their number.

        With ``source``, only rows of that source are removed.
        """
        return inbox_rejected.discard(self.engine, self.dataset_id, ids, source)

    def rows(self, after: int = 0, limit: int = 100, source: str | None = None) -> list[InboxEntry]:
        """Return waiting and rejected rows past id ``after``, in the order of their ids.

        At most ``limit`` rows are returned, and fewer if they are large; only an empty list is the
        end. With ``source``, the rows are those of that source, and of its parts (``SOURCE/…``).
        """
        return read(self.engine, listed, self.dataset_id, Wanted(after, limit, source))

    def rejected_rows(
        self, after: int, limit: int, source: str | None, largest: int
    ) -> list[InboxEntry]:
        """Return rejected rows as `rows` does; fields of over ``largest`` bytes are left out."""
        wanted = Wanted(after, limit, source, largest, waiting=False)
        return read(self.engine, listed, self.dataset_id, wanted)

    def retry_now(
        self, number: int, fields: Mapping[str, Any] | None = None, source: str | None = None
    ) -> Report:
        """Apply a rejected row, with other ``fields`` if they are given, and return what it did.

        Raises `InvalidSampleError` or `SampleNotFoundError` if it does not fit: it then stays
        rejected, as it was inserted, and has the reason unless ``fields`` were given. So does a row
        to insert that has no fields, with its own reason. Raises `RejectedRowNotFoundError` if
        there is no such row, or not of that source.
        """
        return retry_now(self.schemas, number, fields, source)

    @property
    def limits(self) -> Limits:
        """How long rejected rows are kept, and how many of them."""
        return inbox_rejected.limits(self.engine, self.dataset_id)

    def set_limits(self, *, retention: timedelta | None = None, quota: int | None = None) -> Limits:
        """Change how long rejected rows are kept, or how many of them; return the limits.

        They are stored with the dataset and apply to every process that drains the inbox. Requires
        the right to update the dataset's row.
        """
        return inbox_rejected.set_limits(self.engine, self.dataset_id, retention, quota)

    def prune(self) -> int:
        """Remove rejected rows past the limits; return their number.

        A second call within a minute does nothing.
        """
        return inbox_rejected.prune_sometimes(self.engine, self.dataset_id)

    def _move(self, writer: Writer) -> tuple[bool, Drained]:
        """Move the first waiting rows; return whether there may be more, and what was done."""
        connection = writer.connection
        ids, more = lock_waiting(connection, self.dataset_id)
        rows = measure(connection, ids)
        # What does not fit is rejected by its size alone, and never read into memory.
        fitting = {number: row for number, row in rows.items() if row.size <= LARGEST_RECORD}
        errors = {number: too_large(rows[number].size) for number in rows.keys() - fitting.keys()}
        taken = _first_within_limit(connection, self.dataset_id, fitting)
        read_rows = _read(connection, writer.schema, taken) if taken else []
        outcomes = writer.append([row.batch for row in read_rows])
        moved = Report(0, 0, 0, 0, writer.head)
        corrections = []
        for number, row, outcome in zip(taken, read_rows, outcomes, strict=True):
            if isinstance(outcome, RegistryError):
                errors[number] = reason_of(outcome)
                continue
            moved += outcome
            if row.correction is not None:
                corrections.append(row.correction)
        # In the transaction of the append: a row is in the inbox or in the log, never in both.
        _clear(connection, [number for number in taken if number not in errors], errors)
        # After the rejections: a row of this very transaction may be one that another corrects.
        corrected = discard_corrected(connection, self.dataset_id, corrections)
        drained = Drained(moved, len(errors), corrected=corrected)
        return more or len(taken) < len(fitting), drained


def _first_within_limit(
    connection: Connection, dataset_id: int, rows: Mapping[int, RowSize]
) -> list[int]:
    """Return the ids of the first rows that fit in `_BYTES`, or of the first one alone.

    An update also counts the record that it amends, since that is read, too.
    """
    amended = {row.key for row in rows.values() if row.amends and row.key}
    revisions = latest(connection, dataset_id, amended)
    sizes: dict[str | None, int] = {key: size_of(row) for key, row in revisions.items()}
    taken: list[int] = []
    total = 0
    for number, row in rows.items():
        size = row.size + (sizes.get(row.key, 0) if row.amends else 0)
        total += size
        if taken and total > _BYTES:
            break
        taken.append(number)
        # The next update of this key amends what this row makes of it, not what is stored.
        sizes[row.key] = size
    return taken


@dataclass(frozen=True)
class _Row:
    """A row that was read: its batch or the error that rejects it, and what it corrects."""

    batch: Batch | RegistryError
    correction: Correction | None


def _read(connection: Connection, schema: Schema, ids: Sequence[int]) -> list[_Row]:
    """Return the rows with these ids, in the order of the ids."""
    texts = read_texts(connection, ids)
    rows: list[_Row] = []
    for number in ids:
        # The last text is the first by id. ``pop`` frees it before its values are encoded:
        # otherwise both forms of all rows would be in memory at once.
        change = change_of(texts.pop())
        if isinstance(change, RegistryError):
            rows.append(_Row(change, None))
        else:
            (batch,) = batches(schema, [[change]])
            rows.append(_Row(batch, Correction.of(change, number)))
    return rows


def _clear(connection: Connection, moved: Sequence[int], errors: Mapping[int, str]) -> None:
    if moved:
        connection.execute(delete(InboxRow).where(InboxRow.id.in_(moved)))
    if errors:
        change = update(InboxRow).where(InboxRow.id == bindparam("number"))
        values = [{"number": number, "reason": reason} for number, reason in errors.items()]
        connection.execute(change.values(error=bindparam("reason")), values)
