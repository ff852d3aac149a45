"""The pages of a dataset, its samples and its runs, in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import registry
from registry import ClassLabel, Features, Image, Ragged, Registry, Tensor, Text
from registry.server.settings import ServerSettings
from tests.support.image_files import broken, photo, png
from tests.support.servers import serving
from tests.support.visitors import THEMES, WIDTHS, Visitor

HOSTILE = "<img src=x onerror=alert(1)>\u202e'\"&"
FEATURES = Features(
    {
        "photo": Image(),
        "boxes": Ragged("float32", (4,)),
        "classes": Ragged("int32"),
        "signal": Tensor("float32", (40, 2)),
        "mask": Tensor("bool", (9, 9)),
        "note": Text(),
        "label": ClassLabel(["cat", HOSTILE, "w" * 300]),
        f"f {HOSTILE}": ClassLabel(3),
    }
)


def _street(reg: Registry) -> None:
    street = reg.create("street", FEATURES, splits={"train": 0.5, HOSTILE: 0.5})
    street.describe(HOSTILE)
    numbers = np.random.default_rng(0)
    files = [photo(30, 60), photo(60, 30), png(9_000, 9_000), broken(photo(8, 8))]
    samples = [
        {
            "photo": files[number % 4],
            "boxes": np.array([[0.1, 0.1, 0.4, 0.9], [0.7, 0, 1, 0.3]], np.float32),
            "classes": [0, 1],
            "signal": numbers.normal(size=(40, 2)).astype(np.float32),
            "mask": numbers.random((9, 9)) > 0.5,
            "note": HOSTILE * number,
            "label": number % 3,
            f"f {HOSTILE}": number % 3,
        }
        for number in range(30)
    ]
    keys = [f"{HOSTILE}/{number}" for number in range(29)] + ["k" * 500]
    street.insert(samples, keys=keys, source=HOSTILE, groups=[HOSTILE] * 30)
    run = street.run(HOSTILE, where={"label": ["cat", HOSTILE]})
    run.epoch(0)
    street.update(keys[0], note="another " * 50, label=1, boxes=[[0, 0, 1, 1]], classes=[0])
    run.epoch(1)
    street.retract(keys[1])
    street.tag("gold", note=HOSTILE)


@pytest.fixture
def at(sqlite_url: str) -> Iterator[str]:
    with registry.connect(sqlite_url) as reg:
        _street(reg)
        reg.create("empty", {"label": ClassLabel(2)})
        with serving(reg, ServerSettings(insecure=True)) as address:
            yield address


def test_the_pages_of_a_dataset_are_readable_at_every_width_and_in_both_themes(
    at: str, visit: Callable[..., Visitor]
) -> None:
    for theme, width in zip(THEMES, WIDTHS, strict=True):
        visitor = visit(at, color_scheme=theme, viewport={"width": width, "height": 900})
        page = visitor.open("/datasets/street/samples")
        sample = page.locator(".card-key a").last.get_attribute("href")
        page.goto(f"{at}/datasets/street/runs")
        run = page.locator("tbody a").first.get_attribute("href")
        assert sample is not None
        assert run is not None
        for path in (
            "/datasets/street",
            "/datasets/street@gold/samples?class.label=cat&boxes=xywh",
            "/datasets/street/samples?key=<",
            "/datasets/street/samples/" + "k" * 500,
            sample,
            "/datasets/street/runs",
            f"{run}?since=0&until=1",
            "/datasets/empty",
            "/datasets/empty/samples",
            "/datasets/empty/runs",
        ):
            visitor.open(path)
            visitor.fits()
            visitor.accessible()


def test_somebody_finds_a_sample_and_an_epoch_by_the_keyboard(
    at: str, visit: Callable[..., Visitor]
) -> None:
    page = visit(at).open("/datasets/street")
    page.get_by_role("link", name="All samples, with filters").press("Enter")
    page.get_by_label("label", exact=True).select_option(HOSTILE)
    page.get_by_label("Version").select_option("gold")
    page.get_by_role("button", name="Filter").press("Enter")
    page.wait_for_url("**/street%40gold/samples?*")
    assert page.get_by_role("status").inner_text().startswith("10 samples, the newest first")
    # Boxes are drawn over the picture, with the names of their classes.
    card = page.locator(".card").first
    assert card.locator(".boxes rect").count() == 1
    assert card.get_by_role("img").first.get_attribute("alt") == ("photo, 60\xa0\xd7\xa030 jpeg: 0")
    card.get_by_role("link").press("Enter")
    assert page.get_by_role("columnheader").filter(has_text="position").count() == 2
    page.locator(".epochs a").first.press("Enter")
    page.wait_for_url("**/street/runs/*")
    page.get_by_label("From epoch").fill("0")
    page.get_by_label("From epoch").press("Enter")
    page.wait_for_url("**since=0&until=1#changes")
    assert "1 row came" in page.get_by_role("status").inner_text()


def test_pictures_that_cannot_be_drawn_leave_the_others(
    at: str, visit: Callable[..., Visitor]
) -> None:
    page = visit(at).open("/datasets/street/samples")
    heights = []
    for frame in page.locator(".picture-frame").all():
        image = frame.locator("img")
        frame.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete", arg=image.element_handle())
        assert image.evaluate("image => image.naturalWidth") > 0
        boxes = (frame.locator(each).bounding_box() for each in (".boxes", ".picture-behind"))
        heights.append([box["height"] for box in boxes if box])
    # Nothing is drawn over a picture that is none, and it says so; others hide this.
    assert [behind for boxes, behind in heights if boxes < 1] == [176] * 6
    assert all(boxes >= behind for boxes, behind in heights if boxes >= 1)
    assert len(heights) == 19
    assert page.locator(".picture-problem").count() == 5
