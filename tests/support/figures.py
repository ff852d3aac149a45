"""How often a fault is injected, and its figures, which are printed when the tests have ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Figure = Callable[[str, str], None]


def rounds(few: int, full: int) -> pytest.MarkDecorator:
    """Run a test with ``few`` rounds, and under ``-m slow`` with the ``full`` number."""
    values = [few, pytest.param(full, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("rounds", values)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Note the figure of a fault: ``figure("writer killed, 50 times", "1 copy of each")``."""
    return lambda fault, value: record_property(f"fault: {fault}", value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for each in terminalreporter.stats.values() for report in each]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    figures = {
        name.removeprefix("fault: "): value
        for name, value in properties
        if name.startswith("fault: ")
    }
    if figures:
        terminalreporter.section("faults")
        width = max(map(len, figures))
        for fault, value in sorted(figures.items()):
            terminalreporter.write_line(f"{fault:<{width}}  {value}")
