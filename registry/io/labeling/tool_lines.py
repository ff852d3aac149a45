"""Reading of the objects that labeling tools write, and selection of features from their fields.

A file has an object on each line, or one JSON array of objects.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.json_array import elements
from registry.io.files.jsonl import parse_object
from registry.io.files.lines import beginning, lines
from registry.io.labeling import answers
from registry.io.labeling.answers import Conversion
from registry.io.labeling.paths import split_path
from registry.io.row import (
    FieldMapping,
    FileRow,
    as_group,
    as_key,
    fingerprint,
    optional,
    value_at,
)
from registry.io.row_media import unnamed
from registry.samples.features import ClassLabel, Feature, Features, Ragged, Text
from registry.samples.json_codec import describe, excerpt, from_fields

FieldsOf = Callable[[dict[str, Any]], Mapping[str, Any] | None]
"""Converts a tool's object to fields, or returns None if it is no sample."""


class ToolObject(NamedTuple):
    """An object of a tool: the line where it begins, and its bytes, empty in an array.

    ``error`` is that of what is no object; ``parsed`` is empty then.
    """

    line: int
    parsed: dict[str, Any]
    raw: bytes
    error: ImportFileError | None = None


@dataclass(frozen=True)
class ToolFile:
    """A file of a tool's objects.

    Without ``key``, a key is made of ``key_parts``: the tool's name, then the names of properties,
    the last of which may be missing. Without ``group``, the default group of a sample is made of
    the first two parts: it is what was labeled, whoever labeled it.
    """

    path: Path
    features: Features
    key: str | None
    mapping: FieldMapping
    key_parts: Sequence[str]
    group: str | None = None

    def rows(
        self, fields_of: FieldsOf, *, skipped: frozenset[int] = frozenset()
    ) -> Iterator[FileRow]:
        """Yield the samples but those of ``skipped`` objects, which are counted from 0.

        Those that do not fit have their error.
        """
        for number, each in enumerate(objects(self.path)):
            row = None if number in skipped else self._row(each, fields_of)
            if row is not None:
                yield row

    def _row(self, each: ToolObject, fields_of: FieldsOf) -> FileRow | None:
        line, parsed, raw, problem = each
        row_key = group = default_group = feature = None
        if problem is None:
            try:
                fields = fields_of(parsed)
                # Before the key is made: a task that is no sample needs none.
                if fields is None:
                    return None
                row_key = self.key_of(parsed)
                if self.group is not None:
                    group = as_group(value_at(parsed, self.group), self.group)
                elif self.key_parts[1] in parsed:
                    default_group = self._of_parts(parsed, self.key_parts[:2])
                values = select_values(self.features, self.mapping, fields)
                raw = raw or fingerprint(values.values())
                return FileRow(line, values, row_key, raw, group=group, default_group=default_group)
            except InvalidSampleError as error:
                reason, feature = error.reason, error.feature
            except ValueError as error:
                reason = str(error)
            problem = ImportFileError(
                reason, file=str(self.path), line=line, key=row_key, feature=feature
            )
        return FileRow(line, parsed, row_key, raw, problem)

    def superseded(self) -> frozenset[int]:
        """Return the numbers of objects that a later one with the same key replaces.

        Objects without the properties of a key are left to `rows`. Memory: 8 bytes per object.
        """
        hashes = array("q", (hash(key) for _, key in self._keys()))
        values, counts = np.unique(np.asarray(hashes), return_counts=True)
        repeated = {*values[counts > 1].tolist()}
        if not repeated:
            return frozenset()
        last: dict[str, int] = {}
        older = set()
        for number, key in self._keys():
            # Keys are compared, too: two that differ may have one hash.
            if hash(key) in repeated:
                if key in last:
                    older.add(last[key])
                last[key] = number
        return frozenset(older)

    def key_of(self, parsed: Mapping[str, Any]) -> str:
        """Return an object's key; raises `ValueError`."""
        if self.key is not None:
            return as_key(value_at(parsed, self.key), self.key)
        *required, optional = self.key_parts
        # Left out rather than empty, so that keys of files without the property stay the same.
        has_optional = parsed.get(optional) is not None
        return self._of_parts(parsed, self.key_parts if has_optional else required)

    def _of_parts(self, parsed: Mapping[str, Any], parts: Sequence[str]) -> str:
        tool, *names = parts
        return ":".join([tool, *(as_key(value_at(parsed, name), name) for name in names)])

    def _keys(self) -> Iterator[tuple[int, str]]:
        for number, (_, parsed, _, _) in enumerate(objects(self.path)):
            try:
                key = self.key_of(parsed)
            except ValueError:
                continue
            yield number, key


def objects(path: Path) -> Iterator[ToolObject]:
    """Yield the objects of a file, of one on each line or of a JSON array."""
    if beginning(path, 1 << 10).lstrip()[:1] == b"[":
        for element in elements(path):
            if not isinstance(element.value, dict):
                reason = f"an element of the array is an object, not {describe(element.value)}"
                error = ImportFileError(reason, file=str(path), line=element.line)
                yield ToolObject(element.line, {}, b"", error)
                continue
            yield ToolObject(element.line, element.value, b"")
        return
    for number, line in lines(path):
        raw = line.rstrip(b"\r\n")
        if not raw or raw.isspace():
            continue
        try:
            parsed = parse_object(raw)
        except ValueError as problem:
            error = ImportFileError(str(problem), file=str(path), line=number)
            yield ToolObject(number, {}, raw, error)
            continue
        yield ToolObject(number, parsed, raw)


def select_values(
    features: Features, mapping: FieldMapping, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a value per feature, without `optional` ones that are no fields.

    Raises `InvalidSampleError` with the feature.

    The texts of images and bytes are left as they are. A path may end in a part, as in
    `registry.io.labeling.mapping`: ``.json``, ``.spans``, ``.classes[a,b]``.
    """
    values = {}
    may_lack = optional(features, mapping) - fields.keys()
    for name, feature in features.items():
        if name in may_lack:
            continue
        try:
            values[name] = _value(feature, fields, mapping.get(name, name))
        except ValueError as error:
            raise InvalidSampleError(str(error), feature=name) from None
    return from_fields(unnamed(features), values)


def _value(feature: Feature, fields: Mapping[str, Any], path: str) -> Any:
    inner_path, part, classes = split_path(path)
    # A property whose whole name is the path takes precedence, even if it ends like a part.
    if part is not None and path not in fields:
        value = value_at(fields, inner_path)
        given = value if isinstance(value, list) else [value]
        if part == "spans":
            return _spans(feature, given, fields)
        return answers.CONVERSIONS[part](given, Conversion(classes, feature))
    value = value_at(fields, path)
    return _of_list(feature, value, fields) if isinstance(value, list) else value


def _of_list(feature: Feature, value: list[Any], fields: Mapping[str, Any]) -> Any:
    # An empty list counts as regions: a document without spans makes an empty array.
    if isinstance(feature, Ragged) and all(isinstance(each, Mapping) for each in value):
        return _spans(feature, value, fields)
    if isinstance(feature, Text):
        return answers.CONVERSIONS["json"](value, Conversion())
    if isinstance(feature, ClassLabel):
        return answers.one(value)
    return value


def _spans(feature: Feature, regions: Sequence[Any], fields: Mapping[str, Any]) -> list[Any]:
    """Return the starts and ends of regions; raises `ValueError` for one behind the text."""
    spans: list[Any] = answers.CONVERSIONS["spans"](regions, Conversion(feature=feature))
    text = fields.get("text")
    ends = [region["end"] for region in regions]
    if isinstance(text, str) and max(ends, default=0) > len(text):
        reason = f"a span ends at {max(ends)}, and the text has {len(text)} characters"
        raise ValueError(f"{reason}: {excerpt(text)}")
    return spans
