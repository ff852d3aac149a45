"""Retraction of the samples that a whole export lacks: which they are, and whether it may be so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from registry.io.labeling.annotation import AnnotationId
from registry.io.labeling.annotation_state import StoredState
from registry.io.labeling.stored_states import exported_at, states_of_parent

Confirm = Callable[[str], bool]
"""Asks a question, and returns whether the answer is yes."""
LARGE = 0.2
"""Share of a project's live samples above which a retraction has to be confirmed."""


@dataclass
class ProjectContent:
    """What an export has of a project: the ids of its annotations, and its age.

    ``age`` is the newest `updated_at` of an annotation or a task; an export without any has none.
    """

    annotations: set[str] = field(default_factory=set)
    age: datetime | None = None

    def add_time(self, moment: datetime | None) -> None:
        if moment is not None and (self.age is None or moment > self.age):
            self.age = moment


@dataclass(frozen=True)
class Retraction:
    """What importing an export retracts of a project.

    ``missing`` are the known annotations that it lacks; ``retracted`` of them have samples, of
    ``live`` samples in the project. ``newer`` counts samples that it lacks and that stay, because
    they changed after it. With ``newest``, a newer export was imported before: nothing is
    retracted.
    """

    project: str
    age: datetime | None
    missing: list[AnnotationId]
    retracted: int
    live: int
    newer: int
    newest: datetime | None = None

    @property
    def question(self) -> str | None:
        """The question whether so many samples are to be retracted, None for few."""
        if not self.retracted or (self.age and self.retracted <= LARGE * self.live):
            return None
        undated = "" if self.age else " has no annotation and no task, and"
        return (
            f"the export{undated} lacks {self.retracted:,} of the {self.live:,} live samples of "
            f"project {self.project}: retract them?"
        )

    @property
    def note(self) -> str | None:
        """What a person should know about samples that are not retracted."""
        if self.newest is not None:
            return (
                f"project {self.project}: the newest update in the export ({self.age}) is older "
                f"than that of one imported before ({self.newest}); nothing that it lacks is "
                "retracted"
            )
        if self.newer:
            return (
                f"project {self.project}: {self.newer:,} samples that the export lacks changed "
                f"after its newest update ({self.age}), and stay"
            )
        return None


def plan_retraction(
    connection: Connection, dataset_id: int, tool: str, project: str, content: ProjectContent
) -> Retraction:
    """Return what importing an export with this content retracts."""
    newest, age = exported_at(connection, dataset_id, tool, project), content.age
    if age is not None and newest is not None and age < newest:
        return Retraction(project, age, [], 0, 0, 0, newest)
    states = states_of_parent(connection, dataset_id, tool, project)
    absent = {
        identity: stored
        for identity, stored in states.items()
        if identity.annotation not in content.annotations and not stored.deleted
    }
    missing = {name: stored for name, stored in absent.items() if not _is_newer(stored, age)}
    present = _keys(stored for identity, stored in states.items() if identity not in missing)
    newer = _keys(stored for identity, stored in absent.items() if identity not in missing)
    return Retraction(
        project,
        age,
        [*missing],
        # A task may have one sample, which it keeps while it has an annotation.
        len(_keys(missing.values()) - present),
        len(_keys(states.values())),
        len(newer),
    )


def _is_newer(stored: StoredState, age: datetime | None) -> bool:
    """Return whether a state is newer than the export, which therefore cannot have it."""
    return age is not None and stored.updated_at is not None and stored.updated_at > age


def _keys(states: Iterable[StoredState]) -> set[str]:
    """Return the keys of the samples of annotations."""
    return {stored.key for stored in states if stored.key is not None}
