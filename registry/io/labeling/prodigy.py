"""Prodigy's JSONL, as `prodigy db-out` writes it: one answered task a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.io.labeling.tool_lines import ToolFile
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features
from registry.samples.json_codec import describe, excerpt

_KEY_PARTS = ("prodigy", "_input_hash", "_task_hash", "_annotator_id")


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the accepted tasks, with the keys ``prodigy:INPUT:TASK`` and, if given, the annotator.

    A task that is in the file several times was answered again: its last line counts. A rejected
    task is also a sample if a feature takes ``answer``; an ignored one never is. ``label`` is the
    label or the only option that was chosen, ``spans`` makes a `Ragged` feature of starts and ends,
    and ``spans.classes[a,b]`` one of their labels. A task without ``spans`` has none. All tasks of
    an input are in the group ``prodigy:INPUT``, unless ``group`` is the path of another.
    """
    paths = {mapping.get(name, name) for name in features}
    # Without ``answer``, nothing would distinguish a rejected task from an accepted one.
    accepted = ("accept", "reject") if "answer" in paths else ("accept",)

    def fields_of(task: dict[str, Any]) -> dict[str, Any] | None:
        answer = task.get("answer", "accept")
        if answer not in ("accept", "reject", "ignore"):
            value = excerpt(answer) if isinstance(answer, str) else type(answer).__name__
            raise ValueError(f"'answer' is accept, reject or ignore, not {value}")
        return _fields(task) if answer in accepted else None

    file = ToolFile(path, features, key, mapping, _KEY_PARTS, group)
    return file.rows(fields_of, skipped=file.superseded())


def _fields(task: dict[str, Any]) -> dict[str, Any]:
    # Prodigy leaves ``spans`` out of a task in which nothing was marked.
    fields = {"answer": "accept", "spans": [], **task}
    options = task.get("accept")
    # The task's own label takes precedence over the option that was chosen.
    if isinstance(options, list) and "label" not in task and len(options) == 1:
        fields["label"] = options[0]
    spans = fields["spans"]
    if spans is None:
        fields["spans"] = []
    elif isinstance(spans, list):
        fields["spans"] = [_span(each) for each in spans]
    return fields


def _span(span: Any) -> Any:
    if not isinstance(span, dict):
        raise ValueError(f"a span is an object, not {describe(span)}")  # noqa: TRY004
    # As a region of Label Studio has its labels, so that both are converted alike.
    others = {name: value for name, value in span.items() if name != "label"}
    return {**others, "labels": [span.get("label")]}
