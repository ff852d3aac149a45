"""What commands print: tables, JSON, one-line errors and progress, with none of the data lost.

Names, keys and sources come from users. They are never read as Rich's markup, and characters that
a terminal would act on are shown as escapes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from registry.append import Report
from registry.dataset import Dataset
from registry.errors import RegistryError
from registry.features import Bytes, ClassLabel, Feature, Image, Ragged, Tensor, Text
from registry.heads import Head
from registry.revisions import Entry
from registry.splits import BUCKETS
from registry.versions import Version

_ENDLESS = 1 << 20
"""Columns of an output that is no terminal: lines are not folded for a reader with a program."""
_ROOMY = 80
_KEPT = 24
INTERRUPTED = 130
"""The exit code that shells give to a command ended by Ctrl-C."""


class Commands(TyperGroup):
    """Commands whose `RegistryError` is a line on stderr and exit code 1, not a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RegistryError as error:
            fail(str(error), error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            fail("interrupted", error)
            raise typer.Exit(INTERRUPTED) from None


def fail(message: str, error: BaseException | None = None) -> None:
    """Print an error, and a line for each of its notes, to stderr."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {plain(message)}", err=True)
    for note in getattr(error, "__notes__", ()):
        typer.echo(f"  {plain(note)}", err=True)


def plain(text: str) -> str:
    """Return text of one line with nothing in it that a terminal would act on."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int, int], None] | None]:
    """Lend a function that shows how many rows and bytes are done; ``total`` is in bytes.

    There is none, and nothing is shown, where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    began = time.monotonic()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plain(name), total=total, rows=0, rate=0.0)

        def show(rows: int, size: int) -> None:
            rate = rows / (time.monotonic() - began)
            bar.update(task, completed=size, rows=rows, rate=rate)

        yield show


def print_datasets(found: Iterable[tuple[Dataset, Head]]) -> None:
    """Print a line for each dataset."""
    listing = _Listing(
        _Column("name"),
        _Column("live", right=True, whole=True),
        _Column("positions", right=True, whole=True),
        _Column("created", whole=True),
        _Column("features"),
    )
    listing.print(
        (
            dataset.name,
            f"{head.live:,}",
            f"{head.position:,}",
            f"{dataset.created_at:%Y-%m-%d}",
            " ".join(f"{n}={_feature(f, brief=True)}" for n, f in dataset.features.items()),
        )
        for dataset, head in found
    )


def print_dataset(dataset: Dataset, head: Head) -> None:
    """Print all there is to say about a dataset."""
    _print_facts(
        [
            ("name", dataset.name),
            *(("description", line) for line in dataset.description.splitlines()),
            *(("features", f"{n}={_feature(f)}") for n, f in dataset.features.items()),
            *(("splits", f"{n}={share:g}") for n, share in _shares(dataset).items()),
            ("live", f"{head.live:,} samples"),
            ("positions", f"{head.position:,} rows in the log"),
            ("version", _version(dataset, head)),
            ("created", f"{dataset.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ]
    )


def summary(dataset: Dataset, head: Head) -> dict[str, Any]:
    """Return all there is to say about a dataset, for JSON."""
    return {
        "name": dataset.name,
        "description": dataset.description,
        "features": dataset.features.to_json(),
        "splits": _shares(dataset),
        "live": head.live,
        "positions": head.position,
        "version": _version(dataset, head),
        "created_at": dataset.created_at.isoformat(),
    }


class EntryTable:
    """Prints rows of the log as a table that goes on."""

    def __init__(self) -> None:
        self._listing = _Listing(
            _Column("position", right=True, whole=True),
            _Column("time (UTC)", whole=True),
            _Column("action", whole=True),
            _Column("key"),
            _Column("source"),
        )

    def __call__(self, entries: list[Entry]) -> None:
        self._listing.print(
            (
                str(entry.position),
                f"{entry.created_at:%Y-%m-%d %H:%M:%S}",
                f"{entry.action}s{'' if entry.supersedes is None else f' {entry.supersedes}'}",
                entry.key,
                entry.source or "",
            )
            for entry in entries
        )


def print_json_entries(entries: list[Entry]) -> None:
    """Print a JSON object for each row of the log."""
    for entry in entries:
        typer.echo(json.dumps({**asdict(entry), "created_at": entry.created_at.isoformat()}))


def imported(dataset: Dataset, path: Path, report: Report, *, as_json: bool) -> str:
    """Return a line on what inserting a file did."""
    counts = {
        "inserted": report.inserted,
        "revised": report.revised,
        "unchanged": report.unchanged,
    }
    version = _version(dataset, report.head)
    if as_json:
        return json.dumps({"file": str(path), **counts, "version": version})
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{plain(str(path))}: {said}; {version}"


@dataclass(frozen=True)
class _Column:
    """A table's column; the values of a whole one stay on one line."""

    name: str
    right: bool = False
    whole: bool = False


class _Listing:
    """A table that may be printed in several parts, its header with the first."""

    def __init__(self, *columns: _Column) -> None:
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


def _print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and what they stand for; one that comes again in a row is not repeated."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for name, value in facts:
        table.add_row("" if name == before else name, plain(value))
        before = name
    _stdout().print(table)


def _feature(feature: Feature, *, brief: bool = False) -> str:
    """Return a feature in the form that ``--feature`` takes; if brief, classes as their count."""
    match feature:
        case Tensor(dtype, shape):
            return f"{dtype}[{','.join(map(str, shape))}]" if shape else dtype
        case ClassLabel(count=count, names=names):
            return f"class:{count if brief or names is None else ','.join(names)}"
        case Image(encoding):
            return f"image:{encoding}"
        case Ragged(dtype):
            return f"ragged:{dtype}"
        case Text():
            return "text"
        case Bytes():
            return "bytes"


def _version(dataset: Dataset, head: Head) -> str:
    return str(Version(dataset.name, head.position, head.chain.hex()))


def _shares(dataset: Dataset) -> dict[str, float]:
    """Return each split's share as it was given, but for the rounding to whole buckets."""
    return {n: round((stop - start) / BUCKETS, 4) for n, (start, stop) in dataset.splits.items()}


def _stdout() -> Console:
    width = None if sys.stdout.isatty() else _ENDLESS
    return Console(width=width, markup=False, highlight=False, emoji=False)
