"""Processes that write to, follow and train on a log, for tests that run several at once."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from itertools import count
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event

from sqlalchemy import Connection, event

import registry
from registry import Replay, Tensor
from registry.catalog.dataset import Dataset
from registry.samples.features import Feature
from registry.training.policy import Policy

FEATURES: dict[str, Feature] = {"writer": Tensor("int32"), "serial": Tensor("int64")}
STOP = -1
"""The writer number of the sample at which readers stop."""

Change = tuple[str, int | None]
"""A key and the serial number it was given, or None for a retraction."""


class Abort(Exception):  # noqa: N818
    """Raised instead of committing."""


@dataclass
class Journal:
    """A writer's committed changes, in order; ``aborted`` are the serials that were rolled back."""

    changes: list[Change]
    aborted: list[int]


def write(url: str, writer: int, transactions: int, journals: Queue[tuple[int, Journal]]) -> None:
    """Insert, revise and retract, with pauses before commits and 10 % rollbacks."""
    rng = random.Random(writer)
    journal = Journal([], [])
    with registry.connect(url) as opened:
        dataset = opened.open("shared")

        @event.listens_for(opened.engine, "commit")
        def hesitate(_: Connection) -> None:
            time.sleep(rng.choice([0, 0, rng.uniform(0, 0.02)]))
            if rng.random() < 0.1:
                raise Abort

        serial = 0
        for _ in range(transactions):
            count = rng.choice([1, 1, 5, 20])
            serials = range(serial, serial + count)
            serial += count
            _transact(dataset, writer, rng, serials, journal)
    journals.put((writer, journal))


def _transact(
    dataset: Dataset, writer: int, rng: random.Random, serials: range, journal: Journal
) -> None:
    alive = [key for key, value in dict(journal.changes).items() if value is not None]
    action = rng.choice(["insert", "insert", "update", "retract"]) if alive else "insert"
    changes: list[Change]
    try:
        if action == "insert":
            changes = [(f"{writer}-{serial}", serial) for serial in serials]
            rows = [{"writer": writer, "serial": serial} for serial in serials]
            dataset.insert(rows, keys=[key for key, _ in changes])
        elif action == "update":
            changes = [(rng.choice(alive), serials[0])]
            dataset.update(changes[0][0], serial=serials[0])
        else:
            changes = [(rng.choice(alive), None)]
            dataset.retract(changes[0][0])
    except Abort:
        journal.aborted += serials
    else:
        journal.changes += changes


def read(url: str, reader: int, logs: Queue[tuple[int, list[ReadRow]]]) -> None:
    """Follow the log from its beginning to the sample that says stop."""
    rows_read: list[ReadRow] = []
    with registry.connect(url) as opened:
        for page in opened.open("shared").follow():
            rows = zip(
                page.positions.tolist(),
                page["writer"].tolist(),
                page["serial"].tolist(),
                strict=True,
            )
            retracted = [(position, None, None) for position in page.retracted.tolist()]
            rows_read += sorted([*rows, *retracted])
            if STOP in page["writer"]:
                break
    logs.put((reader, rows_read))


ReadRow = tuple[int, int | None, int | None]
"""A position, and the writer and serial read there (None for a retraction)."""


POLICIES: dict[str, Policy] = {"every": "all", "new": "new", "replay": Replay(0.5)}
"""Runs by name."""

Epochs = list[tuple[int, int, bytes, int, int, list[int]]]
"""Of each epoch: since, watermark, chain, size, start, and its samples in order."""


def keep_changing(url: str, done: Event) -> None:
    """Insert, revise and retract until ``done`` is set."""
    with registry.connect(url) as opened:
        dataset = opened.open("shared")
        for serial in count():
            if done.is_set():
                return
            dataset.insert([{"writer": 0, "serial": serial}], keys=[f"k{serial}"])
            dataset.update(f"k{serial // 2}", writer=serial)
            if serial % 5 == 0:
                dataset.insert([{"writer": 0, "serial": serial}], keys=["fleeting"])
                dataset.retract("fleeting")
            time.sleep(0.01)  # without a pause, others rarely get the lock of an embedded database


def train(
    url: str, cache: str, start: Barrier, epochs: int, reached: Queue[dict[str, Epochs]]
) -> None:
    """Open each epoch of each run at the same moment as all other workers."""
    os.environ["REGISTRY_CACHE"] = cache
    epochs_by_run: dict[str, Epochs] = {name: [] for name in POLICIES}
    with registry.connect(url) as opened:
        dataset = opened.open("shared")
        # Two epochs between which nothing is committed would have the same watermark.
        next(dataset.follow(after=1))
        runs = [dataset.run(name, seed=3, policy=policy) for name, policy in POLICIES.items()]
        for number in range(epochs):
            for run in runs:
                start.wait(60)
                epoch = run.epoch(number)
                samples = [n for batch in epoch.batches(64) for n in batch["serial"].tolist()]
                pinned = (epoch.since, epoch.watermark, epoch.chain, epoch.size, epoch.start)
                epochs_by_run[run.name].append((*pinned, samples))
    reached.put(epochs_by_run)
