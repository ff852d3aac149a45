"""Reading and writing of rows of the table `tool_annotations`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, select

from registry.io.labeling.annotation import AnnotationId, deleted_task_name
from registry.io.labeling.annotation_state import StoredState
from registry.storage.database.models import ToolAnnotationRow
from registry.storage.database.sql import insert_into
from registry.storage.database.transactions import read

_TOGETHER = 1000
"""The most names or keys in one statement; SQLite allows 32,766 parameters."""
_COLUMNS = ("updated_at", "deleted", "key", "task", "annotator", "fields")


def stored_states(
    connection: Connection, dataset_id: int, tool: str, selected: ColumnElement[bool]
) -> dict[str, StoredState]:
    """Return the selected rows of a tool, by their names."""
    columns = ToolAnnotationRow.__table__.c
    rows = connection.execute(
        select(columns.annotation, *(columns[name] for name in _COLUMNS)).where(
            columns.dataset_id == dataset_id, columns.tool == tool, selected
        )
    )
    return {name: StoredState(*values) for name, *values in rows}


def write_states(
    connection: Connection, dataset_id: int, tool: str, states: Mapping[str, StoredState]
) -> None:
    """Insert rows, or replace those of the same names."""
    rows = [
        {
            "dataset_id": dataset_id,
            "tool": tool,
            "annotation": name,
            **{column: getattr(states[name], column) for column in _COLUMNS},
        }
        # Sorted: transactions that lock rows in different orders could deadlock.
        for name in sorted(states)
    ]
    if rows:
        statement = insert_into(connection, ToolAnnotationRow)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(ToolAnnotationRow.__table__.primary_key),
                set_={name: statement.excluded[name] for name in _COLUMNS},
            ),
            rows,
        )


def states_of_parent(
    connection: Connection, dataset_id: int, tool: str, parent: str
) -> dict[AnnotationId, StoredState]:
    """Return the rows of the annotations of a project or record, without its own row."""
    return {
        AnnotationId(tool, parent, row_name.removeprefix(f"{parent}/")): stored
        for row_name, stored in stored_states(
            connection, dataset_id, tool, in_parent(parent)
        ).items()
    }


def in_parent(parent: str) -> ColumnElement[bool]:
    """Return the condition that a row is of an annotation of a project or record."""
    # All names that begin with ``PARENT/``, as "0" follows "/" in ASCII. Unlike LIKE, a range can
    # use the index of the primary key.
    name = ToolAnnotationRow.annotation
    return (name >= f"{parent}/") & (name < f"{parent}0")


def tasks_of_any_parent(
    connection: Connection, dataset_id: int, tool: str, tasks: Iterable[int]
) -> dict[str, StoredState]:
    """Return the rows of the annotations of tasks, whichever project they belong to."""
    numbers = {deleted_task_name(task) for task in tasks}
    query = select(ToolAnnotationRow.annotation, ToolAnnotationRow.task).where(
        ToolAnnotationRow.dataset_id == dataset_id,
        ToolAnnotationRow.tool == tool,
        ToolAnnotationRow.task.is_not(None),
    )
    names = [
        name
        for name, task in connection.execute(query)
        if task is not None and deleted_task_name(task) in numbers
    ]
    rows: dict[str, StoredState] = {}
    for some in parts(names):
        selected = ToolAnnotationRow.annotation.in_(some)
        rows |= stored_states(connection, dataset_id, tool, selected)
    return rows


def has_annotations(engine: Engine, dataset_id: int, tool: str) -> bool:
    """Return whether any annotation of a tool has arrived in a dataset."""
    query = select(ToolAnnotationRow.annotation).where(
        ToolAnnotationRow.dataset_id == dataset_id, ToolAnnotationRow.tool == tool
    )
    return read(engine, lambda c: c.execute(query.limit(1)).first()) is not None


def exported_at(connection: Connection, dataset_id: int, tool: str, parent: str) -> datetime | None:
    """Return the age of the newest export of a project that was imported."""
    selected = ToolAnnotationRow.annotation == parent
    stored = stored_states(connection, dataset_id, tool, selected).get(parent)
    return None if stored is None else stored.updated_at


def parts(names: Collection[str]) -> Iterator[list[str]]:
    """Yield names in lists that are short enough for one statement."""
    ordered = sorted(names)
    for start in range(0, len(ordered), _TOGETHER):
        yield ordered[start : start + _TOGETHER]
