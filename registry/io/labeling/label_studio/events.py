"""Parsing of Label Studio's webhook events into annotations.

Label Studio names events in the singular or the plural, and puts an object or a list under either
name. Only the id of an event's project is read: its other fields contain the project's token and
the passwords of its storage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import Annotation, IgnoredEventError
from registry.io.labeling.label_studio.annotations import parse_deleted, parse_full
from registry.samples.json_codec import excerpt

_ACTION = re.compile(r"ANNOTATIONS?_(CREATED|UPDATED|DELETED)")


def annotations_of(event: Any) -> list[Annotation]:
    """Return the annotations of an event.

    Raises `IgnoredEventError` for an event of another kind, or one that was sent without its
    payload, and `InvalidSampleError` for one that cannot be read.
    """
    if not isinstance(event, Mapping):
        raise InvalidSampleError(f"an event is a JSON object, not a {type(event).__name__}")
    action = event.get("action")
    if not isinstance(action, str):
        raise InvalidSampleError("an event has an 'action', such as ANNOTATION_CREATED")
    if (match := _ACTION.fullmatch(action)) is None:
        raise IgnoredEventError(f"{excerpt(action)} is not about an annotation")
    annotations = _list_of(event, "annotation")
    if annotations is None:
        raise IgnoredEventError(
            f"{action} came without annotations; let Label Studio send the payload"
        )
    # An annotation may have a project, too, which takes precedence; the event's may be missing.
    project = event.get("project")
    if match[1] == "DELETED":
        return [parse_deleted(each, project) for each in annotations]
    tasks = _list_of(event, "task") or []
    is_alone = len(annotations) == 1
    return [parse_full(each, _task(each, tasks, alone=is_alone), project) for each in annotations]


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
