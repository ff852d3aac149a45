"""Training runs as `tf.data` datasets."""

from registry.tensorflow.datasets import EpochDataset, StreamDataset

__all__ = ["EpochDataset", "StreamDataset"]
