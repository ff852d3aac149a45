"""Processes that write and follow a log, for the tests to run side by side."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from multiprocessing.queues import Queue

from sqlalchemy import Connection, event

import registry
from registry import Tensor
from registry.dataset import Dataset
from registry.features import Feature

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
