"""Events of labeling tools for tests: sound ones, and any JSON in their places."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import select

from registry import Dataset, Registry
from registry.storage.database.models import InboxRow
from tests.support.label_studio_project import choice

KEY = "label-studio:2:17"
TASK = {
    "id": 19,
    "data": {"text": "a car", "meta": {"page": 4}, "images": [{"url": "a.png"}]},
    "project": 2,
}
JsonPath = tuple[Any, ...]


def at(second: int) -> str:
    return f"2021-01-31T12:00:{second:02}.5Z"


def annotation(second: int = 0, *results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return annotation 17 of project 2, as Label Studio sends it."""
    return {
        "id": 17,
        "task": 19,
        "project": 2,
        "was_cancelled": False,
        "updated_at": at(second),
        "result": list(results or [choice("bad")]),
        "completed_by": 1,
        **fields,
    }


def event(second: int = 0, *results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "action": "ANNOTATION_UPDATED",
        "annotation": annotation(second, *results, **fields),
        "task": TASK,
        "project": {"id": 2, "token": "s3cret-token", "task_data_password": "s3cret-password"},
    }


def deletion() -> dict[str, Any]:
    return {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 17}], "project": {"id": 2}}


def rejected_rows(dataset: Dataset, reg: Registry) -> list[Any]:
    """Return the rows of a dataset in the inbox, in the order of their insertion."""
    query = select(InboxRow).where(InboxRow.dataset_id == dataset.id).order_by(InboxRow.id)
    with reg.engine.connect() as connection:
        return list(connection.execute(query).all())


def nonsense() -> st.SearchStrategy[Any]:
    """Return any JSON, and values that no parser lets through."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters())
        | st.sampled_from(
            [
                10**400,
                -(10**400),
                "\ud800",
                "\0",
                "ANNOTATION_CREATED",
                "2021-01-01T00:00:00Z",
                17,
                2,
            ]
        )
    )
    names = st.sampled_from(["id", "result", "value", "choices", "data", "text"]) | st.text()
    return st.recursive(
        leaves, lambda each: st.lists(each) | st.dictionaries(names, each), max_leaves=8
    )


def paths_in(value: Any) -> list[JsonPath]:
    """Return the paths of all values in nested objects and lists."""
    return list(_paths(value, ()))


def _paths(value: Any, prefix: JsonPath) -> Iterator[JsonPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for name, each in inner:
        yield (*prefix, name)
        if isinstance(each, dict | list):
            yield from _paths(each, (*prefix, name))


def with_changes(sound: dict[str, Any], changes: list[tuple[JsonPath, Any]]) -> dict[str, Any]:
    """Return a copy of an event with other values at paths, where these still exist."""
    changed = deepcopy(sound)
    for path, value in changes:
        inner: Any = changed
        for step in path[:-1]:
            inner = inner[step] if _has(inner, step) else None
        if isinstance(inner, dict) or _has(inner, path[-1]):
            inner[path[-1]] = value
    return changed


def _has(value: Any, step: str | int) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)
