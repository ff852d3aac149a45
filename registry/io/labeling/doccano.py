"""doccano's JSONL and JSON: a document on a line or in an array, with its labels or spans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.io.detection.annotated_image import Sampler
from registry.io.detection.doccano_images import SHAPES, image_rows
from registry.io.labeling.tool_lines import ToolFile, objects
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features

_KEY_PARTS = ("doccano", "id", "")
_LABELS = ("label", "labels", "entities", "cats")
"""The properties of the kinds of projects that hold labels or spans."""


def read(  # noqa: PLR0913  # options that are all given by name
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    *,
    group: str | None = None,
    unlabelled: str = "skip",
    boxes: str = "rel_xyxy",
    rotated: str = "refuse",
    roots: Sequence[Path] = (),
) -> Iterator[FileRow]:
    """Yield the documents, with the keys ``doccano:ID``.

    ``label`` is a document's only label, and ``label.json`` all its labels. For spans, including
    those under ``labels`` and ``entities``, ``label`` makes a `Ragged` feature of starts and ends,
    and ``label.classes[a,b]`` one of their labels. Documents with ``bbox`` or ``segmentation`` have
    ``image``, ``boxes`` in the format ``boxes``, ``names`` and ``polygons``; if ``rotated`` is
    "hull", the boxes around polygons, too. Documents that have no label are no samples unless
    ``unlabelled`` is "empty".

    If annotators label the same documents, each annotator has a file, with the same ids: import
    one of the files, or give each document its own key. All samples of a document are in the group
    ``doccano:ID``, unless ``group`` is the path of another.
    """
    if unlabelled not in ("skip", "empty"):
        raise ImportFileError(f"unlabelled is skip or empty, not {unlabelled!r}", file=str(path))
    first = next(objects(path), None)
    if first is not None and not first.parsed.keys().isdisjoint(SHAPES):
        sampler = Sampler(path, features, key, mapping, boxes, group)
        hulls, skip = rotated == "hull", unlabelled == "skip"
        return image_rows(path, sampler, roots, hulls=hulls, skip=skip)
    paths = {mapping.get(name, name).partition(".")[0] for name in features}
    # A dataset of the documents alone takes them with labels or without.
    needs_label = unlabelled == "skip" and not paths.isdisjoint(_LABELS)

    def fields_of(document: dict[str, Any]) -> dict[str, Any] | None:
        # A document that has none of the properties is an error of the mapping, or no document.
        labels = [document[name] for name in _LABELS if name in document]
        is_unlabelled = bool(labels) and not any(labels)
        return None if needs_label and is_unlabelled else _fields(document)

    return ToolFile(path, features, key, mapping, _KEY_PARTS, group).rows(fields_of)


def _fields(document: dict[str, Any]) -> dict[str, Any]:
    fields = dict(document)
    for name in _LABELS:
        if isinstance(labels := document.get(name), list):
            fields[name] = _labels(labels)
    for name in ("labels", "entities"):
        if "label" not in fields and name in fields:
            fields["label"] = fields[name]
    return fields


def _labels(labels: list[Any]) -> Any:
    """Return spans as regions, a single label unchanged, and several labels as a list."""
    if any(isinstance(each, list | dict) for each in labels):
        return [_span(each) for each in labels]
    return labels[0] if len(labels) == 1 else labels


def _span(span: Any) -> dict[str, Any]:
    if isinstance(span, dict) and {"start_offset", "end_offset", "label"} <= span.keys():
        start, end, label = (span[name] for name in ("start_offset", "end_offset", "label"))
    elif isinstance(span, list) and len(span) == 3:
        start, end, label = span
    else:
        raise ValueError("a span is [start, end, label], or has start_offset, end_offset and label")
    return {"start": start, "end": end, "labels": [label]}
