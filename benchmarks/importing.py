"""Subject: the speed of importing JSON Lines, next to inserting dicts, and its peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import registry
from benchmarks.data import NUMBERS, PIECE, numbers
from benchmarks.measure import Bench, Result, Work, compare, interleave
from benchmarks.memory import peak
from registry.io.batching import BATCH_ROWS
from registry.io.import_file import insert_file

Rows = list[tuple[str, dict[str, Any]]]


def import_(bench: Bench) -> list[Result]:
    """Import rows with given keys into an empty dataset, in a new database for each round."""
    with tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder:
        path = write(Path(folder) / "rows.jsonl", bench.rows)
        timings = interleave(
            {"file": lambda: _file(bench, path), "dicts": lambda: _dicts(bench)}, bench.rounds
        )
        what = "import JSON Lines of 250 bytes, next to the same rows as dicts"
        return [
            compare(what, timings["file"], timings["dicts"], at_least=0.5),
            _growth(bench, path),
        ]


def write(path: Path, rows: int) -> Path:
    """Write rows as a tool writes them, with their keys in ``id``."""
    with path.open("w") as file:
        for after in range(0, rows, PIECE):
            piece = _rows(min(PIECE, rows - after), after)
            file.writelines(json.dumps({"id": key, **row}) + "\n" for key, row in piece)
    return path


def _rows(count: int, first: int = 0) -> Rows:
    samples = numbers(count, first)
    x, label = samples.columns["x"].tolist(), samples.columns["label"].tolist()
    rows = ({"x": one, "label": other} for one, other in zip(x, label, strict=True))
    return list(zip(samples.keys, rows, strict=True))


@contextmanager
def _file(bench: Bench, path: Path) -> Iterator[Work]:
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", NUMBERS)
        database.settle()
        yield lambda: insert_file(dataset, path, key="id").inserted


@contextmanager
def _dicts(bench: Bench) -> Iterator[Work]:
    """Insert rows that are in memory, in batches as large as the importer's."""
    with bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", NUMBERS)
        rows = _rows(bench.rows)
        pieces = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
        batches = [([row for _, row in piece], [key for key, _ in piece]) for piece in pieces]
        database.settle()
        yield lambda: sum(dataset.insert(each, keys=keys).inserted for each, keys in batches)


def _growth(bench: Bench, path: Path) -> Result:
    with bench.server.database() as database:
        finished = subprocess.run(
            [sys.executable, "-m", __name__, database.url, path],
            check=True,
            capture_output=True,
            text=True,
        )
    early, late = map(int, finished.stdout.split())
    what = "growth of peak memory after a tenth of an import"
    return Result(what, "MiB", (late - early) / 2**20, at_most=16)


def peaks(url: str, path: Path) -> tuple[int, int]:
    """Import a file; return the peak resident bytes after a tenth of it and at the end."""
    early, tenth = 0, path.stat().st_size / 10

    def record_peak(_: int, size: int) -> None:
        nonlocal early
        if not early and size >= tenth:
            early = peak()

    with registry.connect(url) as reg:
        insert_file(reg.create("samples", NUMBERS), path, key="id", progress=record_peak)
    return early, peak()


if __name__ == "__main__":
    print(*peaks(sys.argv[1], Path(sys.argv[2])))
