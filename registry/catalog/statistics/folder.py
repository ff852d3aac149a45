"""Where what is counted of a log is kept."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache
from hashlib import blake2b
from pathlib import Path

from registry.storage.log.reader import Log
from registry.storage.mirror.usage import address_of
from registry.training.mirror_source import cache_folder

logger: logging.Logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())


def statistics_folder(log: Log) -> Path:
    """Return the folder for what is counted of a log: next to its mirror, if that can be written.

    Otherwise it is temporary, so that each process counts for itself. Raises `OSError` if there
    is no folder for temporary files either.
    """
    # Of this database alone: a copy of the dataset, or an older one, has other rows and erasures.
    database = blake2b(address_of(log.engine.url).encode(), digest_size=8).hexdigest()
    # Next to the log's mirror: whoever removes that removes what was counted, too.
    folder = cache_folder() / log.uid / "statistics" / database
    if not _can_be_written(folder):
        folder = _temporary(cache_folder()) / log.uid / "statistics" / database
    return folder


def _can_be_written(folder: Path) -> bool:
    """Return whether a folder that may not exist yet can be written."""
    for path in (folder, *folder.parents):
        if path.exists():
            return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


@cache
def _temporary(instead: Path) -> Path:
    """Return a folder for this process, which is removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="registry-statistics-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logger.warning(
        "%s cannot be written, so statistics are counted again by each process; point "
        "$REGISTRY_CACHE to a directory with room",
        instead,
    )
    return folder
