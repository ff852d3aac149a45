"""Subject: reading a dataset as a stream of Arrow, next to its pages."""

from __future__ import annotations

import pyarrow as pa

from benchmarks.data import SHORT, Samples, numbers, texts
from benchmarks.measure import Bench, Result, Work, compare, interleave, rate, ready
from benchmarks.readers import page_reader
from registry import Dataset, connect


def arrow(bench: Bench) -> list[Result]:
    """Read 44-byte records and short texts, also with one row in ten revised, and with keys."""
    results = []
    few = max(1, bench.rows // 10)
    data: dict[str, Samples] = {"44-byte records": numbers(bench.rows), "texts": texts(few, SHORT)}
    with bench.server.database() as database, connect(database.url) as reg:
        for what, samples in data.items():
            dataset = samples.insert(reg, what.replace(" ", "-"))
            database.settle()
            results += _compared(bench, dataset, what)
        revised = reg.open("44-byte-records")
        changed = numbers(few, first=bench.rows)
        revised.insert(changed.columns, keys=data["44-byte records"].keys[::10][:few])
        database.settle()
        results += _compared(bench, revised, "44-byte records, a tenth revised")
    return results


def _compared(bench: Bench, dataset: Dataset, what: str) -> list[Result]:
    work = {"stream": _stream(dataset), "pages": page_reader(dataset), "keys": _keys(dataset)}
    timings = interleave({name: ready(each) for name, each in work.items()}, bench.rounds)
    return [
        compare(
            f"Arrow: stream {what}, next to pages",
            timings["stream"],
            timings["pages"],
            at_least=0.5,
            other_rows=True,  # a page has the rows that were revised, too
        ),
        rate(f"Arrow: table of {what} with keys", timings["keys"]),
    ]


def _stream(dataset: Dataset) -> Work:
    def work() -> int:
        return sum(batch.num_rows for batch in pa.RecordBatchReader.from_stream(dataset))

    return work


def _keys(dataset: Dataset) -> Work:
    return lambda: len(dataset.to_arrow(keys="key"))
