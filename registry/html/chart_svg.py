"""Drawings of charts as SVG: without scripts and styles, with colors by classes.

Coordinates are pixels of the drawing, which the page scales to its width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from registry.html.chart import Chart
from registry.html.formats import compact, number, shortened

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 10, 26
_ROW, _ROW_LABEL = 22, 150
_SPARK = (120, 24)


def draw(chart: Chart) -> Markup:
    """Return the drawing of a chart that has labels and series."""
    if chart.kind == "rows":
        height = _ROW * len(chart.labels) + 8
        body = _rows(chart)
    else:
        height = HEIGHT
        ticks = _ticks(_largest(chart))
        top = ticks[-1]
        body = _grid(ticks) + _day_labels(chart) + _marks(chart, top)
    return Markup(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, WIDTH, height, _in_words(chart), body)


def draw_sparkline(values: Sequence[float], label: str) -> Markup:
    """Return a small line through the values, over their area."""
    width, height = _SPARK
    # One value has no line.
    points = [*values] if len(values) > 1 else [*(values or [0])] * 2
    low, high = min(points), max(points)
    scale = (height - 6) / (high - low) if high > low else 0
    step = (width - 4) / (len(points) - 1)
    line = _path(
        [
            (2 + step * index, height - 3 - (value - low) * scale)
            for index, value in enumerate(points)
        ]
    )
    return Markup(
        '<svg class="sparkline" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{label}"><path class="spark-area" d="{line}L{end} {h}L2 {h}Z"/>'
        '<path class="spark-line" d="{line}"/></svg>'
    ).format(w=width, h=height, label=label, line=line, end=width - 2)


def _in_words(chart: Chart) -> str:
    totals = "; ".join(
        f"{each.name} {compact(each.values[-1] if chart.days else sum(each.values))}"
        for each in chart.series
    )
    ends = f"{chart.labels[0]} to {chart.labels[-1]}" if len(chart.labels) > 1 else chart.labels[0]
    if chart.days:
        return f"{chart.title}, {chart.unit}, {ends}; on the last day: {totals}"
    return f"{chart.title}, {chart.unit}; in total: {totals}"


def _largest(chart: Chart) -> float:
    columns = zip(*(each.values for each in chart.series), strict=True)
    over = sum if chart.adds_up else max
    return max((over(values) for values in columns), default=0)


def _ticks(largest: float) -> list[float]:
    """Return the values at which an axis is labeled: from 0 to the first that is large enough."""
    if largest <= 0:
        return [0, 1]
    power: float = 10 ** math.floor(math.log10(largest / 4))
    step = next(part * power for part in (1, 2, 2.5, 5, 10) if largest / 4 <= part * power)
    if float(largest).is_integer():
        # There is no half of a sample.
        step = max(1, step)
    return [step * index for index in range(math.ceil(largest / step) + 1)]


def _grid(ticks: Sequence[float]) -> Markup:
    lines = Markup()
    for value in ticks:
        y = round(_y(value, ticks[-1]), 1)
        lines += Markup('<path class="gridline" d="M{} {}H{}"/>').format(_LEFT, y, WIDTH - _RIGHT)
        lines += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            _LEFT - 6, round(y + 4, 1), compact(value)
        )
    return lines


def _day_labels(chart: Chart) -> Markup:
    """Return some labels under the axis, as many as have room."""
    count = len(chart.labels)
    width = 70 if chart.days else 90
    every = max(1, math.ceil(count * width / (WIDTH - _LEFT - _RIGHT)))
    return Markup().join(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            round(_x(index, count), 1),
            HEIGHT - 8,
            chart.labels[index][5:] if chart.days else shortened(chart.labels[index], 12),
        )
        for index in range(0, count, every)
    )


def _marks(chart: Chart, top: float) -> Markup:
    count = len(chart.labels)
    below = [0.0] * count
    marks = Markup()
    for order, each in enumerate(chart.series):
        above = [low + value for low, value in zip(below, each.values, strict=True)]
        if chart.kind == "bars":
            part = (0, 1) if chart.adds_up else (order, len(chart.series))
            path = "".join(
                _bar(index, count, (_y(low, top), _y(high, top)), part)
                for index, (low, high) in enumerate(zip(below, above, strict=True))
                if high > low
            )
        else:
            points = [(_x(i, count), _y(value, top)) for i, value in enumerate(above)]
            path = _path(points)
            if chart.kind == "area":
                lower = [(_x(i, count), _y(value, top)) for i, value in enumerate(below)]
                path += "L" + _path(lower[::-1])[1:] + "Z"
        shape = {"line": "line", "area": "area"}.get(chart.kind, "fill")
        marks += Markup('<path class="{} series-{}" d="{}"/>').format(shape, each.color, path)
        if chart.kind == "area":
            marks += Markup('<path class="line series-{}" d="{}"/>').format(
                each.color, _path(points)
            )
        if chart.adds_up:
            below = above
    return marks


def _bar(index: int, count: int, ends: tuple[float, float], part: tuple[int, int]) -> str:
    """Return a bar between two heights; ``part`` is its index of how many next to each other."""
    low, high = ends
    room = (WIDTH - _LEFT - _RIGHT) / count
    width = max(0.5, room * 0.8 / part[1])
    left = _LEFT + room * (index + 0.1) + width * part[0]
    return f"M{left:.1f} {low:.1f}V{high:.1f}h{width:.1f}V{low:.1f}Z"


def _rows(chart: Chart) -> Markup:
    largest = _largest(chart) or 1
    room = WIDTH - _ROW_LABEL - 60
    body = Markup()
    for index, label in enumerate(chart.labels):
        y = _ROW * index + 4
        body += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            _ROW_LABEL - 8, y + 14, shortened(label, 22)
        )
        left, total = float(_ROW_LABEL), 0.0
        for each in chart.series:
            width = each.values[index] / largest * room
            total += each.values[index]
            body += Markup(
                '<rect class="fill series-{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
            ).format(each.color, left, y + 2, width, _ROW - 6)
            left += width
        body += Markup('<text class="value" x="{:.1f}" y="{}">{}</text>').format(
            left + 6, y + 14, number(total) if total < 10**6 else compact(total)
        )
    return body


def _x(index: int, count: int) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (index + 0.5) / count


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
