"""Subject: samples at random offsets, as map-style datasets are read, next to `Epoch.batches`.

And PyTorch's DataLoader over an epoch, next to the same rows in a Hugging Face dataset with the
format "torch", whose samples PyTorch collates. Both are shuffled by the DataLoader, in the process
itself. This part needs PyTorch, and is left out without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.cache import cache
from benchmarks.data import SEED, SHORT, Samples, images, loaded, numbers, texts
from benchmarks.measure import Bench, Contender, Result, compare, interleave, ready
from benchmarks.numpy_batches import BATCH
from registry.training.epoch import Epoch

READ = 100_000
"""Samples that are read from Hugging Face in a round, at most: its rate does not depend on them."""
FEWER = 20
"""There is one text and one image for so many numbers; an image has 70 times the bytes."""


def map_style(bench: Bench) -> list[Result]:
    """Read all samples of an epoch at random, in batches, and by a DataLoader."""
    few = bench.rows // FEWER
    samples = {"numbers": numbers(bench.rows), "texts": texts(few, SHORT), "images": images(few)}
    results = []
    with cache(), bench.server.database() as database, loaded(database, samples) as reg:
        epochs = {name: reg.open(name).run("train").epoch(0) for name in samples}
        for name, epoch in epochs.items():
            lists = offset_lists(epoch)
            check(epoch, lists[0])
            ways = {
                "at random": drained(lambda e=epoch, o=lists: map(gathered(e), o)),  # type: ignore[misc]
                "batches": drained(lambda e=epoch: e.batches(BATCH)),  # type: ignore[misc]
            }
            timings = interleave(ways, bench.rounds)
            what = f"Epoch.__getitems__ of {BATCH} {name} at random, next to Epoch.batches"
            results.append(compare(what, timings["at random"], timings["batches"], at_least=0.5))
        if find_spec("torch") is not None:
            results.append(by_data_loaders(epochs["numbers"], samples["numbers"], bench.rounds))
    return results


def by_data_loaders(epoch: Epoch, samples: Samples, rounds: int) -> Result:
    """Read samples by DataLoaders of PyTorch, ours and those of a Hugging Face dataset."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets  # noqa: PLC0415
    from torch.utils.data import DataLoader, Subset  # noqa: PLC0415

    from registry.torch import collate  # noqa: PLC0415

    arrow = datasets.Dataset.from_dict(samples.columns).with_format("torch")
    part = Subset(arrow, range(min(READ, len(arrow))))
    loaders = {
        "ours": DataLoader(epoch, BATCH, shuffle=True, collate_fn=collate),
        "theirs": DataLoader(part, BATCH, shuffle=True),
    }
    timings = interleave({name: drained(lambda o=o: o) for name, o in loaders.items()}, rounds)  # type: ignore[misc]
    what = "DataLoader of an epoch, next to one of a Hugging Face dataset"
    return compare(what, timings["ours"], timings["theirs"], at_least=3, other_rows=True)


def offset_lists(epoch: Epoch) -> list[list[int]]:
    """Return all offsets in a random order, as PyTorch's RandomSampler makes lists of them."""
    # A list that is shuffled would have its integers all over the memory.
    offsets = np.random.default_rng(SEED).permutation(epoch.size).tolist()
    return [offsets[after : after + BATCH] for after in range(0, len(offsets), BATCH)]


def gathered(epoch: Epoch) -> Callable[[list[int]], dict[str, Any]]:
    return lambda offsets: epoch.__getitems__(offsets).columns


def drained(make: Callable[[], Iterable[dict[str, Any]]]) -> Contender:
    """Return the contender that takes all batches."""
    return ready(lambda: sum(len(next(iter(batch.values()))) for batch in make()))


def check(epoch: Epoch, offsets: list[int]) -> None:
    """Check that samples at offsets are those of the batches."""
    batches = list(epoch.batches(BATCH))
    for sample, offset in zip(epoch.__getitems__(offsets), offsets, strict=True):
        number, row = divmod(offset, BATCH)
        for name, value in sample.items():
            if not np.array_equal(value, batches[number][name][row]):
                raise AssertionError(f"the sample at offset {offset} is another")
