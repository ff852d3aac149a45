"""The rows of `tool_annotations` that a transaction reads, and its changes to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, or_, select

from registry.io.labeling.annotation import AnnotationId, deleted_task_name, task_key
from registry.io.labeling.annotation_state import (
    AnnotationState,
    Removal,
    States,
    StoredState,
    supersedes,
)
from registry.storage.database.models import InboxRow, ToolAnnotationRow
from registry.storage.database.sql import insert_into
from registry.storage.database.transactions import read
from registry.storage.log.changes import Change
from registry.storage.log.lookup import NEVER, Latest, latest, record_of

_TOGETHER = 1000
"""The most names or keys in one statement; SQLite allows 32,766 parameters."""
_COLUMNS = ("updated_at", "deleted", "key", "task", "annotator")


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

    `apply`, `apply_removal`, `remove` and `set_exported_at` change the object; `write` stores the
    changes. It must be used within one transaction, under the head's lock: otherwise another
    transaction may change the rows between the reading and the writing.

    ``live`` has the latest revisions of samples, by their keys, with the changes of this
    transaction. ``rejected`` has the rejected states that are the newest of their annotations, by
    the samples' keys.
    """

    connection: Connection
    dataset_id: int
    tool: str
    live: dict[str, Latest] = field(default_factory=dict)
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
        states: States,
        known: Collection[AnnotationId] = (),
        parents: Iterable[str] = (),
    ) -> StateTable:
        """Read the rows that states, known annotations and projects or records need."""
        table = cls(connection, dataset_id, tool)
        new = [state for state in states if isinstance(state, AnnotationState)]
        ids = {*known, *(state.id for state in new)}
        names = {identity.row_name for identity in ids} | {identity.parent for identity in ids}
        names |= {deleted_task_name(state.task) for state in new if state.task is not None}
        for some in _parts(names | {*parents}):
            table._stored |= table._select(ToolAnnotationRow.annotation.in_(some))
        table._read_removed([each for each in states if isinstance(each, Removal)])
        # With the new records, `latest` returns an equal old one; others it need not send.
        compared = [(state.id.key, state.record) for state in new]
        keys = {identity.key for identity in ids} | {identity.key for identity in table._ids()}
        table.live = latest(connection, dataset_id, keys, compared)
        return table

    def apply(
        self, state: AnnotationState, exported: datetime | None = None
    ) -> tuple[bool, Change | None]:
        """Apply a state if it replaces the stored one.

        ``exported`` is the age of the export that has the state, None for an event. Returns
        whether the state replaces the stored one, and the resulting change to the sample, if
        there is one.
        """
        identity, key = state.id, state.id.key
        stored, live = self._stored.get(identity.row_name), self.live.get(key, NEVER)
        if state.updated_at is not None and self._is_removed(state):
            return False, None
        is_greater = partial(
            has_greater_record, self.connection, self.dataset_id, state.record, live
        )
        exported_at = self.exported_at(identity.parent)
        final = exported is not None and (exported_at is None or exported >= exported_at)
        if not supersedes(state, stored, exported_at, is_greater, final=final):
            # Rows of before the column have no task, and their states may never change again.
            if stored is not None and stored.task is None and state.task is not None:
                named = replace(stored, task=state.task, annotator=state.annotator)
                self._set(identity.row_name, named)
            return False, None
        # Only an annotation without a sample can have a rejected row in the inbox, which the new
        # state replaces.
        if stored is not None and stored.key is None:
            self._accepted_keys.add(key)
        # An earlier state of this transaction may have been rejected; only the newest state counts.
        self.rejected.pop(key, None)
        if state.error is not None:
            self.rejected[key] = state
        merged = _merged(state, stored)
        self._set(identity.row_name, merged)
        if live.record == state.record:
            return True, None
        # A later state of the same transaction is compared with this one. The row has no position
        # yet, and none is needed, because the record is here.
        self.live[key] = Latest(NEVER.position, state.record, self.group_of(key, merged.task))
        if state.record is None:
            return True, Change(key, None, "retract", state.source)
        # By default: a dataset that was filled before there were groups is updated, too.
        values, source = state.values, state.source
        return True, Change(key, values, "insert", source, default_group=merged.task)

    def apply_removal(self, removal: Removal) -> list[Change | None]:
        """Remove tasks, or a project or record, and return a change for each known annotation."""
        if removal.tasks is not None:
            names = {deleted_task_name(task) for task in removal.tasks}
            removed = [
                identity
                for identity in self._ids()
                if removal.parent in (None, identity.parent)
                and (task := self._stored[identity.row_name].task) is not None
                and deleted_task_name(task) in names
            ]
        else:
            assert removal.parent is not None
            names = {removal.parent}
            removed = [each for each in self._ids() if each.parent == removal.parent]
        # The rows are needed even if no annotation is known: events may arrive after the deletion.
        for name in names:
            self._set(name, StoredState(None, deleted=True))
        return [self.remove(identity) for identity in removed]

    def remove(self, identity: AnnotationId) -> Change | None:
        """Record that an annotation is gone; return the retraction, if its sample is alive."""
        stored = self._stored[identity.row_name]
        if stored.key is None:
            self._accepted_keys.add(identity.key)
        # A state of this transaction may have been rejected.
        self.rejected.pop(identity.key, None)
        self._set(identity.row_name, replace(stored, key=None))
        if not self.is_live(identity.key):
            return None
        self.live[identity.key] = self.live[identity.key]._replace(record=None)
        return Change(identity.key, None, "retract", self.tool)

    def group_of(self, key: str, task: str | None) -> str | None:
        """Return the group of a key: that of its sample or, if it is new, the task."""
        return self.live[key].group if key in self.live else task

    def is_live(self, key: str) -> bool:
        """Return whether the sample with this key is alive, with the changes so far."""
        return self.live.get(key, NEVER).record is not None

    def exported_at(self, parent: str) -> datetime | None:
        """Return the age of the newest export of a project that was imported."""
        return self._stored[parent].updated_at if parent in self._stored else None

    def set_exported_at(self, parent: str, exported: datetime) -> None:
        """Record the age of a project's export; it never moves back."""
        # An older export may be imported after a newer one.
        stored_at = self.exported_at(parent)
        if not self.is_deleted(parent) and (stored_at is None or stored_at < exported):
            self._set(parent, StoredState(exported))

    def is_deleted(self, name: str) -> bool:
        """Return whether the row of this name says that what it stands for was deleted."""
        return name in self._stored and self._stored[name].deleted

    def write(self) -> None:
        """Store the changed rows, and delete rejected rows of older states from the inbox."""
        # By the source, too: a person may have inserted a row with the same key by SQL.
        prefix = f"{self.tool}/"
        is_own = or_(
            InboxRow.source == self.tool,
            func.substr(InboxRow.source, 1, len(prefix)) == prefix,
        )
        for some in _parts(self._accepted_keys):
            self.connection.execute(
                delete(InboxRow).where(
                    InboxRow.dataset_id == self.dataset_id, InboxRow.key.in_(some), is_own
                )
            )
        rows = [
            {
                "dataset_id": self.dataset_id,
                "tool": self.tool,
                "annotation": name,
                **{column: getattr(self._stored[name], column) for column in _COLUMNS},
            }
            # Sorted: transactions that lock rows in different orders could deadlock.
            for name in sorted(self._changed)
        ]
        if rows:
            statement = insert_into(self.connection, ToolAnnotationRow)
            self.connection.execute(
                statement.on_conflict_do_update(
                    index_elements=list(ToolAnnotationRow.__table__.primary_key),
                    set_={name: statement.excluded[name] for name in _COLUMNS},
                ),
                rows,
            )

    def _is_removed(self, state: AnnotationState) -> bool:
        """Return whether the project, record or task of an annotation was deleted."""
        task = state.task
        return self.is_deleted(state.id.parent) or (
            task is not None and self.is_deleted(deleted_task_name(task))
        )

    def _ids(self) -> list[AnnotationId]:
        """Return the annotations whose rows were read or written."""
        ids = (AnnotationId.of_row(self.tool, name) for name in self._stored)
        return [identity for identity in ids if identity is not None]

    def _set(self, name: str, stored: StoredState) -> None:
        # An export that is imported every night has hardly a new state.
        if self._stored.get(name) != stored:
            self._stored[name] = stored
            self._changed.add(name)

    def _read_removed(self, removals: Iterable[Removal]) -> None:
        """Read the rows of the annotations that are deleted with their tasks, project or record.

        There is no index by task: the rows of the project are searched, or all of the tool's.
        """
        tasks: dict[str | None, set[int]] = {}
        for removal in removals:
            if removal.tasks is not None:
                tasks.setdefault(removal.parent, set()).update(removal.tasks)
            elif removal.parent is not None:
                self._stored |= self._select(_in_parent(removal.parent))
        for parent, numbers in tasks.items():
            if parent is None:
                self._read_tasks_of_any_parent(numbers)
                continue
            keys = [task_key(self.tool, parent, number) for number in numbers]
            for some in _parts(keys):
                of_tasks = _in_parent(parent) & ToolAnnotationRow.task.in_(some)
                self._stored |= self._select(of_tasks)

    def _read_tasks_of_any_parent(self, tasks: Iterable[int]) -> None:
        names = {deleted_task_name(task) for task in tasks}
        query = select(ToolAnnotationRow.annotation, ToolAnnotationRow.task).where(
            ToolAnnotationRow.dataset_id == self.dataset_id,
            ToolAnnotationRow.tool == self.tool,
            ToolAnnotationRow.task.is_not(None),
        )
        of_tasks = [
            name
            for name, task in self.connection.execute(query)
            if task is not None and deleted_task_name(task) in names
        ]
        for some in _parts(of_tasks):
            self._stored |= self._select(ToolAnnotationRow.annotation.in_(some))

    def _select(self, selected: ColumnElement[bool]) -> dict[str, StoredState]:
        return _stored_states(self.connection, self.dataset_id, self.tool, selected)


def states_of_parent(
    connection: Connection, dataset_id: int, tool: str, parent: str
) -> dict[AnnotationId, StoredState]:
    """Return the rows of the annotations of a project or record, without its own row."""
    return {
        AnnotationId(tool, parent, row_name.removeprefix(f"{parent}/")): stored
        for row_name, stored in _stored_states(
            connection, dataset_id, tool, _in_parent(parent)
        ).items()
    }


def has_annotations(engine: Engine, dataset_id: int, tool: str) -> bool:
    """Return whether any annotation of a tool has arrived in a dataset."""
    query = select(ToolAnnotationRow.annotation).where(
        ToolAnnotationRow.dataset_id == dataset_id, ToolAnnotationRow.tool == tool
    )
    return read(engine, lambda c: c.execute(query.limit(1)).first()) is not None


def exported_at(connection: Connection, dataset_id: int, tool: str, parent: str) -> datetime | None:
    """Return the age of the newest export of a project that was imported."""
    selected = ToolAnnotationRow.annotation == parent
    stored = _stored_states(connection, dataset_id, tool, selected).get(parent)
    return None if stored is None else stored.updated_at


def _in_parent(parent: str) -> ColumnElement[bool]:
    # All names that begin with ``PARENT/``, as "0" follows "/" in ASCII. Unlike LIKE, a range can
    # use the index of the primary key.
    name = ToolAnnotationRow.annotation
    return (name >= f"{parent}/") & (name < f"{parent}0")


def _merged(state: AnnotationState, stored: StoredState | None) -> StoredState:
    """Return the row of a state that replaces the stored one, which has what the state lacks."""
    # A deletion has neither a time nor a task: the row keeps those of the last state.
    return StoredState(
        state.updated_at or (stored.updated_at if stored else None),
        deleted=state.updated_at is None,
        key=state.id.key if state.record is not None else None,
        task=state.task or (stored.task if stored else None),
        annotator=state.annotator or (stored.annotator if stored else None),
    )


def _stored_states(
    connection: Connection, dataset_id: int, tool: str, selected: ColumnElement[bool]
) -> dict[str, StoredState]:
    """Return the selected rows of a tool, by their names."""
    columns = ToolAnnotationRow.__table__.c
    rows = connection.execute(
        select(columns.annotation, *(columns[name] for name in _COLUMNS)).where(
            columns.dataset_id == dataset_id, columns.tool == tool, selected
        )
    )
    return {name: StoredState(*values) for name, *values in rows}


def _parts(names: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    for start in range(0, len(ordered), _TOGETHER):
        yield ordered[start : start + _TOGETHER]
