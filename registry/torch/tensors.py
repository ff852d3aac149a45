"""Columns of samples as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from registry.samples.codec import Column
from registry.training.map_style import GatheredSamples, Sample


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return samples of an epoch as a batch: PyTorch's ``collate_fn`` for ``DataLoader(epoch)``.

    Values of fixed width are tensors ``(batch, *shape)``. `Text`, `Bytes` and `Image` are lists of
    ``str`` or ``bytes``, and `Ragged` is a list of tensors ``(n, *shape)``, as
    `torch.nn.utils.rnn.pad_sequence` and `torch.nested.nested_tensor` take it. Samples that are
    read at once need no loop. Others, which a dataset between has changed, are collated as by
    `torch.utils.data.default_collate`.
    """
    if isinstance(samples, GatheredSamples):
        return batch_of(samples.columns)
    batch: dict[str, Any] = default_collate(list(samples))
    return batch


def batch_of(columns: Mapping[str, Column]) -> dict[str, Any]:
    """Return columns as tensors; those of variable width as lists."""
    return {
        name: [_value(value) for value in column] if column.dtype == object else _tensor(column)
        for name, column in columns.items()
    }


def _value(value: Any) -> Any:
    return _tensor(value) if isinstance(value, np.ndarray) else value


def _tensor(array: Column) -> torch.Tensor:
    # PyTorch has no tensors that cannot be written, and warns of arrays that cannot.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
