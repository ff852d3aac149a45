"""The page that the demo ends with, as a file that needs no server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import registry
from registry import ClassLabel, Tensor
from registry.cli.demo.measurement import Measurement
from registry.cli.demo.report import write_page
from tests.support.visitors import THEMES, WIDTHS, Visitor


def test_the_page_of_the_demo_is_readable_at_every_width_and_in_both_themes(
    sqlite_url: str, tmp_path: Path, visit: Callable[..., Visitor]
) -> None:
    with registry.connect(sqlite_url) as reg:
        digits = reg.create("digits", {"image": Tensor("uint8", (8, 8)), "label": ClassLabel(10)})
        images = np.arange(192, dtype=np.uint8).reshape(3, 8, 8)
        digits.insert({"image": images, "label": [1, 2, 3]}, keys=["a", "b", "c"])
        for key in ("a", "b"):
            digits.update(key, label=0)
        measurements = [Measurement(3, 0, 0.5), Measurement(3, 2, 0.75)]
        write_page(digits, measurements, tmp_path / "index.html")
    for theme, width in zip(THEMES, WIDTHS, strict=True):
        viewport = {"width": width, "height": 900}
        visitor = visit(tmp_path.as_uri(), color_scheme=theme, viewport=viewport)
        page = visitor.open("/index.html")
        assert page.locator(".card").count() == 2
        assert "75" in page.locator(".figures").inner_text()
        visitor.fits()
        visitor.accessible()
