"""Pages without a mouse, and without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import registry
from registry import ClassLabel, Tensor, Text
from registry.server.settings import ServerSettings
from tests.support.page_clients import reject
from tests.support.servers import serving
from tests.support.visitors import Visitor

PATHS = (
    "/",
    "/datasets/pets",
    "/datasets/pets/samples",
    "/datasets/pets/samples/pet-3",
    "/datasets/pets/runs",
    "/datasets/pets/runs/cnn-1?since=0&until=1",
    "/datasets/pets/rejected",
)
# The element with the focus: its number in the document's order, and whether one can see it.
FOCUS = """() => {
  const element = document.activeElement;
  const marked = [element, ...element.querySelectorAll("*")].some(each =>
    [null, "::after"].some(part => {
      const style = getComputedStyle(each, part);
      return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    }));
  const box = element.getBoundingClientRect();
  return {
    name: element.outerHTML.slice(0, 120),
    number: [...document.querySelectorAll("*")].indexOf(element),
    visible: marked && box.width > 1 && box.bottom > 0 && box.top < innerHeight
      && box.right > 0 && box.left < innerWidth,
  };
}"""
FOCUSABLE = """() => [...document.querySelectorAll(
  "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")]
  .filter(each => each.checkVisibility({visibilityProperty: true})
    && !each.closest("details:not([open]) > :not(summary)")).length"""


@pytest.fixture
def at(sqlite_url: str) -> Iterator[str]:
    with registry.connect(sqlite_url) as reg:
        pets = reg.create(
            "pets",
            {"image": Tensor("uint8", (8, 8)), "label": ClassLabel(["cat", "dog"]), "note": Text()},
            splits={"train": 0.5, "test": 0.5},
        )
        run = pets.run("cnn-1")
        for epoch in range(2):
            image = np.full((8, 8), epoch, np.uint8)
            samples = [{"image": image, "label": n % 2, "note": "n" * n} for n in range(3)]
            pets.insert(samples, keys=[f"pet-{3 * epoch + n}" for n in range(3)], source="ada")
            run.epoch(epoch)
        pets.update("pet-3", label=0)
        pets.tag("gold")
        reject(pets, "a", "b", label="cow")
        with serving(reg, ServerSettings(insecure=True)) as address:
            yield address


def test_the_tab_key_leads_through_each_page_in_its_order_and_shows_where(
    at: str, visit: Callable[..., Visitor]
) -> None:
    visitor = visit(at, viewport={"width": 1440, "height": 800})
    page = visitor.page
    for path in PATHS:
        visitor.open(path)
        count = page.evaluate(FOCUSABLE)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        stops: list[dict[str, Any]] = [page.evaluate(FOCUS)]
        for _ in range(count - 1):
            page.keyboard.press("Tab")
            stops.append(page.evaluate(FOCUS))
        assert [stop for stop in stops if not stop["visible"]] == [], path
        numbers = [stop["number"] for stop in stops]
        assert numbers == sorted({*numbers}), path
        # All were reached: the next one is the document, or the first one.
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS)["number"] <= numbers[0], path
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        inside = "document.querySelector('main').contains(document.activeElement)"
        assert page.evaluate(inside), path


def test_pages_do_without_scripts_what_they_do_with_them(
    at: str, visit: Callable[..., Visitor]
) -> None:
    visitor = visit(at, java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = visitor.page
    for path in PATHS:
        visitor.open(path)
        assert page.locator("h1").is_visible(), path
        visitor.fits()
    page.locator("summary").first.click()
    row = page.locator(".rows li").first
    row.get_by_role("textbox").fill(
        '{"image": "' + "A" * 86 + '==", "label": "dog", "note": "right"}'
    )
    row.get_by_role("button", name="Retry with these fields").click()
    page.wait_for_url("**stored=1*")
    assert "1 row was stored" in page.get_by_role("status").inner_text()
    page.get_by_label("Select row").check()
    page.get_by_role("button", name="Discard selected").click()
    page.wait_for_url("**discarded=1*")
    assert page.get_by_role("heading", name="Nothing was rejected").count() == 1
    visitor.open("/datasets/pets/samples")
    page.get_by_label("label", exact=True).select_option("dog")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**label=dog*")
    assert page.locator(".card").count() == 3
    page.get_by_label("Key, or its beginning").fill("pet-4")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**key=pet-4")
    page.locator(".card-key a").first.click()
    page.wait_for_url("**/samples/pet-4")
    # The numbers of charts are in tables that open without scripts.
    visitor.open("/datasets/pets")
    chart = page.locator("figure.chart").first
    assert chart.locator("svg").first.is_visible()
    chart.locator("summary").click()
    assert chart.locator("table").is_visible()
