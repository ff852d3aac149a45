"""The rows that readers of files yield, and helpers that select fields from them.

A helper that cannot find a field raises `ValueError` with the reason. The reader turns it into an
`ImportFileError` with the file and the line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from registry.errors import ImportFileError
from registry.samples.features import Feature, Features
from registry.samples.json_codec import excerpt


class FileRow(NamedTuple):
    """One sample of a file.

    ``line`` is the line where it begins, from 1, or the number of the row or record in a file
    without lines. ``raw`` holds the sample's bytes in the file, without the line end: systems
    differ in line ends. A sample without a ``key`` gets one that is made from ``raw``.

    ``error`` says why it cannot be read; ``values`` then has what can be read of it. A reader
    yields such a row, instead of raising the error, where it can read the rows after it.

    ``group`` is the sample's group if the file names one, and ``default_group`` that of a new key
    for which the file names none, such as the task of a labeling tool.
    """

    line: int
    values: dict[str, Any]
    key: str | None
    raw: bytes
    error: ImportFileError | None = None
    group: str | None = None
    default_group: str | None = None


def line_key(name: str, line: int, raw: bytes) -> str:
    """Return the key of a sample that has none, in a file of this name."""
    # Without the line, equal rows would share a key. Without the hash, a row that was edited would
    # overwrite the sample that the earlier import made of it.
    return f"{name}:{line}:{hashlib.blake2b(raw, digest_size=4).hexdigest()}"


class GivenFeatures(Features):
    """The features that a file or an event has values of; those of ``optional`` may be missing."""

    def __init__(self, features: Mapping[str, Feature], optional: Iterable[str]) -> None:
        super().__init__(features)
        self.optional: frozenset[str] = frozenset(optional)


def optional(features: Features, mapping: FieldMapping) -> frozenset[str]:
    """Return the features that have a default and are not mapped: a file may lack them."""
    # One that is mapped must be there: a misspelled path would store the default everywhere.
    given = features.optional if isinstance(features, GivenFeatures) else frozenset()
    return given - mapping.keys()


FieldMapping = Mapping[str, str]
"""The path of each feature's values: a column, or a path such as ``data.items.0.text``."""
Reader = Callable[[Path, Features, str | None, FieldMapping], Iterator[FileRow]]
"""Yields a file's rows, given its path, the features, the path of the key, and a mapping.

A feature that is not mapped is read from the field of the same name, and left out if it is
`optional` and there is no such field. Without a mapping, a file with fields that are not features
is rejected; with one, these fields are ignored.
"""


def value_at(parsed: Any, path: str) -> Any:
    """Return the value at a path: names of properties and indexes of lists, separated by dots.

    Raises `ValueError` with the first step that is missing.
    """
    # Names may contain dots: a property that has the whole path as its name takes precedence.
    if isinstance(parsed, dict) and path in parsed:
        return parsed[path]
    value = parsed
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        # `isdecimal` refuses "-1", which would count from the end of the list.
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            way = "" if step == path else f" on the way to {excerpt(path)}"
            raise ValueError(f"there is no {excerpt(step)}{way}")
    return value


def as_key(value: Any, path: str, what: str = "key") -> str:
    """Return a value, text or a whole number, as a key; raises `ValueError` for another."""
    if isinstance(value, np.generic):
        value = value.item()
    # In Python, bool is a subclass of int: True would become the key 'True'.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"the {what} in {path!r} is neither text nor a whole number")  # noqa: TRY004
    return str(value)


def as_group(value: Any, path: str) -> str | None:
    """Return a value as a group, None for none; raises `ValueError` as `as_key` does."""
    return None if value is None else as_key(value, path, "group")


def export_hint(unknown: Iterable[object], features: Features) -> str:
    """Return how to read the keys and groups of an own export, "" if nothing is named so."""
    names = {*unknown}
    options = [
        f"--{name} {name}" for name in ("key", "group") if name in names and name not in features
    ]
    return f"; the columns of an own export are read by {' '.join(options)}" if options else ""


def columns_of(
    header: Iterable[str],
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> dict[str, str]:
    """Return the column of each feature, by the feature's name, without `optional` ones it lacks.

    Raises `ValueError` for columns that are missing or there twice and, without a mapping, for
    columns that are no feature.
    """
    # Of two columns with one name, most libraries return one silently: both are refused.
    names = list(header)
    may_lack = optional(features, mapping) - {*names}
    columns = {name: mapping.get(name, name) for name in features if name not in may_lack}
    others = [name for name in (key, group) if name is not None]
    needed = list(dict.fromkeys([*columns.values(), *others]))
    problems = [f"missing {name!r}" for name in needed if name not in names]
    problems += [] if columns else ["no feature"]
    if not mapping:
        problems += [f"unknown {name!r}" for name in names if name not in needed]
    problems += [f"{name!r} twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        known = ", ".join(map(repr, features))
        unknown = [] if mapping else [name for name in names if name not in needed]
        hint = export_hint(unknown, features)
        raise ValueError(f"header: {', '.join(problems)}; the features are {known}{hint}")
    return columns


def encodable_name(path: Path) -> str:
    """Return the file's name as text that can be encoded.

    On POSIX a name may hold bytes that are not UTF-8. Python represents them as surrogates, which
    no database stores; they are replaced here.
    """
    return (path.name or path.resolve().name).encode(errors="replace").decode()


def fingerprint(values: Iterable[Any]) -> bytes:
    """Return bytes that differ if the values do, as `FileRow.raw` of formats without lines."""
    parts = [_bytes_of(value) for value in values]
    # The lengths keep ('ab', 'c') and ('a', 'bc') apart.
    return b"".join([*(len(part).to_bytes(8, "little") for part in parts), *parts])


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tobytes()
    # The codec refuses lone surrogates later, with the feature's name; here they must not raise.
    return str(value).encode(errors="surrogatepass")
