"""Reading of JSON Lines that labeling tools write, and selection of features from their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.jsonl import parse_object
from registry.io.files.lines import lines
from registry.io.labeling import answers
from registry.io.labeling.media import load
from registry.io.labeling.paths import parts
from registry.io.row import FieldMapping, FileRow, as_key, value_at
from registry.samples.features import Bytes, Feature, Features, Image, Ragged, Text
from registry.samples.json_codec import from_fields

Tool = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Converts a tool's object to fields, or returns None if it is no sample."""


def samples(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    tool: Tool,
    keys: Sequence[str],
) -> Iterator[FileRow]:
    """Yield the samples of a file that has an object of a tool on each line.

    Without ``key``, a key is made of ``keys``: the tool's name, then the names of properties, the
    last of which may be missing. Raises `ImportFileError` with the line.
    """
    for number, line in lines(path):
        raw = line.rstrip(b"\r\n")
        if not raw or raw.isspace():
            continue
        try:
            found = parse_object(raw)
            fields = tool(found)
            if fields is None:
                continue
            named = _made(found, keys) if key is None else as_key(value_at(found, key), key)
            values = choose(features, mapping, fields, path.parent)
        except InvalidSampleError as error:
            raise ImportFileError(
                error.reason, file=str(path), line=number, feature=error.feature
            ) from None
        except ValueError as error:
            raise ImportFileError(str(error), file=str(path), line=number) from None
        yield FileRow(number, values, named, raw)


def choose(
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
    place, part, classes = parts(path)
    # A property whose whole name is the path takes precedence, even if it ends like a part.
    if part is None or path in fields:
        found = value_at(fields, path)
        if isinstance(found, str) and isinstance(feature, Image | Bytes):
            return load(found, [folder])
        regions = isinstance(found, list) and all(isinstance(each, Mapping) for each in found)
        if isinstance(feature, Ragged) and regions:
            return answers.READ["spans"](found, ())
        if isinstance(feature, Text) and isinstance(found, list):
            return answers.READ["json"](found, ())
        return found
    found = value_at(fields, place)
    return answers.READ[part](found if isinstance(found, list) else [found], classes)


def _made(found: Mapping[str, Any], keys: Sequence[str]) -> str:
    tool, *needed, optional = keys
    named = [as_key(value_at(found, each), each) for each in needed]
    if found.get(optional) is not None:
        named.append(as_key(found[optional], optional))
    return ":".join([tool, *named])
