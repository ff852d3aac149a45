"""Subject: a bulk insert, next to a COPY of the same rows that are encoded beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

import registry
from benchmarks.data import Samples, numbers
from benchmarks.measure import Bench, Result, Work, compare, interleave
from registry.samples.codec import Codec
from registry.samples.splits import buckets
from registry.storage.log.bulk_insert import BLOCK, COLUMNS, COPY, HEADER, TRAILER, NewRows, encode
from registry.storage.log.hash_chain import GENESIS, NONE, extend

_STATEMENT = COPY.format(COLUMNS).replace("samples", "raw_copy", 1).encode()


def insert(bench: Bench) -> list[Result]:
    """Insert columns with given keys into an empty dataset, in a new database for each round."""
    samples = numbers(bench.rows)
    blocks = copy_data(samples)

    timings = interleave(
        {"ours": lambda: _ours(bench, samples), "copy": lambda: _raw(bench, blocks)},
        bench.rounds,
    )
    what = "insert 44-byte records, next to raw COPY"
    return [compare(what, timings["ours"], timings["copy"], at_least=0.5)]


def copy_data(samples: Samples) -> list[bytes]:
    """Return the rows that the insert would store, as COPY data in pieces."""
    records = Codec(samples.features).encode(samples.columns)
    hashes = buckets(samples.keys)
    chains = extend(GENESIS, [NONE] * len(samples), hashes, list(records))
    parts = [slice(start, start + BLOCK) for start in range(0, len(samples), BLOCK)]
    rows = [
        NewRows(
            part.start,
            hashes[part],
            chains[part],
            records[part],
            samples.keys[part],
            [None] * len(records[part]),
            [None] * len(records[part]),
        )
        for part in parts
    ]
    return [HEADER, *(encode(1, block) for block in rows), TRAILER]


@contextmanager
def _ours(bench: Bench, samples: Samples) -> Iterator[Work]:
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", samples.features)
        database.settle()
        yield lambda: dataset.insert(samples.columns, keys=samples.keys).inserted


@contextmanager
def _raw(bench: Bench, blocks: list[bytes]) -> Iterator[Work]:
    """Copy into a table with the same columns, storage and indexes, also in a new database."""
    with bench.server.database() as database, psycopg.connect(database.url) as connection:
        database.run("CREATE TABLE raw_copy (LIKE samples INCLUDING ALL)")
        database.settle()

        def work() -> int:
            with connection.cursor() as cursor:
                with cursor.copy(_STATEMENT) as copy:
                    for block in blocks:
                        copy.write(block)
                connection.commit()
                return cursor.rowcount

        yield work
