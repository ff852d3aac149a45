"""What is known of a tool's annotations, and what an event or an export changes of it.

For each annotation the table `tool_annotations` has when it was last changed and whether it was
deleted. It is read and written under the head's lock, in the transaction that appends the sample,
so the same annotation may come any number of times, in any order, by any way:

* the newest `updated_at` decides, whatever comes after it;
* of two states with one `updated_at`, no sample goes before a sample, and of two samples the one
  whose record is the greater sequence of bytes stays, so the order of their coming does not count;
  but an export, which is read later than it is written, goes before what an event said;
* an annotation that was deleted never comes back: Label Studio does not use an id twice;
* an annotation that its project's export lacks is gone. The export's newest `updated_at` is kept
  for the project: what has no sample needs a newer one than that to get one from an event.

Nothing of this reads a clock, except that annotations which changed after the export was made are
left alone.
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
from registry.storage.log.entries import utc
from registry.storage.log.lookup import NEVER, Latest, latest, record_of

TOOL = "label-studio"
_TOGETHER = 1000
"""Parameters in one statement, at most; SQLite takes 32,766."""


@dataclass(frozen=True)
class State:
    """What is said of an annotation: deleted, or as of a time with a sample, none, or a misfit.

    ``record`` is the sample's, packed. A ``fault`` says why there is none although there should
    be, and then ``values`` are what could be read of it.
    """

    project: int
    id: int
    updated_at: datetime | None
    values: dict[str, Any] | None = None
    record: bytes | None = None
    fault: InvalidSampleError | None = None

    @property
    def name(self) -> str:
        return f"{self.project}/{self.id}"

    @property
    def key(self) -> str:
        return make_key(self.name)


def make_key(name: str) -> str:
    """Return the sample's key: ``label-studio:2:17`` is annotation 17 of project 2."""
    return f"{TOOL}:{name.replace('/', ':')}"


@dataclass(frozen=True)
class Known:
    """A row of the ledger: of an annotation or, as of its last export, of a project."""

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
    """Tell whether a state is newer than what is known.

    ``horizon`` is how far the project's last export reached, ``greater`` whether the state goes
    before the sample that there is where their times are equal, ``final`` whether the state comes
    from an export.
    """
    if known is not None and known.deleted:
        return False
    at, before = state.updated_at, known.updated_at if known is not None else None
    if at is None:
        return True
    if final:
        return before is None or at >= before
    key = known.key if known is not None else None
    if key is None and horizon is not None and at <= horizon:
        return False
    if before is None or at != before:
        return before is None or at > before
    return key is not None and greater()


def is_greater(connection: Connection, dataset_id: int, record: bytes | None, live: Latest) -> bool:
    """Tell whether of two states with one time, the second of them ``live``, the first stays."""
    if live.record is None or live.record == record:
        return False
    return record is None or record > (record_of(connection, dataset_id, live) or b"")


class Ledger:
    """The part of the ledger that a transaction needs, as it was and as it will be."""

    def __init__(
        self,
        connection: Connection,
        dataset_id: int,
        states: Collection[tuple[str, bytes | None]],
        projects: Iterable[int] = (),
    ) -> None:
        """Read what is known of annotations: their names, each with the record that it may get."""
        names = {name for name, _ in states}
        self._connection = connection
        self._place = (dataset_id, TOOL)
        owners = {name.partition("/")[0] for name in names} | {str(each) for each in projects}
        self.known = dict(self._read({*names, *owners}))
        self._changed: set[str] = set()
        self._stale: set[str] = set()
        self.faults: dict[str, State] = {}
        """By their keys, what is newest of annotations and does not fit."""
        samples = [(make_key(name), record) for name, record in states]
        keys = {key for key, _ in samples}
        self.live: dict[str, Latest] = latest(connection, dataset_id, keys, samples)
        """The newest revisions of samples, by their keys."""

    def take(self, state: State, *, final: bool) -> tuple[bool, Change | None]:
        """Note a state if it is news; tell that, and the change to the sample if there is one."""
        known, horizon = self.known.get(state.name), self.known.get(str(state.project))
        live = self.live.get(state.key, NEVER)
        as_of = horizon.updated_at if horizon else None
        greater = partial(is_greater, self._connection, self._place[0], state.record, live)
        if not supersedes(state, known, as_of, greater, final=final):
            return False, None
        if known is not None and known.key is None:
            self._stale.add(state.key)
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
        self.live[state.key] = Latest(NEVER.position, state.record)
        if state.record is None:
            return True, Change(state.key, None, "retract", TOOL)
        return True, Change(state.key, state.values, "insert", TOOL)

    def forget(self, name: str) -> Change | None:
        """Note that an annotation was not in its project's export."""
        known, key = self.known[name], make_key(name)
        if known.key is None:
            self._stale.add(key)
        self._note(name, replace(known, key=None))
        if not self.alive(key):
            return None
        self.live[key] = Latest(NEVER.position, None)
        return Change(key, None, "retract", TOOL)

    def alive(self, key: str) -> bool:
        """Tell whether there is a sample with this key now."""
        return self.live.get(key, NEVER).record is not None

    def reach(self, project: int, as_of: datetime) -> None:
        """Note how far a project's export reached."""
        known = self.known.get(str(project))
        if known is None or known.updated_at is None or known.updated_at < as_of:
            self._note(str(project), Known(as_of))

    def write(self) -> None:
        """Store what was noted, and drop what waits in quarantine of older states."""
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
    """Return what is known of a project's annotations, by their names."""
    names = ToolAnnotationRow.annotation.startswith(f"{project}/", autoescape=True)
    return known_of(connection, dataset_id, TOOL, names)


def known_of(
    connection: Connection, dataset_id: int, tool: str, which: ColumnElement[bool]
) -> dict[str, Known]:
    """Return what is known of some of a tool's annotations, by their names."""
    columns = ToolAnnotationRow.__table__.c
    rows = connection.execute(
        select(columns.annotation, columns.updated_at, columns.deleted, columns.key).where(
            columns.dataset_id == dataset_id, columns.tool == tool, which
        )
    )
    return {
        row.annotation: Known(row.updated_at and utc(row.updated_at), row.deleted, row.key)
        for row in rows
    }


def note(connection: Connection, dataset_id: int, tool: str, known: Mapping[str, Known]) -> None:
    """Store what is known of annotations now, by their names."""
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
    """Drop what waits in quarantine of older states of samples."""
    for some in _cut(keys):
        connection.execute(
            delete(InboxRow).where(
                InboxRow.dataset_id == dataset_id, InboxRow.source == tool, InboxRow.key.in_(some)
            )
        )
