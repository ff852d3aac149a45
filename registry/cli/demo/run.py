"""The two processes of the demo: one labels digits while the other trains on them.

The labeling process inserts scikit-learn's handwritten digits in bursts, some with a wrong label
that it corrects later. The trainer runs Keras on the dataset as it grows. The two processes share
only a database file.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from registry.catalog.registry import connect
from registry.cli.demo.native_messages import native_messages_in
from registry.errors import RegistryError
from registry.samples.features import ClassLabel, Tensor


def run(folder: Path, *, stay: bool = False) -> None:
    """Run the demo; it writes a database, a page and TensorFlow's messages to ``folder``.

    With ``stay``, it serves the pages afterwards, until Ctrl-C. Raises `ImportError` before it
    creates the dataset if the ``[demo]`` extra is not installed.
    """
    import sklearn.datasets  # noqa: F401, PLC0415  # heavy, and an extra

    from registry.cli.demo import pages, report  # noqa: PLC0415

    console = Console(highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    # The pattern includes the -wal and -shm files, which belong to the old database.
    for old in folder.glob("digits.db*"):
        old.unlink()
    url = f"sqlite:///{folder / 'digits.db'}"
    with contextlib.ExitStack() as stack:
        # Before the training, so that nobody waits for it in vain where no socket can be opened.
        listener = stack.enter_context(pages.open_socket()) if stay else None
        with console.status("Loading TensorFlow …"), native_messages_in(folder / "tensorflow.log"):
            # Imported within the block: TensorFlow prints its messages while it is imported.
            from registry.cli.demo import trainer  # noqa: PLC0415

            trainer.warm_up()
        registry = stack.enter_context(connect(url))
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
        page = report.write_page(digits, measurements, folder / "index.html").resolve().as_uri()
        console.print(
            f"\nThe accuracy, the growth and the corrected labels: {page}\n"
            "To look further:\n"
            f"  registry show digits --url {url}\n"
            f"  registry log digits --url {url}\n",
            soft_wrap=True,
        )
        address = page if listener is None else pages.address_of(listener)
        if listener is not None:
            console.print(f"serving {address} until Ctrl-C", soft_wrap=True)
        _open(address)
        if listener is not None:
            # Ctrl-C is the only way to end this, so it must not be reported as an error.
            with contextlib.suppress(KeyboardInterrupt):
                pages.serve(registry, measurements, listener)


def _open(address: str) -> None:
    """Open an address in a browser, where somebody sits in front of a screen."""
    screen = sys.platform in {"darwin", "win32"} or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    # A browser for the terminal would take it over.
    if sys.stdout.isatty() and screen:
        webbrowser.open(address)


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
