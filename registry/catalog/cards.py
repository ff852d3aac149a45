"""The cards of registries and datasets in a notebook."""

from __future__ import annotations

from datetime import UTC, datetime

from registry.catalog.browse import find_samples
from registry.catalog.dataset import Dataset
from registry.catalog.overview import DatasetOverview, overview
from registry.catalog.registry import Registry
from registry.catalog.statistics.charts import card_charts
from registry.catalog.statistics.count import StatisticsError, statistics_of
from registry.catalog.statistics.model import Statistics
from registry.html.card import MOST_SAMPLES, Card, CardTable, Fact, card_sample
from registry.html.chart import Chart
from registry.html.formats import filesize
from registry.samples.feature_text import feature_texts
from registry.samples.splits import BUCKETS
from registry.storage.database.url import masked


def registry_card(registry: Registry) -> Card:
    """Return what a notebook shows of a registry: its datasets."""
    datasets = overview(registry)
    names = "dataset", "live samples", "positions", "last row", "waiting", "rejected", "description"
    return Card(
        "Registry",
        masked(registry.engine.url),
        facts=[
            ("datasets", f"{len(datasets):,}"),
            ("live samples", f"{sum(each.live for each in datasets):,}"),
        ],
        tables=[CardTable("Datasets", names, [*map(_row, datasets)], (1, 2, 4, 5))],
        notice="" if datasets else "No datasets yet: make one by create().",
    )


def _row(each: DatasetOverview) -> list[object]:
    return [
        each.name,
        f"{each.live:,}",
        f"{each.position:,}",
        _time(each.last_at) if each.last_at else "",
        f"{each.waiting:,}",
        f"{each.rejected:,}",
        each.description[:120],
    ]


def dataset_card(dataset: Dataset) -> Card:
    """Return what a notebook shows of a dataset or of a version of it.

    Rows that wait in the inbox stay there, and a bounded number of rows is counted.
    """
    version = dataset.extent.version
    try:
        statistics = statistics_of(dataset)
    except StatisticsError:
        statistics = None
    samples = [
        card_sample(dataset.features, each.values, each.key, each.source, each.split)
        for each in find_samples(dataset, limit=MOST_SAMPLES).samples
    ]
    return Card(
        "Dataset" if version is None else "Version of a dataset",
        dataset.name if version is None else str(version),
        dataset.description,
        facts=[*_facts(dataset, statistics)],
        features=feature_texts(dataset.features),
        charts=_charts(dataset, statistics),
        samples_title="Newest samples",
        samples=samples,
        notice=_notice(statistics),
    )


def _facts(dataset: Dataset, statistics: Statistics | None) -> list[Fact]:
    facts: list[Fact] = []
    if statistics is not None:
        facts += [("live samples", f"{statistics.live:,}"), ("positions", f"{statistics.until:,}")]
        facts += [("size", filesize(statistics.bytes))]
        if statistics.groups:
            facts.append(("groups", f"{statistics.groups:,}"))
        if statistics.last_row is not None:
            facts.append(("last row", _time(statistics.last_row.created_at)))
            facts.append(("by", statistics.last_row.source or "(no source)"))
    shares = {name: (end - start) / BUCKETS for name, (start, end) in dataset.splits.items()}
    if shares:
        facts.append(("splits", ", ".join(f"{name} {share:.0%}" for name, share in shares.items())))
    return facts


def _charts(dataset: Dataset, statistics: Statistics | None) -> list[Chart]:
    if statistics is None or not statistics.complete:
        return []
    today = datetime.now(UTC).date()
    return card_charts(statistics, dataset.features, [*dataset.splits], today)


def _time(moment: datetime) -> str:
    # Not how long ago it was: a notebook is read later, too.
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _notice(statistics: Statistics | None) -> str:
    if statistics is None or statistics.complete:
        return ""
    counted = f"{statistics.position:,} of {statistics.until:,}"
    return f"{counted} rows are counted so far; show this again to count more."
