"""Import of TensorFlow without its messages, which it writes before it can be configured."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from registry.cli.demo.native_messages import native_messages_in


def quiet() -> AbstractContextManager[None]:
    """Discard what anything in this process writes to the error stream."""
    return native_messages_in(Path(os.devnull))
