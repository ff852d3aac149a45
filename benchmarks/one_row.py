"""Subject: inserts of one row, each with its commit, next to those of SQLAlchemy Core."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, Column, Engine, LargeBinary, MetaData, Table, Text, create_engine
from sqlalchemy import insert as insert_into

import registry
from benchmarks.data import numbers
from benchmarks.measure import Bench, Result, compare, interleave, ready

ROWS = 500
"""Rows that are inserted in a round; a round of a million would take an hour."""
_PLAIN = Table(
    "plain",
    MetaData(),
    Column("key", Text, primary_key=True),
    Column("record", LargeBinary),
)


def insert_one_row(bench: Bench) -> list[Result]:
    """Insert rows one at a time on PostgreSQL: with given keys, and with generated ones."""
    samples = numbers(ROWS)
    rows = [{name: column[row] for name, column in samples.columns.items()} for row in range(ROWS)]
    serial = itertools.count()
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", samples.features)
        with _plain(database.address) as engine:
            database.settle()

            def keyed() -> int:
                for row in rows:
                    dataset.insert([row], keys=[f"sample-{next(serial)}"])
                return ROWS

            def generated() -> int:
                for row in rows:
                    dataset.insert([row])
                return ROWS

            def core() -> int:
                for _ in rows:
                    with engine.begin() as connection:
                        values = {"key": f"sample-{next(serial)}", "record": bytes(44)}
                        connection.execute(insert_into(_PLAIN), values)
                return ROWS

            works = {"a key": keyed, "no key": generated, "core": core}
            timings = interleave({name: ready(work) for name, work in works.items()}, bench.rounds)
    what = "insert one row with {}, next to SQLAlchemy Core into a plain table"
    return [
        compare(what.format(name), timings[name], timings["core"], at_least=0.6)
        for name in ("a key", "no key")
    ]


@contextmanager
def _plain(address: URL) -> Iterator[Engine]:
    """Yield SQLAlchemy's engine with its defaults, on a database with the plain table."""
    engine = create_engine(address)
    _PLAIN.metadata.create_all(engine)
    try:
        yield engine
    finally:
        engine.dispose()
