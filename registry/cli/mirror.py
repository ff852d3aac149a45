"""``registry mirror``: keep this host's mirror of a dataset up to date."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from registry.catalog.dataset import Dataset
from registry.cli.base import DatasetName, Url, app
from registry.cli.database import connect_existing
from registry.cli.output import counted, print_error, print_note, printable
from registry.cli.progress import progress
from registry.cli.signals import ended_by_signals
from registry.storage.database.retry import retrying
from registry.storage.log.head import Head
from registry.training.host_mirror import HostMirror, MirrorUpdate
from registry.training.mirror_source import cache_folder

_POLL_SECONDS = 1.0
"""Seconds after which a follower asks for epochs in any case."""
_DISK_SECONDS = 2.0
"""Seconds after which a follower tries a cache again that could not be written."""
_LINE_SECONDS = 10.0
"""Seconds between two lines of a follower, at least."""
_DRAW_SECONDS = 0.2


@app.command()
def mirror(
    dataset: DatasetName,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Keep it up to date until SIGTERM or Ctrl-C."),
    ] = False,
    url: Url = None,
) -> None:
    """Bring this host's mirror of a dataset up to date.

    The mirror is the local copy in $REGISTRY_CACHE that trainers read. The files
    of each run's newest epochs are made, too. Workers of tf.data service on this
    host open them by name: set the same $REGISTRY_CACHE on all hosts.

    Exit codes: 0 if the mirror is up to date, or --follow was ended; 1 for an
    error, such as a database that cannot be reached, a dropped dataset, or a full
    disk; 2 for wrong arguments; 130 for Ctrl-C without --follow. With --follow,
    connections are opened again, and a full disk of this host is tried again.
    Epochs whose files cannot be made are reported and tried again every minute.
    Errors that remain, such as a missing privilege, end it.

    A systemd unit:

    \b
        [Service]
        Environment=REGISTRY_URL=postgresql://trainer@db/registry
        Environment=REGISTRY_CACHE=/var/cache/registry
        ExecStart=/opt/venv/bin/registry mirror digits --follow
        Restart=always
        [Install]
        WantedBy=multi-user.target

    A Kubernetes sidecar of a worker:

    \b
        initContainers:
        - name: mirror
          image: trainer
          restartPolicy: Always
          command: ["registry", "mirror", "digits", "--follow"]
          env:
          - {name: REGISTRY_CACHE, value: /cache}
          - name: REGISTRY_URL
            valueFrom: {secretKeyRef: {name: registry, key: url}}
          volumeMounts:
          - {name: cache, mountPath: /cache}
    """  # noqa: D301  # \b is for Typer
    with connect_existing(url) as registry, _printed_warnings():
        opened = registry.open(dataset)
        host = opened.mirror()
        if follow:
            with ended_by_signals():
                _follow(opened, host, registry.engine)
            return
        try:
            update = _update(opened, host, opened.head)
        except OSError as error:
            print_error(_disk_problem(error))
            raise typer.Exit(1) from None
        typer.echo(_line(opened, host, update))


def _follow(dataset: Dataset, host: HostMirror, engine: Engine) -> None:
    output = _Output()
    while True:
        try:
            # Retried without end: a lost connection must not end the command.
            for attempt in retrying(None, engine):
                with attempt:
                    head = dataset.head
                    update = _update(dataset, host, head)
        except OSError as error:
            # Not the end: others share the disk, and may make room on it.
            output.note(_disk_problem(error))
            time.sleep(_DISK_SECONDS)
            continue
        output.line(_line(dataset, host, update))
        host.wait(head, _POLL_SECONDS)


def _update(dataset: Dataset, host: HostMirror, head: Head) -> MirrorUpdate:
    with _shown(dataset.name, host, head.position):
        update = host.update(head)
    for problem in update.problems:
        print_note(problem)
    return update


def _line(dataset: Dataset, host: HostMirror, update: MirrorUpdate) -> str:
    return (
        f"{dataset.name}: {counted(update.rows, 'row')}, files of "
        f"{counted(update.epochs, 'epoch')}, in {printable(str(host.folder))}"
    )


def _disk_problem(error: OSError) -> str:
    return (
        f"the cache {cache_folder()} cannot be written ({error}); make room there, or point "
        "$REGISTRY_CACHE elsewhere"
    )


class _Output:
    """Prints what has changed, a line in ten seconds at most."""

    def __init__(self) -> None:
        self._text = self._note = ""
        self._at = -_LINE_SECONDS

    def line(self, text: str) -> None:
        self._note = ""
        if text != self._text and time.monotonic() >= self._at + _LINE_SECONDS:
            typer.echo(text)
            self._text, self._at = text, time.monotonic()

    def note(self, text: str) -> None:
        if text != self._note:
            print_note(text)
            self._note = text


@contextmanager
def _shown(name: str, host: HostMirror, rows: int) -> Iterator[None]:
    """Show, while the block runs, how many of the missing rows are here.

    Another process may be bringing them.
    """
    first = host.rows
    if rows <= first:
        yield
        return
    done = threading.Event()
    with progress(name, rows - first) as bar:

        def show() -> None:
            while not done.wait(_DRAW_SECONDS if bar else _LINE_SECONDS):
                count = max(0, host.rows - first)
                if bar:
                    bar(count, count)
                else:
                    typer.echo(f"{name}: {first + count:,} of {rows:,} rows", err=True)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print warnings, such as of a mirror that was cut back, as notes."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print_note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield
