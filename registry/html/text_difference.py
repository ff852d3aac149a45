"""Differences between two texts, by words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

_MOST_WORDS = 2000
"""Words that are compared: the time grows with the square of their number."""


@dataclass(frozen=True)
class Part:
    """A part of a text; one that was removed is of the older text."""

    text: str
    change: Literal["", "added", "removed"] = ""


def text_difference(older: str, newer: str) -> list[Part]:
    """Return the newer text in parts, with what was removed from the older one in between."""
    return list(_parts(_words(older), _words(newer)))


def _parts(older: list[str], newer: list[str]) -> Iterator[Part]:
    if max(len(older), len(newer)) > _MOST_WORDS:
        yield Part("".join(newer), "added")
        return
    matcher = SequenceMatcher(None, older, newer, autojunk=False)
    for operation, low, high, start, stop in matcher.get_opcodes():
        if operation == "equal":
            yield Part("".join(newer[start:stop]))
            continue
        if high > low:
            yield Part("".join(older[low:high]), "removed")
        if stop > start:
            yield Part("".join(newer[start:stop]), "added")


def _words(text: str) -> list[str]:
    # Words with the space after them. Without spaces, as in Chinese, each character is a word.
    return re.findall(r"[\u3040-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|\w+\s*|\W+?\s*", text)
