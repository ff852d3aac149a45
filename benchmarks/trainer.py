"""A trainer in a separate process, which prints how much memory it takes.

``python -m benchmarks.trainer URL DATASET`` takes the batches of a shuffled epoch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

import registry
from benchmarks.quiet import quiet

with quiet():
    from registry.tensorflow import EpochDataset

RUN = "trainer"
BATCHES = 2000
_MAPS = Path("/proc/self/smaps_rollup")


def main(url: str, name: str) -> None:
    with registry.connect(url) as reg:
        epoch = reg.open(name).run(RUN).epoch(0)
        batches = EpochDataset(epoch, batch_size=256, x="x", y="label").repeat().take(BATCHES)
        batches.reduce(np.int64(0), lambda count, *_: count + 1)
        print(private())


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
    main(*sys.argv[1:])
