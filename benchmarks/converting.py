"""Subject: bringing a mirror to a new schema, while another process reads an old epoch from it.

Run as a module, it is one of these two processes: ``convert`` or ``read``, with a database's URL.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from time import perf_counter

import registry
from benchmarks.cache import cache
from benchmarks.data import NUMBERS, grow
from benchmarks.measure import Bench, Result
from benchmarks.memory import private
from registry import Dataset, Tensor, Text
from registry.samples.features import Feature

LIMIT_MS = 20_000
"""Milliseconds that ten million rows of 44 bytes may take."""
LIMIT_MIB = 64
ADDED: dict[str, tuple[Feature, object]] = {
    "a tensor": (Tensor("float32", (3,)), 0.0),
    "a text": (Text(), "none"),
}
_RUN = "r"


def convert(bench: Bench) -> list[Result]:
    """Measure the first epoch after a feature was added, on ten times the rows."""
    rows, results = min(10**7, 10 * bench.rows), []
    with cache(), bench.server.database() as database, registry.connect(database.url) as reg:
        dataset = reg.create("samples", NUMBERS)
        grow(dataset, rows)
        dataset.run(_RUN).epoch(0)
        database.settle()
        for name, (feature, default) in ADDED.items():
            dataset.add_feature(name, feature, default=default)
            seconds, growth, read = _measured(database.url)
            what = f"mirror of {rows:,} rows, {name} added"
            results += [
                Result(f"{what}: time", "ms", 1000 * seconds, at_most=LIMIT_MS),
                Result(f"{what}: private memory", "MiB", growth / 2**20, at_most=LIMIT_MIB),
                Result(f"{what}: old epoch meanwhile", "rows/s", read / seconds, at_least=1),
            ]
    return results


def _measured(url: str) -> tuple[float, int, int]:
    """Return the seconds of a conversion, the growth of its memory, and rows read meanwhile."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        [*command, "read", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()  # the old files are mapped
        finished = subprocess.run(
            [*command, "convert", url], check=True, stdout=subprocess.PIPE, text=True
        )
        read, _ = reader.communicate("\n")
    assert reader.returncode == 0
    seconds, growth = finished.stdout.split()
    return float(seconds), int(growth), int(read)


def _convert(dataset: Dataset) -> None:
    run = dataset.run(_RUN)
    assert run.last is not None
    before, stop, peaks = private(), threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.01):
            peaks.append(private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = perf_counter()
    run.epoch(run.last.number + 1)
    seconds = perf_counter() - start
    stop.set()
    watcher.join()
    print(seconds, max(peaks) - before)


def _read(dataset: Dataset) -> None:
    """Read epoch 0 again and again until a line arrives; print how many rows were read."""
    epoch, stop, rows = dataset.run(_RUN).epoch(0), threading.Event(), 0

    def wait() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=wait).start()
    print("ready", flush=True)
    total = None
    while not stop.is_set():
        summed = 0
        for batch in epoch.batches(1 << 14):
            assert list(batch) == list(NUMBERS)
            summed += int(batch["label"].sum())
            rows += len(batch["label"])
            if stop.is_set():
                break
        else:
            assert total in (None, summed), "an old epoch has changed"
            total = summed
    print(rows)


if __name__ == "__main__":
    with registry.connect(sys.argv[2]) as connected:
        {"convert": _convert, "read": _read}[sys.argv[1]](connected.open("samples"))
