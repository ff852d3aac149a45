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
from collections.abc import Sequence
from contextlib import ExitStack
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
"""Minimum and maximum of the seconds between two commits, for one trainer."""
PROCESSES = 8
INTERVAL = 0.1
"""Seconds between two commits, for several trainers."""
_NAME = "samples"


def latency(bench: Bench) -> list[Result]:
    """Insert rows one at a time while other processes train on new rows."""
    alone = _waits(bench, ["run"], GAP)
    what = "from commit to batch on PostgreSQL"
    results = [
        Result(f"{what}, median", "ms", median(alone), at_most=6),
        Result(f"{what}, 99th percentile", "ms", quantiles(alone, n=100)[98], at_most=12),
    ]
    for runs, names in (
        ("one run", ["run"] * PROCESSES),
        ("a run each", [f"run-{number}" for number in range(PROCESSES)]),
    ):
        waits = _waits(bench, names, (INTERVAL, INTERVAL))
        what = f"from commit to batch, {PROCESSES} trainers on {runs}, median"
        results.append(Result(what, "ms", median(waits), at_most=15))
    return results


def follow(url: str, name: str) -> None:
    """Print each serial and the time at which its batch arrived, up to the last one."""
    with registry.connect(url) as reg:
        run = reg.open(_NAME).run(name, policy="new")
        for number, batch in enumerate(StreamDataset(run, batch_size=1, x="serial")):
            print(int(batch[0]), time.time(), flush=True)
            if number == ROWS:
                # A regular exit would wait for the dataset, which already waits for the next row.
                os._exit(0)


def _waits(bench: Bench, runs: Sequence[str], gap: tuple[float, float]) -> list[float]:
    """Return the milliseconds from each commit to each batch, with a trainer for each name."""
    with cache(), bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create(_NAME, {"serial": Tensor("int64", ())})
        dataset.insert([{"serial": 0}])
        committed, arrivals = _observe(database, reg, dataset, runs, gap)
    for arrived in arrivals:
        if sorted(arrived) != list(range(1, ROWS + 1)):
            raise AssertionError("not every row came once")
    return [
        1000 * (arrived[serial] - committed[serial]) for arrived in arrivals for serial in arrived
    ]


def _observe(
    database: Database,
    reg: Registry,
    dataset: Dataset,
    runs: Sequence[str],
    gap: tuple[float, float],
) -> tuple[dict[int, float], list[dict[int, float]]]:
    """Return when each serial was committed, and when it arrived at each trainer."""
    with ExitStack() as stack:
        trainers = []
        for name in runs:
            command = [sys.executable, "-m", __name__, database.url, name]
            trainer = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(trainer.kill)
            trainers.append(trainer)
        for trainer in trainers:
            # The first row; the trainer then waits.
            if trainer.stdout is None or not trainer.stdout.readline():
                raise RuntimeError("a trainer ended before its first batch")
        committed = _insert(reg.engine, dataset, gap)
        outputs = [trainer.communicate(timeout=60)[0] for trainer in trainers]
    lines = ([line.split() for line in output.splitlines()] for output in outputs)
    return committed, [{int(serial): float(when) for serial, when in each} for each in lines]


def _insert(engine: Engine, dataset: Dataset, gap: tuple[float, float]) -> dict[int, float]:
    committed = _Commits(engine)
    return {serial: _insert_one(dataset, serial, committed, gap) for serial in range(1, ROWS + 1)}


def _insert_one(
    dataset: Dataset, serial: int, committed: _Commits, gap: tuple[float, float]
) -> float:
    time.sleep(random.uniform(*gap))
    dataset.insert([{"serial": serial}])
    return committed.last


class _Commits:
    """Records when the last commit ended.

    That is when the server has answered it, and its connection returns to the pool. The same
    exchange also notifies followers, who may have the row by then.
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
