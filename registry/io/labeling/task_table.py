"""The state table of a tool whose tasks have one sample each, decided from all annotations.

The row of each annotation has its answers in ``fields``. The values that come with a task, such as
its image, are the same for all its annotations: they are in a row of the task, which is named by
`task_data_name`. Of states that differ in them, the newest counts; an export is as new as its age.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import AnnotationId, deleted_task_name
from registry.io.labeling.annotation_state import (
    AnnotationState,
    Rejection,
    States,
    StoredState,
)
from registry.io.labeling.consensus import Consensus, Vote, decide
from registry.io.labeling.state_table import StateTable, TaskChange
from registry.samples.codec import Codec
from registry.samples.json_codec import from_fields
from registry.storage.log.changes import Change
from registry.storage.log.lookup import NEVER, Latest, latest


def task_data_name(task: str) -> str:
    """Return the name of the row with the data of a task, which is given by its key."""
    return f"taskdata:{task}"


@dataclass(frozen=True)
class _Result:
    """What the votes of a task result in: a sample, a rejection or neither."""

    values: dict[str, Any] | None = None
    record: bytes | None = None
    source: str | None = None
    rejection: Rejection | None = None


@dataclass
class TaskTable(StateTable):
    """A state table in which the key of a sample is that of its task.

    ``live`` has the samples of tasks. `task_changes` returns the changes that result from the
    states since the last call.
    """

    codec: Codec = field(kw_only=True)
    consensus: Consensus = field(kw_only=True)
    _undecided: set[str] = field(default_factory=set)

    def load(
        self,
        states: States,
        known: Collection[AnnotationId] = (),
        others: Iterable[str] = (),
    ) -> Self:
        super().load(states, known, others)
        tasks = {row.task for row in self._stored.values()}
        tasks |= {state.task for state in states if isinstance(state, AnnotationState)}
        # The data of a task is among its rows.
        self._read_tasks({task for task in tasks if task is not None})
        return self

    def apply(
        self, state: AnnotationState, exported: datetime | None = None
    ) -> tuple[bool, Change | None]:
        if state.task is not None and state.data is not None and not self._is_removed(state):
            self._keep_data(state.task, state, exported)
        before = self._stored.get(state.id.row_name)
        replaced, change = super().apply(state, exported)
        # An annotation may be moved from one task to another.
        rows = (before, self._stored.get(state.id.row_name)) if replaced else ()
        self._undecided |= {row.task for row in rows if row is not None and row.task is not None}
        return replaced, change

    def remove(self, identity: AnnotationId) -> Change | None:
        task = self._stored[identity.row_name].task
        super().remove(identity)
        self._undecided |= {task} if task is not None else set()
        # The change to the task's sample follows.
        return None

    def task_changes(self) -> list[TaskChange]:
        results = {task: self._result(task, votes) for task, votes in self._votes().items()}
        self._undecided.clear()
        compared = [(task, result.record) for task, result in results.items()]
        unread = [task for task in results if task not in self.live]
        self.live.update(latest(self.connection, self.dataset_id, unread, compared, self.older))
        return [self._task_change(task, result) for task, result in results.items()]

    def _task_change(self, task: str, result: _Result) -> TaskChange:
        # The rejected row of an earlier vote is replaced.
        self._accepted_keys.add(task)
        self.rejected.pop(task, None)
        if result.rejection is not None:
            self.rejected[task] = result.rejection
        old, was_live = self.live.get(task, NEVER), self.is_live(task)
        count = "unchanged" if result.rejection is None else "quarantined"
        if old.record == result.record:
            return TaskChange(count, None)
        self.live[task] = Latest(NEVER.position, result.record, self.group_of(task, task))
        source = result.source or self.tool
        if result.record is None:
            count = "retracted" if result.rejection is None else "quarantined"
            return TaskChange(count, Change(task, None, "retract", source))
        change = Change(task, result.values, "insert", source, default_group=task)
        return TaskChange("revised" if was_live else "inserted", change)

    def _votes(self) -> dict[str, list[Vote]]:
        """Return the votes on each task of which something changed, in the order of the keys."""
        votes: dict[str, list[Vote]] = {task: [] for task in sorted(self._undecided)}
        for name, row in self._stored.items():
            identity = AnnotationId.of_row(self.tool, name)
            if identity is None or row.task not in votes or row.fields is None:
                continue
            assert row.updated_at is not None
            votes[row.task].append(
                Vote(identity.annotation, row.annotator, row.updated_at, row.fields)
            )
        return votes

    def _result(self, task: str, votes: Sequence[Vote]) -> _Result:
        data = self._task_data(task)
        parent = task.removeprefix(f"{self.tool}:").partition(":")[0]
        is_deleted = self.is_deleted(deleted_task_name(task)) or self.is_deleted(parent)
        if not votes and data is not None and is_deleted:
            # Nothing of a deleted task is kept.
            self._set(task_data_name(task), StoredState(None, task=task))
        decision = decide(self.consensus, votes)
        source = self.tool if decision.annotator is None else f"{self.tool}/{decision.annotator}"
        if decision.answers is None:
            # Without fields, so that no attempt is made to store it: only annotators can agree.
            if decision.disagreement is None:
                return _Result()
            return _Result(rejection=Rejection({}, decision.disagreement, self.tool, task))
        fields = {**(data or {}), **decision.answers}
        values = from_fields(self.codec.features, fields)
        try:
            (record,) = self.codec.encode(self.codec.to_columns([values]))
        except InvalidSampleError as error:
            return _Result(rejection=Rejection(fields, str(error), source, task))
        return _Result(values, record, source)

    def _keep_data(self, task: str, state: AnnotationState, exported: datetime | None) -> None:
        """Store the data of a task that comes with a state, if it is the newest."""
        assert state.updated_at is not None
        name, parent = task_data_name(task), state.id.parent
        is_final = self._is_newest(parent, exported)
        moment = exported if exported is not None and is_final else state.updated_at
        stored, exported_at = self._stored.get(name), self.exported_at(parent)
        if stored is not None and stored.updated_at is not None and not is_final:
            # The task as the export had it is newer than this.
            if exported_at is not None and moment <= exported_at:
                return
            order = moment, _comparable(state.data)
            if order <= (stored.updated_at, _comparable(stored.fields)):
                return
        self._set(name, StoredState(moment, task=task, fields=state.data))
        self._undecided.add(task)

    def _task_data(self, task: str) -> dict[str, Any] | None:
        row = self._stored.get(task_data_name(task))
        return None if row is None else row.fields

    def _read_samples(
        self, states: Sequence[AnnotationState], ids: Collection[AnnotationId]
    ) -> None:
        """Read nothing: which tasks are decided on is not known yet."""

    def _rejected_fields(self, state: AnnotationState) -> Mapping[str, Any]:  # noqa: ARG002
        # Nothing: another attempt would make a sample of one annotation, and no vote.
        return {}

    def _is_greater(self, state: AnnotationState, stored: StoredState | None) -> bool:
        if stored is None or stored.fields is None or stored.fields == state.answers:
            return False
        return state.answers is None or _comparable(state.answers) > _comparable(stored.fields)

    def _new_row(self, state: AnnotationState, stored: StoredState | None) -> StoredState:
        row = super()._new_row(state, stored)
        key = row.task if state.record is not None else None
        return StoredState(
            row.updated_at, row.deleted, key, row.task, row.annotator, fields=state.answers
        )

    def _sample_change(self, state: AnnotationState, new: StoredState) -> Change | None:  # noqa: ARG002
        # The change to the task's sample follows.
        return None


def _comparable(fields: Mapping[str, Any] | None) -> str:
    return json.dumps(fields, ensure_ascii=False, sort_keys=True)
