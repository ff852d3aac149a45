"""Finding samples that show the same thing in two splits.

Two cases are found: annotations of one task of a labeling tool, in a dataset that was filled before
there were groups, and live samples whose records are equal byte for byte. For the second, only the
newest samples are compared, up to limits that keep the time and the memory of a check bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine, Row, Select, case, func, select

from registry.catalog.doctor.finding import Finding, ask
from registry.errors import PermissionDeniedError
from registry.samples.arrays import Positions
from registry.samples.splits import Interval
from registry.storage.database.models import (
    NOT_DROPPED,
    DatasetRow,
    HeadRow,
    SampleRow,
    ToolAnnotationRow,
)
from registry.storage.database.transactions import read
from registry.storage.log.records import digests_at

COMPARED_ROWS = 1 << 20
COMPARED_BYTES = 1 << 30
"""Live samples, and bytes of their records, that are compared in a dataset, at most."""
SHORT = 16
"""Bytes up to which records are not compared: so short ones are often equal by chance."""
_RANGE_ROWS = 1 << 14
_HASHED_BYTES = 64 << 20
"""Bytes of records that one statement hashes; a longer record is hashed alone."""
_EXAMPLES = 3
_REMEDY = "fill a new dataset with groups (docs/groups.md)"

# A dataset's id, name and splits, and the position of its head.
_Dataset = Row[int, str, dict[str, Any], int]


def check_tasks(engine: Engine) -> Iterator[Finding]:
    """Find tasks of labeling tools whose annotations are live samples in two splits."""
    for dataset in _split_datasets(engine):
        tasks = _tasks(dataset).subquery()
        counted = select(
            func.count(),
            func.coalesce(func.sum(case((tasks.c.first != tasks.c.last, 1), else_=0)), 0),
        )
        try:
            ((total, divided),) = ask(engine, counted.select_from(tasks))
        except PermissionDeniedError as error:
            said = f"the tasks of labeling tools cannot be examined: {error}"
            yield Finding("note", "tasks", said, "examine them as the tables' owner")
            return
        if divided:
            names = select(tasks.c.task).where(tasks.c.first != tasks.c.last)
            some = ask(engine, names.order_by(tasks.c.task).limit(_EXAMPLES))
            examples = "; ".join(_example(engine, dataset, task) for (task,) in some)
            yield Finding(
                "warning",
                f"dataset {dataset.name}",
                f"{divided:,} of {total:,} tasks have annotations in two splits: {examples}",
                _REMEDY,
            )


def check_twins(engine: Engine) -> Iterator[Finding]:
    """Find live samples with equal records in two splits."""
    for dataset in _split_datasets(engine):
        compared = _newest(engine, dataset)
        pairs, count = _twins(compared)
        if not count:
            continue
        examples = "; ".join(
            f"{_named(engine, dataset, one)} equals {_named(engine, dataset, other)}"
            for one, other in pairs
        )
        scope = "live" if compared.complete else "newest live"
        yield Finding(
            "warning",
            f"dataset {dataset.name}",
            f"of {len(compared.positions):,} {scope} samples that were compared, {count:,} have "
            f"the record of a sample in another split: {examples}",
            _REMEDY,
        )


def _split_datasets(engine: Engine) -> Iterator[_Dataset]:
    """Yield the datasets that have two splits or more."""
    query = (
        select(DatasetRow.id, DatasetRow.name, DatasetRow.splits, HeadRow.position)
        .join(HeadRow, HeadRow.dataset_id == DatasetRow.id)
        .where(NOT_DROPPED)
        .order_by(DatasetRow.name)
    )
    yield from (dataset for dataset in ask(engine, query) if len(dataset.splits) > 1)


def _split_number(splits: Mapping[str, Interval]) -> Any:
    """Return the SQL expression for the number of a row's split."""
    ends = [splits[name][1] for name in _names(splits)]
    return case(*((SampleRow.bucket < stop, number) for number, stop in enumerate(ends)))


def _names(splits: Mapping[str, Interval]) -> list[str]:
    """Return the names of the splits in the order of their buckets; JSONB keeps none."""
    return sorted(splits, key=lambda name: splits[name])


def _annotations(dataset: _Dataset) -> Select[Any]:
    """Select the live samples of annotations whose task is known."""
    newer = SampleRow.__table__.alias("newer").c
    superseded = select(newer.position).where(
        newer.dataset_id == dataset.id, newer.supersedes == SampleRow.position
    )
    return (
        select(ToolAnnotationRow.task, SampleRow.key, _split_number(dataset.splits).label("split"))
        .select_from(ToolAnnotationRow)
        # ``+ 0``, as for other lookups by key: SQLite would otherwise scan the whole log for each.
        .join(
            SampleRow,
            (SampleRow.key == ToolAnnotationRow.key) & (SampleRow.dataset_id + 0 == dataset.id),
        )
        .where(
            ToolAnnotationRow.dataset_id == dataset.id,
            ToolAnnotationRow.task.is_not(None),
            func.length(SampleRow.record) > 0,
            ~superseded.exists(),
        )
    )


def _tasks(dataset: _Dataset) -> Select[Any]:
    """Select the tasks, with the first and the last split of their annotations."""
    rows = _annotations(dataset).subquery()
    return select(
        rows.c.task,
        func.min(rows.c.split).label("first"),
        func.max(rows.c.split).label("last"),
    ).group_by(rows.c.task)


def _example(engine: Engine, dataset: _Dataset, task: str) -> str:
    """Return a task with the key of one annotation in each of its splits."""
    names = _names(dataset.splits)
    query = _annotations(dataset).where(ToolAnnotationRow.task == task)
    keys = {names[row.split]: row.key for row in ask(engine, query)}
    homes = ", ".join(f"{key!r} in {split}" for split, key in sorted(keys.items()))
    return f"{task!r} has {homes}"


@dataclass(frozen=True)
class _Compared:
    """The samples of a dataset that are compared: all live ones if ``complete``, or the newest.

    ``digests`` (uint64) has the beginning of the hash of each record, ``splits`` its split.
    """

    positions: Positions
    splits: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    complete: bool


def _newest(engine: Engine, dataset: _Dataset) -> _Compared:
    """Hash the newest live samples of a dataset, up to the limits."""
    parts: list[npt.NDArray[np.int64]] = [np.empty((0, 3), np.int64)]
    rows_left, bytes_left, complete = COMPARED_ROWS, COMPARED_BYTES, True
    for stop in range(dataset.position, 0, -_RANGE_ROWS):
        live = _live(engine, dataset, max(0, stop - _RANGE_ROWS), stop)
        fits = (np.arange(len(live)) < rows_left) & (np.cumsum(live[:, 2]) <= bytes_left)
        part = live[fits]
        parts.append(part)
        rows_left -= len(part)
        bytes_left -= int(part[:, 2].sum())
        if len(part) < len(live):
            complete = False
            break
    positions, splits, sizes = np.concatenate(parts).T
    return _Compared(positions, splits, _digests(engine, dataset, positions, sizes), complete)


def _live(engine: Engine, dataset: _Dataset, after: int, until: int) -> npt.NDArray[np.int64]:
    """Return position, split and size of each live sample at ``[after, until)``, newest first."""
    newer = SampleRow.__table__.alias("newer").c
    superseded = select(newer.position).where(
        newer.dataset_id == dataset.id, newer.supersedes == SampleRow.position
    )
    size = func.length(SampleRow.record)
    query = (
        select(SampleRow.position, _split_number(dataset.splits), size)
        .where(
            SampleRow.dataset_id == dataset.id,
            SampleRow.position >= after,
            SampleRow.position < until,
            # Neither retracted (NULL) nor erased (empty).
            size > SHORT,
            ~superseded.exists(),
        )
        .order_by(SampleRow.position.desc())
    )
    return np.array([tuple(row) for row in ask(engine, query)], np.int64).reshape(-1, 3)


def _digests(
    engine: Engine, dataset: _Dataset, positions: Positions, sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    parts = []
    # The number of the statement that hashes each record.
    numbers = np.cumsum(sizes) // _HASHED_BYTES
    for number in np.unique(numbers):
        some = positions[numbers == number].tolist()
        hashes = read(engine, digests_at, dataset.id, some)
        parts.append(np.frombuffer(b"".join(digest[:8] for digest in hashes), np.uint64))
    return np.concatenate([*parts, np.empty(0, np.uint64)])


def _twins(compared: _Compared) -> tuple[list[tuple[int, int]], int]:
    """Return some pairs of positions with equal records in two splits.

    Also returns the number of samples whose record is in two splits.
    """
    if not len(compared.positions):
        return [], 0
    order = np.lexsort([compared.splits, compared.digests])
    digests, splits = compared.digests[order], compared.splits[order]
    starts = np.flatnonzero(np.append(True, digests[1:] != digests[:-1]))
    ends = np.append(starts[1:], len(digests)) - 1
    # Sorted by split within a digest, so that the first and the last tell.
    divided = splits[starts] != splits[ends]
    positions = compared.positions[order]
    pairs = zip(positions[starts[divided]].tolist(), positions[ends[divided]].tolist(), strict=True)
    return sorted(pairs)[:_EXAMPLES], int((ends - starts + 1)[divided].sum())


def _named(engine: Engine, dataset: _Dataset, position: int) -> str:
    """Return the key at a position and its split."""
    query = select(SampleRow.key, _split_number(dataset.splits)).where(
        SampleRow.dataset_id == dataset.id, SampleRow.position == position
    )
    ((key, split),) = ask(engine, query)
    return f"{key!r} in {_names(dataset.splits)[split]}"
