"""Take the picture of the demo in ``docs/pictures``: ``python -m tests.support.demo_picture``.

It runs ``registry demo``, and shows the top of the page that this writes: the accuracy, and the
samples that the model was trained on.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image as Pillow
from playwright.sync_api import sync_playwright

from tests.support.pictures import FOLDER, save

WIDTH = 1100
"""Pixels of the page. Where it is narrower, the charts can be scrolled, and are cut off."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        subprocess.run([sys.executable, "-m", "registry", "demo"], cwd=folder, check=True)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 900}, color_scheme="light", device_scale_factor=1.5
        )
        page.goto((Path(folder) / "registry-demo" / "index.html").as_uri())
        below = page.locator("#corrections").bounding_box()
        assert below is not None
        clip = {"x": 0.0, "y": 0.0, "width": float(WIDTH), "height": below["y"] - 10}
        file = page.screenshot(clip=clip, full_page=True)  # type: ignore[arg-type]
        browser.close()
    save(Pillow.open(io.BytesIO(file)).convert("RGB"), FOLDER / "demo.webp")


if __name__ == "__main__":
    main()
