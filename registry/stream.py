"""Batches of samples, framework-free: pages of the log become an epoch's samples in order."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from registry.codec import Column
from registry.cursor import Log, pages
from registry.engine import read
from registry.errors import FeatureError
from registry.runs import Population

Columns = Mapping[str, Column]


def samples(log: Log, population: Population) -> Iterator[dict[str, Column]]:
    """Yield the population's samples in position order, as columns of up to a page's rows."""
    start, stop = population.interval
    for page in pages(log, 0, population.watermark):
        superseded = read(log.engine, partial(population.superseded, page.start, page.stop))
        alive = (page.buckets >= start) & (page.buckets < stop)
        alive[np.array(superseded, np.int64) - page.start] = False
        kept = alive[page.positions - page.start]
        if kept.any():
            yield {name: column[kept] for name, column in page.columns.items()}


def batches(
    parts: Iterable[Columns], batch_size: int, *, drop_remainder: bool = False
) -> Iterator[dict[str, Column]]:
    """Cut columns of any lengths into columns of ``batch_size`` rows; the last may be shorter."""
    if operator.index(batch_size) < 1:
        raise FeatureError(f"batch_size {batch_size} is not a whole number from 1 on")
    return _cut(parts, batch_size, drop_remainder=drop_remainder)


def _cut(
    parts: Iterable[Columns], batch_size: int, *, drop_remainder: bool
) -> Iterator[dict[str, Column]]:
    held: list[Columns] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += _rows(part)
        if rows < batch_size:
            continue
        joined = _join(held)
        cut = rows - rows % batch_size
        for start in range(0, cut, batch_size):
            yield {name: column[start : start + batch_size] for name, column in joined.items()}
        held = [{name: column[cut:] for name, column in joined.items()}]
        rows -= cut
    if rows and not drop_remainder:
        yield _join(held)


def _rows(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _join(parts: list[Columns]) -> dict[str, Column]:
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
