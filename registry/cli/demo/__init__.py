"""The main job in small: one process labels digits while another trains on them.

Both are the real thing. A labeling process inserts scikit-learn's handwritten digits in bursts,
gets some labels wrong and corrects them later; a trainer runs Keras on the dataset as it grows.
All they share is a database file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from registry.catalog.registry import connect
from registry.errors import RegistryError
from registry.samples.features import ClassLabel, Tensor


def run(folder: Path) -> None:
    """Run the demo; its database, chart and TensorFlow's own messages are left in ``folder``.

    Raises `ImportError` before anything is begun where the ``[demo]`` extra is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415  # heavy, and an extra
    import sklearn.datasets  # noqa: F401, PLC0415

    mpl.use("agg")
    console = Console(highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("digits.db*"):
        old.unlink()
    url = f"sqlite:///{folder / 'digits.db'}"
    with console.status("Loading TensorFlow …"), native_messages_in(folder / "tensorflow.log"):
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
        labeler = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "registry.cli.demo.labeler", url]
        )
        try:
            measured = trainer.train(console, digits, lambda: labeler.poll() is None)
        finally:
            labeler.terminate()
            status = labeler.wait()
        if status:
            raise RegistryError(f"the labeling process failed with exit status {status}")
    chart = trainer.draw(measured, folder / "accuracy.png")
    console.print(
        f"\nThe chart is in {chart}. To look further:\n"
        f"  registry show digits --url {url}\n"
        f"  registry log digits --url {url}\n",
        soft_wrap=True,
    )


@contextlib.contextmanager
def native_messages_in(path: Path) -> Iterator[None]:
    """Send what native code writes to stderr to a file.

    TensorFlow's libraries print a page about CPU features and absent GPUs while they load, before
    any setting of its own is read.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
