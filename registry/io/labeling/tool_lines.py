"""Reading of JSON Lines that labeling tools write, and selection of features from their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.jsonl import parse_object
from registry.io.files.lines import lines
from registry.io.labeling import answers
from registry.io.labeling.answers import Conversion
from registry.io.labeling.media import load
from registry.io.labeling.paths import split_path
from registry.io.row import FieldMapping, FileRow, as_key, value_at
from registry.samples.features import Bytes, Feature, Features, Image, Ragged, Text
from registry.samples.json_codec import from_fields

FieldsOf = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Converts a tool's object to fields, or returns None if it is no sample."""


def read_lines(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    fields_of: FieldsOf,
    key_parts: Sequence[str],
) -> Iterator[FileRow]:
    """Yield the samples of a file that has an object of a tool on each line.

    Without ``key``, a key is made of ``key_parts``: the tool's name, then the names of properties,
    the last of which may be missing. Raises `ImportFileError` with the line.
    """
    for number, line in lines(path):
        raw = line.rstrip(b"\r\n")
        if not raw or raw.isspace():
            continue
        try:
            parsed = parse_object(raw)
            fields = fields_of(parsed)
            # Before the key is made: a task that is no sample needs none.
            if fields is None:
                continue
            row_key = (
                _joined_key(parsed, key_parts)
                if key is None
                else as_key(value_at(parsed, key), key)
            )
            values = select_values(features, mapping, fields, path.parent)
        except InvalidSampleError as error:
            raise ImportFileError(
                error.reason, file=str(path), line=number, feature=error.feature
            ) from None
        except ValueError as error:
            raise ImportFileError(str(error), file=str(path), line=number) from None
        yield FileRow(number, values, row_key, raw)


def select_values(
    features: Features, mapping: FieldMapping, fields: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return a value per feature; raises `InvalidSampleError` with the feature.

    If the field of an image or bytes feature names a file, it is read from below ``folder``. A
    path may end in a part, as in `registry.io.labeling.mapping`: ``.json``, ``.spans``,
    ``.classes[a,b]``.
    """
    values = {}
    for name, feature in features.items():
        try:
            values[name] = _value(feature, fields, mapping.get(name, name), folder)
        except ValueError as error:
            raise InvalidSampleError(str(error), feature=name) from None
    return from_fields(features, values)


def _value(feature: Feature, fields: Mapping[str, Any], path: str, folder: Path) -> Any:
    inner_path, part, classes = split_path(path)
    # A property whose whole name is the path takes precedence, even if it ends like a part.
    if part is not None and path not in fields:
        value = value_at(fields, inner_path)
        given = value if isinstance(value, list) else [value]
        return answers.CONVERSIONS[part](given, Conversion(classes, feature))
    value = value_at(fields, path)
    if isinstance(value, str) and isinstance(feature, Image | Bytes):
        return load(value, [folder])
    # An empty list counts as regions: a document without spans makes an empty array.
    has_regions = isinstance(value, list) and all(isinstance(each, Mapping) for each in value)
    if isinstance(feature, Ragged) and has_regions:
        return answers.CONVERSIONS["spans"](value, Conversion())
    if isinstance(feature, Text) and isinstance(value, list):
        return answers.CONVERSIONS["json"](value, Conversion())
    return value


def _joined_key(parsed: Mapping[str, Any], key_parts: Sequence[str]) -> str:
    tool, *required, optional = key_parts
    parts = [as_key(value_at(parsed, name), name) for name in required]
    # Left out rather than empty, so that keys of files without the property stay the same.
    if parsed.get(optional) is not None:
        parts.append(as_key(parsed[optional], optional))
    return ":".join([tool, *parts])
