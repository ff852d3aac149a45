"""What every importer yields, and how fields are found in what a file holds.

A helper that cannot find what it is asked for raises `ValueError` with the reason; the importer
knows the file and the line.
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

    ``line`` is where it begins, from 1: a line, or the number of a row or record where a file has
    no lines. ``raw`` is what the file holds for it, without the line end, which says nothing about
    the sample and changes on the way from one system to another; a sample without a ``key`` gets
    one that is made from it.
    """

    line: int
    values: dict[str, Any]
    key: str | None
    raw: bytes


Mapped = Mapping[str, str]
"""From names of features to where their values are: a column, or a path (``data.items.0.text``)."""
Reader = Callable[[Path, Features, str | None, Mapped], Iterator[Row]]
"""Yields a file's rows, given the features, where the key is, and where values are.

A feature that is not mapped is found under its own name. While nothing is mapped, a file that
holds more than the features is refused; a mapping picks, and leaves the rest.
"""


def pick(found: Any, path: str) -> Any:
    """Return what lies at a path of names and, in lists, numbers, parted by dots.

    A property whose name is the whole path comes first, dots or not.
    """
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
    """Return a value as the key that it is to be."""
    if isinstance(found, np.generic):
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"the key in {path!r} is neither text nor a whole number")  # noqa: TRY004
    return str(found)


def columns(
    present: Iterable[str], features: Features, key: str | None, mapped: Mapped
) -> dict[str, str]:
    """Return the column of each feature; raises for one that is missing, extra or there twice."""
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
    """Return bytes that differ where the values do, for a format whose rows have no bytes."""
    parts = [_bytes(value) for value in values]
    return b"".join([*(len(part).to_bytes(8, "little") for part in parts), *parts])


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tobytes()
    return str(value).encode(errors="surrogatepass")
