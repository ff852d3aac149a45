"""Copying the tables related to a log: erasures, runs, epochs, tools' state and rejected rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    delete,
    insert,
    select,
    update,
)

from registry.catalog.copy.rejected import copy_rejected
from registry.catalog.copy.rows import ERASED, Scope
from registry.errors import DivergenceError
from registry.storage.database.models import (
    Base,
    DeliveryRow,
    EpochRow,
    ErasureRow,
    HeadRow,
    InboxRow,
    RemovedRunRow,
    RunRow,
    SampleRow,
    TagRow,
    ToolAnnotationRow,
    WebhookRow,
)
from registry.storage.database.sql import insert_into
from registry.training.conditions import Conditions

_PART = 1000
"""Rows that are in memory or in one statement at a time."""
_TABLES = (WebhookRow, ToolAnnotationRow, DeliveryRow, RemovedRunRow)

_SETTINGS = ("name", "seed", "split", "policy", "watermark", "chain", "schema")


@dataclass(frozen=True)
class Related:
    """The numbers of runs and rejected rows of the copy, and of inbox rows that were not copied.

    ``erased`` is the number of rows whose records this copy has erased, as the source had before.
    """

    runs: int
    refused: int
    left: int
    erased: int


def copy_related(source: Scope, target: Scope, erased: int) -> Related:
    """Bring all other related tables up to date; rows that only the copy has stay.

    ``erased`` is the result of `copy_erasures`. Raises `DivergenceError` if a run of the copy has
    other settings or has pinned other epochs than the source's, or if a tag of the copy was moved
    after the source's.
    """
    for row_class in _TABLES:
        _copy_table(row_class, source, target)
    _refuse_other_tags(source, target)
    _copy_table(TagRow, source, target)
    copied = _copy_runs(source, target)
    rejected, left = copy_rejected(source, target)
    return Related(copied, rejected, left, erased)


def copy_erasures(source: Scope, target: Scope) -> int:
    """Erase the rows of the copy that the source has erased since; return the number of rows.

    Raises `DivergenceError` if the copy has erased other rows.
    """
    connection, dataset_id = target
    erased, before = _erasures(*source), _erasures(*target)
    # Mirrors apply erasures by number: the copy's must be the first ones of the source, in order.
    for one, other in zip_longest(erased[: len(before)], before):
        if one is None or one["position"] != other["position"]:
            raise DivergenceError(
                f"the copy has erased the row at position {other['position']} by itself; copy to "
                "another database"
            )
    added, count = erased[len(before) :], 0
    for start in range(0, len(added), _PART):
        # Databases limit the number of parameters in a statement.
        part = added[start : start + _PART]
        connection.execute(insert(ErasureRow), [{**row, "dataset_id": dataset_id} for row in part])
        rows = (
            SampleRow.dataset_id == dataset_id,
            SampleRow.position.in_([row["position"] for row in part]),
        )
        # ``!=`` is not true for NULL, so that retractions keep theirs.
        emptied = update(SampleRow).where(*rows, SampleRow.record != ERASED).values(record=ERASED)
        count += connection.execute(emptied).rowcount
        # Rejected rows of an erased key may hold the erased content, too.
        keys = select(SampleRow.key).where(*rows)
        rejected = (InboxRow.dataset_id == dataset_id, InboxRow.key.in_(keys))
        connection.execute(delete(InboxRow).where(*rejected))
    # The head counts erasures, not rows emptied now: mirrors compare the count with theirs.
    total = update(HeadRow).where(HeadRow.dataset_id == dataset_id).values(erased=len(erased))
    connection.execute(total)
    return count


def _erasures(connection: Connection, dataset_id: int) -> list[dict[str, Any]]:
    columns = (ErasureRow.number, ErasureRow.position, ErasureRow.erased_at)
    query = select(*columns).where(ErasureRow.dataset_id == dataset_id)
    rows = connection.execute(query.order_by(ErasureRow.number)).mappings()
    return [dict(row) for row in rows]


def _copy_table(row_class: type[Base], source: Scope, target: Scope) -> None:
    """Copy rows that are identified by their content; the source's replace the copy's.

    Rows with a surrogate key are inserted unless the copy has them.
    """
    connection, dataset_id = target
    table = row_class.__table__
    # A surrogate key is another in each database.
    copied = [column for column in table.columns if column.name not in {"id", "dataset_id"}]
    statement = insert_into(connection, row_class)
    if "id" in table.columns:
        statement = statement.on_conflict_do_nothing()
    else:
        key = list(table.primary_key)
        replaced = {c.name: statement.excluded[c.name] for c in copied if c not in key}
        statement = statement.on_conflict_do_update(index_elements=key, set_=replaced)
    # In parts, since a server that has run for long has millions of events.
    for part in _parts(source[0], select(*copied).where(table.c.dataset_id == source[1])):
        connection.execute(statement, [{**row, "dataset_id": dataset_id} for row in part])


def _parts(connection: Connection, query: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a query in lists of up to ``_PART``, streamed from the server."""
    # Streamed by a cursor of the server, which lasts as long as the snapshot's transaction.
    rows = connection.execute(query.execution_options(yield_per=_PART)).mappings()
    for part in rows.partitions():
        yield [dict(row) for row in part]


def _refuse_other_tags(source: Scope, target: Scope) -> None:
    """Raise `DivergenceError` for a tag that was set in the copy, elsewhere than in the source."""
    tags = _tags(*source)
    for name, copy in _tags(*target).items():
        tag = tags.get(name, copy)
        same = (tag.position, tag.schema) == (copy.position, copy.schema)
        # A tag that the source has moved since the last copy moves in the copy, too.
        if not same and copy.created_at > tag.created_at:
            raise DivergenceError(
                f"the copy has a tag {name!r} at position {copy.position}, which was set after the "
                f"one at position {tag.position} that is to be copied; delete one of them"
            )


def _tags(connection: Connection, dataset_id: int) -> dict[str, Row[TagRow]]:
    rows = connection.execute(select(TagRow).where(TagRow.dataset_id == dataset_id))
    return {row.name: row for row in rows}


def _copy_runs(source: Scope, target: Scope) -> int:
    """Copy runs, by name, and their epochs; return the number of runs of the copy."""
    connection, dataset_id = target
    before = _runs(*target)
    for name, run in _runs(*source).items():
        settings = _settings(run)
        copy = before.get(name)
        if copy is None:
            values = {**settings, "dataset_id": dataset_id, "created_at": run.created_at}
            connection.execute(insert(RunRow).values(**values))
            # Read again for its primary key, and for the defaults of the database.
            copy = _runs(*target)[name]
        elif _settings(copy) != settings:
            raise DivergenceError(
                f"the copy has a run {name!r} with another seed, split, policy, version or "
                "conditions, from position 0 on; copy to a database where nobody has trained yet"
            )
        _copy_epochs(name, (source[0], run.id), (connection, copy.id))
        # Never back: the copy may have been trained on further within the same epochs.
        consumed = max(run.consumed, copy.consumed)
        connection.execute(update(RunRow).where(RunRow.id == copy.id).values(consumed=consumed))
    return len(_runs(*target))


def _settings(run: Row[RunRow]) -> dict[str, Any]:
    settings = {name: getattr(run, name) for name in _SETTINGS}
    # Read and written again: JSONB returns some floats as whole numbers.
    return {**settings, "conditions": Conditions.from_json(run.conditions).to_json()}


def _runs(connection: Connection, dataset_id: int) -> dict[str, Row[RunRow]]:
    rows = connection.execute(select(RunRow).where(RunRow.dataset_id == dataset_id))
    return {row.name: row for row in rows}


def _copy_epochs(name: str, source: Scope, target: Scope) -> None:
    epochs, before = _epochs(*source), _epochs(*target)
    # All epochs of the copy must be the source's: a trainer may have used any of them.
    for number, epoch in before.items():
        if number not in epochs or _pinned(epoch) != _pinned(epochs[number]):
            raise DivergenceError(
                f"the copy pinned epoch {number} of run {name!r} by itself, at position "
                f"{epoch['watermark']}; copy to a database where nobody has trained further"
            )
    added = [
        {**epoch, "run_id": target[1]} for number, epoch in epochs.items() if number not in before
    ]
    if added:
        target[0].execute(insert(EpochRow), added)


def _epochs(connection: Connection, run_id: int) -> dict[int, dict[str, Any]]:
    rows = connection.execute(select(EpochRow).where(EpochRow.run_id == run_id))
    return {row["number"]: dict(row) for row in rows.mappings()}


def _pinned(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in epoch.items() if name not in {"run_id", "pinned_at"}}
