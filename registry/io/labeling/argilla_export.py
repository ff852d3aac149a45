"""Argilla's exports: the JSON array that ``dataset.records.to_json`` of its SDK writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.errors import FeatureError, ImportFileError, InvalidSampleError
from registry.io.files.json_array import elements
from registry.io.labeling.annotation import Annotation, AnnotationId
from registry.io.labeling.argilla import TOOL, answers_of, check_mapping
from registry.io.labeling.mapping import values_of
from registry.io.row import FieldMapping, FileRow, fingerprint
from registry.samples.features import Features
from registry.samples.json_codec import describe


def read(
    path: Path, features: Features, key: str | None, mapping: FieldMapping
) -> Iterator[FileRow]:
    """Yield a sample per record and user, with the key ``argilla:RECORD:USER``, two UUIDs.

    Paths are those of events (`registry.io.labeling.argilla`), but for the response's id and the
    user's name, which an export lacks. It does not say either whether a response is a draft.
    Records without responses are no samples. Raises `ImportFileError` with the line.
    """
    if key is not None:
        raise ImportFileError("records and users make the keys; leave --key out", file=str(path))
    try:
        rules = check_mapping(features, mapping)
    except FeatureError as error:
        raise ImportFileError(str(error), file=str(path)) from None
    for element in elements(path):
        try:
            for annotation in _annotations(element.value):
                values = values_of(features, rules, annotation, None)
                if values is not None:
                    raw = fingerprint(values.values())
                    task = annotation.task
                    yield FileRow(element.line, values, annotation.id.key, raw, default_group=task)
        except InvalidSampleError as error:
            problem = ImportFileError(
                error.reason, file=str(path), line=element.line, feature=error.feature
            )
            yield FileRow(element.line, {}, None, b"", problem)


def _annotations(element: Any) -> Iterator[Annotation]:
    """Yield an annotation for each user that has answered a question of a record."""
    record = _object(element, "a record")
    number = record.get("_server_id") or record.get("id")
    if not isinstance(number, str):
        raise InvalidSampleError(f"a record's id is text, not {describe(number)}")
    responses = _object(record.get("responses") or {}, f"record {number}: 'responses'")
    answers: dict[str, dict[str, list[Any]]] = {}
    for question, given in responses.items():
        if not isinstance(given, list):
            raise InvalidSampleError(f"record {number}: the responses to {question!r} are no list")
        for each in given:
            response = _object(each, f"record {number}: a response to {question!r}")
            user = response.get("user_id")
            if not isinstance(user, str):
                raise InvalidSampleError(f"record {number}: a response has no 'user_id'")
            if response.get("value") is not None:
                answers.setdefault(user, {})[question] = answers_of(response["value"])
    for user, answered in answers.items():
        yield _annotation(record, number, user, answered)


def _annotation(
    record: Mapping[str, Any], number: str, user: str, answers: Mapping[str, list[Any]]
) -> Annotation:
    label = f"record {number}, user {user}"
    fields, metadata = (
        _object(record.get(name) or {}, f"record {number}: {name!r}")
        for name in ("fields", "metadata")
    )
    return Annotation(
        AnnotationId(TOOL, number, user),
        label,
        None,
        answers=answers,
        objects={
            "fields": fields,
            "metadata": metadata,
            "record": {"id": number, "external_id": record.get("id")},
            "response": {"user": user},
        },
        task=f"{TOOL}:{number}",
    )


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidSampleError(f"{what} is an object, not {describe(value)}")
    return value
