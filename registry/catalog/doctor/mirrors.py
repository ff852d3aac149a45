"""Comparing the mirrors on this machine with the logs that they copy."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine, Row, select

from registry.catalog.doctor.finding import Finding, ask
from registry.errors import RegistryError
from registry.storage.database.models import DatasetRow, HeadRow
from registry.storage.log.reader import Log
from registry.storage.mirror.mirror import open_mirror
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.usage import is_mirror
from registry.training.mirror_source import cache_folder


def check_mirrors(engine: Engine) -> Iterator[Finding]:
    """Find mirrors that are damaged, diverged, not yet erased or behind the database."""
    folder = cache_folder()
    # Heads are read before mirrors: a mirror that is updated in between is ahead of this head, and
    # `_difference` compares it with the log itself.
    query = select(DatasetRow, HeadRow.position, HeadRow.erased).join(
        HeadRow, HeadRow.dataset_id == DatasetRow.id
    )
    for row in ask(engine, query.order_by(DatasetRow.name)):
        try:
            if is_mirror(folder / row.uid):
                yield from _check(engine, row)
        except OSError as error:
            yield Finding(
                "note",
                f"mirror of {row.name}",
                f"it cannot be read: {error}",
                f"give this user the right to read {folder}",
            )
        # Such as schemas that cannot be read, which `check_schemas` reports.
        except RegistryError as error:
            yield Finding(
                "note",
                f"mirror of {row.name}",
                f"it cannot be compared with the database: {error}",
                "repair what is reported of the dataset first",
            )


def _check(engine: Engine, row: Row[DatasetRow]) -> Iterator[Finding]:
    log = Log.of(engine, row)
    mirror = open_mirror(log, cache_folder())
    subject, view = f"mirror of {row.name}", mirror.view()
    if view is None:
        yield Finding(
            "warning",
            subject,
            f"{mirror.folder} is damaged, or has features that the database has not, and is "
            "replaced at its next use",
            f"rm -r {mirror.folder}",
        )
    elif (said := _difference(log, view, row.position)) is not None:
        position = mirror.shared(view, row.position)
        yield Finding(
            "error",
            subject,
            f"it has {view.position} rows, and {said}: they agree up to position {position}. Was "
            "the database restored, or did it fail over?",
            f"restore the newer database; or, if this one is right, rm -r {mirror.folder}",
        )
    # Only of a mirror that shares the log's history: a diverged one has other erasures.
    elif view.state.erased < row.erased:
        yield Finding(
            "warning",
            subject,
            f"it still holds what was erased of {row.erased - view.state.erased} rows",
            f"let a run read its next epoch here, which removes it, or rm -r {mirror.folder}",
        )
    elif view.position < row.position:
        yield Finding(
            "note",
            subject,
            f"it is {row.position - view.position} rows behind",
            "none is needed: it is brought up to date at its next use",
        )


def _difference(log: Log, view: View, end: int) -> str | None:
    """Return how the log differs from the mirror's at the mirror's end; None if it does not.

    ``end`` is the position of the database's head.
    """
    chain = log.chain_at(view.position)
    if chain is None:
        return f"the database only {end}"
    return None if chain.hex() == view.state.chain else "the database has others in their place"
