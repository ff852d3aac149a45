"""Constants of a graph whose dtype is not that which TensorFlow would choose."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def int64(value: int) -> Any:
    return tf.constant(value, tf.int64)


def uint64(value: int) -> Any:
    return tf.constant(value, tf.uint64)
