"""Cards are readable in light and dark notebooks, and leave the notebook as it is."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

import registry
from registry import ClassLabel, Tensor, Text

NOTEBOOK = """<!doctype html><meta charset="utf-8"><title>notebook</title>
<style>
td, th {{ text-align: right; color: rgb(200, 0, 0) }} .words {{ color: rgb(0, 0, 200) }}
</style>
<body {attributes}><table><tr><td id="cell">1</td></tr></table><p class="words" id="text">2</p>
{cards}</body>"""
# Each text of a card with the background behind it: the ratio of their luminances.
CONTRASTS = """() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = channels(color).map(c => c / 255)
      .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const results = [];
  for (const element of document.querySelectorAll(".registry-card *")) {
    const text = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!text || element.tagName === "STYLE") continue;
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [luminance(color), luminance(behind(element))].sort((x, y) => x - y);
    results.push([element.textContent.trim().slice(0, 40), (b + 0.05) / (a + 0.05)]);
  }
  return results;
}"""


THEMES = [
    ("", "light", False),
    ("", "dark", True),
    ('data-jp-theme-light="false"', "light", True),
    ('data-jp-theme-light="true"', "dark", False),
    ('class="vscode-dark"', "light", True),
    ('class="vscode-light"', "dark", False),
]
"""Attributes of a notebook's body, the theme of the system, and whether cards are dark."""


@pytest.fixture
def cards(sqlite_url: str) -> str:
    """The cards of a registry and of what is in it."""
    features: dict[str, Any] = {
        "text": Text(),
        "kind": ClassLabel(["cat", "dog"]),
        "image": Tensor("uint8", (4, 4)),
        "wave": Tensor("float32", (64,)),
    }
    with registry.connect(sqlite_url) as reg:
        dataset = reg.create("things", features, splits={"train": 0.5, "test": 0.5})
        wave = [number / 64 for number in range(64)]
        dataset.insert(
            [
                {
                    "text": "<b>one</b>",
                    "kind": number % 2,
                    "image": [[number] * 4] * 4,
                    "wave": wave,
                }
                for number in range(9)
            ]
        )
        run = dataset.run("r")
        shown: list[Any] = [reg, dataset, run.epoch(0), run.epoch(1), run, next(dataset.pages())]
        return "".join(each._repr_html_() for each in shown)


def test_a_card_has_the_theme_of_its_notebook_and_changes_nothing_else(
    browser: Browser, cards: str
) -> None:
    for attributes, system, dark in THEMES:
        with closing(browser.new_context(color_scheme=system)) as context:  # type: ignore[arg-type]
            page = context.new_page()
            _check(page, NOTEBOOK.format(attributes=attributes, cards=cards), dark=dark)


def _check(page: Page, notebook: str, *, dark: bool) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: problems.append(request.url[:80]))
    page.set_content(notebook)
    assert [each for each in problems if not each.startswith("data:")] == []
    card = page.locator(".registry-card").first
    back = card.evaluate("element => getComputedStyle(element).backgroundColor")
    assert back == ("rgb(25, 27, 31)" if dark else "rgb(255, 255, 255)")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [each for each in contrasts if each[1] < 4.5] == []
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    for at, color in (("#cell", "rgb(200, 0, 0)"), ("#text", "rgb(0, 0, 200)")):
        got = page.locator(at).evaluate("element => getComputedStyle(element).color")
        assert got == color
