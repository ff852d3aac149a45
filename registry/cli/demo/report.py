"""The page of the demo: how the accuracy, the dataset and its corrections grew together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from registry.catalog.dataset import Dataset
from registry.cli.demo.measurement import Measurement
from registry.html.chart import Chart, Series
from registry.html.drawings import Drawing, Style
from registry.html.render import render
from registry.html.samples import draw_sample

_SHOWN = 24
"""Corrected labels that are shown."""


@dataclass(frozen=True)
class Correction:
    """A digit whose label was corrected: its picture, and both labels."""

    key: str
    picture: Drawing
    was: Drawing
    now: Drawing


def page_values(
    digits: Dataset, measurements: Sequence[Measurement], *, served: bool
) -> dict[str, Any]:
    """Return what ``demo.html`` shows; ``served`` is whether a server answers its links."""
    return {
        "served": served,
        "measurements": measurements,
        "first": measurements[0],
        "last": measurements[-1],
        "charts": _charts(measurements),
        "corrected": sum(entry.action == "revise" for entry in digits.entries()),
        "corrections": [*islice(_corrections(digits), _SHOWN)],
    }


def write_page(digits: Dataset, measurements: Sequence[Measurement], path: Path) -> Path:
    """Write the page as a file that needs no server, and return its path."""
    values = page_values(digits, measurements, served=False)
    path.write_text(render("demo.html", **values), "utf-8")
    return path


def _charts(measurements: Sequence[Measurement]) -> list[Chart]:
    labels = [str(number) for number in range(len(measurements))]
    accuracy = [round(100 * each.accuracy, 1) for each in measurements]
    corrected = [*accumulate(each.revised for each in measurements)]
    inserted = [each.samples - count for each, count in zip(measurements, corrected, strict=True)]
    growth = [Series("label as inserted", inserted), Series("label corrected", corrected)]
    title = "Accuracy on the test split in percent, by epoch"
    return [
        Chart(title, labels, [Series("accuracy", accuracy, 2)], "line", "percent"),
        Chart("Samples that the model trained on, by epoch", labels, growth, "area"),
    ]


def _corrections(digits: Dataset) -> Iterator[Correction]:
    for entry in digits.entries():
        if entry.action == "revise":
            older, newer = (each.sample for each in digits.history(entry.key)[-2:])
            assert older is not None
            assert newer is not None
            picture, now = draw_sample(digits.features, newer, Style(side=112))
            yield Correction(entry.key, picture, draw_sample(digits.features, older)[1], now)
