"""``registry insert --format label-studio``: what is particular to an export of Label Studio."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import Registry
from registry.cli.output import print_note, printable
from registry.io.dry_run import DryRun
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.mapping_store import settings_of
from registry.io.labeling.retraction import Confirm
from registry.io.recognize import LABEL_STUDIO
from registry.storage.log.batch import Report

Insert: TypeAlias = Callable[..., Report]
"""Inserts one file, and reports what it did."""


def check_export_options(paths: list[Path], key: str | None, group: str | None) -> None:
    """Reject options that an export of Label Studio cannot have."""
    if key is not None:
        reason = "an annotation's own number is its key"
        raise typer.BadParameter(reason, param_hint="--key")
    if group is not None:
        raise typer.BadParameter("a task is the group of its annotations", param_hint="--group")
    if len(paths) > 1:
        # The second export would retract what the first one inserted.
        reason = "one export at a time: what a project's export lacks is retracted"
        raise typer.BadParameter(reason, param_hint="PATH")


def check_no_options(options: Mapping[str, Any]) -> None:
    """Reject options of other formats, as `insert_file` does for its formats."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter("not for a Label Studio export", param_hint=f"--{name}")


def export_inserter(
    registry: Registry,
    dataset: Dataset,
    mapping: dict[str, str],
    rotated: str | None,
    **options: Any,
) -> Insert:
    """Return what inserts an export, by the project's settings that are stored."""
    # The stored settings are those of the webhook's events: an export must use the same ones, or
    # the two would revise each other's samples.
    stored = settings_of(registry.engine, dataset.id, LABEL_STUDIO)
    hull = stored.hull if rotated is None else rotated == "hull"
    options |= {"mapping": mapping or stored.mapping, "consensus": stored.consensus, "hull": hull}
    return partial(_insert_label_studio, **options)


def _insert_label_studio(target: Dataset | DryRun, path: Path, **options: Any) -> Report:
    is_dry = isinstance(target, DryRun)
    dataset = target.dataset if isinstance(target, DryRun) else target
    return insert_export(dataset, path, dry=is_dry, note=print_note, **options)


def asker(*, yes: bool, dry_run: bool) -> Confirm:
    """Return what answers the questions of an import: the options, or the terminal's user."""

    def confirm(question: str) -> bool:
        if dry_run and not yes:
            print_note(f"without --dry-run, this is asked: {question}")
        if yes or dry_run:
            return True
        # Without a terminal nobody would answer: a nightly job must fail with the reason.
        return sys.stdin.isatty() and typer.confirm(printable(question), err=True)

    return confirm
