"""Subject: what a long history costs: the size of a version, and the sample of an old key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import registry
from benchmarks.data import numbers
from benchmarks.measure import Bench, Contender, Result, Work, compare, duration, interleave, ready
from benchmarks.server import Database
from registry import Dataset, Registry
from registry.samples.splits import interval
from registry.storage.database.transactions import read
from registry.training.population import Population, count_in_database

ROWS = 300_000
REVISIONS = 3000
KEY = "revised"


def history(bench: Bench) -> list[Result]:
    """Read the size of versions of 300,000 rows, and a key that has 3,000 revisions."""
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = _fill(reg)
        end = dataset.head.position
        database.settle()
        inside = end // 2
        timings = interleave(
            {
                "len": _size(reg, f"samples@{end}"),
                "len inside of a commit": _size(reg, f"samples@{inside}"),
                "get": _each(lambda: dataset.get(KEY)),
                "get at a version": _each(reg.open(f"samples@{end - REVISIONS // 2}").get, KEY),
                "count": _counted(reg, dataset, end),
                "history": _each(lambda: dataset.history(KEY)[-1]),
            },
            bench.rounds,
        )
        _forget(database)
        old = interleave(
            {"stored": _size(reg, f"samples@{end}"), "count": _counted(reg, dataset, end)},
            bench.rounds,
        )
    size, key = f"len of a version of {ROWS:,} rows", f"get of a key with {REVISIONS:,} revisions"
    return [
        duration(size, timings["len"], at_most=2),
        compare(f"{size}; baseline: counted", timings["len"], timings["count"], unit="ms"),
        duration(f"{size}, inside of a commit", timings["len inside of a commit"], at_most=20),
        compare(
            f"{size} without stored counts; baseline: as before",
            old["stored"],
            old["count"],
            unit="ms",
            at_most=1.1,
        ),
        duration(key, timings["get"], at_most=5),
        duration(f"{key}, at a version", timings["get at a version"], at_most=5),
        compare(f"{key}; baseline: all read", timings["get"], timings["history"], unit="ms"),
    ]


def _fill(reg: Registry) -> Dataset:
    """Insert a third of the rows, and revise them twice, then one key for many times."""
    samples = numbers(ROWS // 3)
    dataset = samples.insert(reg, "samples")
    backwards = {name: column[::-1] for name, column in samples.columns.items()}
    for columns in (backwards, samples.columns):
        dataset.insert(columns, keys=samples.keys)
    some = {name: column[:REVISIONS] for name, column in samples.columns.items()}
    dataset.insert(some, keys=[KEY] * REVISIONS)
    return dataset


def _size(reg: Registry, version: str) -> Contender:
    @contextmanager
    def opened() -> Iterator[Work]:
        # Opened each time, since a version reads its size once.
        dataset = reg.open(version)
        yield lambda: bool(len(dataset))

    return opened


def _counted(reg: Registry, dataset: Dataset, position: int) -> Contender:
    everything = Population(position, interval({}, None))
    return _each(lambda: read(reg.engine, count_in_database, dataset.id, everything))


def _each(call: Callable[..., object], *arguments: object) -> Contender:
    def work() -> int:
        call(*arguments)
        return 1

    return ready(work)


def _forget(database: Database) -> None:
    """Remove the stored numbers, as in a log that is older than they are."""
    database.run("SET session_replication_role = replica; UPDATE samples SET live = NULL")
    database.settle()
