"""A trainer in a separate process, which prints how much memory it takes.

``python -m benchmarks.trainer URL DATASET FEATURE`` takes the batches of a shuffled epoch.
"""

from __future__ import annotations

import sys

import numpy as np

import registry
from benchmarks.memory import private
from benchmarks.quiet import quiet

with quiet():
    from registry.tensorflow import EpochDataset

RUN = "trainer"
BATCHES = 2000


def main(url: str, name: str, feature: str) -> None:
    with registry.connect(url) as reg:
        epoch = reg.open(name).run(RUN).epoch(0)
        batches = EpochDataset(epoch, batch_size=256, x=feature, y="label").repeat().take(BATCHES)
        batches.reduce(np.int64(0), lambda count, *_: count + 1)
        print(private())


if __name__ == "__main__":
    main(*sys.argv[1:])
