"""Readers that run for long, in separate processes that report their memory."""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import count

import psutil  # type: ignore[import-untyped]

import registry
from registry import Dataset
from registry.storage.log import page_queries, paging

Steps = Iterator[object]


def pages(dataset: Dataset) -> Steps:
    """Read the log again and again, in pages of a row each."""
    page_queries.MOST_ROWS = paging.LEAST_ROWS = 1
    while True:
        yield from dataset.pages()


def follow(dataset: Dataset) -> Steps:
    yield from dataset.follow()


def stream(dataset: Dataset) -> Steps:
    yield from dataset.run("stream").stream(64, start=0)


def tensorflow(dataset: Dataset) -> Steps:
    """Iterate over one epoch after the other, and over the first again and again."""
    from registry.tensorflow import EpochDataset  # noqa: PLC0415  # the other readers need no TensorFlow

    run = dataset.run("tensorflow")
    first = EpochDataset(run.epoch(0), batch_size=64)
    for number in count(1):
        for samples in (first, EpochDataset(run.epoch(number), batch_size=64)):
            for batch in samples:
                del batch
        yield number


KINDS: dict[str, Callable[[Dataset], Steps]] = {
    each.__name__: each for each in (pages, follow, stream, tensorflow)
}


def private_memory() -> int:
    """Return the private memory of this process in bytes.

    Without mapped files, such as libraries and mirrors, which other processes share.
    """
    memory = psutil.Process().memory_info()
    private: int = memory.rss - getattr(memory, "shared", 0)
    return private


def main(url: str, kind: str, unit: str, end: str) -> None:
    """Run for ``end`` steps or seconds.

    About forty times, this prints the number of steps and the memory, and waits for a line.
    """
    began, last = time.monotonic(), -1
    with registry.connect(url) as reg:
        for steps, _ in enumerate(KINDS[kind](reg.open("digits")), start=1):
            done = steps if unit == "steps" else time.monotonic() - began
            if (part := int(40 * done / float(end))) > last:
                last = part
                gc.collect()
                sys.stdout.write(f"{steps} {private_memory()}\n")
                sys.stdout.flush()
                sys.stdin.readline()
            # On a busy machine a second may pass within a step.
            if done >= float(end) and steps > float(end):
                return


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
