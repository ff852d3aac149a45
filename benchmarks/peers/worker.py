"""A process that reads samples by one project: ``python -m benchmarks.peers.worker PROJECT FILE``.

It writes the samples in the project's format, checks and times each loader, and keeps the fastest.
Then it takes epochs for each line of its input. Answers are JSON, a line each.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.peers.loader import Loader, Samples, check

LEAST_SECONDS = 1
"""The system counts CPU in hundredths of a second."""


def main(project: str, file: str) -> None:
    # What libraries print must not be read as an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    samples: Samples = pickle.loads(Path(file).read_bytes())
    make: Callable[[Samples, Path], dict[str, Loader]]
    make = import_module(f"benchmarks.peers.{project}").loaders
    with tempfile.TemporaryDirectory(dir=Path(file).parent) as folder:
        loaders = make(samples, Path(folder))
        for name, loader in loaders.items():
            check(f"{project}, {name}", loader, samples)
        rates = {name: rate(timed(loader)) for name, loader in loaders.items()}
        fastest = max(rates, key=lambda name: rates[name], default=None)
        answer(fastest=fastest)
        if fastest is None:  # the project has no loader of this kind
            return
        for _ in sys.stdin:
            answer(**timed(loaders[fastest]))
        # Grain's worker processes would wait for a reader of their batches, and this process for
        # them.
        for child in psutil.Process().children(recursive=True):
            if not any("resource_tracker" in argument for argument in child.cmdline()):
                child.terminate()


def timed(loader: Loader) -> dict[str, float]:
    """Take epochs for a second or longer; return their samples, the seconds, and those of CPU."""
    gc.collect()
    start, cpu_start = perf_counter(), cpu()
    samples = loader.consume()
    while (seconds := perf_counter() - start) < LEAST_SECONDS:
        samples += loader.consume()
    return {"samples": samples, "seconds": seconds, "cpu": cpu() - cpu_start}


def rate(timed: dict[str, float]) -> float:
    return timed["samples"] / timed["seconds"]


def cpu() -> float:
    """Return the seconds of CPU of this process and of all its descendants."""
    process = psutil.Process()
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        # Those of ended children are counted by their parent.
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main(*sys.argv[1:])
