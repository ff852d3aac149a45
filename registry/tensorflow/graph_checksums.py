"""The checksums of a mirror in graph operations: which rows are intact.

How it works: a function gets rows that were gathered from a file, and their positions. It computes
their hashes and compares them with the stored checksums.

`registry.storage.mirror.checksums` defines the hashes and this module repeats them. If only one
side changes, a graph reports intact rows as damaged.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from registry.storage.mirror.checksums import SealedRows
from registry.tensorflow.graph_definition import Symbol


def rows_intact(layout: SealedRows, words: Symbol, positions: Symbol) -> Symbol:
    """Return which rows have the checksums of their int64 positions.

    ``words`` are the rows as int64 ``(count, stride / 8)``.
    """
    words = words.bitcast(tf.uint64)
    *multipliers, of_position = layout.multipliers
    # The checksum is the higher half of the last word. It counts as zero in the hash.
    stored = (words.column(-1) >> 32).cast(tf.uint32)
    mask = np.full(layout.stride // 8, 2**64 - 1, np.uint64)
    mask[-1] = 2**32 - 1
    words = words & words.constant(mask, tf.uint64)
    words = (words ^ (words >> 32)) * words.constant(multipliers, tf.uint64)
    total = words.then("Sum", words.constant([1], tf.int32))
    total += (positions + 1).cast(tf.uint64) * int(of_position)
    hashes: Symbol = (total ^ (total >> 32)).cast(tf.uint32)
    return hashes.equal(stored)
