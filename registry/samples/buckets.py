"""Hashing of keys to the buckets that splits are intervals of."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def buckets(
    keys: Iterable[str], groups: Iterable[str | None] | None = None
) -> npt.NDArray[np.uint16]:
    """Hash keys, or the groups of those that have one, to buckets: one uint16 per key.

    The hash must never change: samples of existing datasets would change their split.
    """
    if groups is not None:
        pairs = zip(keys, groups, strict=True)
        keys = [key if group is None else group for key, group in pairs]
    # Joined to one buffer, since an array of two-byte strings would lose trailing zero bytes.
    digests = [blake2b(key.encode(), digest_size=2).digest() for key in keys]
    # "<u2" so that a big-endian machine computes the same buckets.
    return np.frombuffer(b"".join(digests), "<u2").astype(np.uint16, copy=False)
