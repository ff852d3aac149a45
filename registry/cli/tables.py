"""Tables and name-value lists, on a terminal or in a pipe, without truncated values.

Names, keys and sources come from users: Rich never parses them as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from registry.cli.output import printable

_UNLIMITED = 1 << 20
"""Width of an output that is not a terminal, where folded lines would break programs."""
_WIDE = 80
"""Width of a terminal from which columns may refuse to be narrowed."""
_MOST_KEPT = 24
"""Width that the next part of a table keeps from the previous part, at most."""


@dataclass(frozen=True)
class Column:
    """A column of a table; values of a ``whole`` column are not folded."""

    name: str
    right: bool = False
    whole: bool = False


class Listing:
    """A table that may be printed in several parts; the header is printed with the first."""

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._has_header = False

    def print(self, rows: Iterable[Iterable[str]]) -> None:
        console = _stdout()
        cells = [[printable(cell) for cell in row] for row in rows]
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=not self._has_header
        )
        # Rich truncates a column that may not fold if the table is too wide. So columns keep their
        # width only on a wide terminal.
        is_wide = console.width >= _WIDE
        for index, column in enumerate(self._columns):
            table.add_column(
                column.name,
                justify="right" if column.right else "left",
                min_width=self._widths[index] if is_wide else None,
                no_wrap=column.whole and is_wide,
                overflow="fold",
            )
        for row in cells:
            table.add_row(*row)
        console.print(table)
        self._has_header = True
        self._keep_widths(cells)

    def _keep_widths(self, cells: list[list[str]]) -> None:
        """Align the columns of the next part, except the last, with those of this part."""
        for index, column in enumerate(self._columns[:-1]):
            longest = max([len(column.name), *(cell_len(row[index]) for row in cells)])
            self._widths[index] = max(self._widths[index], min(longest, _MOST_KEPT))


def print_properties(properties: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns; a name equal to the one before is left blank."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    previous = ""
    for name, value in properties:
        table.add_row("" if name == previous else name, printable(value))
        previous = name
    _stdout().print(table)


def _stdout() -> Console:
    # Made for each output: sys.stdout is another object after a redirection, as in tests.
    width = None if sys.stdout.isatty() else _UNLIMITED
    return Console(width=width, markup=False, highlight=False, emoji=False)
