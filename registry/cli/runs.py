"""``registry runs``: list the training runs of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, Name, Url, app
from registry.cli.tables import Column, Listing
from registry.training.pin_store import Pin
from registry.training.run import Run


@app.command()
def runs(dataset: Name, as_json: AsJson = False, url: Url = None) -> None:
    """List a dataset's training runs and their progress."""
    with connect(url) as registry:
        # Within the block: both properties of a run query the database.
        progress = [(run, run.last, run.consumed) for run in registry.open(dataset).runs()]
    if as_json:
        typer.echo(json.dumps([_run_json(*columns) for columns in progress], indent=2))
        return
    _print(progress)


def _print(progress: Iterable[tuple[Run, Pin | None, int]]) -> None:
    """Print the runs, each with its last epoch and the samples consumed."""
    listing = Listing(
        Column("run"),
        Column("seed", right=True, whole=True),
        Column("split"),
        Column("policy", whole=True),
        Column("epochs", right=True, whole=True),
        Column("watermark", right=True, whole=True),
        Column("samples", right=True, whole=True),
        Column("consumed", right=True, whole=True),
    )
    listing.print(
        (
            run.name,
            str(run.seed),
            run.split or "",
            str(run.policy),
            f"{last.number + 1:,}" if last else "0",
            f"{last.watermark:,}" if last else "",
            f"{last.start + last.size:,}" if last else "0",
            f"{consumed:,}",
        )
        for run, last, consumed in progress
    )


def _run_json(run: Run, last: Pin | None, consumed: int) -> dict[str, Any]:
    return {
        "name": run.name,
        "seed": run.seed,
        "split": run.split,
        "policy": str(run.policy),
        "epochs": last.number + 1 if last else 0,
        "watermark": last.watermark if last else None,
        "samples": last.start + last.size if last else 0,
        "consumed": consumed,
    }
