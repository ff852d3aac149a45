"""``registry insert``: insert the samples of files."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.catalog.summary import version_at
from registry.cli.base import AsJsonLines, Url, app, parse_pairs
from registry.cli.insert_export import (
    Insert,
    asker,
    check_export_options,
    check_no_options,
    export_inserter,
)
from registry.cli.media import Prefixes, Roots
from registry.cli.open_to_change import open_to_change
from registry.cli.output import print_error, print_note, printable
from registry.cli.progress import progress
from registry.io.dry_run import DryRun
from registry.io.faults import Faults
from registry.io.formats import FORMATS, format_of
from registry.io.import_file import import_size, insert_file
from registry.io.media import media_reader
from registry.io.recognize import LABEL_STUDIO
from registry.samples.box_formats import BOX_FORMATS, BoxFormat
from registry.storage.log.batch import Report


@app.command()
def insert(  # noqa: PLR0913, PLR0917  # arguments and options of the command
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset's name.")],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", exists=True, help="Files, folders of images by class, YOLO or VOC."
        ),
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="What they are, if not what the suffix or the content says: "
            f"{', '.join([*FORMATS, LABEL_STUDIO])}.",
        ),
    ] = None,
    mapping_options: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=PATH",
            help="Where a feature's values are: a column, or a path like meta.items.0.text; "
            "image, class or path in a folder; image, boxes, classes, names or boxes.FORMAT in "
            "COCO, YOLO, VOC, CVAT and LabelMe; data.NAME or result.NAME in Label Studio. What is "
            "not mapped is found under its own name.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The column or property that holds the samples' keys."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The column or property that holds the samples' groups, such as patients: all "
            "samples of a group are in one split.",
        ),
    ] = None,
    project: Annotated[
        int | None,
        typer.Option(min=1, help="The Label Studio project, where its export does not say it."),
    ] = None,
    root: Roots = None,
    fetch: Prefixes = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(
            metavar="skip|empty",
            help="Whether documents of doccano, and images of CVAT, without labels are left out or "
            "are samples without labels; doccano's are left out by default.",
        ),
    ] = None,
    boxes: Annotated[
        BoxFormat | None,
        typer.Option(
            metavar="FORMAT",
            help=f"The format of the boxes of images: {', '.join(BOX_FORMATS)}. "
            "rel_xyxy, from 0 to 1, by default.",
        ),
    ] = None,
    crowd: Annotated[
        Literal["drop", "keep"] | None,
        typer.Option(
            metavar="drop|keep", help="Boxes around a crowd in COCO; left out by default."
        ),
    ] = None,
    difficult: Annotated[
        Literal["drop", "keep"] | None,
        typer.Option(metavar="drop|keep", help="Difficult boxes in VOC; kept by default."),
    ] = None,
    rotated: Annotated[
        Literal["refuse", "hull"] | None,
        typer.Option(
            metavar="refuse|hull",
            help="A rotated box, or a polygon that no feature takes, is an error, as by default, "
            "or is taken as its hull.",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Read this part of a YOLO or VOC dataset, such as train, and no other.",
        ),
    ] = None,
    no_retract: Annotated[
        bool,
        typer.Option(
            "--no-retract",
            help="Retract nothing that a Label Studio export lacks, as it is filtered.",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Confirm what is asked, as before over 20 % of a project is retracted."
        ),
    ] = False,
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine",
            help="Store what fits, and put the rest among the rejected rows of the inbox.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would change and all that does not fit; change nothing."
        ),
    ] = False,
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Insert the samples of files. Running it again adds nothing.

    A Label Studio export is taken for the whole project: samples that it lacks are retracted,
    unless they changed after its newest update.
    """
    mapping = parse_pairs("--map", mapping_options or [])
    options = {
        "unlabelled": unlabelled,
        "group": group,
        "boxes": boxes,
        "crowd": crowd,
        "difficult": difficult,
        "rotated": rotated,
        "part": part or None,
    }
    is_export = LABEL_STUDIO in {format_name or format_of(path) for path in paths}
    if is_export:
        check_export_options(paths, key, group)
        check_no_options({**options, "rotated": None, "group": None})
    elif project is not None or no_retract or yes:
        raise typer.BadParameter(
            f"goes with --format {LABEL_STUDIO}",
            param_hint="--project, --no-retract, --yes",
        )
    # Before the first insert: an unknown format of the last file must not leave the others stored.
    sizes = [
        path.stat().st_size if is_export else import_size(path, format_name, options)
        for path in paths
    ]
    with connect(url) as registry, closing(media_reader(root or (), fetch or ())) as media:
        opened = open_to_change(registry, dataset)
        insert_one: Insert = partial(
            insert_file, form=format_name, key=key, mapping=mapping, options=options, media=media
        )
        if is_export:
            insert_one = export_inserter(
                registry,
                opened,
                mapping,
                rotated,
                project=project,
                media=media,
                retract=not no_retract,
                confirm=asker(yes=yes, dry_run=dry_run),
            )
        with closing(DryRun(registry.engine, opened)) as dry:
            # One for all files: a dry run compares a file with the dataset and the files before it.
            target = dry if dry_run else opened
            inserting = _Inserting(insert_one, target, opened.name, quarantine, dry_run, as_json)
            fitting = [
                inserting.insert(path, size) for path, size in zip(paths, sizes, strict=True)
            ]
        if not all(fitting) and not quarantine:
            raise typer.Exit(1)


@dataclass(frozen=True)
class _Inserting:
    """Inserts files, and prints a line on each."""

    insert_one: Insert
    target: Dataset | DryRun
    dataset: str
    quarantine: bool
    dry_run: bool
    as_json: bool

    def insert(self, path: Path, size: int | None) -> bool:
        """Insert a file of ``size`` bytes; return whether all of it fits."""
        faults = Faults(keep_going=self.quarantine or self.dry_run)
        try:
            with progress(path.name, size) as show:
                report = self.insert_one(
                    self.target, path, progress=show, quarantine=self.quarantine, faults=faults
                )
        finally:
            # Also before an error at which reading ends.
            _print_faults(faults)
        if faults.outdated:
            print_note(_outdated(path, faults.outdated))
        typer.echo(self._line(path, report, faults.count if faults.keep_going else None))
        return not faults.count

    def _line(self, path: Path, report: Report, rejected: int | None) -> str:
        """Return a line on the result of inserting a file, or of its dry run.

        ``rejected`` is None where the first row that does not fit is an error.
        """
        counts = {
            "inserted": report.inserted,
            "revised": report.revised,
            "unchanged": report.unchanged,
            "retracted": report.retracted,
            **({} if rejected is None else {"rejected": rejected}),
        }
        version = str(version_at(self.dataset, report.head))
        if self.as_json:
            properties = {"file": str(path), **counts, "version": version}
            return json.dumps({**properties, "dry_run": True} if self.dry_run else properties)
        would = "would be " if self.dry_run else ""
        rare = ("retracted", "rejected")
        counted = ", ".join(
            f"{count:,} {name}" for name, count in counts.items() if count or name not in rare
        )
        return f"{printable(str(path))}: {would}{counted}; {version}"


def _outdated(path: Path, count: int) -> str:
    rows = "row of an earlier import is" if count == 1 else "rows of an earlier import are"
    return (
        f"{path}: {count:,} rejected {rows} corrected by it, and this role may not remove what is; "
        "`registry inbox discard` by the owner does"
    )


def _print_faults(faults: Faults) -> None:
    """Print the first faults of a file to stderr, and how many others it has."""
    for fault in faults.first:
        print_error(str(fault), fault)
    if others := faults.count - len(faults.first):
        print_error(f"and {others:,} more that do not fit")
