"""The output of commands: datasets, log entries and runs as tables or JSON, and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from registry.catalog.dataset import Dataset
from registry.cli.tables import Column, Listing, plain, print_facts
from registry.errors import RegistryError
from registry.samples.feature_text import _feature
from registry.samples.splits import BUCKETS
from registry.storage.database import retry
from registry.storage.log.batch import Report
from registry.storage.log.entries import Entry
from registry.storage.log.head import Head
from registry.storage.log.version import Version
from registry.training.run import Run
from registry.training.run_store import Pin

INTERRUPTED = 130
"""The exit code of a command ended by Ctrl-C, as in shells: 128 plus SIGINT."""


class Commands(TyperGroup):
    """A group of commands; prints a `RegistryError` as a line on stderr and exits with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _retries_shown():
                return super().invoke(ctx)
        except RegistryError as error:
            fail(str(error), error)
            raise typer.Exit(1) from None
        # Before Click handles it, with its own message.
        except KeyboardInterrupt as error:
            fail("interrupted", error)
            raise typer.Exit(INTERRUPTED) from None


def fail(message: str, error: BaseException | None = None) -> None:
    """Print an error to stderr, with a line for each of its notes."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {plain(message)}", err=True)
    for note in getattr(error, "__notes__", ()):
        typer.echo(f"  {plain(note)}", err=True)


class _Waiting(logging.Handler):
    """Prints to stderr why an operation is retried; only its first retry."""

    def emit(self, record: Any) -> None:
        if record.attempt == 1:
            typer.echo(f"waiting: {plain(str(record.cause))}", err=True)


@contextmanager
def _retries_shown() -> Iterator[None]:
    """Print the retries in the block to stderr, rather than to the handlers of the root logger."""
    handler = _Waiting()
    retry.logger.addHandler(handler)
    retry.logger.propagate = False  # otherwise `serve`, which sets up logging, prints each twice
    try:
        yield
    finally:
        retry.logger.removeHandler(handler)
        retry.logger.propagate = True


def print_datasets(found: Iterable[tuple[Dataset, Head]]) -> None:
    """Print the datasets as a table."""
    listing = Listing(
        Column("name"),
        Column("live", right=True, whole=True),
        Column("positions", right=True, whole=True),
        Column("created", whole=True),
        Column("features"),
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
    """Print the properties of a dataset."""
    print_facts(
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
    """Return the properties of a dataset, for JSON."""
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
    """Prints rows of the log as one table, in several calls."""

    def __init__(self) -> None:
        self._listing = Listing(
            Column("position", right=True, whole=True),
            Column("time (UTC)", whole=True),
            Column("action", whole=True),
            Column("key"),
            Column("source"),
        )

    def __call__(self, entries: list[Entry]) -> None:
        self._listing.print(
            (
                str(entry.position),
                f"{entry.created_at:%Y-%m-%d %H:%M:%S}",
                _action(entry),
                entry.key,
                entry.source or "",
            )
            for entry in entries
        )


def print_json_entries(entries: list[Entry]) -> None:
    """Print a JSON object for each row of the log."""
    for entry in entries:
        typer.echo(json.dumps({**asdict(entry), "created_at": entry.created_at.isoformat()}))


def print_runs(found: Iterable[tuple[Run, Pin | None, int]]) -> None:
    """Print the runs as a table, each with its last epoch and the samples trained on."""
    listing = Listing(
        Column("run"),
        Column("seed", right=True, whole=True),
        Column("split"),
        Column("policy", whole=True),
        Column("epochs", right=True, whole=True),
        Column("watermark", right=True, whole=True),
        Column("samples", right=True, whole=True),
        Column("consumed", right=True, whole=True),
    )
    listing.print(
        (
            run.name,
            str(run.seed),
            run.split or "",
            str(run.policy),
            f"{last.number + 1:,}" if last else "0",
            f"{last.watermark:,}" if last else "",
            f"{last.start + last.size:,}" if last else "0",
            f"{consumed:,}",
        )
        for run, last, consumed in found
    )


def run_summary(run: Run, last: Pin | None, consumed: int) -> dict[str, Any]:
    """Return the properties of a run, for JSON."""
    return {
        "name": run.name,
        "seed": run.seed,
        "split": run.split,
        "policy": str(run.policy),
        "epochs": last.number + 1 if last else 0,
        "watermark": last.watermark if last else None,
        "samples": last.start + last.size if last else 0,
        "consumed": consumed,
    }


def imported(dataset: Dataset, path: Path, report: Report, *, dry_run: bool, as_json: bool) -> str:
    """Return a line on the result of inserting a file, or of its dry run."""
    counts = {
        "inserted": report.inserted,
        "revised": report.revised,
        "unchanged": report.unchanged,
        "retracted": report.retracted,
    }
    version = _version(dataset, report.head)
    if as_json:
        said = {"file": str(path), **counts, "version": version}
        return json.dumps({**said, "dry_run": True} if dry_run else said)
    would = "would be " if dry_run else ""
    counted = ", ".join(
        f"{count:,} {name}" for name, count in counts.items() if count or name != "retracted"
    )
    return f"{plain(str(path))}: {would}{counted}; {version}"


def exported(dataset: Dataset, path: Path, count: int, *, as_json: bool) -> str:
    """Return a line on the result of an export."""
    version = str(dataset.version)
    if as_json:
        return json.dumps({"file": str(path), "samples": count, "version": version})
    return f"{plain(str(path))}: {count:,} samples of {version}"


def _action(entry: Entry) -> str:
    over = "" if entry.supersedes is None else f" {entry.supersedes}"
    return f"{entry.action}s{over}{' (erased)' if entry.erased else ''}"


def _version(dataset: Dataset, head: Head) -> str:
    return str(Version(dataset.name, head.position, head.chain.hex()))


def _shares(dataset: Dataset) -> dict[str, float]:
    """Return the share of each split. It differs from the given one by rounding to buckets."""
    return {n: round((stop - start) / BUCKETS, 4) for n, (start, stop) in dataset.splits.items()}
