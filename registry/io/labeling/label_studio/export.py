"""Import of Label Studio's exports, which makes a dataset match them.

An export is read twice. First it is read as a whole: its projects, their annotations and their age
decide which samples it lacks. Then its annotations are converted and applied in batches, each in
its own transaction, and one more transaction retracts the samples of annotations that it lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import ImportFileError, InvalidSampleError, RegistryError
from registry.io.faults import Faults, keep_rejected
from registry.io.labeling import quarantine as rejected_rows
from registry.io.labeling.annotation_state import AnnotationState
from registry.io.labeling.apply import (
    Outcome,
    apply_states,
    changed_groups,
    commit,
    state_table,
)
from registry.io.labeling.consensus import Consensus, ConsensusRule
from registry.io.labeling.convert import AnnotationConverter
from registry.io.labeling.label_studio.annotations import TOOL
from registry.io.labeling.label_studio.export_file import (
    Contents,
    ExportedAnnotation,
    batches,
    survey,
)
from registry.io.labeling.label_studio.mapping import check_mapping
from registry.io.labeling.mapping import unanswered
from registry.io.labeling.retraction import LARGE, Confirm, plan_retraction
from registry.io.labeling.rules import consensus_of
from registry.io.media import MediaReader
from registry.io.row import GivenFeatures
from registry.storage.database.transactions import read
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change
from registry.storage.log.head import Head

AnnotationProgress = Callable[[int, int], None]
"""Called after every batch with the annotations, and about the bytes of the file, stored so far."""
Note = Callable[[str], None]
"""Called with what a person should know, and which is no error."""


def insert_export(  # noqa: PLR0913  # the options of an import
    dataset: Dataset,
    path: Path,
    mapping: Mapping[str, str] | None = None,
    *,
    project: int | None = None,
    media: MediaReader | None = None,
    hull: bool = False,
    consensus: ConsensusRule | None = None,
    progress: AnnotationProgress | None = None,
    dry: bool = False,
    retract: bool = True,
    quarantine: bool = False,
    faults: Faults | None = None,
    confirm: Confirm = lambda _: False,
    note: Note = lambda _: None,
) -> Report:
    """Make a dataset match an export, whatever events it has received before.

    Samples of the exported projects that the file lacks are retracted, unless they changed after
    the newest `updated_at` in the file. Without ``retract``, none is: a filtered export lacks
    most. ``project`` is the project's id, needed if neither the tasks nor the file name that Label
    Studio gave (``project-2-at-…``) contain it; tasks of JSON_MIN never do. ``mapping``, ``media``,
    ``hull`` and ``consensus`` are as for events. With ``dry``, nothing is changed, and the report
    says what would be.

    ``confirm`` is asked before anything is stored whether over a fifth of a project's samples, or
    all of them where the export has no time at all, are to be retracted; and whether a mapping
    is right that nothing in the file answers. ``note`` gets what a person should know.

    Annotations that do not fit are added to ``faults``, by default to raise the first of them as
    `ImportFileError`. Those before it may be stored already; no sample is retracted because the
    file lacks it. With ``quarantine``, they are stored as rejected rows of the inbox, and their
    samples are retracted, as with events.
    """
    faults = faults or Faults(keep_going=quarantine)
    schema = dataset.schema
    features = GivenFeatures(schema.features, schema.defaults)
    rules = check_mapping(features, mapping, hull=hull)
    contents = survey(path, project, keep_going=faults.keep_going)
    suspect = unanswered(features, rules, contents.questions, mixed=contents.mixed)
    _check_answers(path, suspect, confirm)
    if contents.unreadable and retract:
        note(
            f"{contents.unreadable:,} tasks cannot be read; nothing is retracted because the "
            "export lacks it"
        )
        retract = False
    voted = consensus_of(features, rules, consensus)
    run = _Import(dataset, path, contents, faults, voted, confirm, dry, quarantine)
    if retract:
        run.check_retractions(note)
    converter = AnnotationConverter(schema, rules, media or MediaReader(), voted)
    size = 0
    try:
        for batch in batches(path, contents.given, run.refuse):
            remaining = iter(batch)
            for states in converter.parts(each.annotation for each in batch):
                run.apply([*islice(remaining, len(states))], states)
            size += sum(each.size for each in batch)
            if progress is not None:
                progress(run.rows, size)
        # Only after the whole file was applied: an error must not leave only retractions.
        retracted = run.retract() if retract else Outcome()
    except RegistryError as error:
        run.add_stored_rows(error)
        raise
    if run.disagreed:
        note(
            f"{run.disagreed:,} tasks have no sample, as their annotators do not agree; "
            "`registry inbox ls` lists them"
        )
    return run.total + _report(retracted, dataset.head)


@dataclass
class _Import:
    """An import of an export that was surveyed."""

    dataset: Dataset
    path: Path
    contents: Contents
    faults: Faults
    consensus: Consensus | None
    confirm: Confirm
    dry: bool
    quarantine: bool
    rows: int = 0
    withdrawn: int = 0
    disagreed: int = 0
    total: Report = field(init=False)
    live: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = Report(0, 0, 0, 0, self.dataset.head)
        self.live = self.total.head.live

    def check_retractions(self, note: Note) -> None:
        """Ask about large retractions; raises `ImportFileError` if one is not confirmed."""
        engine = self.dataset.inbox.engine
        for project, content in self.contents.projects.items():
            plan = read(engine, plan_retraction, self.dataset.id, TOOL, project, content)
            if plan.note is not None:
                note(plan.note)
            if plan.question is not None and not self.confirm(plan.question):
                raise ImportFileError(
                    f"{plan.question} Nothing was stored; confirm it with --yes, or import a "
                    "filtered export with --no-retract",
                    file=str(self.path),
                )

    def refuse(self, error: ImportFileError) -> None:
        """Add a task that cannot be read to the faults, and to the rejected rows."""
        self.faults.add(error)
        if self.quarantine and not self.dry:
            keep_rejected(self.dataset, TOOL, [(error, None)])

    def apply(self, batch: Sequence[ExportedAnnotation], states: list[AnnotationState]) -> None:
        applied = [
            state
            for each, state in zip(batch, map(self._checked, batch, states), strict=True)
            if state is not None
        ]
        if any(state.error is not None for state in applied):
            self._check_withdrawals(self._applied(applied, dry=True))
        outcome = self._applied(applied, dry=self.dry)
        self.total += _report(outcome, self.total.head)
        self.rows += len(applied)
        self.withdrawn += outcome.withdrawn
        self.disagreed += outcome.disagreed

    def _applied(self, states: Sequence[AnnotationState], *, dry: bool) -> Outcome:
        (outcome,) = apply_states(
            self.dataset, TOOL, [states], consensus=self.consensus, exported=self._ages, dry=dry
        )
        return outcome

    def _check_withdrawals(self, outcome: Outcome) -> None:
        """Ask, before it is stored, whether the quarantine may retract so many samples."""
        withdrawn, live = self.withdrawn + outcome.withdrawn, self.live
        if withdrawn <= LARGE * live or self.withdrawn > LARGE * live:  # or was asked before
            return
        question = (
            f"{withdrawn:,} of the {live:,} live samples do not fit any more and would be "
            "retracted so far: continue?"
        )
        if not self.confirm(question):
            raise ImportFileError(
                f"{question} Correct the mapping or the features, or confirm it with --yes",
                file=str(self.path),
            )

    def retract(self) -> Outcome:
        """Retract the known annotations that the export lacks."""
        outcome = Outcome()
        dataset_id, projects = self.dataset.id, self.contents.projects

        def prepare(connection: Connection) -> list[list[Change]]:
            nonlocal outcome
            # Again, under the lock on the head: events may have come since.
            plans = [
                plan_retraction(connection, dataset_id, TOOL, project, content)
                for project, content in projects.items()
            ]
            missing = [identity for plan in plans for identity in plan.missing]
            table = state_table(connection, self.dataset, TOOL, self.consensus)
            table.load([], missing, projects)
            retracted = [table.remove(identity) for identity in missing]
            tasks = table.task_changes()
            changes = [*retracted, *(task.change for task in tasks)]
            for project, age in self._ages.items():
                table.set_exported_at(project, age)
            table.write()
            rejected_rows.keep(table)
            counts = Counter(task.count for task in tasks if task.change is not None)
            counts["retracted"] += sum(change is not None for change in retracted)
            # Set each time: `prepare` is called again if the connection was lost.
            outcome = Outcome(ignored=None, **counts)
            made = [change for change in changes if change is not None]
            return changed_groups([made], dry=self.dry)

        commit(self.dataset, prepare)
        return outcome

    def add_stored_rows(self, error: RegistryError) -> None:
        """Add to an error how many annotations are already stored."""
        if isinstance(error, ImportFileError):
            error.stored = 0 if self.dry else self.rows
        if self.rows and not self.dry:
            error.add_note(
                f"the first {self.rows:,} annotations are stored; importing again is safe"
            )

    @property
    def _ages(self) -> dict[str, datetime]:
        projects = self.contents.projects.items()
        return {project: content.age for project, content in projects if content.age is not None}

    def _checked(self, each: ExportedAnnotation, state: AnnotationState) -> AnnotationState | None:
        """Return the state to apply, None for one that does not fit and is not quarantined."""
        if (error := state.error) is None:
            return state
        self.faults.add(
            ImportFileError(
                error.reason,
                file=str(self.path),
                line=each.line,
                key=state.id.key,
                feature=error.feature,
            )
        )
        if not self.quarantine:
            return None
        reason = f"{self.path.name}, line {each.line}: {error.reason}"
        return replace(state, error=InvalidSampleError(reason, feature=error.feature))


def _check_answers(path: Path, problem: str | None, confirm: Confirm) -> None:
    """Raise `ImportFileError` if the mapping has a control that nothing answers."""
    if problem is not None and not confirm(f"{problem}: import it all the same?"):
        raise ImportFileError(
            f"{problem}. Nothing was stored; correct the mapping, or confirm it with --yes",
            file=str(path),
        )


def _report(outcome: Outcome, head: Head) -> Report:
    retracted = outcome.retracted + outcome.withdrawn
    return Report(outcome.inserted, outcome.revised, retracted, outcome.unchanged, head)
