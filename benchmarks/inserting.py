"""Subject: a bulk insert, next to a COPY of the same rows that are encoded beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

import registry
from benchmarks.data import Samples, numbers
from benchmarks.measure import Bench, Result, Work, compare, interleave
from registry.samples.buckets import buckets
from registry.samples.codec import Codec
from registry.storage.log.append import CHUNK_ROWS
from registry.storage.log.bulk_insert import BLOCK, COLUMNS, COPY, HEADER, TRAILER, NewRows, encode
from registry.storage.log.hash_chain import NONE, extend
from registry.storage.log.watermark import GENESIS

_STATEMENT = COPY.format(COLUMNS).encode()


def insert(bench: Bench) -> list[Result]:
    """Insert columns with given keys into an empty dataset, in a new database for each round."""
    samples = numbers(bench.rows)
    data = copy_data(samples)

    timings = interleave(
        {"ours": lambda: _ours(bench, samples), "copy": lambda: _raw(bench, samples, data)},
        bench.rounds,
    )
    what = "insert 44-byte records, next to COPY of prebuilt bytes into the same table"
    return [compare(what, timings["ours"], timings["copy"], at_least=0.8)]


def copy_data(samples: Samples) -> list[list[bytes]]:
    """Return the rows that the insert would store, as the data of several COPY, in pieces."""
    records = Codec(samples.features).encode(samples.columns)
    hashes = buckets(samples.keys)
    chains = extend(GENESIS, [NONE] * len(samples), hashes, list(records))
    return [
        [
            HEADER,
            *(
                encode(1, _rows(samples, records, hashes, chains, slice(start, start + BLOCK)))
                for start in range(first, min(first + CHUNK_ROWS, len(samples)), BLOCK)
            ),
            TRAILER,
        ]
        for first in range(0, len(samples), CHUNK_ROWS)
    ]


def _rows(
    samples: Samples, records: list[bytes], hashes: Any, chains: list[bytes], part: slice
) -> NewRows:
    none = [None] * len(records[part])
    keys = samples.keys[part]
    return NewRows(part.start, hashes[part], chains[part], records[part], keys, none, none)


@contextmanager
def _ours(bench: Bench, samples: Samples) -> Iterator[Work]:
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", samples.features)
        database.settle()
        yield lambda: dataset.insert(samples.columns, keys=samples.keys).inserted


@contextmanager
def _raw(bench: Bench, samples: Samples, data: list[list[bytes]]) -> Iterator[Work]:
    """Copy into the same table, with its indexes and triggers, also in a new database.

    The rows are divided as the insert divides them, since the trigger takes more memory for more
    rows, but are committed together.
    """
    with bench.server.database() as database, psycopg.connect(database.url) as connection:
        with registry.connect(database.url) as reg:
            reg.create("samples", samples.features)
        database.settle()

        def work() -> int:
            rows = 0
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL work_mem = '64MB'")
                for blocks in data:
                    with cursor.copy(_STATEMENT) as copy:
                        for block in blocks:
                            copy.write(block)
                    rows += cursor.rowcount
                connection.commit()
            return rows

        yield work
