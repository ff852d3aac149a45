"""The stored state of a tool's annotations, and how events and exports change it.

For each annotation, the table `tool_annotations` stores when it was last changed, whether it was
deleted, and its sample's key, if it has a sample. The row is read and written under the head's
lock, in the transaction that appends the sample. The same annotation may therefore arrive any
number of times, in any order, from events and exports:

* The state with the newest `updated_at` wins, in whatever order the states arrive.
* Of two states with the same `updated_at`, one without a sample wins over one with a sample, and of
  two samples the one whose record is the greater sequence of bytes wins, so that the order of
  arrival does not matter. But a state from an export, which is read later than it is written, wins
  over a state from an event.
* A deleted annotation never returns: Label Studio does not reuse ids.
* An annotation that is missing in an export of its project is gone. The newest `updated_at` of the
  export is stored for the project, under the project's id. An annotation without a sample needs a
  newer `updated_at` than that to get a sample from an event.

No clock is read, with one exception: annotations that changed after the export's file was written
are left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select

from registry.errors import InvalidSampleError
from registry.storage.database.models import InboxRow, ToolAnnotationRow
from registry.storage.database.sql import insert_into
from registry.storage.log.changes import Change
from registry.storage.log.lookup import NEVER, Latest, latest, record_of

TOOL = "label-studio"
_TOGETHER = 1000
"""The most names or keys in one statement; SQLite allows 32,766 parameters."""


@dataclass(frozen=True)
class State:
    """A state of an annotation, from an event or an export.

    Without ``updated_at``, the annotation was deleted. Otherwise it has a sample, with ``values``
    by feature and the packed ``record``, or none, or it is rejected: ``fault`` is the reason, and
    ``values`` has what could be read of it.
    """

    project: int
    id: int
    updated_at: datetime | None
    values: dict[str, Any] | None = None
    record: bytes | None = None
    fault: InvalidSampleError | None = None

    @property
    def name(self) -> str:
        """The name of the annotation's row in the table, ``PROJECT/ANNOTATION``."""
        return f"{self.project}/{self.id}"

    @property
    def key(self) -> str:
        return make_key(self.name)


def make_key(name: str) -> str:
    """Return the sample's key: ``label-studio:2:17`` is annotation 17 of project 2."""
    return f"{TOOL}:{name.replace('/', ':')}"


@dataclass(frozen=True)
class Known:
    """A row of `tool_annotations`: of an annotation, or of a project's last export.

    ``key`` is the key of the annotation's sample, or None if it has no sample.
    """

    updated_at: datetime | None
    deleted: bool = False
    key: str | None = None


def supersedes(
    state: State,
    known: Known | None,
    horizon: datetime | None,
    greater: Callable[[], bool],
    *,
    final: bool,
) -> bool:
    """Return whether a state replaces the stored one.

    ``horizon`` is the newest `updated_at` of the project's last export. ``greater`` returns
    whether the state wins over the present sample if their times are equal. It may read a record
    from the database, so it is called only in that case. ``final`` is true for an export.
    """
    if known is not None and known.deleted:
        return False
    at, before = state.updated_at, known.updated_at if known is not None else None
    # A deletion has no time, and applies to every state.
    if at is None:
        return True
    if final:
        # An equal time is enough: an export wins over an event.
        return before is None or at >= before
    key = known.key if known is not None else None
    # The export did not have this annotation, or had it without a sample: a late event must
    # not bring its sample back.
    if key is None and horizon is not None and at <= horizon:
        return False
    if before is None or at != before:
        return before is None or at > before
    return key is not None and greater()


def is_greater(connection: Connection, dataset_id: int, record: bytes | None, live: Latest) -> bool:
    """Return whether a state with this record wins over ``live``, if both have the same time."""
    if live.record is None or live.record == record:
        return False
    # Any fixed order would do: it makes the result independent of the order of arrival.
    return record is None or record > (record_of(connection, dataset_id, live) or b"")


class Ledger:
    """The rows of `tool_annotations` that a transaction needs, with its changes to them.

    `take`, `forget` and `reach` change the object; `write` stores the changes. It must be used
    within one transaction, under the head's lock: otherwise another transaction may change the
    rows between the reading and the writing.
    """

    def __init__(
        self,
        connection: Connection,
        dataset_id: int,
        states: Collection[tuple[str, bytes | None]],
        projects: Iterable[int] = (),
    ) -> None:
        """Read the rows of annotations, given as pairs of name and new record, and of projects."""
        names = {name for name, _ in states}
        self._connection = connection
        self._place = (dataset_id, TOOL)
        owners = {name.partition("/")[0] for name in names} | {str(each) for each in projects}
        self.known = dict(self._read({*names, *owners}))
        self._changed: set[str] = set()
        self._stale: set[str] = set()
        self.faults: dict[str, State] = {}
        """The rejected states that are the newest of their annotations, by the samples' keys."""
        samples = [(make_key(name), record) for name, record in states]
        keys = {key for key, _ in samples}
        self.live: dict[str, Latest] = latest(connection, dataset_id, keys, samples)
        """The latest revisions of samples, by their keys, with the changes of this transaction."""

    def take(self, state: State, *, final: bool) -> tuple[bool, Change | None]:
        """Apply a state if it replaces the stored one.

        Returns whether it does, and the resulting change to the sample, if there is one.
        """
        known, horizon = self.known.get(state.name), self.known.get(str(state.project))
        live = self.live.get(state.key, NEVER)
        as_of = horizon.updated_at if horizon else None
        greater = partial(is_greater, self._connection, self._place[0], state.record, live)
        if not supersedes(state, known, as_of, greater, final=final):
            return False, None
        if known is not None and known.key is None:
            self._stale.add(state.key)
        # An earlier state of this transaction may have been rejected; only the newest state counts.
        self.faults.pop(state.key, None)
        if state.fault is not None:
            self.faults[state.key] = state
        self._note(
            state.name,
            Known(
                state.updated_at or (known.updated_at if known else None),
                deleted=state.updated_at is None,
                key=state.key if state.record is not None else None,
            ),
        )
        if live.record == state.record:
            return True, None
        # A later state of the same transaction is compared with this one. The row has no position
        # yet, and none is needed, because the record is here.
        self.live[state.key] = Latest(NEVER.position, state.record)
        if state.record is None:
            return True, Change(state.key, None, "retract", TOOL)
        return True, Change(state.key, state.values, "insert", TOOL)

    def forget(self, name: str) -> Change | None:
        """Record that its project's export lacks an annotation; return the retraction, if any."""
        known, key = self.known[name], make_key(name)
        if known.key is None:
            self._stale.add(key)
        self._note(name, replace(known, key=None))
        if not self.alive(key):
            return None
        self.live[key] = Latest(NEVER.position, None)
        return Change(key, None, "retract", TOOL)

    def alive(self, key: str) -> bool:
        """Return whether the sample with this key is alive, with the changes so far."""
        return self.live.get(key, NEVER).record is not None

    def reach(self, project: int, as_of: datetime) -> None:
        """Record the newest `updated_at` of a project's export; it never moves back."""
        known = self.known.get(str(project))
        if known is None or known.updated_at is None or known.updated_at < as_of:
            self._note(str(project), Known(as_of))

    def write(self) -> None:
        """Store the changed rows, and delete rejected rows of older states from the inbox."""
        release(self._connection, *self._place, self._stale)
        note(self._connection, *self._place, {name: self.known[name] for name in self._changed})

    def _note(self, name: str, known: Known) -> None:
        self.known[name] = known
        self._changed.add(name)

    def _read(self, names: Collection[str]) -> Iterator[tuple[str, Known]]:
        for some in _cut(names):
            found = ToolAnnotationRow.annotation.in_(some)
            yield from known_of(self._connection, *self._place, found).items()


def _cut(names: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    for start in range(0, len(ordered), _TOGETHER):
        yield ordered[start : start + _TOGETHER]


def of_project(connection: Connection, dataset_id: int, project: int) -> dict[str, Known]:
    """Return the rows of a project's annotations, by their names, without the project's own."""
    names = ToolAnnotationRow.annotation.startswith(f"{project}/", autoescape=True)
    return known_of(connection, dataset_id, TOOL, names)


def known_of(
    connection: Connection, dataset_id: int, tool: str, which: ColumnElement[bool]
) -> dict[str, Known]:
    """Return the rows of a tool's annotations that ``which`` selects, by their names."""
    columns = ToolAnnotationRow.__table__.c
    rows = connection.execute(
        select(columns.annotation, columns.updated_at, columns.deleted, columns.key).where(
            columns.dataset_id == dataset_id, columns.tool == tool, which
        )
    )
    return {
        # SQLite returns times without a time zone, which cannot be compared with those of states.
        row.annotation: Known(row.updated_at, row.deleted, row.key)
        for row in rows
    }


def note(connection: Connection, dataset_id: int, tool: str, known: Mapping[str, Known]) -> None:
    """Insert or replace the rows of annotations, given by their names."""
    place = {"dataset_id": dataset_id, "tool": tool}
    rows = [{**place, "annotation": name, **vars(known[name])} for name in sorted(known)]
    if rows:
        statement = insert_into(connection, ToolAnnotationRow)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(ToolAnnotationRow.__table__.primary_key),
                set_={name: statement.excluded[name] for name in ("updated_at", "deleted", "key")},
            ),
            rows,
        )


def release(connection: Connection, dataset_id: int, tool: str, keys: Collection[str]) -> None:
    """Delete the rejected rows of these samples from the inbox."""
    for some in _cut(keys):
        connection.execute(
            delete(InboxRow).where(
                InboxRow.dataset_id == dataset_id, InboxRow.source == tool, InboxRow.key.in_(some)
            )
        )
