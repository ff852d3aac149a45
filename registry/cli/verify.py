"""``registry verify``: check a dataset's hash chain, and its images."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from registry.catalog.registry import connect
from registry.catalog.verify import Verification
from registry.catalog.verify_images import BrokenImage
from registry.cli.base import AsJson, Name, Url, app
from registry.cli.output import counted, print_error

_REMEDY = "restore a database from a backup; remove a mirror's folder, and it is created again"


@app.command()
def verify(
    dataset: Name,
    images: Annotated[bool, typer.Option("--images", help="Decode all images, too.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Recompute the hash chain from all rows, in the database and in the local mirror."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        verifications = opened.verify()
        broken_images = opened.broken_images() if images else []
    if as_json:
        # All of them, also those that are right: a script always gets a list.
        results: list[Verification | BrokenImage] = [*verifications, *broken_images]
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
    for verification in verifications:
        _print_verification(verification, quiet=as_json)
    for image in broken_images:
        _print_broken(opened.name, image)
    if images and not broken_images and not as_json:
        typer.echo("all images can be decoded")
    # A broken image of a superseded row is no failure: no one can correct it any more.
    if any(verification.differs is not None for verification in verifications) or any(
        image.live for image in broken_images
    ):
        raise typer.Exit(1)


def _print_verification(verification: Verification, *, quiet: bool) -> None:
    """Print a result; if ``quiet``, only a difference, which goes to stderr."""
    copy, position = verification.place, verification.differs
    if position is not None:
        print_error(f"{copy}: the chain differs from position {position} on; {_REMEDY}")
    elif not quiet:
        erased = f", {verification.erased:,} of them erased" if verification.erased else ""
        rows = counted(verification.position, "row")
        typer.echo(f"{copy}: {rows}{erased} match the stored hash chain")


def _print_broken(dataset: str, image: BrokenImage) -> None:
    remedy = (
        "update the sample with a whole file, or retract it"
        if image.live
        else "only epochs that were pinned before it was revised hold it"
    )
    print_error(
        f"dataset {dataset!r}, position {image.position}, key {image.key!r}, feature "
        f"{image.feature!r}: the image cannot be decoded ({image.reason}); {remedy}"
    )
