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
from registry.io.files.json_array import Element, elements
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.annotation_state import (
    AnnotationState,
    StateTable,
    states_of_group,
)
from registry.io.labeling.apply import Outcome, apply_states, changed_groups, commit
from registry.io.labeling.convert import AnnotationConverter
from registry.io.labeling.label_studio.annotations import TOOL, parse_full, parse_minimal
from registry.io.labeling.label_studio.mapping import check_mapping
from registry.io.media import MediaReader
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change
from registry.storage.log.head import Head

BATCH_ROWS = 2048
BATCH_SIZE = 16 << 20
"""Characters of the file in a batch, at which it is applied; the last task may exceed them."""
_NAME = re.compile(r"project-(\d{1,18})-at-")

AnnotationProgress = Callable[[int, int], None]
"""Called after every batch with the annotations, and about the bytes of the file, stored so far."""


def insert_export(
    dataset: Dataset,
    path: Path,
    mapping: Mapping[str, str] | None = None,
    *,
    project: int | None = None,
    media: MediaReader | None = None,
    hull: bool = False,
    progress: AnnotationProgress | None = None,
    dry: bool = False,
) -> Report:
    """Make a dataset match an export, whatever events it has received before.

    Samples of the exported projects that the file lacks are retracted, unless they changed after
    the file was written. The file must therefore be an export of a whole project. ``project`` is
    the project's id, needed if neither the tasks nor the file name that Label Studio gave
    (``project-2-at-…``) contain it; tasks of JSON_MIN never do. ``mapping``, ``media`` and
    ``hull`` are as for events. With ``dry``, nothing is changed, and the report says what would be.

    Raises `ImportFileError` for the first annotation that does not fit. Those before it may be
    stored already; no sample is retracted because the file lacks it.
    """
    contents = _Contents(_project_in_name(path) if project is None else project)
    written = _time_written(path)
    rules = check_mapping(dataset.features, mapping, hull=hull)
    converter = AnnotationConverter(dataset, rules, media or MediaReader())
    total = Report(0, 0, 0, 0, dataset.head)
    row_count, size = 0, 0
    try:
        for batch in _batches(path, contents):
            states = _fitting_states(path, converter, batch)
            (outcome,) = apply_states(dataset, TOOL, [states], final=True, dry=dry)
            total += _report(outcome, total.head)
            row_count += len(states)
            size += sum(each.size for each in batch)
            if progress is not None:
                progress(row_count, size)
        # Only after the whole file was read: annotations that were not read yet would be retracted.
        retracted = _retract_missing(dataset, contents.projects, written, dry=dry)
    except RegistryError as error:
        if isinstance(error, ImportFileError):
            error.stored = 0 if dry else row_count
        if row_count and not dry:
            error.add_note(
                f"the first {row_count:,} annotations are stored; importing again is safe"
            )
        raise
    return total + Report(0, 0, retracted, 0, dataset.head)


def _report(outcome: Outcome, head: Head) -> Report:
    return Report(outcome.inserted, outcome.revised, outcome.retracted, outcome.unchanged, head)


@dataclass
class _ProjectContent:
    """The annotations of one project in a file: their ids, and the newest `updated_at`."""

    annotations: set[str] = field(default_factory=set)
    newest: datetime | None = None


@dataclass
class _Contents:
    """The projects in a file, by id.

    ``given`` is the project that the caller or the file's name gives.
    """

    given: int | None
    projects: dict[str, _ProjectContent] = field(default_factory=dict)

    def add(self, annotation: Annotation) -> None:
        project = self.projects.setdefault(annotation.id.group, _ProjectContent())
        project.annotations.add(annotation.id.annotation)
        moment = annotation.updated_at
        if moment is not None and (project.newest is None or moment > project.newest):
            project.newest = moment


@dataclass(frozen=True)
class _ExportedAnnotation:
    """An annotation, the line where its task begins, and its share of the file in characters."""

    line: int
    annotation: Annotation
    size: int


def _batches(path: Path, contents: _Contents) -> Iterator[list[_ExportedAnnotation]]:
    batch: list[_ExportedAnnotation] = []
    size = 0
    for element in _elements(path):
        try:
            annotations = _annotations(element.value, contents)
        except InvalidSampleError as error:
            raise ImportFileError(error.reason, file=str(path), line=element.line) from None
        for annotation in annotations:
            contents.add(annotation)
            share = element.size // len(annotations)
            batch.append(_ExportedAnnotation(element.line, annotation, share))
        size += element.size
        if len(batch) >= BATCH_ROWS or size >= BATCH_SIZE:
            # Tasks without annotations have a size, but there is nothing to apply.
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


def _annotations(element: Any, contents: _Contents) -> list[Annotation]:
    """Return the annotations of a task, or the only one of a JSON_MIN record."""
    if not isinstance(element, Mapping):
        raise InvalidSampleError(f"a task is an object, not a {type(element).__name__}")
    if "annotation_id" in element:
        is_empty = element["annotation_id"] is None  # a task that nobody has annotated
        return [] if is_empty else [parse_minimal(element, _given_project(contents))]
    if not isinstance(element.get("data"), Mapping):
        raise InvalidSampleError(
            "neither a task with 'data' and 'annotations' nor a record with an 'annotation_id': "
            "this is no JSON or JSON_MIN export of Label Studio"
        )
    given = element.get("annotations")
    if not isinstance(given, list | None):
        raise InvalidSampleError(f"'annotations' is a list, not a {type(given).__name__}")
    annotations = [parse_full(each, element, contents.given) for each in given or ()]
    if not annotations and isinstance(number := element.get("project", contents.given), int):
        # A project of which no annotation is left: all its samples have to be retracted.
        contents.projects.setdefault(str(number), _ProjectContent())
    return annotations


def _given_project(contents: _Contents) -> int:
    if contents.given is None:
        raise InvalidSampleError(
            "JSON_MIN does not say which project this is; name it, or keep the file's name "
            "as Label Studio gave it (project-2-at-…)"
        )
    return contents.given


def _fitting_states(
    path: Path, converter: AnnotationConverter, batch: Sequence[_ExportedAnnotation]
) -> list[AnnotationState]:
    states = converter.states(each.annotation for each in batch)
    for each, state in zip(batch, states, strict=True):
        if (error := state.error) is not None:
            raise ImportFileError(
                error.reason,
                file=str(path),
                line=each.line,
                key=state.id.key,
                feature=error.feature,
            )
    return states


def _retract_missing(
    dataset: Dataset, projects: Mapping[str, _ProjectContent], written: datetime, *, dry: bool
) -> int:
    """Retract the known annotations of projects that their export lacks; return their number."""
    retracted: list[Change] = []

    def prepare(connection: Connection) -> list[list[Change]]:
        # An annotation that changed after the file was written may be newer than the export.
        missing = [
            identity
            for project, content in projects.items()
            for identity, stored in states_of_group(connection, dataset.id, TOOL, project).items()
            if identity.annotation not in content.annotations
            and not stored.deleted
            and (stored.updated_at is None or stored.updated_at <= written)
        ]
        records = [(identity, None) for identity in missing]
        table = StateTable.read(connection, dataset.id, TOOL, records, projects)
        changes = [table.remove(identity) for identity in missing]
        for project, content in projects.items():
            if content.newest is not None:
                table.set_exported_at(project, content.newest)
        table.write()
        # Replaced, not extended: `prepare` is called again if the connection was lost.
        retracted[:] = [change for change in changes if change is not None]
        return changed_groups([retracted], dry=dry)

    commit(dataset, prepare)
    return len(retracted)


def _time_written(path: Path) -> datetime:
    # The file has no time of export. A copy that does not keep the modification time looks newer:
    # annotations made between the export and the copy are retracted then.
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _project_in_name(path: Path) -> int | None:
    match = _NAME.search(path.name)
    return int(match[1]) if match else None
