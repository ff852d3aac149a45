"""LanceDB: a table with a shuffled `Permutation`, or a shuffling loader over it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lancedb
from lancedb.permutation import Permutation, permutation_builder
from torch.utils.data import DataLoader

from benchmarks.peers import arrow
from benchmarks.peers.lance_files import unchanged
from benchmarks.peers.loader import WORKERS, Batch, Loader, Samples


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    table = lancedb.connect(folder).create_table("samples", arrow.table(samples))
    make = partial(arrow.batch, samples.kind)

    def permuted() -> Iterator[Batch]:
        # A new order for each epoch.
        order = permutation_builder(table).shuffle().execute()
        rows = Permutation.from_tables(table, order).with_transform(make)
        return rows.iter(samples.batch, skip_last_batch=False)  # type: ignore[no-any-return]

    loader = DataLoader(
        Permutation.identity(table).with_transform(make),
        samples.batch,
        shuffle=True,
        collate_fn=unchanged,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    return {
        "a permutation": Loader(permuted),
        f"{WORKERS} worker processes": Loader(lambda: loader),
    }
