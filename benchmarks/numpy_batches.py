"""Subject: batches in NumPy, next to taking the rows of an array in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cache import cache
from benchmarks.data import Samples, loaded, numbers
from benchmarks.measure import Bench, Contender, Result, compare, interleave, rate, ready
from registry.training.run import Run

BATCH = 256
CHUNK = 1 << 14
"""Rows that are taken from memory at a time. `Epoch.batches` takes about as many."""
Batches = Callable[[], Iterator[dict[str, Any]]]


def batches(bench: Bench) -> list[Result]:
    """Take the batches of an epoch, which are dicts of arrays."""
    samples = numbers(bench.rows)
    with (
        cache(),
        bench.server.database() as database,
        loaded(database, {"samples": samples}) as reg,
    ):
        run = reg.open("samples").run("train")
        ways: dict[str, Batches] = {
            "ours": partial(of_epoch, run),
            "memory": partial(_taken, _packed(samples)),
        }
        for name, make in ways.items():
            _check(name, make(), samples)
        timings = interleave({name: drained(make) for name, make in ways.items()}, bench.rounds)
    what = "Epoch.batches, next to taking chunks of an array in memory"
    return [
        rate("Epoch.batches", timings["ours"]),
        compare(what, timings["ours"], timings["memory"], at_least=0.8),
    ]


def of_epoch(run: Run) -> Iterator[dict[str, Any]]:
    return run.epoch(0).batches(BATCH)


def drained(make: Batches) -> Contender:
    """Return the contender that takes all batches."""
    return ready(lambda: sum(len(batch["label"]) for batch in make()))


def _packed(samples: Samples) -> npt.NDArray[Any]:
    """Return the samples as an array of records."""
    packed = np.empty(len(samples), [("x", "<f4", 10), ("label", "<i4")])
    packed["x"], packed["label"] = samples.columns["x"], samples.columns["label"]
    return packed


def _taken(packed: npt.NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Yield batches of contiguous columns in an order that is made for the epoch.

    It is the limit in NumPy: no checksum is verified, and no index read.
    """
    order = np.random.default_rng().permutation(len(packed))
    for first in range(0, len(order), CHUNK):
        chunk = packed.take(order[first : first + CHUNK])
        x, label = np.ascontiguousarray(chunk["x"]), np.ascontiguousarray(chunk["label"])
        for after in range(0, len(chunk), BATCH):
            yield {"x": x[after : after + BATCH], "label": label[after : after + BATCH]}


def _check(name: str, batches_of: Iterator[dict[str, Any]], samples: Samples) -> None:
    """Check that the batches have each sample once, in another order."""
    columns = [(batch["x"], batch["label"]) for batch in batches_of]
    x, label = (np.concatenate(column) for column in zip(*columns, strict=True))
    by_label = np.lexsort((label, *x.T[:2]))
    expected = np.lexsort((samples.columns["label"], *samples.columns["x"].T[:2]))
    if not (
        np.array_equal(x[by_label], samples.columns["x"][expected])
        and np.array_equal(label[by_label], samples.columns["label"][expected])
        and not np.array_equal(x, samples.columns["x"])
    ):
        raise AssertionError(f"the samples of {name} differ from the inserted ones")
