"""Which part of a mix each place in it belongs to.

The schedule is periodic: `BLOCK` slots in a fixed order, of which part j has ``c_j``. Of the first
``n`` slots of a block, it has ``floor(n · c_j / BLOCK)`` or one more. So of any ``L`` places in a
row it has ``L · c_j / BLOCK``, give or take less than 2, however many parts there are.

The algorithm is frozen: another one would change the samples of mixes that are continued. All
numbers are integers or fractions; no float is rounded.

1. Counts. Let ``s_j`` be the weight of part j times `BLOCK`, divided by the sum of the weights.
   ``c_j`` is ``floor(s_j)``, at least 1 unless the weight is 0. If these sum up to less than
   `BLOCK`, the parts with the largest remainders ``s_j - floor(s_j)`` get one more each, of equal
   ones the earlier in the mix; those with ``s_j < 1`` get none. While they sum up to more, the part
   with the largest count, the earliest of these, gets one less.
2. Order. Job m of part j may be done from slot ``floor(m · BLOCK / c_j)`` on, and must be done
   before slot ``ceil((m + 1) · BLOCK / c_j)``, its deadline. Each slot does the job with the
   earliest deadline; among equal ones, that of the part with the least image under the keyed
   permutation of all parts, of the seed, epoch 0 and purpose ``mix`` (`permutation`). This meets
   all deadlines: Baruah, Cohen, Plaxton, Varvel, "Proportionate Progress", Algorithmica 15 (1996).
3. Place i is slot ``(i + r) mod BLOCK``, where r is the image of 0 under the keyed permutation of
   `BLOCK` numbers, of the seed, epoch 1 and purpose ``mix``.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions
from registry.training.permutation import Permutation

BLOCK = 1 << 16
"""Places until the schedule repeats itself."""
_SHIFT, _MASK = 16, BLOCK - 1
LARGEST = 1 << 12
"""The largest number of parts."""
SMALL_PARTS = 50
"""How many parts may weigh less than a place of a block. More would distort the others' shares."""


@dataclass(frozen=True)
class Schedule:
    """The parts of a mix's places: ``counts`` of them in each block, in the order of a seed."""

    counts: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, weights: Sequence[float], seed: int) -> Schedule:
        """Return the schedule of parts with these weights: finite, not negative, not all 0."""
        return cls(tuple(_counts([Fraction(weight) for weight in weights])), seed)

    def locate(self, places: Positions) -> tuple[Positions, Positions]:
        """Return the part of each place, and how many of the part's places are before it."""
        order, ranks = _block(self.counts, self.seed)
        within = places & _MASK
        parts = order.take(within)
        blocks = places >> _SHIFT
        return parts, ranks.take(within) + blocks * np.array(self.counts, np.int64).take(parts)

    def before(self, place: int) -> list[int]:
        """Return how many places of each part are before a place."""
        order, _ = _block(self.counts, self.seed)
        blocks, within = divmod(place, BLOCK)
        rest = np.bincount(order[:within], minlength=len(self.counts)).tolist()
        return [blocks * count + more for count, more in zip(self.counts, rest, strict=True)]

    def place(self, part: int, rank: int) -> int:
        """Return the place of a part that has ``rank`` of the part's places before it."""
        order, _ = _block(self.counts, self.seed)
        blocks, within = divmod(rank, self.counts[part])
        return blocks * BLOCK + int(np.flatnonzero(order == part)[within])


def small(weights: Sequence[float]) -> list[int]:
    """Return the parts that weigh less than a place of a block, but not 0."""
    total = sum(map(Fraction, weights))
    return [part for part, each in enumerate(weights) if 0 < Fraction(each) * BLOCK < total]


def _counts(weights: Sequence[Fraction]) -> list[int]:
    total = sum(weights)
    exact = [weight * BLOCK / total for weight in weights]
    counts = [max(int(each), 1) if each else 0 for each in exact]
    more = BLOCK - sum(counts)
    # Stable, so that of equal remainders the earlier part is taken.
    by_remainder = sorted((int(each) - each, part) for part, each in enumerate(exact) if each >= 1)
    for _, part in by_remainder[: max(0, more)]:
        counts[part] += 1
    for _ in range(-more):
        counts[counts.index(max(counts))] -= 1
    return counts


@lru_cache(maxsize=16)
def _block(counts: tuple[int, ...], seed: int) -> tuple[Positions, Positions]:
    """Return the part of each place in a block, and how many places of the part are before it."""
    rotation = int(Permutation.keyed(BLOCK, seed, 1, "mix")([0])[0])
    order = np.roll(_slots(counts, seed), -rotation)
    ranks = np.empty(BLOCK, np.int64)
    by_part = np.argsort(order, kind="stable")
    ends = np.cumsum(counts)
    ranks[by_part] = np.arange(BLOCK) - np.repeat(ends - counts, counts)
    return order, ranks


def _slots(counts: tuple[int, ...], seed: int) -> npt.NDArray[np.int64]:
    """Return the part of each slot."""
    images = Permutation.keyed(len(counts), seed, 0, "mix")(np.arange(len(counts))).tolist()
    done = [0] * len(counts)
    released: list[list[int]] = [[] for _ in range(BLOCK + 1)]
    released[0] = [part for part, count in enumerate(counts) if count]
    ready: list[tuple[int, int, int]] = []
    slots: list[int] = []
    for slot in range(BLOCK):
        for part in released[slot]:
            deadline = -(-(done[part] + 1) * BLOCK // counts[part])
            heapq.heappush(ready, (deadline, images[part], part))
        part = heapq.heappop(ready)[2]
        slots.append(part)
        done[part] += 1
        # The next job cannot be done in the same slot, though its release may be there.
        released[max(slot + 1, done[part] * BLOCK // counts[part])].append(part)
    return np.array(slots, np.int64)
