"""``registry show``: show a dataset."""

from __future__ import annotations

import json

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.catalog.summary import DatasetSummary
from registry.cli.base import AsJson, Name, Url, app
from registry.cli.dataset_json import dataset_json
from registry.cli.output import counted
from registry.cli.tables import print_properties
from registry.samples.schema_text import features_text


@app.command()
def show(dataset: Name, as_json: AsJson = False, url: Url = None) -> None:
    """Show a dataset's properties and its present size."""
    with connect(url) as registry:
        opened = registry.open(dataset)
        # One head for all lines: a commit in between must not make them contradict each other.
        summary = DatasetSummary.of(opened, opened.head)
        if not as_json:
            _print(opened, summary)
            return
    typer.echo(json.dumps(dataset_json(summary), indent=2))


def _print(dataset: Dataset, summary: DatasetSummary) -> None:
    schema = dataset.schemas.numbered(summary.schema)
    print_properties(
        [
            ("name", summary.name),
            # By line, as line breaks in a value are printed as escapes.
            *(("description", line) for line in summary.description.splitlines()),
            *(("features", text) for text in features_text(schema)),
            *(
                ("changes", f"schema {each.schema}, since position {each.since:,}: {each.added}")
                for each in summary.changes
            ),
            *(("splits", f"{name}={share:g}") for name, share in summary.shares.items()),
            ("live", counted(summary.head.live, "sample")),
            ("positions", f"{counted(summary.head.position, 'row')} in the log"),
            ("version", summary.head.version),
            ("created", f"{summary.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ]
    )
