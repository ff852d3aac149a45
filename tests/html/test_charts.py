"""Charts as pages and cards draw them, without a browser."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.html.chart import COLORS, Chart, Series
from registry.html.charts import draw_chart, sparkline

KINDS = ("line", "area", "bars", "rows")
HOSTILE = "</script><script>alert(1)</script>\"'&<b>\u2028"
_SVG = re.compile(r"<svg viewBox=.*?</svg>", re.DOTALL)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=30)


def drawing(html: str) -> ET.Element:
    """Return the SVG of a chart, which must be well-formed."""
    (svg,) = [each for each in _SVG.findall(html) if 'role="img"' in each]
    return ET.fromstring(svg)


@st.composite
def charts(draw: st.DrawFn) -> Chart:
    labels = draw(st.lists(texts, min_size=1, max_size=60))
    values = st.lists(
        st.floats(0, 1e15) | st.integers(0, 10**15), min_size=len(labels), max_size=len(labels)
    )
    series = draw(st.lists(st.builds(Series, texts, values), min_size=1, max_size=14))
    kind: Any = draw(st.sampled_from(KINDS))
    return Chart(draw(texts), labels, series, kind=kind, stacked=draw(st.booleans()))


@given(charts())
@settings(max_examples=60)
def test_every_chart_is_drawn_within_its_frame_and_adds_up(chart: Chart) -> None:
    html = draw_chart(chart)
    svg = drawing(html)
    width, height = (float(svg.attrib[name]) for name in ("width", "height"))
    for bar in svg.iter("rect"):
        x, y, w, h = (float(bar.attrib[each]) for each in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1
        assert y + h <= height + 1
    for path in svg.iter("path"):
        assert "nan" not in path.attrib["d"]
        assert "inf" not in path.attrib["d"]
        for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.attrib["d"]):
            x, y = map(float, pair)
            assert -1 <= x <= width + 1
            assert -1 <= y <= height + 1
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    kept = json.loads(data)
    assert len(kept["series"]) <= COLORS
    assert all(0 <= each["color"] < COLORS for each in kept["series"])
    # Series without a color, and rows without room, are in the sum of the others.
    total = sum(sum(each.values) for each in chart.series)
    assert sum(sum(each["values"]) for each in kept["series"]) == pytest.approx(total)


@pytest.mark.parametrize("kind", ["line", "area"])
def test_a_chart_of_a_single_day_is_visible(kind: Any) -> None:
    both = [Series("cat", [3]), Series("dog", [2])]
    html = draw_chart(Chart("Growth", ["2026-11-28"], both, kind, days=True))
    marks = [each for each in drawing(html).iter("path") if "series-" in each.attrib["class"]]
    assert len(marks) == 2
    assert all("h" in each.attrib["d"] for each in marks)  # a path with a width
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert (json.loads(data)["kind"], json.loads(data)["stacked"]) == ("bars", kind == "area")


def test_text_of_a_chart_stays_text() -> None:
    chart = Chart(HOSTILE, [HOSTILE, "b"], [Series(HOSTILE, [1, 2]), Series("x", [3, 4])])
    for kind in KINDS:
        html = draw_chart(Chart(**{**vars(chart), "kind": kind}))
        assert html.count("<script") == html.count("</script>") == 1
        assert "<b>" not in html
        (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
        assert json.loads(data)["labels"][0] == HOSTILE


def test_a_card_has_the_drawing_and_the_numbers_but_no_script() -> None:
    days = [f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    chart = Chart("Growth", days, [Series("live", range(len(days)))], kind="area", days=True)
    html = draw_chart(chart, script=False)
    assert "<script" not in html
    assert "style=" not in html
    label = drawing(html).attrib["aria-label"]
    assert label == "Growth, samples, 2026-01-01 to 2026-12-28; on the last day: live 335"
    assert '<th scope="row">2026-12-28</th><td>335</td>' in html
    assert "the last 100 of 336 rows" in html
    assert len(html.encode()) < 20_000


def test_a_chart_of_nothing_says_so() -> None:
    assert "No rows yet." in draw_chart(Chart("Rows", [], [], unit="rows"))
    for values in ([], [5], [0, 0], [3, 1, 2]):
        ET.fromstring(sparkline(values, "Growth <b>"))
