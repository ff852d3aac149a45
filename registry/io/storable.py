"""JSON that every database can store, of values that came from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

_DEEPEST = 32


def storable(value: Any, depth: int = 0) -> Any:
    r"""Return the value as JSON that SQLite and PostgreSQL can store.

    Parts that they cannot store (``\x00``, lone surrogates, numbers that are not finite, deep
    nesting) are replaced, not left out, so that a person sees them.
    """
    # Without the limit, the recursion here or in the JSON encoder would fail.
    if isinstance(value, Mapping | list) and depth == _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(name)): storable(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [storable(each, depth + 1) for each in value]
    if isinstance(value, int):
        # A bool is an int, too, and is returned unchanged.
        return value if abs(value) < 1 << 64 else hex(value)
    if value is None or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value).replace("\0", "\ufffd").encode(errors="replace").decode()
