"""Reading of Label Studio's exports, JSON and JSON_MIN, and what they contain as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.json_array import Element, elements
from registry.io.labeling.annotation import Annotation
from registry.io.labeling.label_studio.annotations import parse_full, parse_minimal, time_of_task
from registry.io.labeling.retraction import ProjectContent
from registry.samples.json_codec import type_name

BATCH_ROWS = 2048
BATCH_SIZE = 16 << 20
"""Characters of the file in a batch, at which it is applied; the last task may exceed them."""
_NAME = re.compile(r"project-(\d{1,18})-at-")


@dataclass
class Contents:
    """What an export has, by project; ``given`` is the project that the caller or the name gives.

    ``questions`` are the controls that any annotation answers. ``mixed`` is as in `Annotation`.
    ``unreadable`` counts tasks that cannot be read.
    """

    given: int | None
    projects: dict[str, ProjectContent] = field(default_factory=dict)
    questions: set[str] = field(default_factory=set)
    mixed: bool = False
    unreadable: int = 0

    def add(self, task: ExportedTask) -> None:
        for annotation in task.annotations:
            project = self.projects.setdefault(annotation.id.parent, ProjectContent())
            project.annotations.add(annotation.id.annotation)
            project.add_time(annotation.updated_at)
            self.questions |= annotation.answers.keys()
            self.mixed |= annotation.mixed
        if task.project is not None:
            # Also a project of which no annotation is left: all its samples have to be retracted.
            project = self.projects.setdefault(str(task.project), ProjectContent())
            project.add_time(task.updated_at)


@dataclass(frozen=True)
class ExportedTask:
    """A task, or a record of JSON_MIN, which has no time of its task.

    ``line`` is where it begins, and ``size`` its length in characters. ``project`` is None if
    nothing says which one it is.
    """

    line: int
    size: int
    annotations: list[Annotation]
    project: int | None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class ExportedAnnotation:
    """An annotation, the line where its task begins, and its share of the file in characters."""

    line: int
    annotation: Annotation
    size: int


def survey(path: Path, project: int | None, *, keep_going: bool) -> Contents:
    """Read an export without converting anything, and return what it has.

    Raises `ImportFileError` for the first task that cannot be read or, with ``keep_going``, counts
    such tasks.
    """
    # It is read a second time to be imported; a pipe would be empty then.
    if path.exists() and not path.is_file():
        reason = "not a regular file, which is needed to read it twice"
        raise ImportFileError(reason, file=str(path))
    contents = Contents(_project_in_name(path) if project is None else project)

    def count(error: ImportFileError) -> None:
        if not keep_going:
            raise error
        contents.unreadable += 1

    for task in _tasks(path, contents.given, count):
        contents.add(task)
    if not contents.projects and contents.given is not None:
        contents.projects[str(contents.given)] = ProjectContent()
    return contents


def batches(
    path: Path, project: int | None, on_fault: Callable[[ImportFileError], None]
) -> Iterator[list[ExportedAnnotation]]:
    """Yield the annotations of an export in batches; ``on_fault`` gets what cannot be read."""
    batch: list[ExportedAnnotation] = []
    size = 0
    for task in _tasks(path, project, on_fault):
        for annotation in task.annotations:
            share = task.size // len(task.annotations)
            batch.append(ExportedAnnotation(task.line, annotation, share))
        size += task.size
        if len(batch) >= BATCH_ROWS or size >= BATCH_SIZE:
            # Tasks without annotations have a size, but there is nothing to apply.
            if batch:
                yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _tasks(
    path: Path, project: int | None, on_fault: Callable[[ImportFileError], None]
) -> Iterator[ExportedTask]:
    try:
        for element in elements(path):
            try:
                task = _task(element, project)
            except InvalidSampleError as error:
                on_fault(ImportFileError(error.reason, file=str(path), line=element.line))
                continue
            yield task
    except OSError as error:
        raise ImportFileError(error.strerror or str(error), file=str(path)) from error


def _task(element: Element, given: int | None) -> ExportedTask:
    parsed = element.value
    if not isinstance(parsed, Mapping):
        raise InvalidSampleError(f"a task is an object, not {type_name(parsed)}")
    if "annotation_id" in parsed:
        is_empty = parsed["annotation_id"] is None  # a task that nobody has annotated
        annotations = [] if is_empty else [parse_minimal(parsed, _given_project(given))]
        return ExportedTask(element.line, element.size, annotations, given)
    if not isinstance(parsed.get("data"), Mapping):
        raise InvalidSampleError(
            "neither a task with 'data' and 'annotations' nor a record with an 'annotation_id': "
            "this is no JSON or JSON_MIN export of Label Studio"
        )
    listed = parsed.get("annotations")
    if not isinstance(listed, list | None):
        raise InvalidSampleError(f"'annotations' is a list, not {type_name(listed)}")
    project = parsed.get("project", given)
    return ExportedTask(
        element.line,
        element.size,
        [parse_full(each, parsed, given) for each in listed or ()],
        project if isinstance(project, int) and not isinstance(project, bool) else None,
        time_of_task(parsed),
    )


def _given_project(project: int | None) -> int:
    if project is None:
        raise InvalidSampleError(
            "JSON_MIN does not say which project this is; name it, or keep the file's name "
            "as Label Studio gave it (project-2-at-…)"
        )
    return project


def _project_in_name(path: Path) -> int | None:
    match = _NAME.search(path.name)
    return int(match[1]) if match else None
