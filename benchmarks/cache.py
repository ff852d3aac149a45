"""A temporary cache directory for mirrors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLE = "REGISTRY_CACHE"


@contextmanager
def cache() -> Iterator[Path]:
    """Keep mirrors in an empty temporary folder, also in subprocesses."""
    before = os.environ.get(_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="registry-benchmarks-") as folder:
        os.environ[_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before
