"""The stored state of a tool's annotations, and how events and exports change it.

For each annotation, the table `tool_annotations` stores when it was last changed, whether it was
deleted, its task and annotator, and its sample's key, if it has a sample. The row is read and
written under the head's lock, in the transaction that appends the sample. The same annotation may
therefore arrive any number of times, in any order, from events and exports:

* The state with the newest `updated_at` wins, in whatever order the states arrive.
* Of two states of events with the same `updated_at`, one without a sample wins over one with a
  sample, and of two samples the one whose record is the greater sequence of bytes wins, so that the
  order of arrival does not matter.
* An export is as old as the newest `updated_at` in it, of an annotation or a task. The age of the
  newest export of a project is stored in the row of the project, which is named by its id. A state
  of such an export wins over a state of an event with the same `updated_at`, in either order: the
  task's data may have been edited since, which changes no annotation's `updated_at`. An export that
  is older than one that was imported before counts as events do.
* An annotation that is missing in an export of its project is gone if the export is at least as
  new as its last state. An annotation without a sample needs a newer `updated_at` than the export
  to get a sample from an event.
* A deleted annotation does not return. What has annotations and was deleted (a project or task of
  Label Studio, a record of Argilla) has its own row; late states of its annotations change nothing.
  An annotation of a deleted task may have been moved to another task before, and returns with the
  next state that names the other task.
* Label Studio on SQLite gives the ids of deleted tasks and annotations again, to those that are
  imported next. So an annotation that was created after the deletion is another one.

All times are the tool's, with one exception: that of a deletion, which no event has, is the time at
which the event arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import AnnotationId
from registry.samples.schema import Schema
from registry.storage.log.batch import Batch


@dataclass(frozen=True)
class AnnotationState:
    """A state of an annotation, from an event or an export.

    Without ``updated_at``, the annotation was deleted. Otherwise it has a sample, with ``values``
    by feature and the packed ``record`` of ``schema``, or none, or it is rejected: ``error`` is the
    reason, and ``values`` has what could be read of it. ``task``, ``annotator`` and ``created_at``
    are as in `Annotation`.

    Where a task has one sample, ``answers`` has the values that the annotator gave and ``data``
    those that came with the task, both in the JSON form of samples.
    """

    id: AnnotationId
    updated_at: datetime | None
    values: dict[str, Any] | None = None
    record: bytes | None = None
    schema: Schema | None = None
    error: InvalidSampleError | None = None
    task: str | None = None
    annotator: str | None = None
    created_at: datetime | None = None
    answers: dict[str, Any] | None = None
    data: dict[str, Any] | None = None

    def is_after(self, deletion: StoredState) -> bool:
        """Return whether the annotation was created after a deletion, and has its id by reuse."""
        created, deleted = self.created_at, deletion.updated_at
        return created is not None and deleted is not None and created > deleted

    def brought_to(self, schema: Schema) -> AnnotationState:
        """Return the state with a record of the schema in force, as `Batch.brought_to` does."""
        if self.record is None or self.schema is None:
            return self
        batch = Batch([self.id.key], [self.record], [self.source], schema=self.schema)
        (record,) = batch.brought_to(schema).records
        assert isinstance(record, bytes)
        return replace(self, record=record, schema=schema)

    @property
    def source(self) -> str:
        """The source of the sample: ``label-studio/7`` is what annotator 7 did."""
        return self.id.tool if self.annotator is None else f"{self.id.tool}/{self.annotator}"


@dataclass(frozen=True)
class Removal:
    """A deletion of tasks or of a project or record, with all its annotations.

    ``parent`` is None where the event of deleted tasks does not name their project. ``tasks`` has
    the tasks' ids, and None stands for the parent itself.
    """

    parent: str | None
    tasks: frozenset[int] | None = None


@dataclass(frozen=True)
class Rejection:
    """A sample that is rejected: what is known of it, and the reason.

    ``group`` is the group that the sample would have.
    """

    fields: Mapping[str, Any]
    reason: str
    source: str
    group: str | None


States = Sequence[AnnotationState | Removal]
"""What an event or a batch of an export says, in its order."""


@dataclass(frozen=True)
class StoredState:
    """A row of `tool_annotations`: of an annotation, or of a project, task or record.

    ``updated_at`` of a deleted one is the time of the deletion. ``key`` is the key of the
    annotation's sample, or None if it has no sample. ``fields`` has the values of an annotation, or
    of a task, where a task has one sample.
    """

    updated_at: datetime | None
    deleted: bool = False
    key: str | None = None
    task: str | None = None
    annotator: str | None = None
    fields: dict[str, Any] | None = None


def supersedes(
    state: AnnotationState,
    stored: StoredState | None,
    exported_at: datetime | None,
    is_greater: Callable[[], bool],
    *,
    final: bool,
) -> bool:
    """Return whether a state replaces the stored one.

    ``exported_at`` is the age of the newest export of the annotation's project. ``is_greater``
    returns whether the state wins over the present sample if their times are equal. It may read a
    record from the database, so it is called only in that case. ``final`` is true for a state of
    an export that is not older than ``exported_at``.
    """
    if stored is not None and stored.deleted and not state.is_after(stored):
        return False
    new, old = state.updated_at, stored.updated_at if stored is not None else None
    # A deletion has no time, and applies to every state.
    if new is None:
        return True
    if final:
        # An equal time is enough: an export wins over an event.
        return old is None or new >= old
    key = stored.key if stored is not None else None
    is_exported = exported_at is not None and new <= exported_at
    # The export did not have this annotation, or had it without a sample: a late event must
    # not bring its sample back.
    if key is None and is_exported:
        return False
    if old is None or new != old:
        return old is None or new > old
    # Not after an export, which had the same state with the same or later data of the task.
    return key is not None and not is_exported and is_greater()
