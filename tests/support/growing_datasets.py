"""Growing datasets of both kinds, and what an epoch must yield, computed from the log's pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry import Dataset, Registry
from registry.samples.codec import Column
from registry.samples.features import Feature
from registry.training.epoch import Epoch
from registry.training.permutation import Permutation
from registry.training.policy import Replay
from tests.support.datasets import FIXED, VARIABLE, digit

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """A set of features, and how to make the sample of a number."""

    features: dict[str, Feature]
    sample: Callable[[int], dict[str, object]]

    def create(self, reg: Registry) -> Dataset:
        return reg.create("growing", self.features, splits={"train": 0.8, "test": 0.2})

    def grow(self, dataset: Dataset, count: int, first: int | None = None) -> None:
        """Insert samples, revise an old one and a new one, retract another new one."""
        start = dataset.head.position if first is None else first
        numbers = range(start, start + count)
        dataset.insert([self.sample(n) for n in numbers], keys=[f"{n}" for n in numbers])
        dataset.insert(
            [self.sample(start + 1000), self.sample(start + 2000)], keys=["0", f"{start}"]
        )
        dataset.retract(f"{start + 1}")


def note(number: int) -> dict[str, object]:
    """Return the sample of `VARIABLE` that shows this number."""
    return {
        "text": f"{number}" + "é" * (number % 3),
        "label": number % 2,
        "blob": bytes([number % 256]) * (number % 5),
        "tokens": list(range(number, number + number % 4)),
    }


KINDS = {"fixed": Kind(FIXED, digit), "variable": Kind(VARIABLE, note)}


def rows(columns: Mapping[str, Column]) -> list[Row]:
    """Return columns as comparable rows."""
    plain = [[np.asarray(value).tolist() for value in column] for column in columns.values()]
    return list(zip(*plain, strict=True))


def plain(row: Row) -> Row:
    """Return a row as TensorFlow yields it: text is bytes."""
    return tuple(value.encode() if isinstance(value, str) else value for value in row)


def yielded(epoch: Epoch, batch_size: int = 7) -> list[Row]:
    return [row for batch in epoch.batches(batch_size) for row in rows(batch)]


def due(dataset: Dataset, epoch: Epoch) -> list[Row]:
    """Return what the epoch must yield."""
    start, stop = dataset.splits.get(epoch.run.split or "", (0, 1 << 16))
    alive: dict[int, Row] = {}
    for page in dataset.pages(0, epoch.watermark):
        inside = (start <= page.buckets) & (page.buckets < stop)
        samples = zip(page.positions.tolist(), rows(page.columns), strict=True)
        alive.update((position, row) for position, row in samples if inside[position - page.start])
        for old in page.supersedes.tolist():
            alive.pop(old, None)
    run, chosen = epoch.run, sorted(alive)
    if run.policy != "all":
        older = [position for position in chosen if position < epoch.since]
        chosen = chosen[len(older) :]
        if isinstance(run.policy, Replay):
            count = min(len(older), run.policy.draws(len(chosen)))
            draw = Permutation.keyed(len(older), run.seed, epoch.number, "replay")
            chosen += [older[rank] for rank in draw(np.arange(count))]
    order = Permutation.keyed(len(chosen), run.seed, epoch.number)(np.arange(len(chosen)))
    return [alive[chosen[rank]] for rank in order]


def files(cache: Path) -> list[Path]:
    """Return all files of a cache that are not empty."""
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size)
