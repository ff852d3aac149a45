"""Parsing of paths whose last step names a conversion, such as ``mood.json``."""

from __future__ import annotations

import re

from registry.samples.box_formats import BOX_FORMATS

_PARTS = "|".join(["json", "percent", "pixels", "spans", "classes", *BOX_FORMATS])
# The path is matched lazily, so that a conversion at the end is not part of it.
_PATH = re.compile(rf"(.+?)(?:\.({_PARTS})(?:\[(.*)\])?)?", re.DOTALL)


def split_path(path: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the path without its part (the conversion), the part if any, and the listed classes.

    Raises `ValueError` for ``.classes`` without a list, and for another part with one.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError("an empty path")
    inner, part, classes = match.groups()
    if (part == "classes") != bool(classes):
        raise ValueError(f"{path!r}: write .classes[a,b], and no other list")
    return inner, part, tuple((classes or "").split(","))
