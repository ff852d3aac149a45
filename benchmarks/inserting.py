"""Subject: a bulk insert, beside a COPY of the same rows made up beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

import registry
from benchmarks.data import Samples, numbers
from benchmarks.measure import Bench, Result, Work, compare, interleave
from registry.samples.codec import Codec
from registry.samples.splits import buckets
from registry.storage.log import bulk_insert as pgcopy
from registry.storage.log.hash_chain import GENESIS, NONE, extend

_BLOCK = 4096
_STATEMENT = pgcopy.STATEMENT.replace("samples", "raw_copy", 1)


def insert(bench: Bench) -> list[Result]:
    """Columns with given keys into an empty dataset, a fresh database for each round."""
    samples = numbers(bench.rows)
    blocks = copy_data(samples)

    timings = interleave(
        {"ours": lambda: _ours(bench, samples), "copy": lambda: _raw(bench, blocks)},
        bench.rounds,
    )
    what = "insert 44-byte records, beside raw COPY"
    return [compare(what, timings["ours"], timings["copy"], at_least=0.5)]


def copy_data(samples: Samples) -> list[bytes]:
    """Return the rows that the insert would store, as COPY data in pieces."""
    records = Codec(samples.features).encode(samples.columns)
    hashes = buckets(samples.keys)
    chains = extend(GENESIS, [NONE] * len(samples), hashes, list(records))
    blocks = [
        pgcopy.block(
            1,
            start,
            buckets=hashes[start : start + _BLOCK],
            chains=chains[start : start + _BLOCK],
            records=records[start : start + _BLOCK],
            keys=samples.keys[start : start + _BLOCK],
            supersedes=[None] * len(records[start : start + _BLOCK]),
            sources=[None] * len(records[start : start + _BLOCK]),
        )
        for start in range(0, len(samples), _BLOCK)
    ]
    return [pgcopy.HEADER, *blocks, pgcopy.TRAILER]


@contextmanager
def _ours(bench: Bench, samples: Samples) -> Iterator[Work]:
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", samples.features)
        database.settle()
        yield lambda: dataset.insert(samples.columns, keys=samples.keys).inserted


@contextmanager
def _raw(bench: Bench, blocks: list[bytes]) -> Iterator[Work]:
    """A table of the same columns, storage and indexes, in a database of its own as well."""
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
