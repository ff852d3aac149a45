"""The order of epochs: frozen, a permutation at every size, and as random as chance."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from registry.training.permutation import LARGEST, TABLE_SIDE, Indices, Permutation

FROZEN = {
    # (size, seed, epoch): the images of 0, 1, 2 …
    (1, 0, 0): [0],
    (2, 0, 0): [0, 1],
    (10, 0, 0): [4, 8, 0, 5, 7, 3, 9, 6],
    (10, 0, 1): [5, 2, 8, 1, 3, 9, 7, 4],
    (10, 7, 0): [5, 2, 3, 0, 9, 6, 8, 4],
    (257, 7, 3): [84, 177, 162, 115, 194, 176, 203, 114],
    (60_000, 7, 0): [35413, 44140, 39531, 7694, 19327, 29203, 40492, 53153],
    (1_000_000, 2**63 - 1, 12): [696015, 930625, 132317, 882046, 692041, 636072, 884889, 213386],
    (2**32, 1, 1): [2145036775, 486363596, 294747803, 1377899826, 3446612899, 1796582155],
    (2**32 + 1, 1, 2**40): [2498631716, 2638994685, 2781708686, 3271782870, 1110740210],
    (10**12, 42, 99): [132449198181, 594541613978, 560244370467, 151593853266, 384937623725],
    (2**62, 5, 6): [2819470170306803549, 339282234478697117, 2163803879720158629],
}
"""Recorded images by size, seed and epoch. They never change: pinned epochs replay by them."""


@pytest.mark.parametrize("arguments", FROZEN)
def test_the_order_never_changes(arguments: tuple[int, int, int]) -> None:
    images = FROZEN[arguments]
    assert Permutation.keyed(*arguments)(np.arange(len(images))).tolist() == images


def test_any_offset_is_found_without_those_before() -> None:
    order = Permutation.keyed(10**12, 42, 99)
    assert order([10**12 - 1, 0, 5 * 10**11]).tolist() == [284625256281, 132449198181, 200949880469]


def by_the_documentation(x: int, n: int, seed: int, epoch: int) -> int:
    """Compute an image as `registry.training.permutation` documents it, in unbounded integers."""
    words = 2**32
    text = seed.to_bytes(8, "little") + epoch.to_bytes(8, "little")
    digest = blake2b(text, digest_size=32, person=b"registry-order").digest()
    key = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]
    root = math.isqrt(n)
    a = max(16, root if root * root == n else root + 1)
    b = max(16, (n + a - 1) // a)

    def hashed(v: int) -> int:
        v = v * 0x85EBCA6B % words
        v ^= v >> 15
        return v * 0xC2B2AE35 % words

    while True:
        high, low = divmod(x, a)
        for j in range(8):
            if j % 2 == 0:
                low = (low + hashed(high + key[j]) * a // words) % a
            else:
                high = (high + hashed(low + key[j]) * b // words) % b
        x = high * a + low
        if x < n:
            return x


def test_the_documentation_is_enough_to_implement_it_again() -> None:
    rng = random.Random(1)
    for _ in range(400):
        n = rng.randrange(1, 2 ** rng.randrange(1, 63))
        seed, epoch = rng.randrange(2**63), rng.randrange(2 ** rng.randrange(1, 64))
        offsets = [0, n - 1, *(rng.randrange(n) for _ in range(6))]
        expected = [by_the_documentation(x, n, seed, epoch) for x in offsets]
        assert Permutation.keyed(n, seed, epoch)(offsets).tolist() == expected


def test_orders_with_the_longest_tables_are_those_without() -> None:
    """The largest sums of two terms, just below 2¹⁶, are there, too."""
    rng = random.Random(2)
    for n in (TABLE_SIDE**2 - 1, TABLE_SIDE**2, TABLE_SIDE**2 + 1):
        seed, offsets = rng.randrange(2**63), [0, n - 1, *(rng.randrange(n) for _ in range(400))]
        expected = [by_the_documentation(x, n, seed, 3) for x in offsets]
        order = Permutation.keyed(n, seed, 3)
        assert order(offsets).tolist() == expected
        assert len(pickle.dumps(order)) < 1000, "the tables are made again"


def test_it_is_a_permutation_of_every_size_up_to_2000() -> None:
    for size in range(2001):
        images = Permutation.keyed(size, 3, size)(np.arange(size))
        assert images.dtype == np.int64
        assert np.bincount(images, minlength=size).tolist() == [1] * size


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1_000_003])
def test_it_is_a_permutation_of_larger_sizes(size: int) -> None:
    images = Permutation.keyed(size, 5, 0)(np.arange(size))
    assert (np.bincount(images, minlength=size) == 1).all()


@pytest.mark.parametrize("size", [10**8 + 7, 2**32 - 1, 2**32 + 1, 10**10, 10**12, LARGEST])
def test_images_of_huge_sizes_are_in_range_and_distinct(size: int) -> None:
    rng = np.random.default_rng(size)
    spread = np.unique(rng.integers(0, size, 100_000))
    ends = np.r_[0:1000, size - 1000 : size]
    for offsets in (spread, ends):
        images = Permutation.keyed(size, 1, 2)(offsets)
        assert images.min() >= 0
        assert images.max() < size
        assert len(np.unique(images)) == len(offsets)


def test_a_size_out_of_range_is_refused() -> None:
    for size in (-1, LARGEST + 1):
        with pytest.raises(ValueError, match="is out of"):
            Permutation.keyed(size, 0, 0)


def ours(size: int, number: int) -> Indices:
    return Permutation.keyed(size, 11, number)(np.arange(size))


def chance(size: int, number: int) -> Indices:
    return np.random.default_rng((11, number)).permutation(size)


Shuffle = Callable[[int, int], Indices]
"""Makes a permutation of a size, by its number."""

both = pytest.mark.parametrize("shuffle", [ours, chance])
"""NumPy's shuffle has to pass the same tests, which shows that the limits are right."""

LIMIT = 4.0
"""Standard deviations from what chance would give."""


def deviation(
    observed: npt.NDArray[Any], expected: npt.NDArray[Any] | float, freedom: int
) -> float:
    """Return how many standard deviations a chi-square sum is from its mean."""
    total = ((observed - expected) ** 2 / expected).sum()
    return float((total - freedom) / math.sqrt(2 * freedom))


@both
@pytest.mark.parametrize("size", [3, 4])
def test_all_permutations_of_a_few_samples_are_equally_likely(shuffle: Shuffle, size: int) -> None:
    count = 240
    counts = Counter(tuple(shuffle(size, number).tolist()) for number in range(count))
    observed = np.array([counts[p] for p in permutations(range(size))])
    assert observed.sum() == count
    assert abs(deviation(observed, count / len(observed), len(observed) - 1)) < LIMIT


@both
@pytest.mark.parametrize(
    ("size", "blocks", "count"), [(20, 20, 300), (300, 30, 200), (10**5, 50, 4)]
)
def test_every_sample_is_at_every_offset_equally_often(
    shuffle: Shuffle, size: int, blocks: int, count: int
) -> None:
    table = np.zeros((blocks, blocks))
    block = np.arange(size) * blocks // size
    for number in range(count):
        np.add.at(table, (block, block[shuffle(size, number)]), 1)
    expected = size * count / blocks**2
    assert abs(deviation(table, expected, (blocks - 1) ** 2)) < LIMIT


@both
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("size", "count"), [(20, 300), (1000, 100), (10**5, 4)])
def test_neighbours_are_as_far_apart_as_by_chance(
    shuffle: Shuffle, size: int, count: int, inverse: bool
) -> None:
    """Neighbours in the log within the epoch (inverse), and neighbours in the epoch within it."""
    bins = 10
    observed, followed = np.zeros(bins), 0.0
    for number in range(count):
        images = shuffle(size, number)
        steps = np.diff(np.argsort(images) if inverse else images)
        observed += np.bincount(np.abs(steps) * bins // size, minlength=bins)
        followed += np.count_nonzero(steps == 1)
    distance = np.arange(1, size)
    chances = 2 * (size - distance) / (size * (size - 1))
    expected = np.bincount(distance * bins // size, chances, bins) * (size - 1) * count
    assert abs(deviation(observed, expected, bins - 1)) < LIMIT
    by_chance = count * (size - 1) / size
    assert abs(followed - by_chance) < LIMIT * math.sqrt(by_chance)


@both
def test_an_order_is_independent_of_the_next(shuffle: Shuffle) -> None:
    """On average, one sample per epoch keeps its place, as by chance."""
    count, size = 400, 500
    orders = [shuffle(size, number) for number in range(count)]
    kept = sum(int((a == b).sum()) for a, b in pairwise(orders))
    assert abs(kept - count) < LIMIT * math.sqrt(count)


def test_every_seed_epoch_and_purpose_has_its_own_order() -> None:
    arguments = [(s, e, p) for s in range(20) for e in range(20) for p in ("order", "replay")]
    orders = {tuple(Permutation.keyed(1000, *each)(np.arange(50)).tolist()) for each in arguments}
    assert len(orders) == len(arguments)
