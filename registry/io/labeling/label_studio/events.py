"""Parsing of Label Studio's webhook events into annotations and deletions.

Label Studio names events in the singular or the plural, and puts an object or a list under either
name. Only the id of an event's project is read: its other fields contain the project's token and
the passwords of its storage.

Deleted tasks come with their ids alone, and without their project where all tasks of a project are
deleted. `PROJECT_DELETED` is sent to webhooks of the organization only. No event says that a task's
data was edited; the next event of each of its annotations has the new data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import Annotation, IgnoredEventError
from registry.io.labeling.annotation_state import Removal
from registry.io.labeling.label_studio.annotations import (
    parse_deleted,
    parse_full,
    project_id,
    whole_id,
)
from registry.samples.json_codec import excerpt, type_name

_ACTION = re.compile(r"(?:(ANNOTATION|TASK)S?_(CREATED|UPDATED|DELETED))|(PROJECT)S?_(DELETED)")


def parse_event(event: Any) -> list[Annotation] | Removal:
    """Return the annotations of an event, or what was deleted with its annotations.

    Raises `IgnoredEventError` for an event of another kind, or one that was sent without its
    payload, and `InvalidSampleError` for one that cannot be read.
    """
    if not isinstance(event, Mapping):
        raise InvalidSampleError(f"an event is a JSON object, not {type_name(event)}")
    action = event.get("action")
    if not isinstance(action, str):
        raise InvalidSampleError("an event has an 'action', such as ANNOTATION_CREATED")
    if (match := _ACTION.fullmatch(action)) is None:
        raise IgnoredEventError(f"{excerpt(action)} is not about an annotation")
    subject, change = match[1] or match[3], match[2] or match[4]
    listed = _list_of(event, subject.lower())
    if listed is None:
        raise IgnoredEventError(
            f"{action} came without {subject.lower()}s; let Label Studio send the payload"
        )
    # An annotation may have a project, too, which takes precedence; the event's may be missing.
    project = event.get("project")
    if subject == "PROJECT":
        return Removal(str(project_id("", *listed)))
    if subject == "TASK":
        return _removed_tasks(listed, project) if change == "DELETED" else _of_tasks(action, listed)
    if change == "DELETED":
        return [parse_deleted(each, project) for each in listed]
    tasks = _list_of(event, "task") or []
    is_alone = len(listed) == 1
    return [parse_full(each, _task(each, tasks, alone=is_alone), project) for each in listed]


def _removed_tasks(tasks: list[Any], project: Any) -> Removal:
    ids = (task.get("id") if isinstance(task, Mapping) else task for task in tasks)
    numbers = frozenset(whole_id(number, "the task's id", "") for number in ids)
    return Removal(None if project is None else str(project_id("", project)), numbers)


def _of_tasks(action: str, tasks: list[Any]) -> list[Annotation]:
    """Return the annotations that tasks were imported with, if the event has them."""
    annotations = [
        parse_full(each, task, None)
        for task in tasks
        if isinstance(task, Mapping) and isinstance(given := task.get("annotations"), list)
        for each in given
    ]
    if not annotations:
        raise IgnoredEventError(
            f"{excerpt(action)} has no annotations; those imported with tasks come with an export"
        )
    return annotations


def _list_of(event: Mapping[str, Any], name: str) -> list[Any] | None:
    for key in (name, f"{name}s"):
        if (value := event.get(key)) is not None:
            return value if isinstance(value, list) else [value]
    return None


def _task(annotation: Any, tasks: list[Any], *, alone: bool) -> Any:
    """Return an annotation's task, its own or one of ``tasks``; None if only its id is known."""
    own = annotation.get("task") if isinstance(annotation, Mapping) else None
    if isinstance(own, Mapping):
        return own
    for task in tasks:
        if isinstance(task, Mapping) and own is not None and task.get("id") == own:
            return task
    # With several annotations or tasks, nothing says which belong together.
    return tasks[0] if own is None and alone and len(tasks) == 1 else None
