"""Subjects: reading a dataset's pages, beside ADBC, COPY and SQLAlchemy Core."""

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
    """Records of 44 bytes."""
    timings = _read(bench, numbers(bench.rows), core=True)
    ours, what = timings["ours"], "read 44-byte records"
    return [
        compare(f"{what}, beside ADBC", ours, timings["adbc"], at_least=1.3),
        compare(f"{what}, beside COPY", ours, timings["copy"], at_least=2.5),
        compare(f"{what}, beside SQLAlchemy Core", ours, timings["core"]),
    ]


def read_images(bench: Bench) -> list[Result]:
    """Records of 3 KiB: some 300 MB of them for a million rows of the other subjects."""
    timings = _read(bench, images(max(1, bench.rows // 10)))
    what = "read 3 KiB records, beside ADBC"
    return [compare(what, timings["ours"], timings["adbc"], at_least=1.4)]


def flatness(bench: Bench) -> list[Result]:
    """The time that a page takes must not depend on how many there are before and after it.

    At every size as many ranges of `SPAN` rows are read, at places drawn by a fixed seed: what it
    costs to begin reading counts alike for all of them.
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
            "flatness: slowest size beside fastest",
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
    """See that both ways give what was inserted: a fast reader of the wrong bytes wins nothing."""
    name, column = next(iter(samples.columns.items()))
    ours = np.concatenate([page[name] for page in dataset.pages()])
    with dbapi.connect(database.url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        layout = Codec(dataset.features).header
        first = (layout.names or ())[0]
        with cursor.fetch_record_batch() as batches:
            theirs = np.concatenate([as_records(b.column(0), layout)[first] for b in batches])
    if not (np.array_equal(ours, column) and np.array_equal(theirs, column)):
        raise AssertionError("what is read differs from what was inserted")
