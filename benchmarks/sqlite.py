"""Subject: reading and inserting on SQLite, without a requirement."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import registry
from benchmarks.data import Samples, numbers
from benchmarks.measure import Bench, Result, Work, interleave, rate
from benchmarks.readers import page_reader
from registry import Registry


def sqlite(bench: Bench) -> list[Result]:
    """Insert and read a fifth of the rows, in a new file for each round."""
    samples = numbers(max(1, bench.rows // 5))
    timings = interleave(
        {"insert": lambda: _insert(samples), "read": lambda: _read(samples)}, bench.rounds
    )
    return [rate(f"SQLite: {name} 44-byte records", timing) for name, timing in timings.items()]


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
def _read(samples: Samples) -> Iterator[Work]:
    with _file() as reg:
        yield page_reader(samples.insert(reg, "samples"))
