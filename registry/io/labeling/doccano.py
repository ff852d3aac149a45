"""doccano's JSONL: one document a line, with its labels or its labeled spans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.io.labeling.tool_lines import samples
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features

_KEY = ("doccano", "id", "")


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
    return samples(path, features, key, mapping, _fields, _KEY)


def _fields(found: dict[str, Any]) -> dict[str, Any]:
    fields = dict(found)
    for name in ("label", "labels", "entities"):
        if isinstance(given := found.get(name), list):
            fields[name] = _labels(given)
    for name in ("labels", "entities"):
        if "label" not in fields and name in fields:
            fields["label"] = fields[name]
    return fields


def _labels(given: list[Any]) -> Any:
    """Return spans as regions, a single label unchanged, and several labels as one answer."""
    # An empty list may stand for no spans or for no label: it is read as no spans.
    if any(isinstance(each, list | dict) for each in given) or not given:
        return [_span(each) for each in given]
    return given[0] if len(given) == 1 else [{"choices": given}]


def _span(given: Any) -> dict[str, Any]:
    if isinstance(given, dict) and {"start_offset", "end_offset", "label"} <= given.keys():
        start, end, label = (given[name] for name in ("start_offset", "end_offset", "label"))
    elif isinstance(given, list) and len(given) == 3:
        start, end, label = given
    else:
        raise ValueError("a span is [start, end, label], or has start_offset, end_offset and label")
    return {"start": start, "end": end, "labels": [label]}
