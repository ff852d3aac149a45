"""Subject: many trainers that wait for new rows, on a server with its default settings.

Run as a module, it is one of them: a separate process without TensorFlow, with its own cache
folder and run, as on another machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import psutil  # type: ignore[import-untyped]

import registry
from benchmarks.cache import cache
from benchmarks.measure import Bench, Result
from benchmarks.server import Database, Server, administrator
from registry import Dataset, Tensor

FOLLOWERS = 64
COMMITS = 150
ROWS = 5
"""Rows of a commit."""
INTERVAL = 0.1
"""Seconds between two commits."""
_NAME = "samples"


def followers(bench: Bench) -> list[Result]:
    """Insert rows while many processes wait for them; compare with the server's CPU time."""
    with (
        cache() as folder,
        bench.server.database() as database,
        registry.connect(database.url) as reg,
    ):
        dataset = reg.create(_NAME, {"serial": Tensor("int64", ())})
        dataset.insert([{"serial": 0}])
        with _started(database, folder) as processes:
            before, since = _cpu(bench.server), time.monotonic()
            sessions = _insert(database, dataset)
            spent, seconds = _cpu(bench.server) - before, time.monotonic() - since
            got = [_count(process) for process in processes]
    share = 100 * spent / seconds / FOLLOWERS
    total = COMMITS * ROWS
    what = f"{FOLLOWERS} trainers, {1 / INTERVAL:.0f} commits/s"
    return [
        Result(f"{what}: rows that all of them got", "%", 100 * min(got) / total, at_least=100),
        Result(f"{what}: sessions of the server", "", sessions, at_most=97),
        Result(f"{what}: server's CPU for each", "% of a core", share, at_most=1),
    ]


def follow(url: str, number: str) -> None:
    """Print "ready" after the first row, and the number of further rows when all have come."""
    with registry.connect(url) as reg:
        run = reg.open(_NAME).run(f"run-{number}", policy="new")
        serials = (int(batch["serial"][0]) for batch in run.stream(1))
        next(serials)
        print("ready", flush=True)
        got = set(islice(serials, COMMITS * ROWS))
    print(len(got), flush=True)


@contextmanager
def _started(database: Database, folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the followers, and wait until each has its first row."""
    with ExitStack() as stack:
        processes = []
        for number in range(FOLLOWERS):
            environment = {**os.environ, "REGISTRY_CACHE": str(folder / str(number))}
            command = [sys.executable, "-m", __name__, database.url, str(number)]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            )
            stack.callback(process.kill)
            processes.append(process)
        outputs = [process.stdout for process in processes if process.stdout is not None]
        if any(output.readline() != "ready\n" for output in outputs):
            raise RuntimeError("a follower ended before its first row")
        time.sleep(5)  # the connections that are needed only to begin are closed meanwhile
        yield processes


def _count(process: subprocess.Popen[str]) -> int:
    """Return how many rows a follower got; 0 if it still lacks some after half a minute."""
    try:
        return int(process.communicate(timeout=30)[0])
    except subprocess.TimeoutExpired:
        return 0


def _insert(database: Database, dataset: Dataset) -> int:
    """Insert rows at regular times; return the greatest number of sessions that there were."""
    most, serial, due = 0, 1, time.monotonic()
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    with administrator(database.address) as connection:
        for commit in range(COMMITS):
            dataset.insert([{"serial": serial + row} for row in range(ROWS)])
            serial += ROWS
            if commit % 10 == 0:
                most = max(most, connection.exec_driver_sql(query).scalar_one())
            due += INTERVAL
            time.sleep(max(0.0, due - time.monotonic()))
    return most


def _cpu(server: Server) -> float:
    """Return the seconds of CPU of the server's processes, also of those that have ended."""
    with administrator(server.address) as connection:
        folder = str(connection.exec_driver_sql("SHOW data_directory").scalar_one())
    pid = int((Path(folder) / "postmaster.pid").read_text().split()[0])
    postmaster = psutil.Process(pid)
    ended = postmaster.cpu_times()
    total = ended.children_user + ended.children_system
    for process in (postmaster, *postmaster.children()):
        times = process.cpu_times()
        total += times.user + times.system
    return float(total)


if __name__ == "__main__":
    follow(*sys.argv[1:])
