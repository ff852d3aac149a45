"""Progress bars on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from registry.cli.output import printable


@contextmanager
def progress(name: str, total: int | None) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function that shows the numbers of rows and bytes done, of ``total`` bytes if known.

    Yields None, and shows nothing, if stderr is not a terminal.
    """
    # stderr, as below: stdout may be read by a program.
    if not sys.stderr.isatty():
        yield None
        return
    started = time.monotonic()
    columns = (
        # Without markup: the name of a file or a dataset may have brackets.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(printable(name), total=total, rows=0, rate=0.0)

    def show(rows: int, size: int) -> None:
        # Not before: the bar would overwrite a question that is asked before the first rows.
        bar.start()
        rate = rows / (time.monotonic() - started)
        bar.update(task, completed=size, rows=rows, rate=rate)

    try:
        yield show
    finally:
        bar.stop()
