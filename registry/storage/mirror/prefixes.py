"""Names of a mirror's files that are the same on every host.

A generation's number says what happened to the mirror on one machine. A TensorFlow graph that runs
on another host names files by a prefix of the log instead: a link in the folder ``prefixes``, whose
name has a position, the chain there, and the layout of the records. It points to a generation that
has at least these rows.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from registry.storage.log.watermark import Watermark
from registry.storage.mirror.layout import draft_path
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.state import FORMAT

KEPT_LINKS = 64
"""Links that a mirror keeps, the last used ones."""
KEPT_SECONDS = 7 * 86400
"""The age since its last use from which on another link is removed."""


def link_prefix(folder: Path, view: View, watermark: Watermark) -> Path:
    """Return the name of the folder of a view's files that follows from the log.

    The view has the rows before the watermark. The caller holds a lease of its files. Raises
    `OSError` if the link cannot be made.
    """
    chain, layout = watermark.chain.hex()[:16], view.schema.layout[:8]
    link = folder / "prefixes" / f"{watermark.position}-{chain}-{layout}-{FORMAT}"
    target = Path("..", str(view.state.generation))
    with suppress(FileNotFoundError):
        if link.readlink() == target:
            os.utime(link, follow_symlinks=False)
            return link
    link.parent.mkdir(exist_ok=True)
    draft = draft_path(link)
    draft.symlink_to(target, target_is_directory=True)
    # In one step: a graph that runs on this host may be about to open files by this name. Those of
    # the other generation have the same rows.
    draft.replace(link)
    _remove_unused(link.parent)
    return link


def _remove_unused(folder: Path) -> None:
    latest = time.time() - KEPT_SECONDS
    for link in sorted(folder.iterdir(), key=_last_used, reverse=True)[KEPT_LINKS:]:
        if _last_used(link) < latest:
            link.unlink(missing_ok=True)


def _last_used(link: Path) -> float:
    try:
        return link.lstat().st_mtime
    except FileNotFoundError:  # another process has removed it
        return 0.0
