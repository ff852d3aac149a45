"""Import of Label Studio's exports, JSON and JSON_MIN.

An export is authoritative for its projects. Its annotations are applied in batches, each in its
own transaction. Then one transaction retracts the samples of annotations that the file lacks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import ImportFileError, InvalidSampleError, RegistryError
from registry.io.labeling.annotation import Annotation, full, minimal
from registry.io.labeling.annotation_state import Ledger, State, of_project
from registry.io.labeling.apply import commit, settle, undo
from registry.io.labeling.convert import Reader
from registry.io.labeling.json_array import Element, elements
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change

BATCH_ROWS = 2048
BATCH_SIZE = 16 << 20
"""Characters of the file in a batch, at which it is applied; the last task may exceed them."""
_NAME = re.compile(r"project-(\d{1,18})-at-")

Progress = Callable[[int, int], None]
"""Called after every batch with the annotations, and about the bytes of the file, stored so far."""


def insert_export(
    dataset: Dataset,
    path: Path,
    mapping: Mapping[str, str] | None = None,
    *,
    project: int | None = None,
    roots: Sequence[Path] = (),
    progress: Progress | None = None,
    dry: bool = False,
) -> Report:
    """Make a dataset match an export, whatever events it has received before.

    Samples of the exported projects that the file lacks are retracted, unless they changed after
    the file was written. The file must therefore be an export of a whole project. ``project`` is
    the project's id, needed if neither the tasks nor the file name that Label Studio gave
    (``project-2-at-…``) contain it; tasks of JSON_MIN never do. ``mapping`` and ``roots`` are as
    for events. With ``dry``, nothing is changed, and the report says what would be.

    Raises `ImportFileError` for the first annotation that does not fit. Those before it may be
    stored already; no sample is retracted because the file lacks it.
    """
    found = _Found(_project(path) if project is None else project)
    written = _written(path)
    reader = Reader(dataset, mapping, roots)
    total = Report(0, 0, 0, 0, dataset.head)
    rows, size = 0, 0
    try:
        for batch in _batches(path, found):
            states = _fitting(path, reader, batch)
            (done,) = settle(dataset, [states], final=True, dry=dry)
            total += Report(done.inserted, done.revised, done.retracted, done.unchanged, total.head)
            rows, size = rows + len(states), size + sum(each.size for each in batch)
            if progress is not None:
                progress(rows, size)
        # Only after the whole file was read: annotations that were not read yet would be retracted.
        retracted = _retract_others(dataset, found.projects, written, dry=dry)
    except RegistryError as error:
        if isinstance(error, ImportFileError):
            error.stored = 0 if dry else rows
        if rows and not dry:
            error.add_note(f"the first {rows:,} annotations are stored; importing again is safe")
        raise
    return total + Report(0, 0, retracted, 0, dataset.head)


@dataclass
class _Extent:
    """The content of a file for one project: the annotations' ids, and the newest `updated_at`."""

    ids: set[int] = field(default_factory=set)
    as_of: datetime | None = None


@dataclass
class _Found:
    """The projects in a file; ``given`` is the project that the caller or the file name gives."""

    given: int | None
    projects: dict[int, _Extent] = field(default_factory=dict)

    def add(self, annotation: Annotation) -> None:
        extent = self.projects.setdefault(annotation.project, _Extent())
        extent.ids.add(annotation.id)
        at = annotation.updated_at
        extent.as_of = at if extent.as_of is None or (at and at > extent.as_of) else extent.as_of


@dataclass(frozen=True)
class _Line:
    """An annotation, the line where its task begins, and its share of the file in characters."""

    line: int
    annotation: Annotation
    size: int


def _batches(path: Path, found: _Found) -> Iterator[list[_Line]]:
    batch: list[_Line] = []
    size = 0
    for element in _elements(path):
        try:
            annotations = _annotations(element.value, found)
        except InvalidSampleError as error:
            raise ImportFileError(error.reason, file=str(path), line=element.line) from None
        for annotation in annotations:
            found.add(annotation)
            batch.append(_Line(element.line, annotation, element.size // len(annotations)))
        size += element.size
        if len(batch) >= BATCH_ROWS or size >= BATCH_SIZE:
            if batch:
                yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _elements(path: Path) -> Iterator[Element]:
    try:
        yield from elements(path)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _annotations(element: Any, found: _Found) -> list[Annotation]:
    """Return the annotations of a task, or the only one of a JSON_MIN record."""
    if not isinstance(element, Mapping):
        raise InvalidSampleError(f"a task is an object, not a {type(element).__name__}")
    if "annotation_id" in element:
        empty = element["annotation_id"] is None  # a task that nobody has annotated
        return [] if empty else [minimal(element, _said(found))]
    if not isinstance(element.get("data"), Mapping):
        raise InvalidSampleError(
            "neither a task with 'data' and 'annotations' nor a record with an 'annotation_id': "
            "this is no JSON or JSON_MIN export of Label Studio"
        )
    listed = element.get("annotations")
    if not isinstance(listed, list | None):
        raise InvalidSampleError(f"'annotations' is a list, not a {type(listed).__name__}")
    annotations = [full(each, element, found.given) for each in listed or ()]
    if not annotations and isinstance(number := element.get("project", found.given), int):
        # A project of which no annotation is left: all its samples have to be retracted.
        found.projects.setdefault(number, _Extent())
    return annotations


def _said(found: _Found) -> int:
    if found.given is None:
        raise InvalidSampleError(
            "JSON_MIN does not say which project this is; name it, or keep the file's name "
            "as Label Studio gave it (project-2-at-…)"
        )
    return found.given


def _fitting(path: Path, reader: Reader, batch: Sequence[_Line]) -> list[State]:
    states = reader.states(each.annotation for each in batch)
    for each, state in zip(batch, states, strict=True):
        if (fault := state.fault) is not None:
            raise ImportFileError(
                fault.reason,
                file=str(path),
                line=each.line,
                key=state.key,
                feature=fault.feature,
            )
    return states


def _retract_others(
    dataset: Dataset, projects: Mapping[int, _Extent], written: datetime, *, dry: bool
) -> int:
    """Retract the known annotations of projects that their export lacks; return their number."""
    retracted: list[Change] = []

    def prepare(connection: Connection) -> list[list[Change]]:
        # An annotation that changed after the file was written may be newer than the export.
        gone = [
            name
            for number, extent in projects.items()
            for name, known in of_project(connection, dataset.id, number).items()
            if int(name.partition("/")[2]) not in extent.ids
            and not known.deleted
            and (known.updated_at is None or known.updated_at <= written)
        ]
        ledger = Ledger(connection, dataset.id, [(name, None) for name in gone], projects)
        changes = [ledger.forget(name) for name in gone]
        for number, extent in projects.items():
            if extent.as_of is not None:
                ledger.reach(number, extent.as_of)
        ledger.write()
        # Replaced, not extended: `prepare` is called again if the connection was lost.
        retracted[:] = [change for change in changes if change is not None]
        return undo(dry, [retracted])

    commit(dataset, prepare)
    return len(retracted)


def _written(path: Path) -> datetime:
    # The file has no time of export. A copy that does not keep the modification time looks newer:
    # annotations made between the export and the copy are retracted then.
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _project(path: Path) -> int | None:
    found = _NAME.search(path.name)
    return int(found[1]) if found else None
