"""Subject: reading and inserting on SQLite, inserts next to those of the driver."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import registry
from benchmarks.data import Samples, numbers
from benchmarks.measure import Bench, Result, Work, compare, interleave, rate
from benchmarks.readers import page_reader
from registry import Registry
from registry.samples.buckets import buckets
from registry.samples.codec import Codec
from registry.storage.log.bulk_insert import COLUMNS
from registry.storage.log.hash_chain import NONE, extend
from registry.storage.log.watermark import GENESIS


def sqlite(bench: Bench) -> list[Result]:
    """Insert and read a fifth of the rows, in a new file for each round."""
    samples = numbers(max(1, bench.rows // 5))
    rows = _parameters(samples)
    timings = interleave(
        {
            "insert": lambda: _insert(samples),
            "executemany": lambda: _executemany(samples, rows),
            "read": lambda: _read(samples),
        },
        bench.rounds,
    )
    what = "SQLite: insert 44-byte records, next to executemany into the same columns and indexes"
    return [
        compare(what, timings["insert"], timings["executemany"], at_least=0.6),
        rate("SQLite: read 44-byte records", timings["read"]),
    ]


def _parameters(samples: Samples) -> list[tuple[object, ...]]:
    """Return the rows that the insert would store."""
    records = Codec(samples.features).encode(samples.columns)
    hashes = buckets(samples.keys)
    chains = extend(GENESIS, [NONE] * len(samples), hashes, list(records))
    columns = zip(hashes.tolist(), chains, records, samples.keys, strict=True)
    return [
        (1, position, bucket, chain, record, None, None, None, key)
        for position, (bucket, chain, record, key) in enumerate(columns)
    ]


_SCHEMA = """
    SELECT sql FROM sqlite_master
    WHERE tbl_name = 'samples' AND type IN ('table', 'index') AND sql IS NOT NULL
    ORDER BY type DESC
"""


@contextmanager
def _file() -> Iterator[Registry]:
    with (
        tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder,
        registry.connect(f"sqlite:///{Path(folder) / 'registry.db'}") as reg,
    ):
        yield reg


@contextmanager
def _insert(samples: Samples) -> Iterator[Work]:
    with _file() as reg:
        dataset = reg.create("samples", samples.features)
        yield lambda: dataset.insert(samples.columns, keys=samples.keys).inserted


@contextmanager
def _executemany(samples: Samples, rows: list[tuple[object, ...]]) -> Iterator[Work]:
    """Insert into a table with the columns and indexes of `samples`, with the same settings."""
    with _file() as reg, reg.engine.connect() as connection:
        file: Any = connection.connection.driver_connection
        for (statement,) in file.execute(_SCHEMA).fetchall():
            file.execute(statement.replace("samples", "plain"))
        marks = ", ".join("?" for _ in rows[0])

        def work() -> int:
            file.execute("BEGIN IMMEDIATE")
            file.executemany(f"INSERT INTO plain ({COLUMNS}) VALUES ({marks})", rows)
            file.execute("COMMIT")
            return len(samples)

        yield work


@contextmanager
def _read(samples: Samples) -> Iterator[Work]:
    with _file() as reg:
        yield page_reader(samples.insert(reg, "samples"))
