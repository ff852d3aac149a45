"""Sample keys: checked where users give them, made where they do not."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from registry.errors import InvalidSampleError
from registry.samples.text import fault

Keys = Sequence[str] | npt.NDArray[np.str_]

LONGEST = 512
"""Bytes of UTF-8 that a key may have at most."""


def make_keys(count: int) -> list[str]:
    """Make keys that no other batch has: the time, in nanoseconds, 64 random bits, a number."""
    batch = f"{time.time_ns():016x}{secrets.token_hex(8)}"
    return [f"{batch}-{number}" for number in range(count)]


def check_keys(keys: Keys, count: int) -> list[str]:
    """Return the keys as a list; raises `InvalidSampleError` for one that cannot be a key."""
    if not isinstance(keys, Sequence | np.ndarray) or isinstance(keys, str | bytes):
        raise InvalidSampleError(f"keys is one {type(keys).__name__}; give a list of {count} keys")
    listed = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    if len(listed) != count:
        raise InvalidSampleError(f"{len(listed)} keys were given for {count} samples")
    # Whole-batch checks run at C speed; only a batch that fails one is gone through row by row.
    try:
        joined = "".join(listed)
        joined.encode()
        sound = "\0" not in joined and 0 < min(map(len, listed)) <= max(map(len, listed)) <= 128
    except (TypeError, UnicodeEncodeError):
        sound = False
    if not sound:
        for row, key in enumerate(listed):
            if reason := _fault(key):
                raise InvalidSampleError(reason, row=row, key=key or None)
    return listed


def check_key(key: str) -> None:
    """Raise `InvalidSampleError` for what can be no sample's key."""
    check_keys([key], 1)


def check_source(source: str | None) -> None:
    """Raise `InvalidSampleError` unless the name of a source is plain text, or None."""
    if source is not None and (reason := _fault(source)):
        raise InvalidSampleError(reason.replace("a key", "a source"))


def _fault(key: object) -> str | None:
    if (wrong := fault(key)) is not None:
        return f"a key {wrong}"
    assert isinstance(key, str)
    if not key:
        return "a key cannot be empty"
    size = len(key.encode())
    return f"a key of {size} bytes is too long; at most {LONGEST}" if size > LONGEST else None
