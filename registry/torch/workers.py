"""Which part of the samples this process reads: by its rank, and by its number among workers."""

from __future__ import annotations

from torch import distributed
from torch.utils.data import get_worker_info

from registry.training.sharding import ALONE, Shard


def rank_shard() -> Shard | None:
    """Return this process's rank and their number; None outside of a process group.

    A worker process that was spawned is outside of its rank's group.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None


def worker_shard() -> Shard:
    """Return this worker process's number and how many its DataLoader has."""
    info = get_worker_info()
    return ALONE if info is None else (info.id, info.num_workers)
