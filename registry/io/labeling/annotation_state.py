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
* A deleted annotation never returns: the tools do not reuse ids. A group that was deleted, such as
  a record of Argilla, has its own row; the annotations of the group never return.
* An annotation that is missing in an export of its project is gone. The newest `updated_at` of the
  export is stored in the row of the group, which is named by the project's id. An annotation
  without a sample needs a newer `updated_at` than that to get a sample from an event.

No clock is read, with one exception: annotations that changed after the export's file was written
are left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import AnnotationId
from registry.storage.database.models import InboxRow, ToolAnnotationRow
from registry.storage.database.sql import insert_into
from registry.storage.log.changes import Change
from registry.storage.log.lookup import NEVER, Latest, latest, record_of

_TOGETHER = 1000
"""The most names or keys in one statement; SQLite allows 32,766 parameters."""


@dataclass(frozen=True)
class AnnotationState:
    """A state of an annotation, from an event or an export.

    Without ``updated_at``, the annotation was deleted. Otherwise it has a sample, with ``values``
    by feature and the packed ``record``, or none, or it is rejected: ``error`` is the reason, and
    ``values`` has what could be read of it.
    """

    id: AnnotationId
    updated_at: datetime | None
    values: dict[str, Any] | None = None
    record: bytes | None = None
    error: InvalidSampleError | None = None


@dataclass(frozen=True)
class StoredState:
    """A row of `tool_annotations`: of an annotation, or of a group.

    ``key`` is the key of the annotation's sample, or None if it has no sample.
    """

    updated_at: datetime | None
    deleted: bool = False
    key: str | None = None


def supersedes(
    state: AnnotationState,
    stored: StoredState | None,
    exported_at: datetime | None,
    is_greater: Callable[[], bool],
    *,
    final: bool,
) -> bool:
    """Return whether a state replaces the stored one.

    ``exported_at`` is the newest `updated_at` of the group's last export. ``is_greater`` returns
    whether the state wins over the present sample if their times are equal. It may read a record
    from the database, so it is called only in that case. ``final`` is true for an export.
    """
    if stored is not None and stored.deleted:
        return False
    new, old = state.updated_at, stored.updated_at if stored is not None else None
    # A deletion has no time, and applies to every state.
    if new is None:
        return True
    if final:
        # An equal time is enough: an export wins over an event.
        return old is None or new >= old
    key = stored.key if stored is not None else None
    # The export did not have this annotation, or had it without a sample: a late event must
    # not bring its sample back.
    if key is None and exported_at is not None and new <= exported_at:
        return False
    if old is None or new != old:
        return old is None or new > old
    return key is not None and is_greater()


def has_greater_record(
    connection: Connection, dataset_id: int, record: bytes | None, live: Latest
) -> bool:
    """Return whether a state with this record wins over ``live``, if both have the same time."""
    if live.record is None or live.record == record:
        return False
    # Any fixed order would do: it makes the result independent of the order of arrival.
    return record is None or record > (record_of(connection, dataset_id, live) or b"")


@dataclass
class StateTable:
    """The rows of `tool_annotations` that a transaction needs, with its changes to them.

    `apply`, `remove`, `set_exported_at` and `delete_group` change the object; `write` stores the
    changes. It must be used within one transaction, under the head's lock: otherwise another
    transaction may change the rows between the reading and the writing.

    ``live`` has the latest revisions of samples, by their keys, with the changes of this
    transaction. ``rejected`` has the rejected states that are the newest of their annotations, by
    the samples' keys.
    """

    connection: Connection
    dataset_id: int
    tool: str
    live: dict[str, Latest]
    rejected: dict[str, AnnotationState] = field(default_factory=dict)
    _stored: dict[str, StoredState] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _accepted_keys: set[str] = field(default_factory=set)

    @classmethod
    def read(
        cls,
        connection: Connection,
        dataset_id: int,
        tool: str,
        records: Collection[tuple[AnnotationId, bytes | None]],
        groups: Iterable[str] = (),
    ) -> StateTable:
        """Read the rows of annotations, each given with its new record, and of groups."""
        # With the new records, `latest` returns an equal old one; others it need not send.
        compared = [(identity.key, record) for identity, record in records]
        live = latest(connection, dataset_id, {key for key, _ in compared}, compared)
        table = cls(connection, dataset_id, tool, live)
        names = {identity.row_name for identity, _ in records}
        names |= {identity.group for identity, _ in records} | {*groups}
        for some in _parts(names):
            selected = ToolAnnotationRow.annotation.in_(some)
            table._stored |= _stored_states(connection, dataset_id, tool, selected)
        return table

    def apply(self, state: AnnotationState, *, final: bool) -> tuple[bool, Change | None]:
        """Apply a state if it replaces the stored one.

        Returns whether it does, and the resulting change to the sample, if there is one.
        """
        identity, key = state.id, state.id.key
        stored, group = self._stored.get(identity.row_name), self._stored.get(identity.group)
        live = self.live.get(key, NEVER)
        is_greater = partial(
            has_greater_record, self.connection, self.dataset_id, state.record, live
        )
        exported_at = group.updated_at if group else None
        if not supersedes(state, stored, exported_at, is_greater, final=final):
            return False, None
        # Only an annotation without a sample can have a rejected row in the inbox, which the new
        # state replaces.
        if stored is not None and stored.key is None:
            self._accepted_keys.add(key)
        # An earlier state of this transaction may have been rejected; only the newest state counts.
        self.rejected.pop(key, None)
        if state.error is not None:
            self.rejected[key] = state
        self._set(
            identity.row_name,
            # A deletion has no time: the row keeps that of the last state.
            StoredState(
                state.updated_at or (stored.updated_at if stored else None),
                deleted=state.updated_at is None,
                key=key if state.record is not None else None,
            ),
        )
        if live.record == state.record:
            return True, None
        # A later state of the same transaction is compared with this one. The row has no position
        # yet, and none is needed, because the record is here.
        self.live[key] = Latest(NEVER.position, state.record)
        if state.record is None:
            return True, Change(key, None, "retract", self.tool)
        return True, Change(key, state.values, "insert", self.tool)

    def remove(self, identity: AnnotationId) -> Change | None:
        """Record that its group's export lacks an annotation; return the retraction, if any."""
        stored = self._stored[identity.row_name]
        if stored.key is None:
            self._accepted_keys.add(identity.key)
        self._set(identity.row_name, replace(stored, key=None))
        if not self.is_live(identity.key):
            return None
        self.live[identity.key] = Latest(NEVER.position, None)
        return Change(identity.key, None, "retract", self.tool)

    def is_live(self, key: str) -> bool:
        """Return whether the sample with this key is alive, with the changes so far."""
        return self.live.get(key, NEVER).record is not None

    def set_exported_at(self, group: str, updated_at: datetime) -> None:
        """Record the newest `updated_at` of a group's export; it never moves back."""
        # An older export may be imported after a newer one.
        stored = self._stored.get(group)
        if stored is None or stored.updated_at is None or stored.updated_at < updated_at:
            self._set(group, StoredState(updated_at))

    def is_deleted(self, group: str) -> bool:
        return group in self._stored and self._stored[group].deleted

    def delete_group(self, group: str) -> None:
        """Record that a group was deleted: late events of its annotations must change nothing."""
        self._set(group, StoredState(None, deleted=True))

    def write(self) -> None:
        """Store the changed rows, and delete rejected rows of older states from the inbox."""
        # By the source, too: a person may have inserted a row with the same key by SQL.
        for some in _parts(self._accepted_keys):
            self.connection.execute(
                delete(InboxRow).where(
                    InboxRow.dataset_id == self.dataset_id,
                    InboxRow.source == self.tool,
                    InboxRow.key.in_(some),
                )
            )
        rows = [
            {
                "dataset_id": self.dataset_id,
                "tool": self.tool,
                "annotation": name,
                **vars(self._stored[name]),
            }
            # Sorted: transactions that lock rows in different orders could deadlock.
            for name in sorted(self._changed)
        ]
        if rows:
            statement = insert_into(self.connection, ToolAnnotationRow)
            updated = ("updated_at", "deleted", "key")
            self.connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(ToolAnnotationRow.__table__.primary_key),
                    set_={name: statement.excluded[name] for name in updated},
                ),
                rows,
            )

    def _set(self, name: str, stored: StoredState) -> None:
        self._stored[name] = stored
        self._changed.add(name)


def states_of_group(
    connection: Connection, dataset_id: int, tool: str, group: str
) -> dict[AnnotationId, StoredState]:
    """Return the rows of a group's annotations, without the group's own."""
    name = ToolAnnotationRow.annotation
    # All names that begin with ``GROUP/``, as "0" follows "/" in ASCII. Unlike LIKE, a range can
    # use the index of the primary key.
    in_group = (name >= f"{group}/") & (name < f"{group}0")
    return {
        AnnotationId(tool, group, row_name.removeprefix(f"{group}/")): stored
        for row_name, stored in _stored_states(connection, dataset_id, tool, in_group).items()
    }


def _stored_states(
    connection: Connection, dataset_id: int, tool: str, selected: ColumnElement[bool]
) -> dict[str, StoredState]:
    """Return the selected rows of a tool, by their names."""
    columns = ToolAnnotationRow.__table__.c
    rows = connection.execute(
        select(columns.annotation, columns.updated_at, columns.deleted, columns.key).where(
            columns.dataset_id == dataset_id, columns.tool == tool, selected
        )
    )
    return {row.annotation: StoredState(row.updated_at, row.deleted, row.key) for row in rows}


def _parts(names: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    for start in range(0, len(ordered), _TOGETHER):
        yield ordered[start : start + _TOGETHER]
