"""Prodigy's JSONL, as `prodigy db-out` writes it: one answered task a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.io.labeling.tool_lines import samples
from registry.io.row import FieldMapping, FileRow
from registry.samples.features import Features
from registry.samples.json_codec import shown

_KEY = ("prodigy", "_input_hash", "_task_hash", "_annotator_id")


def read(
    path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    """Yield the accepted tasks, with the keys ``prodigy:INPUT:TASK`` and, if given, the annotator.

    A rejected task is also a sample if a feature takes ``answer``; an ignored one never is.
    ``label`` is the label or the only option that was chosen, ``spans`` makes a `Ragged` feature
    of starts and ends, and ``spans.classes[a,b]`` one of their labels.
    """
    wanted = {mapping.get(name, name) for name in features}
    # Without ``answer``, nothing would distinguish a rejected task from an accepted one.
    taken = ("accept", "reject") if "answer" in wanted else ("accept",)

    def tool(found: dict[str, Any]) -> dict[str, Any] | None:
        answer = found.get("answer", "accept")
        if answer not in ("accept", "reject", "ignore"):
            said = shown(answer) if isinstance(answer, str) else type(answer).__name__
            raise ValueError(f"'answer' is accept, reject or ignore, not {said}")
        return _fields(found) if answer in taken else None

    return samples(path, features, key, mapping, tool, _KEY)


def _fields(found: dict[str, Any]) -> dict[str, Any]:
    fields = {"answer": "accept", **found}
    chosen = found.get("accept")
    if isinstance(chosen, list):
        fields["accept"] = [{"choices": chosen}] if chosen else []
        # The task's own label takes precedence over the option that was chosen.
        if "label" not in found and len(chosen) == 1:
            fields["label"] = chosen[0]
    spans = found.get("spans")
    if isinstance(spans, list):
        fields["spans"] = [_span(each) for each in spans]
    return fields


def _span(span: Any) -> Any:
    if not isinstance(span, dict):
        raise ValueError(f"a span is an object, not a {type(span).__name__}")  # noqa: TRY004
    return {**{k: v for k, v in span.items() if k != "label"}, "labels": [span.get("label")]}
