"""The form to which the annotations of all labeling tools are brought.

The module of a tool parses its events and exports into `Annotation`, and says by a `PathSyntax` how
a mapping names the parts of one. Everything after that is common to all tools: `mapping` selects
values, `convert` packs them, and `annotation_state` decides which of two states is newer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


class IgnoredEventError(Exception):
    """An event that does not concern annotations; the message is the reason."""


@dataclass(frozen=True)
class AnnotationId:
    """The identity of an annotation.

    ``parent`` is the id of what the annotation belongs to: a project in Label Studio, a record in
    Argilla.
    """

    tool: str
    parent: str
    annotation: str

    @property
    def row_name(self) -> str:
        """The name of the annotation's row in the table `tool_annotations`."""
        return f"{self.parent}/{self.annotation}"

    @property
    def key(self) -> str:
        """The key of the sample: ``label-studio:2:17`` is annotation 17 of project 2."""
        return f"{self.tool}:{self.parent}:{self.annotation}"

    @classmethod
    def of_row(cls, tool: str, row_name: str) -> AnnotationId | None:
        """Return the annotation whose row has this name, None if it is a row of something else."""
        parent, slash, annotation = row_name.partition("/")
        return cls(tool, parent, annotation) if slash else None


def task_key(tool: str, parent: str, task: int) -> str:
    """Return the key of a task: ``label-studio:2:task:9`` is task 9 of project 2."""
    return f"{tool}:{parent}:task:{task}"


def deleted_task_name(task: str | int) -> str:
    """Return the name of the row of a deleted task, given by its key or id.

    The event of a deletion may lack the project, so the name has none. Ids of tasks are unique
    within a server.
    """
    return f"task:{str(task).rpartition(':')[2]}"


@dataclass(frozen=True)
class Annotation:
    """The content of one annotation in an event or an export.

    ``label`` names it in messages. ``updated_at`` is in UTC; it is None for a deletion, which has
    no other fields. ``answers`` has the answers to each question, by its name: a list of plain
    values (a single choice or text) and of mappings (regions, ratings, several choices).
    ``objects`` has the other objects to which paths lead, by the first step of the path; one that
    the event does not contain is None. ``mixed`` is true for an export that does not distinguish
    the task's data from answers: ``answers`` and the task's data both hold all of it.
    ``task`` names the annotation's task, as `task_key` does, and ``annotator`` the person, as the
    tool numbers them; each is None if the event does not contain it. So is ``created_at``, in UTC.
    """

    id: AnnotationId
    label: str
    updated_at: datetime | None
    cancelled: bool = False
    answers: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    objects: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    mixed: bool = False
    task: str | None = None
    annotator: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class PathSyntax:
    """How the mappings of a tool name the parts of an annotation.

    ``answers`` is the first step of the paths of answers, as in ``result.mood.json``. ``objects``
    has the first steps of paths to any value in an object, with the name of the object in messages;
    a feature that a mapping leaves out is searched in these objects, in this order. ``values`` are
    the only other paths. ``own`` has the first steps of the paths to values of the annotation
    itself: these differ among the annotations of a task. ``forms`` lists all paths in messages.
    """

    answers: str
    objects: Mapping[str, str]
    values: Collection[str]
    own: Collection[str]
    forms: str
