"""Charts as Plotly draws them, under the content security policy of the pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import registry
from registry import Registry
from registry.server.settings import ServerSettings
from tests.support.datasets import FIXED, digit
from tests.support.servers import serving
from tests.support.visitors import Visitor


@pytest.fixture
def reg(sqlite_url: str) -> Iterator[Registry]:
    with registry.connect(sqlite_url) as opened:
        digits = opened.create("digits", FIXED, splits={"train": 0.5, "test": 0.5})
        digits.insert([digit(number) for number in range(40)], source="<b>tool</b>")
        yield opened


def test_charts_are_drawn_without_scripts_and_again_by_plotly(
    reg: Registry, visit: Callable[..., Visitor]
) -> None:
    with serving(reg, ServerSettings(insecure=True)) as at:
        plain = visit(at, java_script_enabled=False).open("/datasets/digits")
        drawings = plain.locator("figure.chart .chart-drawing svg")
        count = drawings.count()
        assert count > 1
        assert all(drawings.nth(index).is_visible() for index in range(count))
        # Drawings that are wider than a phone scroll, also by the keyboard. Axe needs scripts.
        phone = visit(at, viewport={"width": 390, "height": 800})
        phone.page.route("**/charts.*.js", lambda route: route.fulfill(body="", status=200))
        phone.open("/datasets/digits")
        phone.accessible()
        page = visit(at).open("/datasets/digits")
        page.wait_for_function(
            "count => document.querySelectorAll('.js-plotly-plot .main-svg').length >= count",
            arg=count,
        )
        # Its first day is not empty.
        growth = page.locator("figure.chart").filter(has_text="Growth").locator(".point")
        assert growth.first.is_visible()
        # The name of a source is text, also to Plotly, which would take it for markup.
        assert page.get_by_text("<b>tool</b>").count() > 0
        button = page.locator(".chart-legend button").first
        traces = page.locator("figure.chart:has(.chart-legend)").first.locator(".trace")
        before = traces.count()
        button.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
        page.wait_for_function(
            "([before]) => document.querySelector('figure.chart:has(.chart-legend)')"
            ".querySelectorAll('.trace').length < before",
            arg=[before],
        )
        # The other theme is another set of colors, which Plotly draws with.
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(
            "() => getComputedStyle(document.querySelector('.xtick text')).fill === "
            "'rgb(163, 163, 174)'"
        )
