"""MosaicML Streaming: MDS shards, which a shuffling `StreamingDataset` reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from benchmarks.peers.loader import WORKERS, Batch, Loader, Samples, X, decode

COLUMNS = {"numbers": "ndarray:float32:10", "texts": "str", "images": "bytes"}


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    name = X[samples.kind]
    with MDSWriter(
        out=str(folder), columns={name: COLUMNS[samples.kind], "label": "int32"}
    ) as writer:
        for x, label in samples.rows():
            writer.write({name: x, "label": label})
    return {
        f"{workers} worker processes": Loader(partial(_batches, _loader(samples, folder, workers)))
        for workers in (0, WORKERS)
    }


class _Images(StreamingDataset):  # type: ignore[misc]
    """Decodes an image where it is read, as the project's vision datasets do."""

    def __getitem__(self, at: int) -> Any:
        sample = super().__getitem__(at)
        return {**sample, "image": decode(sample["image"])}


def _loader(samples: Samples, folder: Path, workers: int) -> StreamingDataLoader:
    kind = _Images if samples.kind == "images" else StreamingDataset
    # The batch size lets it divide samples among workers in whole batches.
    dataset = kind(local=str(folder), shuffle=True, batch_size=samples.batch)
    return StreamingDataLoader(
        dataset,
        batch_size=samples.batch,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )


def _batches(loader: StreamingDataLoader) -> Iterator[Batch]:
    for batch in loader:
        label = batch.pop("label")
        (x,) = batch.values()
        yield x, label
