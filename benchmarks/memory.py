"""Subject: the memory that reading takes, which must not grow with the dataset.

Run as a module, it is the reader: a new process, whose peak nothing else has raised.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

import registry
from benchmarks.data import loaded, numbers
from benchmarks.measure import Bench, Result

_STATUS = Path("/proc/self/status")
_MAPS = Path("/proc/self/smaps_rollup")


def memory(bench: Bench) -> list[Result]:
    """Measure the peak at the end, less the peak after the first tenth."""
    with (
        bench.server.database() as database,
        loaded(database, {"samples": numbers(bench.rows)}),
    ):
        finished = subprocess.run(
            [sys.executable, "-m", __name__, database.url, "samples"],
            check=True,
            capture_output=True,
            text=True,
        )
    early, late = map(int, finished.stdout.split())
    return [
        Result("peak memory after a tenth of the pages", "MiB", early / 2**20),
        Result("growth of peak memory to the last page", "MiB", (late - early) / 2**20, at_most=16),
    ]


def peaks(url: str, name: str) -> tuple[int, int]:
    """Read all pages; return the peak resident bytes after a tenth of the rows and at the end."""
    early = highest = 0
    with registry.connect(url) as reg:
        dataset = reg.open(name)
        tenth = dataset.head.position / 10
        for page in dataset.pages():
            for feature in dataset.features:
                page[feature].sum()
            highest = max(highest, peak())
            if not early and page.stop >= tenth:
                early = highest
    return early, highest


def peak() -> int:
    """Return the highest resident size so far or, except on Linux, the present one.

    Not ``ru_maxrss``, which also counts the parent's pages from before the exec.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    resident: int = psutil.Process().memory_info().rss
    return resident


def private() -> int:
    """Return the bytes that only this process has; except on Linux, an estimate of them.

    Pages of mapped files do not count: all processes share them. Linux counts them as private while
    only one process has them, hence the anonymous pages.
    """
    if _MAPS.exists():
        lines = (line for line in _MAPS.read_text().splitlines() if line.startswith("Anonymous:"))
        return int(next(lines).split()[1]) * 1024
    unique: int = psutil.Process().memory_full_info().uss
    return unique


if __name__ == "__main__":
    print(*peaks(*sys.argv[1:]))
