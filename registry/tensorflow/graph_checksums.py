"""The checksums of a mirror in graph operations: which rows are intact.

How it works: a function gets rows that were gathered from a file, and their positions. It computes
their hashes and compares them with the stored checksums.

`registry.storage.mirror.checksums` defines the hashes and this module repeats them. If only one
side changes, a graph reports intact rows as damaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from registry.storage.mirror.checksums import SealedRows
from registry.tensorflow.constants import uint64


def rows_intact(layout: SealedRows, words: Any, positions: Any) -> Any:
    """Return which rows have the checksums of their int64 positions.

    ``words`` are the rows as int64 ``(count, stride / 8)``.
    """
    words = tf.bitcast(words, tf.uint64)
    # The checksum is the higher half of the last word. It counts as zero in the hash.
    stored = tf.cast(tf.bitwise.right_shift(words[:, -1], uint64(32)), tf.uint32)
    mask = np.full(layout.stride // 8, 2**64 - 1, np.uint64)
    mask[-1] = 2**32 - 1
    words = _mix(tf.bitwise.bitwise_and(words, tf.constant(mask)))
    total = tf.reduce_sum(words * tf.constant(layout.multipliers[:-1]), axis=1)
    total += tf.cast(positions + 1, tf.uint64) * uint64(int(layout.multipliers[-1]))
    return tf.equal(tf.cast(_mix(total), tf.uint32), stored)


def _mix(word: Any) -> Any:
    """Return uint64 words, whose lower halves are XORed with the higher ones."""
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, uint64(32)))
