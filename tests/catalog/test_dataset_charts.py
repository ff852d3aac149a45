"""The charts of a dataset: every row and every live sample is in them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import registry
from registry import ClassLabel, Registry
from registry.catalog.statistics.charts import Calendar, charts_of
from registry.catalog.statistics.count import statistics_of

days = st.dates(date(2019, 1, 1), date(2026, 12, 31))


@given(st.dictionaries(days, st.integers(-5, 5), min_size=1), days)
def test_a_calendar_has_every_day_once_and_few_periods(
    counts: dict[date, int], today: date
) -> None:
    calendar = Calendar.of([*counts], today)
    assert sum(calendar.sums(counts)) == calendar.running(counts)[-1] == sum(counts.values())
    assert len(calendar.starts) == len({*calendar.starts}) <= 200
    for day in (*counts, max(today, *counts)):
        start = calendar.starts[calendar.index(day)]
        length = {"day": 1, "week": 7, "month": 31}[calendar.unit]
        assert start <= day < start + timedelta(length)
    assert calendar.index(max(today, *counts)) == len(calendar.starts) - 1


@pytest.fixture
def sqlite_reg(sqlite_url: str) -> Iterator[Registry]:
    with registry.connect(sqlite_url) as opened:
        yield opened


def test_the_charts_of_a_dataset_show_each_row_and_each_live_sample(sqlite_reg: Registry) -> None:
    features = {"label": ClassLabel(["cat", "dog", "lynx"])}
    pets = sqlite_reg.create("pets", features, splits={"train": 0.5, "test": 0.5})
    today = datetime.now(UTC).date()
    assert charts_of(statistics_of(pets), pets.features, ["train", "test"], today) == []
    keys = [f"pet-{number}" for number in range(20)]
    pets.insert([{"label": 0}] * 20, keys=keys, source="ada")
    pets.update(keys[0], label="dog", source="bob")
    pets.retract(keys[1])
    charts = charts_of(statistics_of(pets), pets.features, ["train", "test"], today)
    shown = {chart.title: {each.name: [*each.values] for each in chart.series} for chart in charts}
    balance = shown.pop("label: samples by class and split")
    assert [sum(counts) for counts in zip(*balance.values(), strict=True)] == [18, 1]
    split = pets.split_of(keys[0])
    assert balance[split or ""][1] == 1
    assert shown == {
        "Growth": {"live samples": [19]},
        "Rows by day": {"inserted": [20], "relabeled": [1], "retracted": [1]},
        "label: classes over time": {"cat": [18], "dog": [1]},
        "Sources and annotators by day": {"ada": [20], "bob": [1], "(no source)": [1]},
    }
    assert {chart.labels[0] for chart in charts if chart.days} == {today.isoformat()}
