"""doccano's JSONL: one document a line, with its labels or its labelled spans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.io.labeling.tool_lines import samples
from registry.io.row import Mapped, Row
from registry.samples.features import Features

_KEY = ("doccano", "id", "")


def read(path: Path, features: Features, key: str | None, mapped: Mapped) -> Iterator[Row]:
    """Yield the documents, as ``doccano:ID``.

    ``label`` is the one label of a document, and ``label.json`` all of them. Of spans, also those
    under ``labels`` and ``entities``, ``label`` makes a `Ragged` feature of starts and ends, and
    ``label.classes[a,b]`` one of their labels. Annotators who label the same documents come in one
    file each, with the same ids: import one of them, or give each document a key of its own.
    """
    return samples(path, features, key, mapped, _fields, _KEY)


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
    """Return spans as regions, one label as itself, and several as an answer of several."""
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
