"""Applies what is said of annotations to a dataset, in transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import RegistryError
from registry.io.labeling import quarantine
from registry.io.labeling.annotation_state import TOOL, Ledger, State
from registry.storage.log.changes import Change


@dataclass(frozen=True)
class Outcome:
    """What became of an event, in annotations; ``ignored`` says why it counts for nothing.

    ``unchanged`` ones were known already, or known newer. ``quarantined`` ones do not fit the
    features, and wait in the inbox with the reason; what the dataset had of them is retracted.
    """

    inserted: int = 0
    revised: int = 0
    retracted: int = 0
    unchanged: int = 0
    quarantined: int = 0
    ignored: str | None = None


def settle(
    dataset: Dataset, groups: Sequence[Sequence[State]], *, final: bool = False, dry: bool = False
) -> list[Outcome]:
    """Apply groups of states in one transaction, each whole, and return what became of each.

    ``final`` says that they are of an export. ``dry`` undoes it all.
    """
    outcomes: list[Outcome] = []

    def prepare(connection: Connection) -> list[list[Change]]:
        states = [(state.name, state.record) for group in groups for state in group]
        ledger = Ledger(connection, dataset.id, states)
        taken = [_take(ledger, group, final=final) for group in groups]
        ledger.write()
        quarantine.keep(connection, dataset.id, TOOL, ledger.faults)
        outcomes[:] = [Outcome(ignored=None, **each.counts) for each in taken]
        return undo(dry, [each.changes for each in taken])

    if groups:
        commit(dataset, prepare)
    if any(each.quarantined for each in outcomes):
        dataset.inbox.prune()
    return outcomes


class _UndoneError(Exception):
    """Ends a transaction that was only to be tried."""


def undo(dry: bool, changes: list[list[Change]]) -> list[list[Change]]:
    """Return the changes that there are; raises where they are not to be made."""
    if dry:
        raise _UndoneError
    return [each for each in changes if each]


def commit(dataset: Dataset, prepare: Callable[[Connection], Sequence[Sequence[Change]]]) -> None:
    """Commit what ``prepare`` decides on; all of it was checked before, so an error is raised."""
    try:
        for done in dataset.amend_together(prepare):
            if isinstance(done, RegistryError):
                raise done
    except _UndoneError:
        pass


@dataclass
class _Taken:
    """What a group's states come to."""

    counts: Counter[str] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)


def _take(ledger: Ledger, group: Sequence[State], *, final: bool) -> _Taken:
    taken = _Taken()
    for state in group:
        alive = ledger.alive(state.key)
        news, change = ledger.take(state, final=final)
        taken.counts[became(state, change, alive=alive) if news else "unchanged"] += 1
        if change is not None:
            taken.changes.append(change)
    return taken


def became(state: State, change: Change | None, *, alive: bool) -> str:
    """Return the count of an `Outcome` that a state belongs to; ``alive`` is its sample before."""
    if state.fault is not None:
        return "quarantined"
    if change is None:
        return "unchanged"
    if change.action == "retract":
        return "retracted"
    return "revised" if alive else "inserted"
