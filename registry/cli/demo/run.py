"""The two processes of the demo: one labels digits while the other trains on them.

The labeling process inserts scikit-learn's handwritten digits in bursts, some with a wrong label
that it corrects later. The trainer runs Keras on the dataset as it grows. The two processes share
only a database file.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from registry.catalog.registry import connect
from registry.cli.demo.native_messages import native_messages_in
from registry.errors import RegistryError
from registry.samples.features import ClassLabel, Tensor


def run(folder: Path) -> None:
    """Run the demo; it writes a database, a chart and TensorFlow's messages to ``folder``.

    Raises `ImportError` before it creates the dataset if the ``[demo]`` extra is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415  # heavy, and an extra
    import sklearn.datasets  # noqa: F401, PLC0415

    mpl.use("agg")  # the default backend may need a display
    console = Console(highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    # The pattern includes the -wal and -shm files, which belong to the old database.
    for old in folder.glob("digits.db*"):
        old.unlink()
    url = f"sqlite:///{folder / 'digits.db'}"
    with console.status("Loading TensorFlow …"), native_messages_in(folder / "tensorflow.log"):
        # Imported within the block: TensorFlow prints its messages while it is imported.
        from registry.cli.demo import trainer  # noqa: PLC0415

        trainer.warm_up()
    with connect(url) as registry:
        digits = registry.create(
            "digits",
            {"image": Tensor("uint8", (8, 8)), "label": ClassLabel(10)},
            splits={"train": 0.8, "test": 0.2},
            description="scikit-learn's handwritten digits, labeled while a model trains on them",
        )
        console.print(
            f"A labeling process inserts into {url}; this one trains on what is there.\n",
            soft_wrap=True,
        )
        with _labeling_process(url) as is_labeling:
            measurements = trainer.train(console, digits, is_labeling)
    chart = trainer.draw(measurements, folder / "accuracy.png")
    console.print(
        f"\nThe chart is in {chart}. To look further:\n"
        f"  registry show digits --url {url}\n"
        f"  registry log digits --url {url}\n",
        soft_wrap=True,
    )


@contextlib.contextmanager
def _labeling_process(url: str) -> Iterator[Callable[[], bool]]:
    """Run the labeler, and yield a function that says whether it still runs.

    Raises `RegistryError` at the end if it failed.
    """
    # A new interpreter rather than a fork: TensorFlow's threads do not survive a fork.
    process = subprocess.Popen(  # noqa: S603  # a module of this package
        [sys.executable, "-m", "registry.cli.demo.labeler", url]
    )
    try:
        yield lambda: process.poll() is None
    finally:
        # Also after Ctrl-C: it would continue to label by itself.
        process.terminate()
        status = process.wait()
    if status:
        raise RegistryError(f"the labeling process failed with exit status {status}")
