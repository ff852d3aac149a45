"""Application of annotations' states to a dataset, in transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import RegistryError
from registry.io.labeling import quarantine
from registry.io.labeling.annotation_state import AnnotationState, Removal, States
from registry.io.labeling.consensus import Consensus
from registry.io.labeling.state_table import StateTable
from registry.io.labeling.task_table import TaskTable
from registry.storage.log.changes import Change


@dataclass(frozen=True)
class Outcome:
    """The outcome of an event, in numbers of annotations.

    ``unchanged`` ones were known already, in this state or a newer one. ``quarantined`` ones do
    not fit the features: they are rejected rows in the inbox, with the reason, and the samples
    that the dataset had of them are retracted. ``ignored`` is the reason if the event does not
    concern annotations.

    Where a task has one sample, these are numbers of tasks. Those whose annotators do not agree
    are quarantined, too, as are annotations that do not fit.

    ``withdrawn`` is the number of samples that are retracted because of a quarantine, and
    ``disagreed`` that of the tasks whose annotators do not agree.
    """

    inserted: int = 0
    revised: int = 0
    retracted: int = 0
    unchanged: int = 0
    quarantined: int = 0
    ignored: str | None = None
    withdrawn: int = field(default=0, compare=False)
    disagreed: int = field(default=0, compare=False)


@dataclass
class Applied:
    """The counts and changes that result from a group of states."""

    counts: Counter[str] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        return Outcome(ignored=None, **self.counts)


def apply_states(
    dataset: Dataset,
    tool: str,
    groups: Sequence[States],
    *,
    consensus: Consensus | None = None,
    exported: Mapping[str, datetime] | None = None,
    dry: bool = False,
) -> list[Outcome]:
    """Apply groups of a tool's states in one transaction, and return the outcome of each group.

    A group is applied as a whole. States of an export come with its age for each project, in
    ``exported``. ``dry`` rolls the transaction back.
    """
    outcomes: list[Outcome] = []

    def prepare(connection: Connection) -> list[list[Change]]:
        brought = [present(dataset, group) for group in groups]
        states = [state for group in brought for state in group]
        table = state_table(connection, dataset, tool, consensus).load(states)
        applied = apply_to_table(table, brought, exported)
        # Replaced, not extended: `prepare` is called again if the connection was lost.
        outcomes[:] = [each.outcome for each in applied]
        return changed_groups((each.changes for each in applied), dry=dry)

    # Without states there is nothing to lock: an ignored event must not wait for the head.
    if groups:
        commit(dataset, prepare)
    if any(each.quarantined for each in outcomes):
        # After the commit: the rejected rows of this transaction count, too.
        dataset.inbox.prune()
    return outcomes


def state_table(
    connection: Connection, dataset: Dataset, tool: str, consensus: Consensus | None
) -> StateTable:
    """Return the table of a tool's states; with a consensus, each task has one sample.

    The head is locked, and so the schema in force is known.
    """
    schema, older = dataset.schema, dataset.schemas.older(dataset.schema)
    if consensus is None:
        return StateTable(connection, dataset.id, tool, older)
    codec = schema.codec
    return TaskTable(connection, dataset.id, tool, older, codec=codec, consensus=consensus)


def present(dataset: Dataset, states: States) -> States:
    """Return states with records of the schema in force, which is known: the head is locked."""
    schema = dataset.schema
    return [each if isinstance(each, Removal) else each.brought_to(schema) for each in states]


def apply_to_table(
    table: StateTable, groups: Iterable[States], exported: Mapping[str, datetime] | None = None
) -> list[Applied]:
    """Apply groups of states to a table, and write it with the rejected states."""
    applied = [_apply_group(table, group, exported or {}) for group in groups]
    # Before `keep`: it deletes the older rejected rows of the same keys.
    table.write()
    quarantine.keep(table)
    return applied


class _DryRunError(Exception):
    """Rolls a dry run's transaction back."""


def changed_groups(changes: Iterable[list[Change]], *, dry: bool) -> list[list[Change]]:
    """Return the groups that have changes; raises, to roll back, if ``dry``."""
    if dry:
        raise _DryRunError
    return [each for each in changes if each]


def commit(dataset: Dataset, prepare: Callable[[Connection], Sequence[Sequence[Change]]]) -> None:
    """Commit the changes that ``prepare`` returns.

    The values were checked before, so no group is expected to fail. An error is raised, not
    returned.
    """
    try:
        # `amend_together` returns the error of a group instead of raising it.
        for result in dataset.amend_together(prepare):
            if isinstance(result, RegistryError):
                raise result
    except _DryRunError:
        pass


def _apply_group(table: StateTable, group: States, exported: Mapping[str, datetime]) -> Applied:
    applied = Applied()
    # One after the other: a group may have several states of one annotation.
    for state in group:
        if isinstance(state, Removal):
            changes = table.apply_removal(state)
            applied.changes += [change for change in changes if change is not None]
            applied.counts["retracted"] += sum(change is not None for change in changes)
            applied.counts["unchanged"] += sum(change is None for change in changes)
            continue
        # Before `apply`, which changes the result.
        was_live = table.is_live(state.id.key)
        replaced, change = table.apply(state, exported.get(state.id.parent))
        name = _count_name(state, change, was_live=was_live) if replaced else "unchanged"
        applied.counts[name] += 1
        applied.counts["withdrawn"] += name == "quarantined" and change is not None
        if change is not None:
            applied.changes.append(change)
    tasks = table.task_changes()
    if tasks:
        # Tasks are counted, and annotations only if they do not fit.
        del applied.counts["unchanged"]
        applied.counts += Counter(task.count for task in tasks)
        applied.changes += [task.change for task in tasks if task.change is not None]
        disagreed = [task for task in tasks if task.count == "quarantined"]
        applied.counts["disagreed"] += len(disagreed)
        applied.counts["withdrawn"] += sum(task.change is not None for task in disagreed)
    return applied


def _count_name(state: AnnotationState, change: Change | None, *, was_live: bool) -> str:
    """Return the field of `Outcome` that counts a state."""
    if state.error is not None:
        return "quarantined"
    if change is None:
        return "unchanged"
    if change.action == "retract":
        return "retracted"
    return "revised" if was_live else "inserted"
