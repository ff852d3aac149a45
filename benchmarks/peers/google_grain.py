"""Grain: ArrayRecord files, whose records are shuffled by index, and decoded batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.peers.loader import WORKERS, Batch, Loader, Samples, decode

LABEL = 4
"""Bytes of the label, which follows the number, text or file."""


def loaders(samples: Samples, folder: Path) -> dict[str, Loader]:
    path = str(folder / "samples.array_record")
    # Groups of one record, as the project advises for reads in any order.
    writer = ArrayRecordWriter(path, "group_size:1")
    for x, label in samples.rows():
        value = x.encode() if isinstance(x, str) else bytes(x)
        writer.write(value + label.to_bytes(LABEL, "little"))
    writer.close()
    return {
        name: Loader(_Epochs(samples, path, workers))
        for name, workers in {"threads": 0, f"{WORKERS} worker processes": WORKERS}.items()
    }


class _Epochs:
    """Makes an iterator of endless, reshuffled epochs, and cuts the next epoch from it."""

    def __init__(self, samples: Samples, path: str, workers: int) -> None:
        records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(path))
        records = records.shuffle(seed=1)
        if samples.kind == "images":  # decoded by the threads that read
            batches = records.map(_image).batch(samples.batch, drop_remainder=True)
        else:
            make = _numbers if samples.kind == "numbers" else _texts
            batches = records.batch(samples.batch, drop_remainder=True, batch_fn=make)
        dataset = batches.repeat().to_iter_dataset()
        if workers:
            dataset = dataset.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(workers))
        self._iterator = iter(dataset)
        self._count = len(samples) // samples.batch

    def __call__(self) -> Iterator[Batch]:
        return islice(self._iterator, self._count)


def _numbers(records: Sequence[bytes]) -> Batch:
    rows = np.frombuffer(b"".join(records), [("x", "<f4", 10), ("label", "<i4")])
    return np.ascontiguousarray(rows["x"]), np.ascontiguousarray(rows["label"])


def _texts(records: Sequence[bytes]) -> Batch:
    labels = np.frombuffer(b"".join(record[-LABEL:] for record in records), "<i4")
    return [record[:-LABEL].decode() for record in records], labels


def _image(record: bytes) -> Batch:
    return decode(record[:-LABEL]), np.frombuffer(record[-LABEL:], "<i4")[0]
