"""``registry ls``: list the datasets."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer

from registry.catalog.dataset import Dataset
from registry.catalog.registry import connect
from registry.catalog.summary import DatasetSummary
from registry.cli.base import AsJson, Url, app
from registry.cli.dataset_json import dataset_json
from registry.cli.tables import Column, Listing
from registry.samples.feature_text import feature_text
from registry.storage.log.head import Head


@app.command(name="ls")
def list_datasets(as_json: AsJson = False, url: Url = None) -> None:
    """List the datasets."""
    with connect(url) as registry:
        # The head is read once per dataset: its numbers and its version must agree.
        datasets = [(dataset, dataset.head) for dataset in registry.datasets()]
        if not as_json:
            _print(datasets)
            return
        summaries = [DatasetSummary.of(dataset, head) for dataset, head in datasets]
    typer.echo(json.dumps([dataset_json(summary) for summary in summaries], indent=2))


def _print(datasets: Iterable[tuple[Dataset, Head]]) -> None:
    listing = Listing(
        Column("name"),
        Column("live", right=True, whole=True),
        Column("positions", right=True, whole=True),
        Column("created", whole=True),
        Column("features"),
    )
    listing.print(
        (
            dataset.name,
            f"{head.live:,}",
            f"{head.position:,}",
            f"{dataset.created_at:%Y-%m-%d}",
            " ".join(
                f"{name}={feature_text(feature, brief=True)}"
                for name, feature in dataset.features.items()
            ),
        )
        for dataset, head in datasets
    )
