"""Sample keys: validation of given keys, and generation of missing ones."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from registry.errors import InvalidSampleError
from registry.samples.columns import is_from
from registry.samples.text import encode_text


class _ToList(Protocol):
    """A pandas Series or Index, or a NumPy array."""

    def tolist(self) -> Any: ...


class _ToPyList(Protocol):
    """An Arrow array."""

    def to_pylist(self) -> list[Any]: ...


class _PolarsSeries(Protocol):
    def to_list(self) -> list[Any]: ...


Keys = Sequence[str] | Sequence[int] | npt.NDArray[Any] | _ToList | _ToPyList | _PolarsSeries
"""Keys in the order of the samples: text, or whole numbers that become text."""
Groups = Sequence[str | None] | Sequence[int | None] | Keys
"""Groups in the order of the samples: as keys, or None for a sample that has no group."""

LONGEST = 512
"""Maximum length of a key in bytes of UTF-8."""


def make_keys(count: int) -> list[str]:
    """Generate unique keys: a batch's time in nanoseconds and 64 random bits, then a row number."""
    # The time first: generated keys are then mostly appended at the end of the index.
    batch = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    return [f"{batch}-{number}" for number in range(count)]


def check_keys(keys: Keys, count: int) -> list[str]:
    """Return the keys as a list of text; raises `InvalidSampleError` for the first invalid one."""
    listed = as_text_list(keys, count, "keys")
    # These checks of the whole batch run in C; only a batch that fails one is checked row by row.
    # 128 characters are at most 512 bytes, so a batch of such keys needs no encoding per key.
    try:
        joined = "".join(listed)  # raises TypeError if one is not text
        joined.encode()
        lengths = {*map(len, listed)}
        sound = "\0" not in joined and 0 < min(lengths) <= max(lengths) <= 128
    except (TypeError, UnicodeEncodeError):
        sound = False
    if not sound:
        for row, key in enumerate(listed):
            if not isinstance(key, str):
                kind = type(key).__name__
                raise InvalidSampleError(f"a key is text or a whole number, not {kind}", row=row)
            if reason := _problem(key, "key"):
                raise InvalidSampleError(reason, row=row, key=key or None)
    return listed


def as_text_list(values: Keys | Groups, count: int | None, what: str) -> list[Any]:
    """Return keys, or another ``what`` of samples, as a list in which whole numbers became text.

    Values of other types are kept, for a check of each to refuse. Raises `InvalidSampleError`
    unless there are ``count`` values; None stands for a number that is not known yet.
    """
    listed = _listed(values)
    if listed is None:
        kind, number = type(values).__name__, "" if count is None else f"{count} "
        raise InvalidSampleError(f"{what} is one {kind}; give a list of {number}{what}")
    if count is not None and len(listed) != count:
        raise InvalidSampleError(f"{len(listed)} {what} were given for {count} samples")
    kinds = {*map(type, listed)}
    if kinds <= {str}:
        return listed
    if what == "groups" and not kinds <= {str, int, type(None)}:
        listed = _without_missing(values, listed)
    return [str(int(value)) if _is_whole(value) else value for value in listed]


def _listed(values: Any) -> list[Any] | None:
    """Return a list, or an array or column of any library, as a list; None for anything else."""
    if isinstance(values, str | bytes | bytearray | memoryview):
        return None
    for method in ("tolist", "to_pylist", "to_list"):
        if callable(convert := getattr(values, method, None)):
            # An array without dimensions is converted to one value.
            return converted if isinstance(converted := convert(), list) else None
    return [*values] if isinstance(values, Sequence) else None


def _without_missing(groups: Groups, listed: Sequence[Any]) -> list[Any]:
    """Return groups with None where pandas has a missing value."""
    pandas = sys.modules.get("pandas")
    missing = {id(getattr(pandas, name, None)) for name in ("NA", "NaT")}
    # pandas keeps whole numbers with missing ones among them as floats.
    from_whole = is_from(groups, "pandas", "Series", "Index")
    return [
        None
        if id(group) in missing or (isinstance(group, float | np.floating) and np.isnan(group))
        else int(group)
        if from_whole and isinstance(group, float) and group.is_integer()
        else group
        for group in listed
    ]


def _is_whole(value: object) -> bool:
    # In Python, bool is a subclass of int: True would become the key 'True'. Longer numbers are no
    # keys, and Python raises an error for writing them.
    return (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and int(value).bit_length() <= 8 * LONGEST
    )


def check_groups(groups: Groups, count: int, keys: Sequence[str] | None = None) -> list[str | None]:
    """Return the groups as a list; raises `InvalidSampleError` for the first invalid one.

    A group is text that could be a key, or None.
    """
    listed = as_text_list(groups, count, "groups")
    # Many samples have the same group, so that the distinct ones are few.
    try:
        invalid = any(_problem(group, "group") for group in {*listed} - {None})
    except TypeError:  # one cannot be hashed
        invalid = True
    for row, group in enumerate(listed) if invalid else ():
        if group is not None and (reason := _problem(group, "group")):
            raise InvalidSampleError(reason, row=row, key=keys[row] if keys else None)
    return listed


def check_key(key: str) -> None:
    """Raise `InvalidSampleError` unless this can be a sample's key."""
    if reason := _problem(key, "key"):
        raise InvalidSampleError(reason, row=0, key=key or None)


def check_group(group: str | None) -> None:
    """Raise `InvalidSampleError` unless the group is None or text that could be a key."""
    if group is not None and (reason := _problem(group, "group")):
        raise InvalidSampleError(reason)


def check_source(source: str | None) -> None:
    """Raise `InvalidSampleError` unless the source is None or text that could be a key."""
    if source is not None and (reason := _problem(source, "source")):
        raise InvalidSampleError(reason)


def _problem(value: object, what: str) -> str | None:
    """Return the reason why a value cannot be a key, or another ``what``; None if it can."""
    try:
        size = len(encode_text(value))
    except ValueError as error:
        return f"a {what} {error}"
    if not size:
        return f"a {what} cannot be empty"
    return f"a {what} of {size} bytes is too long; at most {LONGEST}" if size > LONGEST else None
