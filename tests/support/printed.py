"""Comparing what was printed with what a page shows of it."""

from __future__ import annotations

import re

import pytest

MEANT = {
    "anything": r"[\s\S]*?",
    "time": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    "chain": r":[0-9a-f]{32}",
    "seconds": r"\b\d+m?s\b",
    "fraction": r"(\b\d\.\d{4}\b)",
}
VARYING = re.compile(
    "|".join(f"(?P<{kind}>{meant})" for kind, meant in {**MEANT, "anything": r"\n? *…"}.items())
)
"""What differs each time that it is printed."""


def assert_printed(expected: str, printed: str) -> None:
    """Check that a text was printed, in which "…" is anything.

    Times and chain values differ each time. Fractions of four digits are those of a training, which
    another processor rounds otherwise.
    """
    pattern, end = "", 0
    for part in VARYING.finditer(expected.strip("\n")):
        pattern += re.escape(expected[end : part.start()]) + MEANT[part.lastgroup or ""]
        end = part.end()
    pattern += re.escape(expected[end:].strip("\n"))
    match = re.search(pattern, "\n".join(line.rstrip() for line in printed.splitlines()))
    assert match, f"not printed:\n{expected}\nbut:\n{printed}"
    fractions = [each[0] for each in re.finditer(MEANT["fraction"], expected)]
    assert [*map(float, match.groups())] == pytest.approx([*map(float, fractions)], abs=0.1)
