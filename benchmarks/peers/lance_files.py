"""Lance: a dataset from which batches are taken by row numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import numpy as np
from torch.utils.data import DataLoader

from benchmarks.peers import arrow
from benchmarks.peers.loader import WORKERS, Batch, Kind, Loader, Samples


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    path = str(folder / "samples.lance")
    lance.write_dataset(arrow.table(samples), path)
    rows = Rows(samples.kind, path, len(samples))

    def taken() -> Iterator[Batch]:
        order = np.random.default_rng().permutation(len(samples))
        for after in range(0, len(samples), samples.batch):
            yield rows.__getitems__(order[after : after + samples.batch].tolist())

    loader = DataLoader(
        rows,
        samples.batch,
        shuffle=True,
        collate_fn=unchanged,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a Lance dataset is not safe to fork
    )
    return {
        "one process": Loader(taken),
        f"{WORKERS} worker processes": Loader(lambda: loader),
    }


@dataclass(frozen=True)
class Rows:
    """A map-style dataset as `lance.torch.data.SafeLanceDataset`, but of arrays, not of dicts."""

    kind: Kind
    path: str
    size: int

    @cached_property
    def dataset(self) -> Any:
        # Opened in the process that reads.
        return lance.dataset(self.path)

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        return arrow.batch(self.kind, self.dataset.take(rows))


def unchanged(batch: Batch) -> Batch:
    """Return a batch as `Rows` makes it. A function of the module, since workers are spawned."""
    return batch
