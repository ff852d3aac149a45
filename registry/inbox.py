"""The open door for plain SQL: rows that any tool inserts, moved to the log as they fit.

A tool's transaction may be of any length: its rows have no position yet, so that nobody waits for
them. They are moved under the lock on the head, in the order of their numbers, as far as they are
committed by then. A row that does not fit stays, with the reason in ``error``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    LargeBinary,
    Row,
    Text,
    bindparam,
    cast,
    delete,
    select,
    update,
)

from registry.append import Writer, transact
from registry.changes import Change, batches
from registry.codec import Codec
from registry.engine import read, write
from registry.errors import InvalidSampleError, RegistryError
from registry.fields import parse_json
from registry.heads import Head
from registry.models import inbox
from registry.plan import Outcome, Report
from registry.revisions import utc

SOURCE = "inbox"
"""The source of rows that name none."""
_ROWS = 1024
"""Rows that are moved in one transaction."""


@dataclass(frozen=True)
class Drained:
    """What became of the rows in an inbox: ``refused`` of them stay there, with the reason."""

    report: Report
    refused: int

    @property
    def moved(self) -> int:
        """The rows that left the inbox."""
        done = self.report
        return done.inserted + done.revised + done.retracted + done.unchanged

    @property
    def head(self) -> Head:
        """The dataset's head after it."""
        return self.report.head


@dataclass(frozen=True)
class Refused:
    """A row that stays in the inbox; ``created_at`` is in UTC."""

    id: int
    key: str | None
    action: str
    source: str | None
    created_at: datetime
    error: str


@dataclass(frozen=True)
class Inbox:
    """A dataset's part of the inbox."""

    engine: Engine
    dataset_id: int
    codec: Codec

    def drain(self, wait: float | None = None) -> Drained:
        """Move all that waits to the log.

        With ``wait``, raises `ConflictError` where the lock on the head cannot be had in so many
        seconds.
        """
        total: Drained | None = None
        while True:
            found, drained = transact(self.engine, self.dataset_id, self._move, wait)
            if total is not None:
                drained = Drained(total.report + drained.report, total.refused + drained.refused)
            total = drained
            if found < _ROWS:
                return total

    def refused(self) -> list[Refused]:
        """Return the rows that stay, oldest first."""
        rows = read(
            self.engine,
            lambda connection: connection.execute(
                _columns(connection).where(*self._refused(None)).order_by(inbox.c.id)
            ).all(),
        )
        return [
            Refused(
                row.id,
                _shown(row.key),
                _shown(row.action) or "",
                _shown(row.source),
                utc(row.created_at),
                row.error,
            )
            for row in rows
        ]

    def retry(self, ids: Sequence[int] | None = None) -> int:
        """Let rows that were refused wait again, all or these; return how many."""
        again = update(inbox).where(*self._refused(ids)).values(error=None)
        return write(self.engine, lambda connection: connection.execute(again).rowcount)

    def discard(self, ids: Sequence[int] | None = None) -> int:
        """Remove rows that were refused, all or these; return how many."""
        gone = delete(inbox).where(*self._refused(ids))
        return write(self.engine, lambda connection: connection.execute(gone).rowcount)

    def _refused(self, ids: Sequence[int] | None) -> list[Any]:
        wanted = [inbox.c.dataset_id == self.dataset_id, inbox.c.error.is_not(None)]
        if ids is None:
            return wanted
        # A number that no column of the database takes is the id of no row.
        return [*wanted, inbox.c.id.in_([number for number in ids if abs(number) < 1 << 63])]

    def _move(self, writer: Writer) -> tuple[int, Drained]:
        """Move the first rows that wait; return how many were found, too."""
        rows = writer.connection.execute(
            _columns(writer.connection)
            .where(inbox.c.dataset_id == self.dataset_id, inbox.c.error.is_(None))
            .order_by(inbox.c.id)
            .limit(_ROWS)
            .with_for_update(skip_locked=True)
        ).all()
        done = Report(0, 0, 0, 0, writer.head)
        moved, errors = [], []
        for row, outcome in zip(rows, _append(writer, self.codec, rows), strict=True):
            if isinstance(outcome, RegistryError):
                errors.append({"number": row.id, "why": _why(outcome)})
            else:
                moved.append(row.id)
                done += outcome
        _clear(writer.connection, moved, errors)
        return len(rows), Drained(done, len(errors))


def _append(writer: Writer, codec: Codec, rows: Sequence[Row[Any]]) -> list[Outcome]:
    """Append each row that fits, and return what became of each."""
    read_rows = [_change(row) for row in rows]
    changes = [each for each in read_rows if isinstance(each, Change)]
    found = iter(writer.append(batches(codec, [[change] for change in changes])))
    return [each if isinstance(each, RegistryError) else next(found) for each in read_rows]


def _change(row: Row[Any]) -> Change | RegistryError:
    try:
        fields = None if row.fields is None else parse_json(_text(row.fields, "fields"))
        source = SOURCE if row.source is None else _text(row.source, "source")
        key = None if row.key is None else _text(row.key, "key")
        return Change(key, fields, _text(row.action, "action"), source)
    except ValueError as error:
        return InvalidSampleError(str(error), key=_shown(row.key))


def _columns(connection: Connection) -> Any:
    """Select rows as they are: no JSON is parsed, and on SQLite no text is taken for UTF-8."""
    kind = Text() if connection.dialect.name == "postgresql" else LargeBinary()
    columns = (inbox.c.key, inbox.c.fields, inbox.c.action, inbox.c.source)
    as_they_are = [cast(column, kind).label(column.name) for column in columns]
    return select(inbox.c.id, *as_they_are, inbox.c.created_at, inbox.c.error)


def _why(error: RegistryError) -> str:
    """Return the reason alone: the row is told by its id, and has its key beside it."""
    if isinstance(error, InvalidSampleError):
        return str(InvalidSampleError(error.reason, feature=error.feature))
    return str(error)


def _clear(connection: Connection, moved: Sequence[int], errors: Sequence[dict[str, Any]]) -> None:
    if moved:
        connection.execute(delete(inbox).where(inbox.c.id.in_(moved)))
    if errors:
        stays = update(inbox).where(inbox.c.id == bindparam("number"))
        connection.execute(stays.values(error=bindparam("why")), errors)


def _text(raw: str | bytes, name: str) -> str:
    try:
        return raw if isinstance(raw, str) else raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None


def _shown(raw: str | bytes | None) -> str | None:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
