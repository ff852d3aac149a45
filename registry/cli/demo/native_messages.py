"""Redirection of messages that native code writes to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def native_messages_in(path: Path) -> Iterator[None]:
    """Redirect what native code writes to stderr to a file.

    TensorFlow's libraries print messages about CPU features and missing GPUs while they load,
    before TensorFlow reads any of its settings.
    """
    # What Python has buffered belongs to the terminal, not to the file.
    sys.stderr.flush()
    # The file descriptor, not sys.stderr: native code does not write through Python.
    terminal = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
