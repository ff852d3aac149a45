"""JSON Lines: one object a line, a property per feature; and the same objects in a JSON array.

Samples are written as `registry.samples.json_codec` writes them.

Lines are parsed by orjson in blocks of a few kilobytes, which is several times as fast as the
strict parser. orjson accepts some things that the strict parser refuses or reads differently, so a
block is used only if checks on its bytes show that both agree. Any other block is read again, line
by line, by the strict parser, which reports the error with its line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from operator import methodcaller
from pathlib import Path
from typing import Any

import orjson

from registry.catalog.live_samples import Samples
from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.json_array import elements
from registry.io.files.lines import decode, lines
from registry.io.row import FieldMapping, FileRow, as_group, as_key, optional, value_at
from registry.io.row_media import unnamed
from registry.samples.features import ClassLabel, Features, Text
from registry.samples.json_codec import describe, from_fields, parse_json, to_fields

# A translation table that turns each ASCII digit into "0", so that `_LONG` finds a run of digits.
_ZEROS = bytes(ord("0") if chr(code).isdecimal() and code < 128 else code for code in range(256))
# The fewest digits of a whole number that 64 bits may not hold.
_LONG = b"0" * 19
# The digits after the point of an ordinary float, which are no part of a whole number.
_FRACTION = b"." + b"0" * 16
_begins = methodcaller("startswith", b"{")
_BLOCK_BYTES = 1 << 12
"""Bytes of lines that are parsed together: few enough to stay in the processor's cache."""


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the file's samples.

    ``key`` and ``group`` are the paths of the properties that hold their keys and groups; a null is
    no group. Arrays are nested lists or base64, classes are names or indexes, bytes and images are
    texts that `with_media` loads. Rows that cannot be read have their error, with the
    line.
    """
    selector = _Selector(path, features, key, mapping, group)
    for numbers, raws in _blocks(path):
        objects = parse_block(raws)
        rows = selector.rows(numbers, objects, raws) if objects else None
        yield from rows or map(selector.row, numbers, raws, objects or repeat(None))


def read_array(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the samples of a file that is one JSON array, with the number of each from 1.

    Raises `ImportFileError` with the number or, for text that is not JSON, the line.
    """
    selector = _Selector(path, features, key, mapping, group, unit="element")
    for number, element in enumerate(elements(path), start=1):
        if not isinstance(element.value, dict):
            reason = f"not a JSON object but {describe(element.value)}"
            error = ImportFileError(reason, file=str(path), line=number, unit="element")
            yield FileRow(number, {}, None, b"", error)
            continue
        # Not the bytes of the file, which differ if the same array is formatted in another way.
        raw = json.dumps(element.value, sort_keys=True).encode()
        yield selector.row(number, raw, element.value)


@contextmanager
def writer(
    path: Path, features: Features, key: str, group: str | None = None
) -> Iterator[Callable[[Samples], None]]:
    """Write an object a line, in UTF-8: the key, the group if it has a name, then the features."""
    # Without ``newline``, Windows would write "\r\n".
    with path.open("x", encoding="utf-8", newline="\n") as file:

        def write(samples: Samples) -> None:
            for row, row_key in enumerate(samples.keys):
                sample = {name: column[row] for name, column in samples.columns.items()}
                named = {} if group is None else {group: samples.groups[row]}
                fields = {key: row_key, **named, **to_fields(features, sample)}
                file.write(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")

        yield write


class _Selector:
    """Selects the values and the key of each line."""

    def __init__(
        self,
        path: Path,
        features: Features,
        key: str | None,
        mapping: FieldMapping,
        group: str | None,
        unit: str = "line",
    ) -> None:
        self._path = str(path)
        self._unit = unit
        self._key = key
        self._group = group
        self._choose = _chooser(features, mapping) if mapping else None
        # Without a mapping, properties that are no features are refused: the key and the group are
        # taken out.
        self._removed = [
            name
            for name in dict.fromkeys((key, group))
            if name is not None and name not in features and not mapping
        ]
        # The texts of images and bytes are left as they are: `with_media` loads them.
        self._features = unnamed(features)
        # Features of which a text is base64, and has to be decoded.
        self._encoded = [
            n for n, f in self._features.items() if not isinstance(f, ClassLabel | Text)
        ]

    def rows(
        self, numbers: Sequence[int], objects: Sequence[dict[str, Any]], raws: Sequence[bytes]
    ) -> Iterable[FileRow] | None:
        """Return the samples of objects whose values need no conversion.

        Returns None, with the objects unchanged, if each has to be read by `row`. A check of many
        objects at once costs a fraction of one check for each.
        """
        if self._choose is not None or any(
            str in {*map(type, [each.get(name) for each in objects])} for name in self._encoded
        ):
            return None
        keys = groups = [None] * len(objects)
        if self._key is not None:
            keys = [each.get(self._key) for each in objects]
            if {*map(type, keys)} != {str}:
                return None
        if self._group is not None:
            # An object without the property has to be refused: it is not one without a group.
            groups = [each.get(self._group, ...) for each in objects]
            if not {*map(type, groups)} <= {str, type(None)}:
                return None
        for name in self._removed:
            for each in objects:
                del each[name]
        return map(FileRow, numbers, objects, keys, raws, repeat(None), groups)

    def row(self, number: int, raw: bytes, parsed: dict[str, Any] | None) -> FileRow:
        """Return a line's sample; ``parsed`` is its object, or None if it is not parsed yet."""
        key, group, fields = None, None, parsed or {}
        try:
            fields = parse_object(raw) if parsed is None else parsed
            if self._key is not None:
                key = as_key(value_at(fields, self._key), self._key)
            if self._group is not None:
                group = as_group(value_at(fields, self._group), self._group)
            for name in self._removed:
                # A path into an inner object leaves nothing to remove.
                fields.pop(name, None)
            chosen = fields if self._choose is None else self._choose(fields)
            return FileRow(number, from_fields(self._features, chosen), key, raw, group=group)
        except ValueError as error:
            return FileRow(number, fields, key, raw, self._error(str(error), number, key, None))
        except InvalidSampleError as error:
            problem = self._error(error.reason, number, key, error.feature)
            return FileRow(number, fields, key, raw, problem)

    def _error(
        self, reason: str, number: int, key: str | None, feature: str | None
    ) -> ImportFileError:
        return ImportFileError(
            reason, file=self._path, line=number, key=key, feature=feature, unit=self._unit
        )


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object as strictly as `parse_json`; raises `ValueError` with the reason."""
    (parsed,) = parse_block([raw]) or [parse_json(decode(raw))]
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object; each line holds one whole object")  # noqa: TRY004
    return parsed


def parse_block(raws: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Parse lines of one object each, several times as fast as `parse_json`.

    Returns None if `parse_json` might refuse one of them, or read it differently.
    """
    joined = b"[%b]" % b",".join(raws)
    try:
        objects: list[Any] = orjson.loads(joined)
    except orjson.JSONDecodeError:
        return None
    # The lines were joined by commas, so a malformed line might combine with the next to valid
    # JSON. Each line begins with its only brace, and there are as many objects as lines: so each
    # object ends within its line.
    # orjson keeps the last of two properties with one name. There are as many properties as
    # colons: so no name is there twice. A brace or colon within text only makes the check fail.
    # orjson turns whole numbers that exceed 64 bits into floats: so long numbers are refused.
    agree = (
        joined.count(b"{") == len(raws) == len(objects)
        and all(map(_begins, raws))
        and {*map(type, objects)} == {dict}
        and joined.count(b":") == sum(map(len, objects))
        and _LONG not in joined.translate(_ZEROS).replace(_FRACTION, b"")
    )
    return objects if agree else None


def _blocks(path: Path) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield the numbers and bytes, without line ends, of lines that are not blank, in blocks."""
    numbers: list[int] = []
    raws: list[bytes] = []
    size = 0
    for number, line in lines(path):
        raw = line.rstrip(b"\r\n")
        if not raw or raw.isspace():
            continue
        numbers.append(number)
        raws.append(raw)
        size += len(raw)
        if size > _BLOCK_BYTES:
            yield numbers, raws
            numbers, raws, size = [], [], 0
    if raws:
        yield numbers, raws


def _chooser(
    features: Features, mapping: FieldMapping
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    paths = {name: mapping.get(name, name) for name in features}
    may_lack = optional(features, mapping)

    def choose(fields: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for name, path in paths.items():
            try:
                values[name] = value_at(fields, path)
            except ValueError as error:
                if name in may_lack:
                    continue
                raise InvalidSampleError(str(error), feature=name) from None
        return values

    return choose
