"""Sample keys: validation of given keys, and generation of missing ones."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from registry.errors import InvalidSampleError
from registry.samples.text import encode_text

Keys = Sequence[str] | npt.NDArray[np.str_]

LONGEST = 512
"""Maximum length of a key in bytes of UTF-8."""


def make_keys(count: int) -> list[str]:
    """Generate unique keys: a batch's time in nanoseconds and 64 random bits, then a row number."""
    # The time first: generated keys are then mostly appended at the end of the index.
    batch = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    return [f"{batch}-{number}" for number in range(count)]


def check_keys(keys: Keys, count: int) -> list[str]:
    """Return the keys as a list; raises `InvalidSampleError` for the first invalid one."""
    if not isinstance(keys, Sequence | np.ndarray) or isinstance(keys, str | bytes):
        raise InvalidSampleError(f"keys is one {type(keys).__name__}; give a list of {count} keys")
    listed = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    if len(listed) != count:
        raise InvalidSampleError(f"{len(listed)} keys were given for {count} samples")
    # These checks of the whole batch run in C; only a batch that fails one is checked row by row.
    # 128 characters are at most 512 bytes, so a batch of such keys needs no encoding per key.
    try:
        joined = "".join(listed)  # raises TypeError if one is not text
        joined.encode()
        sound = "\0" not in joined and 0 < min(map(len, listed)) <= max(map(len, listed)) <= 128
    except (TypeError, UnicodeEncodeError):
        sound = False
    if not sound:
        for row, key in enumerate(listed):
            if reason := _problem(key, "key"):
                raise InvalidSampleError(reason, row=row, key=key or None)
    return listed


def check_key(key: str) -> None:
    """Raise `InvalidSampleError` unless this can be a sample's key."""
    check_keys([key], 1)


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
