"""Processes that write, follow and train on a log, for the tests to run side by side."""

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
"""The writer number of the sample that tells readers to stop."""

Change = tuple[str, int | None]
"""A key and the serial number it was given, or None for a retraction."""


class Abort(Exception):  # noqa: N818
    """Raised instead of committing."""


@dataclass
class Journal:
    """What a writer was told is stored, in order; ``aborted`` are the serials that must not be."""

    changes: list[Change]
    aborted: list[int]


def write(url: str, writer: int, transactions: int, journals: Queue[tuple[int, Journal]]) -> None:
    """Insert, revise and retract under pauses between statement and commit, and 10 % rollbacks."""
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


def read(url: str, reader: int, logs: Queue[tuple[int, list[Seen]]]) -> None:
    """Follow the log from its beginning to the sample that says stop."""
    seen: list[Seen] = []
    with registry.connect(url) as opened:
        for page in opened.open("shared").follow():
            rows = zip(
                page.positions.tolist(),
                page["writer"].tolist(),
                page["serial"].tolist(),
                strict=True,
            )
            retracted = [(position, None, None) for position in page.retracted.tolist()]
            seen += sorted([*rows, *retracted])
            if STOP in page["writer"]:
                break
    logs.put((reader, seen))


Seen = tuple[int, int | None, int | None]
"""A position, and the writer and serial read there (None for a retraction)."""


POLICIES: dict[str, Policy] = {"every": "all", "new": "new", "replay": Replay(0.5)}
"""Runs by name."""

Reached = list[tuple[int, int, bytes, int, int, list[int]]]
"""Of each epoch: since, watermark, chain, size, start, and its samples in order."""


def keep_changing(url: str, done: Event) -> None:
    """Insert, revise and retract until told to stop."""
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
            time.sleep(0.01)  # an embedded database gives others little room between writes


def train(
    url: str, cache: str, start: Barrier, epochs: int, reached: Queue[dict[str, Reached]]
) -> None:
    """Reach each epoch of each run at the same moment as all other workers."""
    os.environ["REGISTRY_CACHE"] = cache
    found: dict[str, Reached] = {name: [] for name in POLICIES}
    with registry.connect(url) as opened:
        dataset = opened.open("shared")
        runs = [dataset.run(name, seed=3, policy=policy) for name, policy in POLICIES.items()]
        for number in range(epochs):
            for run in runs:
                start.wait(60)
                epoch = run.epoch(number)
                samples = [n for batch in epoch.batches(64) for n in batch["serial"].tolist()]
                place = (epoch.since, epoch.watermark, epoch.chain, epoch.size, epoch.start)
                found[run.name].append((*place, samples))
    reached.put(found)
