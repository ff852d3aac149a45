"""Docstrings as Markdown."""

from __future__ import annotations

import re


def markdown(text: str) -> str:
    """Return a docstring as Markdown: names in single backticks are code in both."""
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)


def one_line(text: str) -> str:
    return " ".join(markdown(text).split())


def in_cell(text: str) -> str:
    return text.replace("|", "\\|")
