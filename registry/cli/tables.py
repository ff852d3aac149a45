"""Tables and facts on a terminal or in a pipe, with none of the data lost.

Names, keys and sources come from users. They are never read as Rich's markup, and characters that
a terminal would act on are shown as escapes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

_ENDLESS = 1 << 20
"""Columns of an output that is no terminal: lines are not folded for a reader with a program."""
_ROOMY = 80
_KEPT = 24


def plain(text: str) -> str:
    """Return text of one line with nothing in it that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Column:
    """A table's column; the values of a whole one stay on one line."""

    name: str
    right: bool = False
    whole: bool = False


class Listing:
    """A table that may be printed in several parts, its header with the first."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._begun = False

    def print(self, rows: Iterable[Iterable[str]]) -> None:
        console = _stdout()
        cells = [[plain(cell) for cell in row] for row in rows]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=not self._begun)
        # Rich cuts off what has no room: only where there is enough may columns insist on theirs.
        roomy = console.width >= _ROOMY
        for place, column in enumerate(self._columns):
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                min_width=self._widths[place] if roomy else None,
                no_wrap=column.whole and roomy,
                overflow="fold",
            )
        for row in cells:
            table.add_row(*row)
        console.print(table)
        self._begun = True
        self._keep_widths(cells)

    def _keep_widths(self, cells: list[list[str]]) -> None:
        """Let the next part's columns, but for the last, stand under this part's."""
        for place, column in enumerate(self._columns[:-1]):
            longest = max([len(column.name), *(cell_len(row[place]) for row in cells)])
            self._widths[place] = max(self._widths[place], min(longest, _KEPT))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and what they stand for; one that comes again in a row is not repeated."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for name, value in facts:
        table.add_row("" if name == before else name, plain(value))
        before = name
    _stdout().print(table)


def _stdout() -> Console:
    width = None if sys.stdout.isatty() else _ENDLESS
    return Console(width=width, markup=False, highlight=False, emoji=False)
