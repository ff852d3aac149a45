"""Subjects: the first sync of a mirror, and the sync of new rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.cache import cache
from benchmarks.data import grow, loaded, numbers
from benchmarks.measure import Bench, Result, Timing, Work, compare, interleave, ready
from benchmarks.readers import page_reader
from registry import Dataset
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.mirror import Mirror, open_mirror

PICKED_UP = 1000


def sync(bench: Bench) -> list[Result]:
    """Sync into an empty folder in each round, next to reading the pages without storing them."""
    with (
        bench.server.database() as database,
        loaded(database, {"samples": numbers(bench.rows)}) as reg,
    ):
        dataset = reg.open("samples")
        timings = interleave(
            {"ours": lambda: _first_sync(dataset), "pages": ready(page_reader(dataset))},
            bench.rounds,
        )
    what = "first sync of 44-byte records, next to reading pages"
    return [compare(what, timings["ours"], timings["pages"], at_least=0.7)]


def pickups(datasets: dict[str, Dataset], rounds: int) -> dict[str, Timing]:
    """Time the sync of a few new rows into mirrors that have all other rows, by name."""
    with cache() as root:
        mirrors = {name: open_mirror(log_of(dataset), root) for name, dataset in datasets.items()}
        return interleave(
            {
                name: lambda name=name: _pickup(datasets[name], mirrors[name])  # type: ignore[misc]
                for name in datasets
            },
            rounds,
        )


def log_of(dataset: Dataset) -> Log:
    """Return a dataset's log, which only its runs have as an attribute."""
    return dataset.run("any").log


@contextmanager
def _first_sync(dataset: Dataset) -> Iterator[Work]:
    head = dataset.head
    with cache() as root:
        mirror = open_mirror(log_of(dataset), root)
        yield lambda: mirror.sync(Watermark.of(head)).position


@contextmanager
def _pickup(dataset: Dataset, mirror: Mirror) -> Iterator[Work]:
    head = dataset.head
    before = mirror.sync(Watermark.of(head)).position
    grow(dataset, PICKED_UP)
    head = dataset.head
    yield lambda: mirror.sync(Watermark.of(head)).position - before
