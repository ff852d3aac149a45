"""WebDataset: tar files, whose samples pass through a shuffle buffer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from benchmarks.peers.loader import WORKERS, Batch, Loader, Samples, decode

SHARDS = 16
BUFFER = 5000
"""Samples of the shuffle buffer. The order of the shards is shuffled, too."""
EXTENSIONS = {"numbers": "npy", "texts": "txt", "images": "jpg"}


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    extension = EXTENSIONS[samples.kind]
    size = -(-len(samples) // SHARDS)
    pattern = str(folder / "%06d.tar")
    with wds.ShardWriter(pattern, maxcount=size, verbose=0) as writer:
        for number, (x, label) in enumerate(samples.rows()):
            writer.write({"__key__": f"{number:09}", extension: x, "cls": label})
    shards = sorted(map(str, folder.glob("*.tar")))
    dataset = wds.WebDataset(shards, shardshuffle=SHARDS).shuffle(BUFFER)
    if samples.kind == "images":
        dataset = dataset.map(_decoded)
    else:
        dataset = dataset.decode().to_tuple(extension, "cls")
    dataset = dataset.batched(samples.batch, collation_fn=partial(_batch, samples.kind))
    return {
        f"{workers} worker processes": Loader(
            wds.WebLoader(
                dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
            ).__iter__
        )
        for workers in (0, WORKERS)
    }


def _decoded(sample: dict[str, Any]) -> Batch:
    return decode(sample["jpg"]), int(sample["cls"])


def _batch(kind: str, rows: list[Batch]) -> Batch:
    x, label = zip(*rows, strict=True)
    return (list(x) if kind == "texts" else np.stack(x)), np.array(label)
