"""doccano's JSONL: one document a line, with its labels or its labeled spans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.io.labeling.tool_lines import read_lines
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features

_KEY_PARTS = ("doccano", "id", "")


def read(
    path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    """Yield the documents, with the keys ``doccano:ID``.

    ``label`` is a document's only label, and ``label.json`` all its labels. For spans, including
    those under ``labels`` and ``entities``, ``label`` makes a `Ragged` feature of starts and ends,
    and ``label.classes[a,b]`` one of their labels.

    If annotators label the same documents, each annotator has a file, with the same ids: import
    one of the files, or give each document its own key.
    """
    return read_lines(path, features, key, mapping, _fields, _KEY_PARTS)


def _fields(document: dict[str, Any]) -> dict[str, Any]:
    fields = dict(document)
    for name in ("label", "labels", "entities"):
        if isinstance(labels := document.get(name), list):
            fields[name] = _labels(labels)
    for name in ("labels", "entities"):
        if "label" not in fields and name in fields:
            fields["label"] = fields[name]
    return fields


def _labels(labels: list[Any]) -> Any:
    """Return spans as regions, a single label unchanged, and several labels as one answer."""
    # An empty list may stand for no spans or for no label: it is read as no spans.
    if any(isinstance(each, list | dict) for each in labels) or not labels:
        return [_span(each) for each in labels]
    return labels[0] if len(labels) == 1 else [{"choices": labels}]


def _span(span: Any) -> dict[str, Any]:
    if isinstance(span, dict) and {"start_offset", "end_offset", "label"} <= span.keys():
        start, end, label = (span[name] for name in ("start_offset", "end_offset", "label"))
    elif isinstance(span, list) and len(span) == 3:
        start, end, label = span
    else:
        raise ValueError("a span is [start, end, label], or has start_offset, end_offset and label")
    return {"start": start, "end": end, "labels": [label]}
