"""Parsing of Label Studio's annotations, from events and exports.

Every error raised here is an `InvalidSampleError` that names the task and the annotation as far as
they are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from registry.errors import InvalidSampleError
from registry.io.labeling.annotation import Annotation, AnnotationId, task_key
from registry.samples.json_codec import describe, excerpt

TOOL = "label-studio"
# By the type of a result: the property whose list of one element is a plain answer.
_SINGLE = {"choices": "choices", "textarea": "text"}
_SIZES = ("original_width", "original_height")
# Properties of a JSON_MIN record that are neither the task's data nor answers. The answers to a
# control with one of these names cannot be read from it.
_MINIMAL_FIELDS = frozenset(
    ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
)


def parse_deleted(parsed: Any, project: Any) -> Annotation:
    """Parse a deleted annotation: an object with its id, or the id alone."""
    number = whole_id(
        parsed.get("id") if isinstance(parsed, Mapping) else parsed, "the annotation's id", ""
    )
    own_project = parsed.get("project") if isinstance(parsed, Mapping) else None
    label = _label(None, number)
    return Annotation(_id(project_id(label, own_project, project), number), label, None)


def parse_full(parsed: Any, task: Any, project: Any) -> Annotation:
    """Parse an annotation object; ``task`` is its task's object, None if only its id is known."""
    if not isinstance(parsed, Mapping):
        raise InvalidSampleError(f"an annotation is an object, not {_type_name(parsed)}")
    task = {} if task is None else task
    if not isinstance(task, Mapping):
        raise InvalidSampleError(f"a task is an object, not {_type_name(task)}")
    number = whole_id(parsed.get("id"), "the annotation's id", "")
    task_id = _task_id(parsed, task, number)
    label = _label(task_id, number)
    data = task.get("data")
    if data is not None and not isinstance(data, Mapping):
        raise InvalidSampleError(f"{label}: the task's data is an object, not {_type_name(data)}")
    completed_by = parsed.get("completed_by")
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("id")
    identity = _id(project_id(label, parsed.get("project"), task.get("project"), project), number)
    return Annotation(
        identity,
        label,
        _time(parsed.get("updated_at"), label),
        cancelled=_flag(parsed.get("was_cancelled"), label),
        answers=_answers(parsed.get("result"), label),
        objects={
            "data": data,
            "task": {"id": task_id},
            "annotation": {
                "id": number,
                "completed_by": completed_by,
                "lead_time": parsed.get("lead_time"),
            },
        },
        task=None if task_id is None else task_key(TOOL, identity.parent, task_id),
        annotator=_annotator(completed_by),
        created_at=_created_at(parsed.get("created_at"), label),
    )


def parse_minimal(record: Mapping[str, Any], project: Any) -> Annotation:
    """Parse a record of a JSON_MIN export."""
    number = whole_id(record.get("annotation_id"), "annotation_id", "")
    task_id = whole_id(record.get("id"), "the task's id", _label(None, number))
    label = _label(task_id, number)
    identity = _id(project_id(label, project), number)
    data = {name: value for name, value in record.items() if name not in _MINIMAL_FIELDS}
    return Annotation(
        identity,
        label,
        _time(record.get("updated_at"), label),
        answers={
            name: value if isinstance(value, list) else [value] for name, value in data.items()
        },
        objects={
            "data": data,
            "task": {"id": task_id},
            "annotation": {
                "id": number,
                "completed_by": record.get("annotator"),
                "lead_time": record.get("lead_time"),
            },
        },
        mixed=True,
        task=task_key(TOOL, identity.parent, task_id),
        annotator=_annotator(record.get("annotator")),
        created_at=_created_at(record.get("created_at"), label),
    )


def _annotator(number: Any) -> str | None:
    """Return the annotator's id as text; what is no id is ignored, as it only names the source."""
    # In Python, bool is a subclass of int.
    is_id = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 63
    return str(number) if is_id else None


def _created_at(text: Any, label: str) -> datetime | None:
    return None if text is None else _time(text, label, "created_at")


def time_of_task(task: Mapping[str, Any]) -> datetime | None:
    """Return when a task was last updated, None if the export does not say it.

    Edits of its data, and annotations made and deleted, update it.
    """
    text = task.get("updated_at")
    return None if text is None else _time(text, f"task {describe(task.get('id'))}")


def _task_id(parsed: Mapping[str, Any], task: Mapping[str, Any], annotation: int) -> int | None:
    # In some events, the annotation's own `task` is not an id but the task's object.
    number = parsed.get("task") if task.get("id") is None else task.get("id")
    return None if number is None else whole_id(number, "the task's id", _label(None, annotation))


def _answers(results: Any, label: str) -> dict[str, list[Any]]:
    if results is None:
        return {}
    if not isinstance(results, list):
        raise InvalidSampleError(f"{label}: 'result' is a list, not {_type_name(results)}")
    answers: dict[str, list[Any]] = {}
    for result in results:
        if not isinstance(result, Mapping):
            raise InvalidSampleError(f"{label}: a result is an object, not {_type_name(result)}")
        name, kind, value = (result.get(key) for key in ("from_name", "type", "value"))
        if name is None:
            continue  # a relation between regions
        if not isinstance(name, str):
            raise InvalidSampleError(f"{label}: 'from_name' is text, not {_type_name(name)}")
        if not isinstance(value, Mapping):
            raise InvalidSampleError(
                f"{label}: the 'value' of {excerpt(name)} is an object, not {_type_name(value)}"
            )
        # Several choices are one answer: the mapping that has them is kept.
        single = value.get(_SINGLE[kind]) if isinstance(kind, str) and kind in _SINGLE else None
        if isinstance(single, list) and len(single) == 1:
            answers.setdefault(name, []).append(single[0])
        else:
            # Without the picture's size, which is not in the value, percents have no pixels.
            sizes = {size: result[size] for size in _SIZES if size in result}
            answers.setdefault(name, []).append({**value, **sizes})
    return answers


def _id(project: int, annotation: int) -> AnnotationId:
    return AnnotationId(TOOL, str(project), str(annotation))


def project_id(label: str, *given: Any) -> int:
    """Return the id of the first project that is given, as an id or as an object with one."""
    for project in given:
        number = project.get("id") if isinstance(project, Mapping) else project
        if number is not None:
            return whole_id(number, "the project's id", label)
    reason = "nothing says which project it belongs to" if label else "the project has no id"
    raise InvalidSampleError(f"{label}{': ' if label else ''}{reason}")


def _time(text: Any, label: str, name: str = "updated_at") -> datetime:
    """Parse a time. One without a time zone is refused, as it cannot be compared with others."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise InvalidSampleError(
                f"{label}: {name} {excerpt(text)} has no time zone; write it with Z or an offset"
            )
        # Near the years 1 and 9999, the conversion to UTC overflows.
        return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        value = excerpt(text) if isinstance(text, str) else _type_name(text)
        raise InvalidSampleError(
            f"{label}: {name} is a time such as '2026-01-31T12:00:00.5Z', not {value}"
        ) from None


def whole_id(value: Any, what: str, label: str) -> int:
    # In Python, bool is a subclass of int: True would be the id 1.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        given = excerpt(value) if isinstance(value, str) else _type_name(value)
        raise InvalidSampleError(
            f"{label}{': ' if label else ''}{what} is a whole number from 0 on, not {given}"
        )
    return value


def _flag(value: Any, label: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InvalidSampleError(
            f"{label}: was_cancelled is true or false, not {_type_name(value)}"
        )
    return bool(value)


def _label(task: int | None, annotation: int) -> str:
    return f"annotation {annotation}" if task is None else f"task {task}, annotation {annotation}"


def _type_name(value: Any) -> str:
    # Not for longer ones: `str` raises for integers of thousands of digits.
    if isinstance(value, int) and abs(value) < 1 << 64:
        return str(value)
    return "null" if value is None else f"a {type(value).__name__}"
