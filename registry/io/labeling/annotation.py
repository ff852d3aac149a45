"""Parsing of Label Studio annotations, from events and exports, into one form.

Every error raised here is an `InvalidSampleError` that names the task and the annotation as far as
they are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from registry.errors import InvalidSampleError
from registry.samples.json_codec import shown

# By the type of a result: the property whose list of one element is a plain answer.
_SINGLE = {"choices": "choices", "textarea": "text"}
_SIZES = ("original_width", "original_height")
# Properties of a JSON_MIN record that are neither the task's data nor answers.
_FACTS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")


@dataclass(frozen=True)
class Annotation:
    """The content of one annotation in an event or an export.

    ``answers`` has the answers to each control, by its ``from_name``: a list of plain values (a
    single choice or text) and of mappings (regions, ratings, several choices), as in JSON_MIN.
    ``data`` is the task's data, or None if an event has none. ``minimal`` is true for JSON_MIN,
    which does not distinguish the task's data from answers: ``answers`` and ``data`` both hold
    all of it. ``updated_at`` is in UTC; it is None for a deletion, which has no other fields.
    """

    project: int
    id: int
    updated_at: datetime | None
    task: int | None = None
    cancelled: bool = False
    answers: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    completed_by: Any = None
    lead_time: Any = None
    minimal: bool = False

    @property
    def place(self) -> str:
        """The task and the annotation, as the prefix of an error message."""
        return _place(self.task, self.id)


def deleted(found: Any, project: Any) -> Annotation:
    """Parse a deleted annotation: an object with its id, or the id alone."""
    annotation = found.get("id") if isinstance(found, Mapping) else found
    number = _number(annotation, "the annotation's id", "")
    own = found.get("project") if isinstance(found, Mapping) else None
    return Annotation(_project(_place(None, number), own, project), number, None)


def full(found: Any, task: Any, project: Any) -> Annotation:
    """Parse an annotation object; ``task`` is its task's object, None if only its id is known."""
    if not isinstance(found, Mapping):
        raise InvalidSampleError(f"an annotation is an object, not {_kind(found)}")
    task = {} if task is None else task
    if not isinstance(task, Mapping):
        raise InvalidSampleError(f"a task is an object, not {_kind(task)}")
    number = _number(found.get("id"), "the annotation's id", "")
    inner = found.get("task") if task.get("id") is None else task.get("id")
    named = None if inner is None else _number(inner, "the task's id", _place(None, number))
    place = _place(named, number)
    data = task.get("data")
    if data is not None and not isinstance(data, Mapping):
        raise InvalidSampleError(f"{place}: the task's data is an object, not {_kind(data)}")
    return Annotation(
        _project(place, found.get("project"), task.get("project"), project),
        number,
        _moment(found.get("updated_at"), place),
        named,
        cancelled=_flag(found.get("was_cancelled"), place),
        answers=_answers(found.get("result"), place),
        data=data,
        completed_by=_person(found.get("completed_by")),
        lead_time=found.get("lead_time"),
    )


def minimal(record: Mapping[str, Any], project: Any) -> Annotation:
    """Parse a record of a JSON_MIN export."""
    number = _number(record.get("annotation_id"), "annotation_id", "")
    named = _number(record.get("id"), "the task's id", _place(None, number))
    place = _place(named, number)
    data = {name: value for name, value in record.items() if name not in _FACTS}
    return Annotation(
        _project(place, project),
        number,
        _moment(record.get("updated_at"), place),
        named,
        answers={
            name: value if isinstance(value, list) else [value] for name, value in data.items()
        },
        data=data,
        completed_by=record.get("annotator"),
        lead_time=record.get("lead_time"),
        minimal=True,
    )


def _answers(results: Any, place: str) -> dict[str, list[Any]]:
    if results is None:
        return {}
    if not isinstance(results, list):
        raise InvalidSampleError(f"{place}: 'result' is a list, not {_kind(results)}")
    answers: dict[str, list[Any]] = {}
    for result in results:
        if not isinstance(result, Mapping):
            raise InvalidSampleError(f"{place}: a result is an object, not {_kind(result)}")
        name, kind, value = (result.get(key) for key in ("from_name", "type", "value"))
        if name is None:
            continue  # a relation between regions
        if not isinstance(name, str):
            raise InvalidSampleError(f"{place}: 'from_name' is text, not {_kind(name)}")
        if not isinstance(value, Mapping):
            raise InvalidSampleError(
                f"{place}: the 'value' of {shown(name)} is an object, not {_kind(value)}"
            )
        single = value.get(_SINGLE[kind]) if isinstance(kind, str) and kind in _SINGLE else None
        if isinstance(single, list) and len(single) == 1:
            answers.setdefault(name, []).append(single[0])
        else:
            sizes = {size: result[size] for size in _SIZES if size in result}
            answers.setdefault(name, []).append({**value, **sizes})
    return answers


def _project(place: str, *said: Any) -> int:
    """Return the id of the first project that is given, as an id or as an object with one."""
    for found in said:
        number = found.get("id") if isinstance(found, Mapping) else found
        if number is not None:
            return _number(number, "the project's id", place)
    raise InvalidSampleError(f"{place}: nothing says which project it belongs to")


def _moment(text: Any, place: str) -> datetime:
    """Parse a time. One without a time zone is refused, as it cannot be compared with others."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise InvalidSampleError(
                f"{place}: updated_at {shown(text)} has no time zone; write it with Z or an offset"
            )
        # Near the years 1 and 9999, the conversion to UTC overflows.
        return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        said = shown(text) if isinstance(text, str) else _kind(text)
        raise InvalidSampleError(
            f"{place}: updated_at is a time such as '2026-01-31T12:00:00.5Z', not {said}"
        ) from None


def _number(found: Any, what: str, place: str) -> int:
    # In Python, bool is a subclass of int: True would be the id 1.
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 63:
        said = shown(found) if isinstance(found, str) else _kind(found)
        raise InvalidSampleError(
            f"{place}{': ' if place else ''}{what} is a whole number from 0 on, not {said}"
        )
    return found


def _flag(found: Any, place: str) -> bool:
    if found is not None and not isinstance(found, bool):
        raise InvalidSampleError(f"{place}: was_cancelled is true or false, not {_kind(found)}")
    return bool(found)


def _person(found: Any) -> Any:
    return found.get("id") if isinstance(found, Mapping) else found


def _place(task: int | None, annotation: int) -> str:
    return f"annotation {annotation}" if task is None else f"task {task}, annotation {annotation}"


def _kind(found: Any) -> str:
    if isinstance(found, int) and abs(found) < 1 << 64:
        # Not for longer ones: `str` raises for integers of thousands of digits.
        return str(found)
    return "null" if found is None else f"a {type(found).__name__}"
