"""The rows of `tool_annotations` that a transaction reads, and its changes to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, delete, func, or_

from registry.io.labeling.annotation import AnnotationId, deleted_task_name, task_key
from registry.io.labeling.annotation_state import (
    AnnotationState,
    Rejection,
    Removal,
    States,
    StoredState,
    supersedes,
)
from registry.io.labeling.stored_states import (
    in_parent,
    parts,
    stored_states,
    tasks_of_any_parent,
    write_states,
)
from registry.storage.database.models import InboxRow, ToolAnnotationRow
from registry.storage.log.changes import Change
from registry.storage.log.lookup import NEVER, Latest, Older, latest, record_of


@dataclass(frozen=True)
class TaskChange:
    """What becomes of the sample of a task: one of the counts of `Outcome`, and the change."""

    count: str
    change: Change | None


def has_greater_record(
    connection: Connection,
    dataset_id: int,
    record: bytes | None,
    live: Latest,
    older: Older | None = None,
) -> bool:
    """Return whether a state with this record wins over ``live``, if both have the same time.

    ``older`` has the rows whose records are in an older layout.
    """
    if live.record is None or live.record == record:
        return False
    # Any fixed order would do: it makes the result independent of the order of arrival.
    if record is None:
        return True
    return record > (record_of(connection, dataset_id, live, older) or b"")


@dataclass
class StateTable:
    """The rows of `tool_annotations` that a transaction needs, with its changes to them.

    `apply`, `apply_removal`, `remove` and `set_exported_at` change the object; `write` stores the
    changes. It must be used within one transaction, under the head's lock: otherwise another
    transaction may change the rows between the reading and the writing.

    ``older`` has the rows that were written in an older layout than that of the states' records.
    ``live`` has the latest revisions of samples, by their keys, with the changes of this
    transaction. ``rejected`` has the samples that are rejected by the newest states of their
    annotations, by their keys.
    """

    connection: Connection
    dataset_id: int
    tool: str
    older: Older | None = None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    live: dict[str, Latest] = field(default_factory=dict)
    rejected: dict[str, Rejection] = field(default_factory=dict)
    _stored: dict[str, StoredState] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)
    _accepted_keys: set[str] = field(default_factory=set)

    def load(
        self,
        states: States,
        known: Collection[AnnotationId] = (),
        others: Iterable[str] = (),
    ) -> Self:
        """Read the rows that states, known annotations and other projects or records need."""
        new = [state for state in states if isinstance(state, AnnotationState)]
        ids = {*known, *(state.id for state in new)}
        names = {identity.row_name for identity in ids} | {identity.parent for identity in ids}
        names |= {deleted_task_name(state.task) for state in new if state.task is not None}
        for some in parts(names | {*others}):
            self._stored |= self._select(ToolAnnotationRow.annotation.in_(some))
        self._read_removed([each for each in states if isinstance(each, Removal)])
        self._read_samples(new, ids)
        return self

    def _read_samples(
        self, states: Sequence[AnnotationState], ids: Collection[AnnotationId]
    ) -> None:
        # With the new records, `latest` returns an equal old one; others it need not send.
        compared = [(state.id.key, state.record) for state in states]
        keys = {identity.key for identity in ids} | {identity.key for identity in self._ids()}
        self.live = latest(self.connection, self.dataset_id, keys, compared, self.older)

    def apply(
        self, state: AnnotationState, exported: datetime | None = None
    ) -> tuple[bool, Change | None]:
        """Apply a state if it replaces the stored one.

        ``exported`` is the age of the export that has the state, None for an event. Returns
        whether the state replaces the stored one, and the resulting change to the sample, if
        there is one.
        """
        identity = state.id
        stored = self._stored.get(identity.row_name)
        if state.updated_at is not None and self._is_removed(state):
            return False, None
        is_greater = partial(self._is_greater, state, stored)
        final = self._is_newest(identity.parent, exported)
        exported_at = self.exported_at(identity.parent)
        if not supersedes(state, stored, exported_at, is_greater, final=final):
            # Rows of before the column have no task, and their states may never change again.
            if stored is not None and stored.task is None and state.task is not None:
                named = replace(stored, task=state.task, annotator=state.annotator)
                self._set(identity.row_name, named)
            return False, None
        # Only an annotation without a sample can have a rejected row in the inbox, which the new
        # state replaces.
        if stored is not None and stored.key is None:
            self._accepted_keys.add(identity.key)
        # An earlier state of this transaction may have been rejected; only the newest state counts.
        self.rejected.pop(identity.key, None)
        new = self._new_row(state, stored)
        if state.error is not None:
            self.rejected[identity.key] = Rejection(
                self._rejected_fields(state),
                str(state.error),
                state.source,
                self.group_of(identity.key, state.task),
            )
        self._set(identity.row_name, new)
        return True, self._sample_change(state, new)

    def _rejected_fields(self, state: AnnotationState) -> Mapping[str, Any]:
        """Return what is kept of a rejected annotation, for another attempt."""
        return state.values or {}

    def _is_greater(self, state: AnnotationState, stored: StoredState | None) -> bool:  # noqa: ARG002
        live = self.live.get(state.id.key, NEVER)
        return has_greater_record(self.connection, self.dataset_id, state.record, live, self.older)

    def _new_row(self, state: AnnotationState, stored: StoredState | None) -> StoredState:
        """Return the row of a state that replaces the stored one."""
        # A deletion has neither a time nor a task: the row keeps the task.
        return StoredState(
            state.updated_at or self.now,
            deleted=state.updated_at is None,
            key=state.id.key if state.record is not None else None,
            task=state.task or (stored.task if stored else None),
            annotator=state.annotator or (stored.annotator if stored else None),
        )

    def _sample_change(self, state: AnnotationState, new: StoredState) -> Change | None:
        """Return the change to the sample that results from a state that was accepted."""
        key = state.id.key
        if self.live.get(key, NEVER).record == state.record:
            return None
        # A later state of the same transaction is compared with this one. The row has no position
        # yet, and none is needed, because the record is here.
        self.live[key] = Latest(NEVER.position, state.record, self.group_of(key, new.task))
        if state.record is None:
            return Change(key, None, "retract", state.source)
        # By default: a dataset that was filled before there were groups is updated, too.
        return Change(key, state.values, "insert", state.source, default_group=new.task)

    def _is_newest(self, parent: str, exported: datetime | None) -> bool:
        """Return whether an export of this age is at least as new as all that were imported."""
        exported_at = self.exported_at(parent)
        return exported is not None and (exported_at is None or exported >= exported_at)

    def task_changes(self) -> list[TaskChange]:
        """Return the changes to the samples of tasks, where a task has one sample."""
        return []

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
            self._set(name, StoredState(self.now, deleted=True))
        return [self.remove(identity) for identity in removed]

    def remove(self, identity: AnnotationId) -> Change | None:
        """Record that an annotation is gone; return the retraction, if its sample is alive."""
        stored = self._stored[identity.row_name]
        if stored.key is None:
            self._accepted_keys.add(identity.key)
        # A state of this transaction may have been rejected.
        self.rejected.pop(identity.key, None)
        self._set(identity.row_name, replace(stored, key=None, fields=None))
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
        for some in parts(self._accepted_keys):
            self.connection.execute(
                delete(InboxRow).where(
                    InboxRow.dataset_id == self.dataset_id, InboxRow.key.in_(some), is_own
                )
            )
        changed = {name: self._stored[name] for name in self._changed}
        write_states(self.connection, self.dataset_id, self.tool, changed)

    def _is_removed(self, state: AnnotationState) -> bool:
        """Return whether the project, record or task of an annotation was deleted."""
        names = [state.id.parent]
        names += [deleted_task_name(state.task)] if state.task is not None else []
        return any(self.is_deleted(n) and not state.is_after(self._stored[n]) for n in names)

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
        """Read the rows of the annotations that are deleted with their tasks, project or record."""
        tasks: dict[str | None, set[int]] = {}
        for removal in removals:
            if removal.tasks is not None:
                tasks.setdefault(removal.parent, set()).update(removal.tasks)
            elif removal.parent is not None:
                self._stored |= self._select(in_parent(removal.parent))
        for parent, numbers in tasks.items():
            if parent is None:
                self._stored |= tasks_of_any_parent(
                    self.connection, self.dataset_id, self.tool, numbers
                )
            else:
                self._read_tasks({task_key(self.tool, parent, number) for number in numbers})

    def _read_tasks(self, tasks: Collection[str]) -> None:
        for some in parts(tasks):
            self._stored |= self._select(ToolAnnotationRow.task.in_(some))

    def _select(self, selected: ColumnElement[bool]) -> dict[str, StoredState]:
        return stored_states(self.connection, self.dataset_id, self.tool, selected)
