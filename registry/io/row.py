"""The rows that importers yield, and helpers that find fields in them.

A helper that cannot find a field raises `ValueError` with the reason. The importer turns it into
an `ImportFileError` with the file and the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from registry.samples.features import Features
from registry.samples.json_codec import shown


class Row(NamedTuple):
    """One sample of a file.

    ``line`` is the line where it begins, from 1, or the number of the row or record in a file
    without lines. ``raw`` holds the sample's bytes in the file, without the line end: systems
    differ in line ends. A sample without a ``key`` gets one that is made from ``raw``.
    """

    line: int
    values: dict[str, Any]
    key: str | None
    raw: bytes


Mapped = Mapping[str, str]
"""The place of each feature's values: a column, or a path such as ``data.items.0.text``."""
Reader = Callable[[Path, Features, str | None, Mapped], Iterator[Row]]
"""Yields a file's rows, given its path, the features, the place of the key, and a mapping.

A feature that is not mapped is found under its own name. Without a mapping, a file with fields
that are not features is refused; with one, these fields are ignored.
"""


def pick(found: Any, path: str) -> Any:
    """Return the value at a path: names of properties and indexes of lists, separated by dots.

    Raises `ValueError` with the first step that is missing.
    """
    # Names may contain dots: a property that has the whole path as its name takes precedence.
    if isinstance(found, dict) and path in found:
        return found[path]
    for step in path.split("."):
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            way = "" if step == path else f" on the way to {shown(path)}"
            raise ValueError(f"there is no {shown(step)}{way}")
    return found


def as_key(found: Any, path: str) -> str:
    """Return a value, text or a whole number, as a key; raises `ValueError` for another."""
    if isinstance(found, np.generic):
        found = found.item()
    # In Python, bool is a subclass of int: True would become the key 'True'.
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"the key in {path!r} is neither text nor a whole number")  # noqa: TRY004
    return str(found)


def columns(
    present: Iterable[str], features: Features, key: str | None, mapped: Mapped
) -> dict[str, str]:
    """Return the column of each feature, by the feature's name.

    Raises `ValueError` for columns that are missing or there twice and, without a mapping, for
    columns that are no feature.
    """
    listed = list(present)
    found = {name: mapped.get(name, name) for name in features}
    wanted = list(dict.fromkeys([*found.values(), *([key] if key is not None else [])]))
    said = [f"missing {name!r}" for name in wanted if name not in listed]
    if not mapped:
        said += [f"unknown {name!r}" for name in listed if name not in wanted]
    said += [f"{name!r} twice" for name in dict.fromkeys(listed) if listed.count(name) > 1]
    if said:
        names = ", ".join(map(repr, features))
        raise ValueError(f"header: {', '.join(said)}; the features are {names}")
    return found


def fingerprint(values: Iterable[Any]) -> bytes:
    """Return bytes that differ if the values do, as `Row.raw` of formats without lines."""
    parts = [_bytes(value) for value in values]
    # The lengths keep ('ab', 'c') and ('a', 'bc') apart.
    return b"".join([*(len(part).to_bytes(8, "little") for part in parts), *parts])


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tobytes()
    # The codec refuses lone surrogates later, with the feature's name; here they must not raise.
    return str(value).encode(errors="surrogatepass")
