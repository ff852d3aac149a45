"""Grain: ArrayRecord files, whose records are shuffled by index, and decoded batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.peers.loader import WORKERS, Batch, Loader, Samples, decode

READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
"""For batches. The default of 16 threads and 500 elements is for single records."""
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
    """Makes the batches of the next epoch, in another order than before.

    Threads start with each epoch, which takes a millisecond. Processes take seconds, so they run
    through all epochs, and the next one is cut from their batches. Few are buffered: those that are
    made while another project is timed would cost nothing.
    """

    def __init__(self, samples: Samples, path: str, workers: int) -> None:
        records = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(path))
        records = records.shuffle(seed=1)
        if samples.kind == "images":  # decoded by the threads that read
            batches = records.map(_image).batch(samples.batch, drop_remainder=True)
        else:
            make = _numbers if samples.kind == "numbers" else _texts
            batches = records.batch(samples.batch, drop_remainder=True, batch_fn=make)
        self._count = len(samples) // samples.batch
        self._epochs = count()
        self._batches = batches.repeat()
        self._iterator: Iterator[Batch] | None = None
        if workers:
            options = grain.multiprocessing.MultiprocessingOptions(workers)
            self._iterator = iter(self._batches.to_iter_dataset(READ).mp_prefetch(options))

    def __call__(self) -> Iterator[Batch]:
        if self._iterator is not None:
            return islice(self._iterator, self._count)
        after = next(self._epochs) * self._count
        # A repeated dataset is shuffled again in each repetition.
        epoch = self._batches[after : after + self._count]
        return iter(epoch.to_iter_dataset(READ))


def _numbers(records: Sequence[bytes]) -> Batch:
    rows = np.frombuffer(b"".join(records), [("x", "<f4", 10), ("label", "<i4")])
    return np.ascontiguousarray(rows["x"]), np.ascontiguousarray(rows["label"])


def _texts(records: Sequence[bytes]) -> Batch:
    labels = np.frombuffer(b"".join(record[-LABEL:] for record in records), "<i4")
    return [record[:-LABEL].decode() for record in records], labels


def _image(record: bytes) -> Batch:
    return decode(record[:-LABEL]), np.frombuffer(record[-LABEL:], "<i4")[0]
