"""Commands that import and export files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.cli.base import AsJsonLines, Name, Url, app, pairs
from registry.cli.output import exported, imported
from registry.cli.progress import progress
from registry.io.dry_run import DryRun
from registry.io.export_file import export_file
from registry.io.formats import FORMATS, WRITABLE
from registry.io.import_file import ImportProgress, import_size, insert_file
from registry.io.labeling.label_studio.export import insert_export
from registry.io.labeling.mapping_store import mapping_of
from registry.storage.log.batch import Report

LABEL_STUDIO = "label-studio"

_Take: TypeAlias = Callable[..., Report]


@app.command()
def insert(  # noqa: PLR0913, PLR0917  # arguments and options of the command
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's name.")],
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", exists=True, help="Files, or folders of images by class."),
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="What they are, if not what the suffix says: "
            f"{', '.join([*FORMATS, LABEL_STUDIO])}.",
        ),
    ] = None,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=PATH",
            help="Where a feature's values are: a column, or a path like meta.items.0.text; "
            "image, class or path in a folder; image, boxes, classes, category_ids or names in "
            "COCO; data.NAME or result.NAME in Label Studio. What is not mapped is found under "
            "its own name.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The column or property that holds the samples' keys."),
    ] = None,
    project: Annotated[
        int | None,
        typer.Option(min=1, help="The Label Studio project, where its export does not say it."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="FOLDER",
            help="Read the files that a Label Studio export names from here, and nowhere else.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Insert the samples of files. Running it again adds nothing.

    A Label Studio export is taken for the whole project: samples that it lacks are retracted.
    """
    places = pairs("--map", mapped or [])
    labeled = form == LABEL_STUDIO
    if labeled and key is not None:
        reason = "an annotation's own number is its key"
        raise typer.BadParameter(reason, param_hint="--key")
    if labeled and len(paths) > 1:
        reason = "one export at a time: what a project's export lacks is retracted"
        raise typer.BadParameter(reason, param_hint="PATH")
    if not labeled and (project is not None or root):
        raise typer.BadParameter(
            f"goes with --format {LABEL_STUDIO}", param_hint="--project, --root"
        )
    # Before the first insert: an unknown format of the last file must not leave the others stored.
    sizes = [path.stat().st_size if labeled else import_size(path, form) for path in paths]
    with connect(url) as registry:
        opened = registry.open(dataset)
        take: _Take = partial(insert_file, form=form, key=key, mapping=places)
        if labeled:
            # The stored mapping is that of the webhook's events: an export must use the same one.
            places = places or mapping_of(registry.engine, opened.id, LABEL_STUDIO) or {}
            take = partial(_export_of_label_studio, mapping=places, project=project, roots=root)
        with closing(DryRun(registry.engine, opened)) as dry:
            # One for all files: a dry run compares a file with the dataset and the files before it.
            for path, size in zip(paths, sizes, strict=True):
                with progress(path.name, size) as show:
                    report = take(dry if dry_run else opened, path, progress=show)
                typer.echo(imported(opened, path, report, dry_run=dry_run, as_json=as_json))


def _export_of_label_studio(  # a parameter for each option
    target: Dataset | DryRun,
    path: Path,
    *,
    mapping: dict[str, str],
    project: int | None,
    roots: list[Path] | None,
    progress: ImportProgress | None,
) -> Report:
    return insert_export(
        target.dataset if isinstance(target, DryRun) else target,
        path,
        mapping or None,
        project=project,
        roots=roots or (),
        progress=progress,
        dry=isinstance(target, DryRun),
    )


@app.command()
def export(
    dataset: Name,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", dir_okay=False, help="The file to write, or replace.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"What to write, if not what the suffix says: {', '.join(WRITABLE)}.",
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="NAME", help="The column or property that takes the keys.")
    ] = "key",
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Write the live samples of a dataset, or of a version of it, to a file."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        # Opened again at a fixed version, so that the file and the printed version agree.
        opened = registry.open(str(opened.version))
        with progress(path.name, None) as show:
            count = export_file(registry.engine, opened, path, form=form, key=key, progress=show)
        typer.echo(exported(opened, path, count, as_json=as_json))
