"""TensorFlow without what it writes to the error stream before it can be told not to."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from registry.cli.demo import native_messages_in


def quiet() -> AbstractContextManager[None]:
    """Drop what is written to the error stream, by anything in this process."""
    return native_messages_in(Path(os.devnull))
