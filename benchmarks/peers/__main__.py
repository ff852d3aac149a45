"""``python -m benchmarks.peers``: read the same samples by all projects, and show a table."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import IO, Annotated, Any, get_args

import numpy as np
import psutil  # type: ignore[import-untyped]
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.data import LONG, numbers, texts
from benchmarks.peers.loader import Kind, Samples
from benchmarks.quiet import quiet

PROJECTS = {
    "ours": "EpochDataset",
    "ours_stream": "StreamDataset",
    "ours_numpy": "Epoch.batches",
    "mosaic": "MosaicML Streaming",
    "google_grain": "Grain",
    "lance_files": "Lance",
    "lancedb_table": "LanceDB",
    "web_dataset": "WebDataset",
    "hugging_face": "Hugging Face",
}
SHARE: dict[Kind, int] = {"numbers": 1, "texts": 5, "images": 50}
"""Of how many rows of numbers there is one text, or one image."""
PATIENCE = 30
"""Seconds in which a project's process may end by itself."""
KindName = StrEnum("KindName", {kind: kind for kind in get_args(Kind)})  # type: ignore[misc]
ProjectName = StrEnum("ProjectName", {name: name for name in PROJECTS})  # type: ignore[misc]


def main(
    rows: Annotated[int, typer.Option(min=10_000, help="Rows of numbers.")] = 200_000,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one to warm up.")] = 7,
    only: Annotated[list[ProjectName] | None, typer.Option(help="Only these projects.")] = None,
    kind: Annotated[list[KindName] | None, typer.Option(help="Only such samples.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
) -> None:
    """Compare shuffled batches of several projects: the rate, and the CPU of all processes."""
    projects = [name for name in PROJECTS if only is None or name in only or name == "ours"]
    kinds: list[Kind] = [each for each in get_args(Kind) if kind is None or each in kind]
    results: list[Measured] = []
    console = Console(width=max(110, Console().width))
    for each in kinds:
        with console.status(f"{each}: {rows // SHARE[each]:,} samples"):
            measured = compare(_samples(each, rows // SHARE[each]), projects, rounds)
        console.print(_table(each, rows // SHARE[each], measured))
        results += measured
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n")


@dataclass
class Measured:
    """A project's rounds: samples per second, and microseconds of CPU per sample."""

    project: str
    kind: Kind
    loader: str
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def compare(samples: Samples, projects: list[str], rounds: int) -> list[Measured]:
    """Let the projects take epochs in turn; the first round, to warm up, does not count."""
    with tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder, ExitStack() as stack:
        file = Path(folder) / "samples.pickle"
        file.write_bytes(pickle.dumps(samples))
        workers: list[tuple[str, Measured, subprocess.Popen[str]]] = []
        for project in projects:
            process = stack.enter_context(_worker(project, file))
            fastest = _answer(file, project, process)["fastest"]
            if fastest is not None:
                measured = Measured(PROJECTS[project], samples.kind, fastest)
                workers.append((project, measured, process))
        for turn in range(1 + rounds):
            for project, measured, process in workers:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                taken = _answer(file, project, process)
                if turn:
                    measured.rates.append(taken["samples"] / taken["seconds"])
                    measured.cpu.append(1e6 * taken["cpu"] / taken["samples"])
        return [measured for _, measured, _ in workers]


@contextmanager
def _worker(project: str, file: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.peers.worker", project, str(file)]
    with (
        _log(file, project).open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Some projects leave files among the temporary ones.
            env={**os.environ, "TMPDIR": str(file.parent)},
        ) as process,
    ):
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill(process.pid)


def _kill(pid: int) -> None:
    """End a process with all its descendants, if it has not ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            each.kill()


def _log(file: Path, project: str) -> Path:
    return file.with_name(f"{project}.log")


def _answer(file: Path, project: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    stream: IO[str] | None = process.stdout
    assert stream is not None
    line = stream.readline()
    if not line:
        raise RuntimeError(f"{project} ended: {_log(file, project).read_text()[-2000:]}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _samples(kind: Kind, rows: int) -> Samples:
    if kind == "images":
        with quiet():
            from benchmarks.photos import SMALL_SIDE, photos  # noqa: PLC0415  # loads TensorFlow

        made = photos(rows, SMALL_SIDE)
        return Samples(kind, made.columns["image"], made.columns["label"])
    made = numbers(rows) if kind == "numbers" else texts(rows, LONG)
    x = made.columns["x" if kind == "numbers" else "text"]
    return Samples(kind, x, np.asarray(made.columns["label"]))


def _table(kind: Kind, rows: int, results: list[Measured]) -> Table:
    """Return a row for each project; ratios are those of the first one to it, round by round."""
    table = Table("project", "loader", title=f"{kind}: {rows:,} samples, shuffled")
    for heading in ("samples/s", "EpochDataset / it", "CPU µs a sample", "by CPU"):
        table.add_column(heading, justify="right")
    ours = results[0]
    for one in results:
        pairs = zip(ours.rates, one.rates, strict=True)
        by_cpu = zip(ours.cpu, one.cpu, strict=True)
        table.add_row(
            one.project,
            one.loader,
            f"{median(one.rates):,.0f}",
            f"{median(mine / other for mine, other in pairs):.2f}",
            f"{median(one.cpu):.2f}",
            f"{median(other / mine for mine, other in by_cpu):.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
