"""What a chart shows, apart from how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

COLORS = 10
"""Colors that there are, from 0 on."""


@dataclass(frozen=True)
class Series:
    """A line, an area or the bars of one color: a value per label of the chart."""

    name: str
    values: Sequence[float]
    color: int | None = None
    """One of `COLORS`, as that of the class with this index; by default in the series' order."""


@dataclass(frozen=True)
class Chart:
    """What a chart shows. Labels and names are plain text, and are escaped where they are drawn.

    ``labels`` are days as ``2026-11-28`` if ``days`` is true, otherwise categories. ``unit`` is
    what the values count, in the plural. The bars of the kind ``rows`` are horizontal, each with
    its label in front of it, which suits the names of classes. ``stacked`` adds the series of areas
    and bars up; those of lines are not, and those of rows always are.
    """

    title: str
    labels: Sequence[str]
    series: Sequence[Series]
    kind: Literal["line", "area", "bars", "rows"] = "bars"
    unit: str = "samples"
    days: bool = False
    stacked: bool = True

    @property
    def adds_up(self) -> bool:
        """Whether each series is drawn on top of the one before."""
        return self.kind == "rows" or (self.stacked and self.kind != "line")
