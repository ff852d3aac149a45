"""Subject: the time from a row's commit to its batch.

Run as a module, it is the trainer, a separate process. It runs on the same machine, since both
processes must read the same clock.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from statistics import median, quantiles

from sqlalchemy import Engine, event

import registry
from benchmarks.cache import cache
from benchmarks.measure import Bench, Result
from benchmarks.quiet import quiet
from benchmarks.server import Database
from registry import Dataset, Registry, Tensor

with quiet():
    from registry.tensorflow import StreamDataset

ROWS = 200
GAP = (0.05, 0.1)
"""Minimum and maximum of the seconds between two commits."""
_NAME = "samples"


def latency(bench: Bench) -> list[Result]:
    """Insert rows one at a time while another process trains on new rows."""
    with cache(), bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create(_NAME, {"serial": Tensor("int64", ())})
        dataset.insert([{"serial": 0}])
        committed, arrived = _observe(database, reg, dataset)
    if sorted(arrived) != list(range(1, ROWS + 1)):
        raise AssertionError("not every row came once")
    waits = [1000 * (arrived[serial] - committed[serial]) for serial in arrived]
    what = "from commit to batch on PostgreSQL"
    return [
        Result(f"{what}, median", "ms", median(waits), at_most=10),
        Result(f"{what}, 99th percentile", "ms", quantiles(waits, n=100)[98], at_most=100),
    ]


def follow(url: str) -> None:
    """Print each serial and the time at which its batch arrived, up to the last one."""
    with registry.connect(url) as reg:
        run = reg.open(_NAME).run("latency", policy="new")
        for number, batch in enumerate(StreamDataset(run, batch_size=1, x="serial")):
            print(int(batch[0]), time.time(), flush=True)
            if number == ROWS:
                # A regular exit would wait for the dataset, which already waits for the next row.
                os._exit(0)


def _observe(
    database: Database, reg: Registry, dataset: Dataset
) -> tuple[dict[int, float], dict[int, float]]:
    """Return when each serial was committed, and when it arrived."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, database.url], stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout is not None
        try:
            if not trainer.stdout.readline():  # the first row; the trainer then waits
                raise RuntimeError("the trainer ended before its first batch")
            committed = _insert(reg.engine, dataset)
            arrivals = trainer.communicate(timeout=60)[0]
        finally:
            trainer.kill()
    lines = (line.split() for line in arrivals.splitlines())
    return committed, {int(serial): float(when) for serial, when in lines}


def _insert(engine: Engine, dataset: Dataset) -> dict[int, float]:
    committed = _Commits(engine)
    return {serial: _insert_one(dataset, serial, committed) for serial in range(1, ROWS + 1)}


def _insert_one(dataset: Dataset, serial: int, committed: _Commits) -> float:
    time.sleep(random.uniform(*GAP))
    dataset.insert([{"serial": serial}])
    return committed.last


class _Commits:
    """Records when the last commit ended.

    That is when its connection returns to the pool. The insert itself returns later: it notifies
    followers first, which may have the row by then.
    """

    def __init__(self, engine: Engine) -> None:
        self.last = 0.0
        self._committing = False
        event.listen(engine, "commit", self._commit)
        event.listen(engine, "checkin", self._checkin)

    def _commit(self, *_: object) -> None:
        self._committing = True

    def _checkin(self, *_: object) -> None:
        if self._committing:
            self.last = time.time()
        self._committing = False


if __name__ == "__main__":
    follow(*sys.argv[1:])
