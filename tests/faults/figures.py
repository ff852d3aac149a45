"""How often a fault is tried, and what was found, which is printed when the tests have ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Figure = Callable[[str, str], None]
_found: dict[str, str] = {}


def rounds(few: int, full: int) -> pytest.MarkDecorator:
    """Run a test with ``rounds`` of few, and with ``-m slow`` of all that is promised."""
    values = [few, pytest.param(full, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("rounds", values)


@pytest.fixture
def figure() -> Figure:
    """Note what was found of a fault: ``figure("writer killed, 50 times", "1 copy of each")``."""
    return _found.__setitem__


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _found:
        terminalreporter.section("faults")
        width = max(map(len, _found))
        for fault, found in sorted(_found.items()):
            terminalreporter.write_line(f"{fault:<{width}}  {found}")
