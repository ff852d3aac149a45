"""JSON Lines: one object a line, a property per feature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from registry.errors import ImportFileError
from registry.features import Bytes, Features, Image
from registry.importers.text import Row, decode, from_base64, from_json, lines


def read(path: Path, features: Features, key: str | None) -> Iterator[Row]:
    """Yield the file's samples; ``key`` names the property that holds their keys.

    Arrays are nested lists, classes are names or indexes, bytes and images are base64 text.
    """
    binary = [name for name, feature in features.items() if isinstance(feature, Bytes | Image)]
    for number, line in lines(path):
        raw = line.rstrip(b"\r\n")
        if not raw.strip():
            continue
        try:
            values = _object(raw)
            named = _take_key(values, key, keep=key in features) if key is not None else None
        except ValueError as error:
            raise ImportFileError(str(error), file=str(path), line=number) from None
        for name in binary:
            try:
                if name in values:
                    values[name] = from_base64(values[name])
            except ValueError as error:
                raise ImportFileError(
                    str(error), file=str(path), line=number, key=named, feature=name
                ) from None
        yield Row(number, values, named, raw)


def _object(raw: bytes) -> dict[str, Any]:
    found = from_json(decode(raw))
    if not isinstance(found, dict):
        raise ValueError("not a JSON object; each line holds one whole object")  # noqa: TRY004
    return found


def _take_key(values: dict[str, Any], name: str, *, keep: bool) -> str:
    if name not in values:
        raise ValueError(f"there is no {name!r} to take the key from")
    found = values[name] if keep else values.pop(name)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"the key in {name!r} is neither text nor a whole number")  # noqa: TRY004
    return str(found)
