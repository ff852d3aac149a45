"""Label Studio's exports, JSON and JSON_MIN: the last word on the projects that are in them."""

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
"""Characters of the file that are taken together, about."""
_NAME = re.compile(r"project-(\d{1,18})-at-")

Progress = Callable[[int, int], None]
"""Told, after every batch, how many annotations and bytes of the file are stored, about."""


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
    """Bring a dataset to what an export says, whatever it has seen of its events.

    Samples of the exported projects that the file lacks are retracted, unless they changed after
    the file was written; so it must be an export of a whole project. Where neither its tasks nor
    the name that Label Studio gave it (``project-2-at-…``) say which project that is, as in
    JSON_MIN, ``project`` does. ``mapping`` and ``roots`` are as for events. ``dry`` changes
    nothing, and reports what would be.

    Raises `ImportFileError` for the first annotation that does not fit; those before it may be
    stored by then, and nothing is retracted for being absent.
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
    """What a file holds of one project: its annotations, and the time of the newest."""

    ids: set[int] = field(default_factory=set)
    as_of: datetime | None = None


@dataclass
class _Found:
    """The projects that a file holds; ``given`` is said beside it."""

    given: int | None
    projects: dict[int, _Extent] = field(default_factory=dict)

    def add(self, annotation: Annotation) -> None:
        extent = self.projects.setdefault(annotation.project, _Extent())
        extent.ids.add(annotation.id)
        at = annotation.updated_at
        extent.as_of = at if extent.as_of is None or (at and at > extent.as_of) else extent.as_of


@dataclass(frozen=True)
class _Line:
    """An annotation, the line of the file where its task begins, and its part of the file."""

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
    """Return the annotations of a task, or the one of a record of JSON_MIN."""
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
    """Retract what the ledger has of projects and their export has not; return how many."""
    retracted: list[Change] = []

    def prepare(connection: Connection) -> list[list[Change]]:
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
        retracted[:] = [change for change in changes if change is not None]
        return undo(dry, [retracted])

    commit(dataset, prepare)
    return len(retracted)


def _written(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _project(path: Path) -> int | None:
    found = _NAME.search(path.name)
    return int(found[1]) if found else None
