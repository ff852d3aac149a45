"""``python -m benchmarks``: run the subjects and show a table; exit with 1 if a ratio is missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.chart import draw
from benchmarks.commands import commands
from benchmarks.converting import convert
from benchmarks.counting import counting
from benchmarks.filtering import filter_
from benchmarks.first_batch import first_batch
from benchmarks.followers import followers
from benchmarks.history import history
from benchmarks.importing import import_
from benchmarks.inserting import insert
from benchmarks.map_style import map_style
from benchmarks.measure import Bench, Result
from benchmarks.memory import memory
from benchmarks.mirroring import sync
from benchmarks.numpy_batches import batches
from benchmarks.one_row import insert_one_row
from benchmarks.pages import pages
from benchmarks.quiet import quiet
from benchmarks.reading import flatness, read_images, read_numbers
from benchmarks.server import postgresql
from benchmarks.sizes import sizes
from benchmarks.sqlite import sqlite
from benchmarks.tables import arrow

Subject: TypeAlias = Callable[[Bench], list[Result]]


def imported_late(module: str, name: str) -> Subject:
    """Return a subject that is imported when it is run: TensorFlow takes seconds to load."""

    def subject(bench: Bench) -> list[Result]:
        with quiet():
            run: Subject = getattr(import_module(f"benchmarks.{module}"), name)
        return run(bench)

    return subject


SUBJECTS: dict[str, Subject] = {
    "read": read_numbers,
    "read-images": read_images,
    "insert": insert,
    "insert-one-row": insert_one_row,
    "import": import_,
    "flatness": flatness,
    "arrow": arrow,
    "memory": memory,
    "history": history,
    "sqlite": sqlite,
    "sizes": sizes,
    "sync": sync,
    "filter": filter_,
    "count": counting,
    "commands": commands,
    "convert": convert,
    "train": imported_late("training", "train"),
    "train-texts": imported_late("train_texts", "train_texts"),
    "train-changed": imported_late("changed", "train_changed"),
    "batches": batches,
    "map-style": map_style,
    "first-batch": first_batch,
    "train-photos": imported_late("photos", "train_photos"),
    "train-resized-photos": imported_late("photos", "train_resized_photos"),
    "resume": imported_late("starting", "resume"),
    "latency": imported_late("latency", "latency"),
    "followers": followers,
    "large": imported_late("large", "large"),
    "large-texts": imported_late("large", "large_texts"),
    "scale": imported_late("scale", "scale"),
    "serve": imported_late("serving", "serve"),
    "pages": pages,
}
Name = StrEnum("Name", {name: name for name in SUBJECTS})  # type: ignore[misc]


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Rows of 44 bytes to work on.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one to warm up.")] = 5,
    only: Annotated[list[Name] | None, typer.Option(help="Run this subject; repeatable.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the rates of 'train' here.")] = None,
) -> None:
    """Measure the registry on a temporary PostgreSQL server."""
    names = [chosen.value for chosen in only] if only else list(SUBJECTS)
    if png is not None and "train" not in names:
        raise typer.BadParameter("--png draws the subject 'train', which --only leaves out")
    # A table cut at the 80 columns of a pipe or a log could not be read.
    console = Console(width=max(120, Console().width))
    by_subject: dict[str, list[Result]] = {}
    with postgresql() as server, console.status("") as status:
        for name in names:
            status.update(f"{name}: {rows:,} rows, {rounds} rounds")
            by_subject[name] = SUBJECTS[name](Bench(server, rows, rounds))
    results = list(chain.from_iterable(by_subject.values()))
    console.print(table(results))
    if json_path is not None:
        figures = {"rows": rows, "rounds": rounds, "results": [r.to_json() for r in results]}
        json_path.write_text(json.dumps(figures, indent=2) + "\n")
    if png is not None:
        from benchmarks.training import charted  # noqa: PLC0415  # TensorFlow takes seconds

        draw(charted(by_subject["train"]), rows, png)
    raise typer.Exit(any(result.ok is False for result in results))


def table(results: list[Result]) -> Table:
    """Return the results as a table with a row for each."""
    rows = Table("what", "unit")
    for heading in ("ours", "baseline", "ratio", "by CPU", "required", "ok"):
        rows.add_column(heading, justify="right")
    for result in results:
        rows.add_row(
            result.what,
            result.unit,
            number(result.ours),
            number(result.baseline),
            ratio(result.ratio),
            ratio(result.cpu_ratio),
            required(result),
            {True: "yes", False: "[red]NO[/red]", None: ""}[result.ok],
        )
    return rows


def number(value: float | None) -> str:
    """Return a figure with the digits that matter."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    """Return a ratio, or nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


def required(result: Result) -> str:
    """Return the requirement on the ratio, or on our figure if there is no baseline."""
    if result.at_least is not None:
        return f"≥ {result.at_least:g}"
    return "" if result.at_most is None else f"≤ {result.at_most:g}"


if __name__ == "__main__":
    typer.run(main)
