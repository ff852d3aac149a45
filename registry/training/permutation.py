"""The order of an epoch: a keyed permutation, whose images are computed one by one.

A generalised Feistel network with cycle walking (Black and Rogaway, "Ciphers with Arbitrary
Finite Domains", 2002, methods 2 and 3). All numbers are integers. The algorithm is frozen: another
one would change the order of pinned epochs. `registry.tensorflow.graph_order` repeats it.

Keys: eight uint32, the little-endian words of BLAKE2b (RFC 7693) with a 32-byte digest and the
personalisation ``registry-<purpose>``, over seed and epoch as little-endian uint64. The order of an
epoch has the purpose ``order``.

To permute ``[0, n)``: let ``a = max(16, ceil(sqrt(n)))`` and ``b = max(16, ceil(n / a))``.

1. Split x: ``low = x mod a``, ``high = x div a``.
2. For j = 0 … 7, with ``h = F(high + key[j])`` where j is even, ``h = F(low + key[j])`` where odd
   (sums modulo 2³²): where j is even, ``low = (low + (h · a div 2³²)) mod a``, and where it is odd,
   ``high = (high + (h · b div 2³²)) mod b``.
3. ``y = high · a + low``. If ``y >= n``, repeat from step 1 with ``x = y``; otherwise y is the
   image.

F is ``v *= 0x85ebca6b; v ^= v >> 15; v *= 0xc2b2ae35``, modulo 2³², with the multipliers of
MurmurHash3's finaliser (Appleby). Step 2 uses only the high bits, which depend
on all of v.

What step 2 adds depends on the other half alone. Where the sides are short, it is looked up in a
table of each round, which takes two thirds of the time.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Scratch

ROUNDS = 8
LEAST_SIDE = 16
"""The least length of a side: the rounds do not mix shorter ones. The walk skips the excess."""
MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
LARGEST = 1 << 62
"""The largest size. Sides are then at most 2**31, so that the sum of two terms fits in uint32."""

TABLE_SIDE = 1 << 15
"""The longest side for which there are tables: the sum of two terms fits in uint16."""
BLOCK = 1 << 16
"""Indices that are permuted at a time. With fewer, the calls of NumPy would take longer than what
they compute outside of the core's cache."""
HIGH_HALF = int(sys.byteorder == "little")
"""Where a uint64 has its higher half, as two uint32."""

Indices = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint32]
_Halves = npt.NDArray[np.uint16]
_SCRATCH = Scratch()


@dataclass(frozen=True)
class Permutation:
    """A permutation of ``[0, size)``; ``keys`` are eight uint32."""

    size: int
    keys: tuple[int, ...]

    @classmethod
    def keyed(cls, size: int, seed: int, epoch: int, purpose: str = "order") -> Permutation:
        """Return the permutation of a seed and an epoch, both in ``[0, 2**64)``."""
        person = f"registry-{purpose}".encode()
        text = seed.to_bytes(8, "little") + epoch.to_bytes(8, "little")
        digest = blake2b(text, digest_size=4 * ROUNDS, person=person).digest()
        return cls(size, tuple(np.frombuffer(digest, "<u4").tolist()))

    def __post_init__(self) -> None:
        if not 0 <= self.size <= LARGEST:
            raise ValueError(f"a permutation of {self.size} is out of [0, 2**62]")

    # Without the tables, which are larger than what they are made of.
    def __reduce__(self) -> tuple[type[Permutation], tuple[int, tuple[int, ...]]]:
        return Permutation, (self.size, self.keys)

    @property
    def sides(self) -> tuple[int, int]:
        """The sides a and b of the rectangle that the network permutes; ``a * b >= size``."""
        low = max(LEAST_SIDE, math.isqrt(max(self.size - 1, 0)) + 1)
        return low, max(LEAST_SIDE, -(-self.size // low))

    def __call__(self, indices: npt.ArrayLike) -> Indices:
        """Return the images (int64) of indices in ``[0, size)``, an array of one dimension."""
        if self.size <= LEAST_SIDE**2:
            return self._table.take(np.asarray(indices, np.int64))
        images = self._once(np.asarray(indices, np.int64))
        # Cycle walking: an image outside is permuted again, which ends, since the walk is a cycle
        # that contains the index it began at.
        outside = np.flatnonzero(images >= self.size)
        while len(outside):
            images[outside] = self._once(images[outside])
            outside = outside[images[outside] >= self.size]
        return images

    @cached_property
    def _table(self) -> Indices:
        """All images of a small permutation, most of whose walks are long."""
        a, b = self.sides
        once = self._once(np.arange(a * b)).tolist()
        images = np.empty(self.size, np.int64)
        for index in range(self.size):
            image = once[index]
            while image >= self.size:
                image = once[image]
            images[index] = image
        return images

    def _once(self, indices: Indices) -> Indices:
        """Apply all rounds to indices below the rectangle's area."""
        images = np.empty(len(indices), np.int64)
        for start in range(0, len(indices), BLOCK):
            part = slice(start, start + BLOCK)
            if max(self.sides) <= TABLE_SIDE:
                self._permute_by_tables(indices[part], images[part])
            else:
                self._permute(indices[part], images[part])
        return images

    @cached_property
    def _tables(self) -> list[_Halves]:
        """What each round adds, by the other half."""
        a, b = self.sides
        tables = []
        for number, key in enumerate(self.keys):
            length, other = (a, b) if number % 2 == 0 else (b, a)
            added, word, rest = np.zeros((3, other), np.uint32)
            values, products = np.arange(other, dtype=np.uint32), np.empty(other, np.uint64)
            _turn(added, values, key, length, word, rest, products)
            tables.append(added.astype(np.uint16))
        return tables

    def _permute_by_tables(self, indices: Indices, images: Indices) -> None:
        """Do what `_permute` does, for sides of at most `TABLE_SIDE`."""
        count, (a, b) = len(indices), self.sides
        low, high, term = _SCRATCH.array("halves", (3, count), np.uint16)
        word, rest = _SCRATCH.array("words", (2, count), np.uint32)
        places = _SCRATCH.array("places", (count,), np.int64)
        np.copyto(word, indices, casting="unsafe")
        np.floor_divide(word, np.uint32(a), out=rest)
        np.copyto(high, rest, casting="unsafe")
        rest *= np.uint32(a)
        np.subtract(word, rest, out=low, casting="unsafe")
        for number, table in enumerate(self._tables):
            side, other, length = (low, high, a) if number % 2 == 0 else (high, low, b)
            np.copyto(places, other)
            # "clip", as NumPy copies the output first in the mode that raises an error.
            table.take(places, out=term, mode="clip")
            side += term
            # As in `_turn`.
            np.subtract(side, np.uint16(length), out=term)
            np.minimum(side, term, out=side)
        np.multiply(high, a, out=images, dtype=np.int64)
        images += low

    def _permute(self, indices: Indices, images: Indices) -> None:
        """Write the images of at most `BLOCK` indices."""
        a, b = self.sides
        low, high, word, rest = _SCRATCH.array("words", (4, len(indices)), np.uint32)
        products = _SCRATCH.array("products", (len(indices),), np.uint64)
        # The remainder by multiplication: a second division would take as long as the first.
        if a * b <= 1 << 32:
            np.copyto(word, indices, casting="unsafe")
            np.floor_divide(word, np.uint32(a), out=high)
            np.multiply(high, np.uint32(a), out=rest)
            np.subtract(word, rest, out=low)
        else:
            np.floor_divide(indices, a, out=images)
            np.copyto(high, images, casting="unsafe")
            images *= a
            np.subtract(indices, images, out=low, casting="unsafe")
        for number, key in enumerate(self.keys):
            if number % 2 == 0:
                _turn(low, high, key, a, word, rest, products)
            else:
                _turn(high, low, key, b, word, rest, products)
        np.multiply(high, a, out=images, dtype=np.int64)
        images += low


def _turn(
    side: _Words,
    other: _Words,
    key: int,
    length: int,
    word: _Words,
    rest: _Words,
    products: npt.NDArray[np.uint64],
) -> None:
    """Add a hash of the other side to ``side``, modulo ``length``, in place.

    The last three arrays, of the same length, are overwritten.
    """
    np.add(other, np.uint32(key), out=word)
    word *= np.uint32(MULTIPLIERS[0])
    np.right_shift(word, np.uint32(15), out=rest)
    word ^= rest
    word *= np.uint32(MULTIPLIERS[1])
    # In uint64, as the product of a word and a length does not fit in uint32.
    np.multiply(word, np.uint64(length), out=products)
    side += products.view(np.uint32)[HIGH_HALF::2]
    # Both terms are below the length, so the sum is the remainder or one length above it. Where the
    # sum is the remainder, the difference wraps around to something larger.
    np.subtract(side, np.uint32(length), out=rest)
    np.minimum(side, rest, out=side)
