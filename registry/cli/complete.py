"""Completing the names of datasets in a shell."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import typer

from registry.errors import RegistryError

_SECONDS = 1.0
"""Seconds that a shell waits for the names, at most."""


def dataset_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of datasets that begin with a text; none if the database cannot say."""
    names: list[str] = []
    url = context.params.get("url") or os.environ.get("REGISTRY_URL")
    # A thread, and one that the process does not wait for: connecting takes long in a network that
    # drops packets, and the user's shell would hang.
    reading = threading.Thread(target=_read_names, args=(url, names), daemon=True)
    reading.start()
    reading.join(_SECONDS)
    return [name for name in names if name.startswith(incomplete)]


def _read_names(url: str | None, names: list[str]) -> None:
    # Imported here: every command can complete names, but few runs of one do.
    from registry.cli.database import connect_existing  # noqa: PLC0415

    # An error would be printed into the line that the user types.
    with suppress(RegistryError), connect_existing(url) as registry:
        names += registry.names()
