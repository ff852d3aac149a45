"""Subjects: reading a dataset's pages, next to ADBC, COPY and SQLAlchemy Core."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from adbc_driver_postgresql import dbapi

from benchmarks.data import Samples, images, loaded, numbers
from benchmarks.measure import Bench, Result, Timing, compare, interleave, rate, ready
from benchmarks.readers import (
    adbc_reader,
    as_records,
    copy_reader,
    core_reader,
    page_reader,
    records_query,
    span_reader,
)
from benchmarks.server import Database
from registry import Dataset
from registry.samples.codec import Codec

SIZES = (10**4, 10**5, 10**6)
SPAN = 10**4


def read_numbers(bench: Bench) -> list[Result]:
    """Read records of 44 bytes."""
    timings = _read(bench, numbers(bench.rows), core=True)
    ours, what = timings["ours"], "read 44-byte records"
    return [
        compare(f"{what}, next to ADBC", ours, timings["adbc"], at_least=1.3),
        compare(f"{what}, next to COPY", ours, timings["copy"], at_least=2.5),
        compare(f"{what}, next to SQLAlchemy Core", ours, timings["core"]),
    ]


def read_images(bench: Bench) -> list[Result]:
    """Read records of 3 KiB, a tenth of the rows of other subjects: 300 MB by default."""
    timings = _read(bench, images(max(1, bench.rows // 10)))
    what = "read 3 KiB records, next to ADBC"
    return [compare(what, timings["ours"], timings["adbc"], at_least=1.4)]


def flatness(bench: Bench) -> list[Result]:
    """Check that the time for a page does not depend on the number of pages before and after it.

    The same number of ranges of `SPAN` rows is read at every size, so that the cost of beginning a
    read is the same for all sizes.
    """
    sizes = sorted({bench.rows, *(size for size in SIZES if size < bench.rows)})
    with (
        bench.server.database() as database,
        loaded(database, {f"n{size}": numbers(size) for size in sizes}) as reg,
    ):
        readers = {
            f"{size:,}": ready(span_reader(reg.open(f"n{size}"), SPAN, sizes[-1] // SPAN))
            for size in sizes
        }
        timings = interleave(readers, bench.rounds)
    rates = [timing.rate for timing in timings.values()]
    return [
        *(rate(f"read {SPAN:,} rows out of {size}", timing) for size, timing in timings.items()),
        Result(
            "flatness: slowest size next to the fastest",
            "ns/row",
            1e9 / min(rates),
            1e9 / max(rates),
            at_most=1.2 if len(sizes) > 1 else None,
        ),
    ]


def _read(bench: Bench, samples: Samples, *, core: bool = False) -> dict[str, Timing]:
    with (
        bench.server.database() as database,
        loaded(database, {"samples": samples}) as reg,
        ExitStack() as stack,
    ):
        dataset = reg.open("samples")
        query = records_query(reg, dataset)
        _check(database, query, dataset, samples)
        adbc = stack.enter_context(adbc_reader(database, query, dataset))
        copy = stack.enter_context(copy_reader(database, query, dataset))
        readers = {"ours": page_reader(dataset), "adbc": adbc, "copy": copy}
        if core:
            readers["core"] = stack.enter_context(core_reader(reg, dataset))
        return interleave({name: ready(work) for name, work in readers.items()}, bench.rounds)


def _check(database: Database, query: str, dataset: Dataset, samples: Samples) -> None:
    """Check that both readers return the inserted values, not only many bytes."""
    name, column = next(iter(samples.columns.items()))
    ours = np.concatenate([page[name] for page in dataset.pages()])
    with dbapi.connect(database.url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        layout = Codec(dataset.features).header
        first = (layout.names or ())[0]
        with cursor.fetch_record_batch() as batches:
            theirs = np.concatenate([as_records(b.column(0), layout)[first] for b in batches])
    if not (np.array_equal(ours, column) and np.array_equal(theirs, column)):
        raise AssertionError("the values that are read differ from the inserted ones")
