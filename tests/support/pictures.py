"""Take the pictures of pages in ``docs/pictures``: ``python -m tests.support.pictures``.

The data is scikit-learn's handwritten digits, as if three people and a tool had labeled them in six
weeks. Each picture shows a page on a screen and on a phone, one of the two in the dark; with
``--parts FOLDER`` each is also kept as a PNG file in both themes and widths, to be examined.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from playwright.sync_api import Browser, sync_playwright
from sklearn.datasets import load_digits

import registry
from registry import ClassLabel, Image, Ragged, Registry, Tensor
from registry.server.settings import ServerSettings
from tests.support.page_clients import reject
from tests.support.servers import serving
from tests.support.visitors import THEMES, WIDTHS

FOLDER: Final = Path(__file__).parent.parent.parent / "docs" / "pictures"
PAGES: Final = {
    "datasets": ("/", 560),
    "data": ("/datasets/digits", 1500),
    "samples": ("/datasets/forms/samples", 1100),
    "sample": ("/datasets/digits/samples/scan-0042", 760),
    "run": ("/datasets/digits/runs/cnn-1?since=3&until=4", 1500),
    "rejected": ("/datasets/digits/rejected", 640),
}
"""The path of each page, and how many pixels of its height are shown."""
DAYS: Final = 42
NAMES: Final = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LABELERS: Final = ("alice", "bob", "chen", "label-studio/3")
MOST_BYTES: Final = 60_000
_WIDTHS: Final = (1020, 276)
"""Pixels that the page on a screen and on a phone have in a picture."""
_GAP: Final = 24

Pixels = npt.NDArray[np.uint8]


def fill(reg: Registry) -> None:
    """Create two datasets, of digits and of forms on which they are written."""
    data = load_digits()
    images, targets = data.images.astype(np.uint8), data.target
    _digits(reg, images, targets)
    _forms(reg, images, targets)


def _digits(reg: Registry, images: Pixels, targets: npt.NDArray[Any]) -> None:
    numbers = np.random.default_rng(3)
    digits = reg.create(
        "digits",
        {"image": Tensor("uint8", (8, 8)), "label": ClassLabel(NAMES)},
        splits={"train": 0.8, "test": 0.2},
        description="Handwritten digits, labeled by three people and a tool.",
    )
    runs = [digits.run("cnn-1", seed=7, split="train"), digits.run("cnn-2", seed=8, split="train")]
    wrong = np.where(numbers.random(len(targets)) < 0.06, (targets + 1) % 10, targets)
    scanned = images[42].copy()
    scanned[:, 0] = 12
    revisions: dict[int, dict[str, Any]] = {
        12: {"label": "seven", "source": "bob"},
        22: {"image": scanned, "source": "label-studio/3"},
        32: {"image": images[42], "label": int(targets[42]), "source": "alice"},
    }
    parts = np.array_split(np.arange(len(images)), 45)
    for turn, part in enumerate(parts):
        keys = [f"scan-{number:04d}" for number in part]
        source = LABELERS[int(numbers.choice(4, p=[0.35, 0.3, 0.2, 0.15]))]
        digits.insert({"image": images[part], "label": wrong[part]}, keys=keys, source=source)
        # From the fourth day on, somebody looks through older labels.
        for number in np.flatnonzero(wrong[: part[0]] != targets[: part[0]])[:4].tolist():
            digits.update(f"scan-{number:04d}", label=int(targets[number]), source="alice")
            wrong[number] = targets[number]
        if turn in revisions:
            digits.update("scan-0042", **revisions[turn])
        if turn % 5 == 4:
            runs[0].epoch(turn // 5)
        if turn == 29:
            digits.tag("gold", note="the version of the paper")
        if turn > 34 and turn % 5 == 4:
            runs[1].epoch((turn - 35) // 5)
    runs[0].advance(sum(runs[0].epoch(number).size for number in range(8)) + 700)
    reject(digits, "scan-1797", "scan-1798", source="label-studio/3", image=[[0]], label="six")
    reject(digits, "scan-1799", source="bob", image=images[0].tolist(), label="ten")
    reject(digits, "scan-1800", source="chen", label="two")


def _forms(reg: Registry, images: Pixels, targets: npt.NDArray[Any]) -> None:
    forms = reg.create(
        "forms",
        {
            "image": Image(),
            "boxes": Ragged("float32", (4,)),
            "labels": Ragged("int32"),
            "label": ClassLabel(NAMES),
        },
        splits={"train": 0.7, "val": 0.2, "test": 0.1},
        description="Lines of forms, with a box around each digit.",
    )
    numbers = np.random.default_rng(5)
    samples = []
    for _ in range(72):
        shown = numbers.choice(len(images), int(numbers.integers(2, 4)), replace=False)
        file, boxes = _form(images[shown], numbers)
        labels = targets[shown].astype(np.int32)
        samples.append({"image": file, "boxes": boxes, "labels": labels, "label": int(labels[0])})
    for start, source in ((0, "cvat"), (24, "alice"), (48, "cvat")):
        keys = [f"form-{start + number:03d}.jpg" for number in range(24)]
        forms.insert(samples[start : start + 24], keys=keys, source=source)


def _form(images: Pixels, numbers: np.random.Generator) -> tuple[bytes, npt.NDArray[np.float32]]:
    """Return a JPEG file of a line with digits, and their boxes relative to its size."""
    width, height = 360, 220
    size = np.array([width, height, width, height])
    shade = np.linspace(247, 232, width) + numbers.normal(0, 2.5, (height, width))
    paper = np.repeat(shade[:, :, None], 3, 2) - (0, 3, 12)
    paper[[48, 49, 178, 179]] -= 34
    boxes = []
    cell = (width - 20) // len(images)
    for number, digit in enumerate(images):
        side = int(numbers.integers(92, 112))
        ink = Pillow.fromarray((digit * 15).astype(np.uint8)).resize((side, side), 3)
        left = 10 + number * cell + int(numbers.integers(0, cell - side + 1))
        top = int(numbers.integers(56, 74))
        strokes = np.asarray(ink, np.float64)[:, :, None] / 255
        paper[top : top + side, left : left + side] *= 1 - 0.85 * strokes * (1, 0.9, 0.7)
        rows, columns = (np.flatnonzero((strokes[..., 0] > 0.25).any(axis)) for axis in (1, 0))
        box = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        boxes.append(box / size)
    file = io.BytesIO()
    Pillow.fromarray(paper.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue(), np.array(boxes, np.float32)


def spread(reg: Registry) -> None:
    """Give rows and epochs the times that they would have if they had come within `DAYS` days."""
    with reg.engine.begin() as connection:
        run = connection.exec_driver_sql
        run("DROP TRIGGER samples_never_change")
        for dataset in reg.datasets():
            end = dataset.head.position
            for position in range(end):
                run(
                    "UPDATE samples SET created_at = ? WHERE dataset_id = ? AND position = ?",
                    (_time(position / end), dataset.id, position),
                )
            for pinned in [each for named in dataset.runs() for each in named.epochs(99)]:
                run(
                    "UPDATE epochs SET pinned_at = ? WHERE watermark = ? AND run_id IN "
                    "(SELECT id FROM runs WHERE dataset_id = ?)",
                    (_time(pinned.pin.watermark / end), pinned.pin.watermark, dataset.id),
                )
            created = (_time(0), dataset.id)
            run("UPDATE runs SET created_at = ? WHERE dataset_id = ?", created)
            run("UPDATE datasets SET created_at = ? WHERE id = ?", created)
            run("UPDATE tags SET created_at = ? WHERE dataset_id = ?", (_time(0.66), dataset.id))


def _time(share: float) -> str:
    """Return when this share of the rows had come: fewer on the days of weekends."""
    today = datetime.now(UTC)
    days = [today - timedelta(days=DAYS - number) for number in range(1, DAYS + 1)]
    amounts = np.random.default_rng(1).uniform(0.5, 1.5, DAYS)
    amounts *= [0.1 if day.weekday() > 4 else 1 for day in days]
    reached = np.concatenate([[0], np.cumsum(amounts) / amounts.sum()])
    day = float(np.interp(share, reached, np.arange(DAYS + 1)))
    moment = today - timedelta(days=DAYS - day + 0.03)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def shots(browser: Browser, at: str) -> Iterator[tuple[str, str, int, Pillow.Image]]:
    """Yield the name of each page, a theme, a width, and how the page looks there."""
    for theme in THEMES:
        for width in WIDTHS:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=theme,  # type: ignore[arg-type]
                device_scale_factor=1 if width > 1000 else 1.5,
            )
            page = context.new_page()
            for name, (path, _) in PAGES.items():
                page.goto(at + path, wait_until="networkidle")
                for image in page.locator("img[loading=lazy]").all()[:12]:
                    image.scroll_into_view_if_needed()
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(300)
                file = page.screenshot(full_page=True)
                yield name, theme, width, Pillow.open(io.BytesIO(file)).convert("RGB")
            context.close()


def joined(wide: Pillow.Image, narrow: Pillow.Image, height: int) -> Pillow.Image:
    """Return the two pictures of a page next to each other, from the top."""
    pictures = []
    for each, width in zip((wide, narrow), _WIDTHS, strict=True):
        scaled = each.resize((width, round(each.height * width / each.width)), 1)
        pictures.append(scaled)
    height = min(round(height * _WIDTHS[0] / WIDTHS[1]), max(each.height for each in pictures))
    sheet = Pillow.new("RGB", (sum(_WIDTHS) + _GAP, height), "white")
    sheet.paste(pictures[0].crop((0, 0, _WIDTHS[0], min(height, pictures[0].height))))
    narrow_part = pictures[1].crop((0, 0, _WIDTHS[1], min(height, pictures[1].height)))
    sheet.paste(narrow_part, (_WIDTHS[0] + _GAP, 0))
    return sheet


def save(picture: Pillow.Image, path: Path) -> None:
    """Write a WebP file of at most `MOST_BYTES`."""
    for quality in range(85, 20, -5):
        picture.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise ValueError(f"{path} has {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path)
    parts: Path | None = parser.parse_args().parts
    chromium = shutil.which("chromium")
    taken: dict[tuple[str, str, int], Pillow.Image] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REGISTRY_CACHE"] = f"{folder}/cache"
        with registry.connect(f"sqlite:///{folder}/registry.db") as reg:
            fill(reg)
            spread(reg)
            options = ["--no-sandbox", "--font-render-hinting=none"]
            with serving(reg, ServerSettings(insecure=True)) as at, sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=options)
                for name, theme, width, picture in shots(browser, at):
                    taken[name, theme, width] = picture
                    if parts is not None:
                        parts.mkdir(parents=True, exist_ok=True)
                        picture.save(parts / f"{name}-{theme}-{width}.png")
                browser.close()
    for name, (_, height) in PAGES.items():
        for wide, narrow in (THEMES, THEMES[::-1]):
            sheet = joined(taken[name, wide, WIDTHS[1]], taken[name, narrow, WIDTHS[0]], height)
            save(sheet, FOLDER / f"{name}-{wide}.webp")


if __name__ == "__main__":
    main()
