"""Subject: whole processes of commands, next to what loading their libraries takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import registry
from benchmarks.data import NUMBERS
from benchmarks.measure import Bench, Result, Work, compare, duration, interleave, ready

LIBRARIES = "import sqlalchemy.dialects.sqlite, typer, pydantic, rich.table"
"""What the command needs of its libraries. Typer needs pydantic for each option."""


def commands(bench: Bench) -> list[Result]:
    """List the datasets of a SQLite file."""
    with tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder:
        url = f"sqlite:///{Path(folder) / 'registry.db'}"
        with registry.connect(url) as reg:
            reg.create("samples", NUMBERS)
        timings = interleave(
            {
                "ls": ready(_process("-m", "registry", "ls", "--url", url)),
                "libraries": ready(_process("-c", LIBRARIES)),
            },
            3 * bench.rounds,
        )
    return [
        duration("registry ls on SQLite, the whole process", timings["ls"], at_most=350),
        compare(
            "registry ls, next to loading its libraries",
            timings["ls"],
            timings["libraries"],
            unit="ms",
        ),
    ]


def _process(*arguments: str) -> Work:
    # The first round, which does not count, writes the bytecode, as an installation does.
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def work() -> int:
        subprocess.run(
            [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment
        )
        return 1

    return work
