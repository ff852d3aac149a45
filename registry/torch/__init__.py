"""Training runs as PyTorch's iterable datasets."""

from registry.torch.datasets import EpochDataset, StreamDataset
from registry.torch.tensors import collate

__all__ = ["EpochDataset", "StreamDataset", "collate"]
