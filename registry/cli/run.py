"""``registry run``: create, list, show and remove the training runs of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from registry.catalog.registry import connect
from registry.cli.base import AsJson, DatasetName, Name, Url, Yes, app
from registry.cli.confirm import confirm
from registry.cli.output import counted, printable
from registry.cli.tables import Column, Listing, print_properties
from registry.cli.where import parse_where
from registry.training.pin_store import Pin, PinnedEpoch
from registry.training.policy import Policy, Replay, parse_policy
from registry.training.run import Run

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]

run: typer.Typer = typer.Typer(
    no_args_is_help=True, help="Create, list, show and remove training runs."
)
app.add_typer(run, name="run")


@run.command()
def create(
    dataset: Name,
    name: Annotated[str, typer.Argument(metavar="RUN", help="The new run's name.")],
    seed: Annotated[int | None, typer.Option(min=0, help="The seed; 0 if not given.")] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="A split; all samples if not given.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="all, new, or replay:0.5, which adds one older sample for two new ones; all if "
            "not given.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Samples with one of these values of a feature: label=cat,lynx; or with a number "
            "in an interval, without its end: score=0.5.. or age=18..65; or from a source: "
            "source=team-a. Repeat: all conditions must hold.",
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Create a training run; nothing changes if it exists with these settings."""
    chosen = None if policy is None else _parse_policy(policy)
    with connect(url) as registry:
        opened = registry.open(dataset)
        conditions = None if where is None else parse_where(where, opened.features)
        exists = any(run.name == name for run in opened.runs())
        made = opened.run(name, seed=seed, split=split, policy=chosen, where=conditions)
    done = "exists already" if exists else "created"
    held = f", where {printable(str(made.conditions))}" if made.conditions else ""
    at = f", on {made.version}" if made.version else ""
    typer.echo(
        f"{done}: run {printable(made.name)} of {opened.name}, seed {made.seed}, policy "
        f"{made.policy}, split {printable(made.split or '(all samples)')}{held}{at}"
    )


def _parse_policy(text: str) -> Policy:
    kind, colon, ratio = text.partition(":")
    if text in ("all", "new"):
        return parse_policy(text)
    try:
        if kind == "replay" and colon:
            return Replay(float(ratio))
    except ValueError:
        pass
    raise typer.BadParameter(
        f"{text!r:.200} is no policy; write all, new or replay:0.5", param_hint="--policy"
    )


@run.command(name="ls")
def list_runs(dataset: DatasetName, as_json: AsJson = False, url: Url = None) -> None:
    """List a dataset's training runs and their progress."""
    with connect(url) as registry:
        # Within the block: both properties of a run query the database.
        progress = [(run, run.last, run.consumed) for run in registry.open(dataset).runs()]
    if as_json:
        typer.echo(json.dumps([_run_json(*columns) for columns in progress], indent=2))
        return
    _print(progress)


def _print(progress: Iterable[tuple[Run, Pin | None, int]]) -> None:
    """Print the runs, each with its last epoch and the samples consumed."""
    listing = Listing(
        Column("run"),
        Column("seed", right=True, whole=True),
        Column("split"),
        Column("policy", whole=True),
        Column("where"),
        Column("epochs", right=True, whole=True),
        Column("watermark", right=True, whole=True),
        Column("samples", right=True, whole=True),
        Column("consumed", right=True, whole=True),
        Column("version"),
    )
    listing.print(
        (
            run.name,
            str(run.seed),
            run.split or "",
            str(run.policy),
            str(run.conditions),
            f"{last.number + 1:,}" if last else "0",
            f"{last.watermark:,}" if last else "",
            f"{last.end:,}" if last else "0",
            f"{consumed:,}",
            str(run.version or ""),
        )
        for run, last, consumed in progress
    )


@run.command()
def show(
    dataset: DatasetName,
    name: RunName,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="The number of epochs, the last ones.")
    ] = 20,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show a run's settings, its progress and its last epochs."""
    with connect(url) as registry:
        run = registry.open(dataset).find_run(name)
        last, consumed, epochs = run.last, run.consumed, run.epochs(limit)
    if as_json:
        shown = {
            **_run_json(run, last, consumed),
            "created_at": run.created_at.isoformat(),
            "last_epochs": [_epoch_json(epoch) for epoch in epochs],
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    count, end = (last.number + 1, last.end) if last else (0, 0)
    print_properties(
        [
            ("run", run.name),
            ("seed", str(run.seed)),
            ("split", run.split or "(all samples)"),
            ("policy", str(run.policy)),
            ("where", str(run.conditions) or "(all samples)"),
            *([("version", str(run.version))] if run.version else []),
            ("created", f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC"),
            ("epochs", f"{count:,}, of {counted(end, 'sample')}"),
            ("consumed", counted(consumed, "sample")),
        ]
    )
    if epochs:
        typer.echo()
        _print_epochs(epochs)


def _print_epochs(epochs: Iterable[PinnedEpoch]) -> None:
    listing = Listing(
        Column("epoch", right=True, whole=True),
        Column("pinned (UTC)", whole=True),
        Column("watermark", right=True, whole=True),
        Column("samples", right=True, whole=True),
        Column("first", right=True, whole=True),
    )
    listing.print(
        (
            str(epoch.pin.number),
            f"{epoch.pinned_at:%Y-%m-%d %H:%M:%S}",
            f"{epoch.pin.watermark:,}",
            f"{epoch.pin.size:,}",
            f"{epoch.pin.start:,}",
        )
        for epoch in epochs
    )


@run.command()
def rm(dataset: DatasetName, name: RunName, yes: Yes = False, url: Url = None) -> None:
    """Remove a run with its epochs, permanently.

    The epochs cannot be replayed afterwards. The samples stay, and another run
    may have the name.
    """
    with connect(url) as registry:
        opened = registry.open(dataset)
        run = opened.find_run(name)
        last, consumed = run.last, run.consumed
        count, end = (last.number + 1, last.end) if last else (0, 0)
        samples = f"{counted(end, 'sample')}, {consumed:,} of them consumed"
        size = f"{counted(count, 'epoch')} of {samples}"
        confirm(f"Remove run {name!r} of {opened.name} ({size}), permanently?", yes=yes)
        opened.remove_run(name)
    typer.echo(f"removed {printable(name)}: {size}")


def _run_json(run: Run, last: Pin | None, consumed: int) -> dict[str, Any]:
    return {
        "name": run.name,
        "seed": run.seed,
        "split": run.split,
        "policy": str(run.policy),
        "where": run.conditions.to_json(),
        "version": str(run.version) if run.version else None,
        "epochs": last.number + 1 if last else 0,
        "watermark": last.watermark if last else None,
        "samples": last.end if last else 0,
        "consumed": consumed,
    }


def _epoch_json(epoch: PinnedEpoch) -> dict[str, Any]:
    pin = epoch.pin
    return {
        "number": pin.number,
        "pinned_at": epoch.pinned_at.isoformat(),
        "since": pin.since,
        "watermark": pin.watermark,
        "chain": pin.chain.hex(),
        "size": pin.size,
        "start": pin.start,
    }
