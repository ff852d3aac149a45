"""The page of all datasets, and the login, in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import registry
from registry import Registry
from registry.server import tokens
from registry.server.settings import ServerSettings
from tests.support.datasets import FIXED, digit
from tests.support.page_clients import reject
from tests.support.servers import serving
from tests.support.visitors import THEMES, WIDTHS, Visitor


@pytest.fixture
def sqlite_reg(sqlite_url: str) -> Iterator[Registry]:
    """A registry on SQLite alone: what is drawn does not depend on the database."""
    with registry.connect(sqlite_url) as opened:
        opened.create("digits", FIXED)
        yield opened


def test_somebody_logs_in_sees_the_datasets_and_logs_out(
    sqlite_reg: Registry, visit: Callable[..., Visitor]
) -> None:
    digits = sqlite_reg.open("digits")
    digits.insert([digit(number) for number in range(3)], source="scanner")
    reject(digits, "a", "b", label=99)
    secret = tokens.create(sqlite_reg.engine, "ada")
    with serving(sqlite_reg) as at:
        visitor = visit(at)
        page = visitor.open("/")
        assert page.url == f"{at}/login"
        visitor.refused = True
        page.get_by_label("Token").fill("rgy_wrong")
        page.keyboard.press("Enter")
        assert "token is unknown" in page.get_by_role("alert").inner_text()
        page.get_by_label("Token").fill(secret)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{at}/")
        row = page.get_by_role("row").filter(has_text="digits")
        assert "by scanner" in row.inner_text()
        assert row.get_by_role("cell").first.inner_text() == "3"
        assert row.get_by_role("img").get_attribute("aria-label") == (
            "Live samples of digits over 30 days, from 0 to 3"
        )
        row.get_by_role("link", name="2 rejected").click()
        page.wait_for_url(f"{at}/datasets/digits/rejected")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(f"{at}/login")
        # Nothing of the page was kept.
        page.go_back()
        page.wait_for_url(f"{at}/login?next=%2Fdatasets%2Fdigits%2Frejected")


def test_the_pages_are_readable_at_every_width_and_in_both_themes(
    sqlite_reg: Registry, visit: Callable[..., Visitor]
) -> None:
    digits = sqlite_reg.open("digits")
    digits.insert([digit(number) for number in range(3)], source="x" * 200)
    digits.describe("A word that is long: " + "w" * 300)
    reject(digits, "a", None, "k" * 500, source="tool/" + "s" * 100, label=99)
    reject(digits, "r", text="\u202ex" * 200)
    sqlite_reg.create("d" * 128, digits.features)
    with serving(sqlite_reg, ServerSettings(insecure=True)) as at:
        # Contrast differs by theme, and the layout by width.
        for theme, width in zip(THEMES, WIDTHS, strict=True):
            visitor = visit(at, color_scheme=theme, viewport={"width": width, "height": 900})
            empty = f"/datasets/{'d' * 128}/rejected"
            for path in ("/", "/datasets/digits/rejected", empty, "/datasets/none/rejected"):
                visitor.refused = "none" in path
                visitor.open(path)
                visitor.fits()
                visitor.accessible()
