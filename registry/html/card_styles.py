"""The styles of cards: those of pages, within the element of a card.

A notebook is light or dark by its own setting, or by that of the system. Styles that a page has for
a dark system are therefore needed twice, each with other conditions. All selectors begin with the
card's, twice its class: notebooks style what they show, too, and a card must not style them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from registry.html.assets import asset_text

_CARD = ".registry-card.registry-card"
_FILES = ("samples.css", "charts.css", "card.css")
_DARK_SYSTEM = "@media (prefers-color-scheme: dark)"
# JupyterLab, VS Code, Colab, and themes of Sphinx and of others.
_DARK = (
    ':is([data-jp-theme-light="false"], .vscode-dark, [theme="dark"], [data-theme="dark"], '
    '[data-bs-theme="dark"])'
)
_LIGHT = (
    ':is([data-jp-theme-light="true"], .vscode-light, [theme="light"], [data-theme="light"], '
    '[data-bs-theme="light"])'
)
_BLOCK = re.compile(r"([^{}]+)\{((?:[^{}]|\{[^{}]*\})*)\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@cache
def card_styles() -> str:
    """Return the style sheet of cards."""
    css = _COMMENT.sub("", "\n".join(map(asset_text, _FILES)))
    return "\n".join(_scoped(css))


def _scoped(css: str) -> Iterator[str]:
    for selectors, body in _blocks(css):
        if selectors == _DARK_SYSTEM:
            rules = list(_blocks(body))
            for inner, declarations in rules:
                yield f"{_within(inner, f'{_DARK} {_CARD}')}{{{declarations}}}"
            unless = [
                f"{_within(inner, f'{_CARD}:not({_LIGHT} *, {_DARK} *)')}{{{declarations}}}"
                for inner, declarations in rules
            ]
            yield f"{_DARK_SYSTEM}{{{''.join(unless)}}}"
        else:
            yield f"{_within(selectors, _CARD)}{{{body}}}"


def _blocks(css: str) -> Iterator[tuple[str, str]]:
    for block in _BLOCK.finditer(css):
        yield block[1].strip(), " ".join(block[2].split())


def _within(selectors: str, card: str) -> str:
    return ",".join(_prefixed(each.strip(), card) for each in selectors.split(","))


def _prefixed(selector: str, card: str) -> str:
    """Return a selector within a card, which is the root of its styles."""
    first, _, rest = selector.partition(" ")
    if first.startswith((":root", ".registry")):
        return f"{card} {rest}".strip()
    return f"{card} {selector}"
