"""``registry export``: write the samples of a dataset to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.cli.base import AsJsonLines, Name, Url, app, parse_pairs
from registry.cli.output import counted, printable
from registry.cli.progress import progress
from registry.io.detection.export_folder import export_folder
from registry.io.export_file import export_file
from registry.io.formats import FOLDER_FORMATS, WRITABLE
from registry.samples.box_formats import BOX_FORMATS, BoxFormat


@app.command()
def export(  # noqa: PLR0913, PLR0917  # arguments and options of the command
    dataset: Name,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="The file to write, or replace; a new folder for coco and yolo."
        ),
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="What to write, if not what the suffix says: "
            f"{', '.join([*WRITABLE, *FOLDER_FORMATS])}.",
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="NAME", help="The column or property that takes the keys.")
    ] = "key",
    group: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The column or property that takes the groups, if there are any."
        ),
    ] = "group",
    boxes: Annotated[
        BoxFormat | None,
        typer.Option(
            metavar="FORMAT",
            help=f"The format in which the dataset has its boxes, for coco and yolo: "
            f"{', '.join(BOX_FORMATS)}; rel_xyxy by default.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="The names of the classes for coco and yolo: cat,dog."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=FEATURE",
            help="The feature that is the image, boxes or classes of coco and yolo, where several "
            "could be.",
        ),
    ] = None,
    as_json: AsJsonLines = False,
    url: Url = None,
) -> None:
    """Write the live samples of a dataset, or of a version of it, to a file."""
    with connect(url) as registry:
        # The dataset may grow meanwhile, and the printed version must be that of the file.
        opened = registry.open(dataset).snapshot()
        with progress(path.name, None) as show:
            if format_name in FOLDER_FORMATS:
                count = export_folder(
                    opened,
                    path,
                    form=format_name,
                    boxes=boxes or "rel_xyxy",
                    classes=classes.split(",") if classes else (),
                    mapping=parse_pairs("--map", mapping or []),
                    progress=show,
                )
            else:
                _check_no_options(boxes, classes, mapping)
                count = export_file(
                    opened,
                    path,
                    form=format_name,
                    key=key,
                    group=group,
                    progress=show,
                )
        typer.echo(_line(opened, path, count, as_json=as_json))


def _check_no_options(*options: object) -> None:
    if any(options):
        reason = f"goes with --format {' and '.join(FOLDER_FORMATS)}"
        raise typer.BadParameter(reason, param_hint="--boxes, --classes, --map")


def _line(dataset: Dataset, path: Path, count: int, *, as_json: bool) -> str:
    """Return a line on the result of an export."""
    version = str(dataset.version)
    if as_json:
        return json.dumps({"file": str(path), "samples": count, "version": version})
    return f"{printable(str(path))}: {counted(count, 'sample')} of {version}"
