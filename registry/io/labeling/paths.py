"""Parsing of paths whose last step names a conversion, such as ``mood.json``."""

from __future__ import annotations

import re

_PART = re.compile(r"(.+?)(?:\.(json|percent|pixels|spans|classes)(?:\[(.*)\])?)?", re.DOTALL)


def parts(path: str) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the place, the part (the conversion), if there is one, and the classes it lists.

    Raises `ValueError` for ``.classes`` without a list, and for another part with one.
    """
    found = _PART.fullmatch(path)
    if found is None:
        raise ValueError("an empty path")
    place, part, listed = found.groups()
    if (part == "classes") != bool(listed):
        raise ValueError(f"{path!r}: write .classes[a,b], and no other list")
    return place, part, tuple((listed or "").split(","))
