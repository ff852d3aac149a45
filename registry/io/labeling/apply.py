"""Application of annotations' states to a dataset, in transactions."""

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
    """The outcome of an event, in numbers of annotations.

    ``unchanged`` ones were known already, in this state or a newer one. ``quarantined`` ones do
    not fit the features: they are rejected rows in the inbox, with the reason, and the samples
    that the dataset had of them are retracted. ``ignored`` is the reason if the event does not
    concern annotations.
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
    """Apply groups of states in one transaction, and return the outcome of each group.

    A group is applied as a whole. ``final`` says that the states are from an export. ``dry`` rolls
    the transaction back.
    """
    outcomes: list[Outcome] = []

    def prepare(connection: Connection) -> list[list[Change]]:
        states = [(state.name, state.record) for group in groups for state in group]
        ledger = Ledger(connection, dataset.id, states)
        taken = [_take(ledger, group, final=final) for group in groups]
        ledger.write()
        quarantine.keep(connection, dataset.id, TOOL, ledger.faults)
        # Replaced, not extended: `prepare` is called again if the connection was lost.
        outcomes[:] = [Outcome(ignored=None, **each.counts) for each in taken]
        return undo(dry, [each.changes for each in taken])

    if groups:
        commit(dataset, prepare)
    if any(each.quarantined for each in outcomes):
        # After the commit: the rejected rows of this transaction count, too.
        dataset.inbox.prune()
    return outcomes


class _UndoneError(Exception):
    """Rolls a dry run's transaction back."""


def undo(dry: bool, changes: list[list[Change]]) -> list[list[Change]]:
    """Return the groups that have changes; raises, to roll back, if ``dry``."""
    if dry:
        raise _UndoneError
    return [each for each in changes if each]


def commit(dataset: Dataset, prepare: Callable[[Connection], Sequence[Sequence[Change]]]) -> None:
    """Commit the changes that ``prepare`` returns.

    The values were checked before, so no group is expected to fail. An error is raised, not
    returned.
    """
    try:
        for done in dataset.amend_together(prepare):
            if isinstance(done, RegistryError):
                raise done
    except _UndoneError:
        pass


@dataclass
class _Taken:
    """The counts and changes that result from a group's states."""

    counts: Counter[str] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)


def _take(ledger: Ledger, group: Sequence[State], *, final: bool) -> _Taken:
    taken = _Taken()
    for state in group:
        # Before `take`, which changes the answer.
        alive = ledger.alive(state.key)
        news, change = ledger.take(state, final=final)
        taken.counts[became(state, change, alive=alive) if news else "unchanged"] += 1
        if change is not None:
            taken.changes.append(change)
    return taken


def became(state: State, change: Change | None, *, alive: bool) -> str:
    """Return the field of `Outcome` that counts a state; ``alive`` is whether it had a sample."""
    if state.fault is not None:
        return "quarantined"
    if change is None:
        return "unchanged"
    if change.action == "retract":
        return "retracted"
    return "revised" if alive else "inserted"
