"""The charts of a run: its epochs, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from registry.catalog.epoch_changes import Composition, EpochChanges
from registry.catalog.epoch_origins import EpochOrigins
from registry.catalog.statistics.charts import NO_SOURCE, OTHERS, class_text
from registry.html.chart import Chart, Series
from registry.samples.features import ClassLabel, Feature
from registry.samples.schema import Schema
from registry.training.pin_store import Pin

_MOST_CHARTS: Final = 5


@dataclass(frozen=True)
class _Difference:
    """How many samples of a class or source came and went."""

    name: str
    came: int
    went: int


def epoch_charts(
    pins: Sequence[Pin], known: Mapping[int, EpochOrigins], features: Mapping[str, Feature]
) -> list[Chart]:
    """Return the epochs by the origins of their samples, and the classes of what is new in each."""
    if len(pins) < 2:
        return []
    labels = [str(pin.number) for pin in pins]
    origins = [known.get(pin.number, EpochOrigins(0, 0, {})) for pin in pins]
    new, revised = [each.new for each in origins], [each.revised for each in origins]
    sizes = [pin.size if pin.number in known else 0 for pin in pins]
    parts = zip(sizes, new, revised, strict=True)
    series = [
        Series("as before", [max(0, size - n - r) for size, n, r in parts], 9),
        Series("new", new, 0),
        Series("revised", revised, 1),
        Series("not counted yet", [0 if pin.number in known else pin.size for pin in pins], 4),
    ]
    charts = [Chart("Samples by epoch", labels, [each for each in series if any(each.values)])]
    for name, feature in features.items():
        present = sorted({index for each in origins for index in each.classes.get(name, {})})
        if isinstance(feature, ClassLabel) and present:
            counts = [
                Series(
                    class_text(feature, index),
                    [each.classes.get(name, {}).get(index, 0) for each in origins],
                    index,
                )
                for index in present
            ]
            charts.append(Chart(f"{name}: new and revised samples by epoch", labels, counts))
    return charts[:_MOST_CHARTS]


def change_charts(changes: EpochChanges, schema: Schema) -> list[Chart]:
    charts = []
    for name, feature in schema.features.items():
        if isinstance(feature, ClassLabel):
            came, went = (each.classes.get(name, {}) for each in (changes.came, changes.went))
            # In the order of the classes, as in the other charts.
            order = feature.names or [str(index) for index in range(feature.count)]
            title = f"{name}: classes that came and went"
            charts.append(_difference_chart(title, _differences(order, came, went)))
    came_from, went_from = _sources(changes.came), _sources(changes.went)
    differences = _differences([*came_from, *went_from], came_from, went_from)
    return [*charts, _difference_chart("Sources that came and went", differences)]


def _sources(composition: Composition) -> dict[str, int]:
    named = {
        NO_SOURCE if source is None else source: n for source, n in composition.sources.items()
    }
    return {**named, OTHERS: composition.other_sources}


def _differences(
    names: Sequence[str], came: Mapping[str, int], went: Mapping[str, int]
) -> list[_Difference]:
    """Return the names of which any sample came or went, each once."""
    each = [_Difference(name, came.get(name, 0), went.get(name, 0)) for name in {}.fromkeys(names)]
    return [difference for difference in each if difference.came or difference.went]


def _difference_chart(title: str, differences: Sequence[_Difference]) -> Chart:
    series = [
        Series("came", [each.came for each in differences], 2),
        Series("went", [each.went for each in differences], 7),
    ]
    labels = [each.name for each in differences]
    return Chart(title, labels, series, "bars" if len(labels) <= 16 else "rows", stacked=False)
