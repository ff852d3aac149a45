"""Subject: how many bytes a row takes, in the database and in the mirror."""

from __future__ import annotations

import tempfile
from pathlib import Path

import registry
from benchmarks.cache import cache
from benchmarks.data import LONG, SHORT, Samples, images, numbers, texts
from benchmarks.measure import Bench, Result
from benchmarks.server import Database, administrator


def sizes(bench: Bench) -> list[Result]:
    """Measure samples of four kinds, each alone in a new database."""
    kinds = {
        "44 bytes": numbers(bench.rows),
        "texts of 20-200 bytes": texts(bench.rows, SHORT),
        "texts of 200-4000 bytes": texts(max(1, bench.rows // 10), LONG),
        "3 KiB": images(max(1, bench.rows // 10)),
    }
    results = []
    for name, samples in kinds.items():
        with cache() as folder, bench.server.database() as database:
            with registry.connect(database.url) as reg:
                dataset = samples.insert(reg, "d")
                dataset.run("r").epoch(0)
                record = sum(len(page.data) for page in dataset.pages()) / len(samples)
            database.settle()
            figures = {
                "record": record,
                "PostgreSQL": stored(database) / len(samples),
                "SQLite": _sqlite(samples) / len(samples),
                "mirror": allocated(folder) / len(samples),
            }
        results += [Result(f"{name}: {where}", "bytes", size) for where, size in figures.items()]
    return results


def stored(database: Database) -> int:
    """Return the bytes of all samples, with their indexes."""
    with administrator(database.address) as connection:
        size: int = connection.exec_driver_sql(
            "SELECT pg_total_relation_size('samples')"
        ).scalar_one()
    return size


def _sqlite(samples: Samples) -> int:
    with tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder:
        path = Path(folder, "registry.db")
        with registry.connect(f"sqlite:///{path}") as reg:
            samples.insert(reg, "d")
        return allocated(Path(folder))


def allocated(folder: Path) -> int:
    # Allocated blocks: files of a mirror have space ahead of what is written.
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file())
