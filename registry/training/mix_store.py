"""How many samples of each run of a mix are recorded as trained on.

The runs may be in several databases. Those of one database are read by one statement and changed in
one transaction, so that others always read a position of the mix. Between databases, a process that
is killed between two commits leaves a state that is no position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, Engine

from registry.storage.database.engine import url_of
from registry.storage.database.retry import retrying
from registry.storage.database.transactions import read, writing
from registry.storage.log.reader import Log
from registry.training import run_store
from registry.training.run_store import RunSettings

Change = Callable[[list[int]], list[int]]
"""Returns the new numbers of samples for the stored ones, in the order of the runs."""


@dataclass(frozen=True)
class MixStore:
    """The rows of a mix's runs, each with the log of its dataset."""

    runs: Sequence[tuple[Log, RunSettings]]

    def __reduce__(self) -> tuple[type[MixStore], tuple[object]]:
        return MixStore, (self.runs,)  # not `databases`: engines cannot be pickled

    def consumed(self) -> list[int]:
        """Read the numbers of consumed samples, in the order of the runs."""
        counts = [0] * len(self.runs)
        for engine, numbers in self.databases:
            settings = [self.runs[number][1] for number in numbers]
            for number, count in zip(
                numbers, read(engine, run_store.all_consumed, settings), strict=True
            ):
                counts[number] = count
        return counts

    def change(self, change: Change, *, retried: bool = True) -> list[int]:
        """Replace the numbers by those that ``change`` returns for them; return these.

        The runs are locked meanwhile. If a connection is lost, it is done again, unless it must not
        be ``retried``: the numbers may have been stored already.
        """
        databases = self.databases
        engine = databases[0][0]
        for attempt in retrying(engine=engine) if retried else [nullcontext()]:
            with attempt, self._locked(databases) as connections:
                stored = [0] * len(self.runs)
                for connection, numbers in connections:
                    settings = [self.runs[number][1] for number in numbers]
                    counts = run_store.all_consumed(connection, settings, lock=True)
                    for number, count in zip(numbers, counts, strict=True):
                        stored[number] = count
                changed = change(stored)
                for connection, numbers in connections:
                    run_store.set_consumed(
                        connection,
                        {
                            self.runs[number][1].id: changed[number]
                            for number in numbers
                            if changed[number] != stored[number]
                        },
                    )
            return changed
        raise AssertionError

    @cached_property
    def databases(self) -> list[tuple[Engine, list[int]]]:
        """Return each database with the indexes of its runs, in an order that all processes have.

        The order keeps two processes from waiting for each other.
        """
        databases: dict[str, tuple[Engine, list[int]]] = {}
        for number, (log, _) in enumerate(self.runs):
            databases.setdefault(_address(log.engine), (log.engine, []))[1].append(number)
        return [databases[address] for address in sorted(databases)]

    @staticmethod
    @contextmanager
    def _locked(
        databases: Sequence[tuple[Engine, list[int]]],
    ) -> Iterator[list[tuple[Connection, list[int]]]]:
        """Open a transaction on each database. All commit at the end of the block, or none."""
        with ExitStack() as stack:
            yield [(stack.enter_context(writing(engine)), runs) for engine, runs in databases]


def _address(engine: Engine) -> str:
    """Return the same text for all engines of a database.

    A second transaction on a SQLite file would wait for the first one, which is this process's own.
    """
    url = url_of(engine)
    if url.drivername == "sqlite" and url.database and not url.database.startswith("file:"):
        url = url.set(database=str(Path(url.database).resolve()))
    return str(url)
