"""Charts: a drawing made on the server, its numbers as a table, and its data for the script.

A page shows the drawing (`chart_svg`) at once, also without scripts, and in cards it stays. On
pages `charts.js` then has Plotly draw the same data in its place, to zoom, to hide series and to
read values from. The table is what screen readers read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from registry.html.chart import COLORS, Chart, Series
from registry.html.chart_svg import draw, draw_sparkline
from registry.html.formats import compact, number

_TABLE_ROWS = 100
"""Rows of the table, at most: the last ones, which are the newest days."""
_ROW_LABELS = 40
"""Rows of a chart of the kind ``rows``, at most."""
_KEPT = 64
"""Drawings that are kept, at most; each has up to 100 KB."""
OTHERS = "others"


def draw_chart(chart: Chart, *, script: bool = True, scrolls: bool = True) -> Markup:
    """Return a ``<figure>`` with the drawing and the table of a chart.

    Without ``script`` it has no data for `charts.js`, as in cards. ``scrolls`` is whether the
    drawing does where it is wider than the screen. A chart without any value says so.
    """
    series = (replace(each, values=tuple(each.values)) for each in chart.series)
    # Sequences of any kind, as tuples, by which the drawing is kept.
    return _drawn(replace(chart, labels=tuple(chart.labels), series=tuple(series)), script, scrolls)


# A drawing takes a millisecond or more, and each request of a page needs it. Its numbers change
# once a second at most.
@lru_cache(_KEPT)
def _drawn(chart: Chart, script: bool, scrolls: bool) -> Markup:
    chart = _limited(chart)
    caption = Markup("<figcaption>{}</figcaption>").format(chart.title)
    if not chart.labels or not chart.series:
        empty = Markup('<p class="chart-empty">No {} yet.</p>').format(chart.unit)
        return Markup('<figure class="chart">{}{}</figure>').format(caption, empty)
    data = Markup()
    if script:
        data = Markup('<script type="application/json">{}</script>').format(
            htmlsafe_json_dumps({**vars(chart), "series": [*map(vars, chart.series)]})
        )
    # By the keyboard, only what can have the focus scrolls.
    focus = Markup(' tabindex="0"') if scrolls else ""
    return Markup(
        '<figure class="chart chart-{}">{}{}<div class="chart-drawing"{}>{}</div>{}{}</figure>'
    ).format(chart.kind, caption, _legend(chart), focus, draw(chart), data, _table(chart))


def sparkline(values: Sequence[float], label: str) -> Markup:
    """Return a small line without axes; ``label`` says in words what it shows."""
    return draw_sparkline(values, label)


def _limited(chart: Chart) -> Chart:
    """Return the chart with colors, as many series as there are colors, and as many rows as fit.

    The series and rows of the lowest sums are added up as one. A line or area of one label has no
    length and would be invisible, so it becomes a bar.
    """
    if len(chart.labels) == 1 and chart.kind in {"line", "area"}:
        chart = replace(chart, kind="bars", stacked=chart.adds_up)
    if len(chart.series) > COLORS:
        by_size = sorted(
            range(len(chart.series)), key=lambda index: -sum(chart.series[index].values)
        )
        # In their given order, which may be that of splits.
        kept = [chart.series[index] for index in sorted(by_size[: COLORS - 1])]
        rest = [chart.series[index].values for index in by_size[COLORS - 1 :]]
        sums = [sum(values) for values in zip(*rest, strict=True)]
        chart = replace(chart, series=[*kept, Series(OTHERS, sums, COLORS - 1)])
    if chart.kind == "rows" and len(chart.labels) > _ROW_LABELS:
        chart = _merged_rows(chart)
    series = [
        replace(each, color=index if each.color is None else each.color % COLORS)
        for index, each in enumerate(chart.series)
    ]
    return replace(chart, series=series)


def _merged_rows(chart: Chart) -> Chart:
    """Return the chart with its largest rows, in their order, and the sum of the others."""
    totals = [sum(values) for values in zip(*(s.values for s in chart.series), strict=True)]
    by_size = sorted(range(len(totals)), key=lambda index: -totals[index])
    kept = sorted(by_size[: _ROW_LABELS - 1])
    rest = by_size[_ROW_LABELS - 1 :]
    series = [
        replace(s, values=[*(s.values[i] for i in kept), sum(s.values[i] for i in rest)])
        for s in chart.series
    ]
    labels = [*(chart.labels[index] for index in kept), f"{len(rest):,} {OTHERS}"]
    return replace(chart, labels=labels, series=series)


def _legend(chart: Chart) -> Markup:
    if len(chart.series) < 2:
        return Markup()
    items = Markup().join(
        Markup('<li><svg class="swatch series-{}" viewBox="0 0 10 10" aria-hidden="true">').format(
            each.color
        )
        + Markup('<rect width="10" height="10" rx="2"/></svg>{}</li>').format(each.name)
        for each in chart.series
    )
    return Markup('<ul class="chart-legend">{}</ul>').format(items)


def _table(chart: Chart) -> Markup:
    """Return the chart's numbers as a table that can be opened."""
    first = max(0, len(chart.labels) - _TABLE_ROWS)
    head = Markup().join(Markup('<th scope="col">{}</th>').format(s.name) for s in chart.series)
    # Joined as plain text, each part of which is escaped or a number: a table has a thousand cells.
    cells = zip(
        *([f"<td>{_exact(v)}</td>" for v in s.values[first:]] for s in chart.series), strict=True
    )
    rows = Markup(  # noqa: S704
        "".join(
            f'<tr><th scope="row">{escape(label)}</th>{"".join(row)}</tr>'
            for label, row in zip(chart.labels[first:], cells, strict=True)
        )
    )
    note = f"{chart.title}: {chart.unit}" + (
        f", the last {_TABLE_ROWS} of {len(chart.labels):,} rows" if first else ""
    )
    return Markup(
        '<details class="chart-table"><summary>Numbers</summary><div class="scroll" tabindex="0" '
        'role="region" aria-label="{note}"><table><caption class="hidden">{note}</caption>'
        '<thead><tr><th scope="col">{what}</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></details>"
    ).format(note=note, what="Day" if chart.days else "Name", head=head, rows=rows)


def _exact(value: float) -> str:
    return number(value) if float(value).is_integer() else compact(value)
