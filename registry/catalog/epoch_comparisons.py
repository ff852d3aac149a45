"""Comparisons of epochs for a server: made in the background, and kept, as epochs never change."""

from __future__ import annotations

import logging
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from registry.catalog.epoch_changes import EpochChanges, epoch_changes
from registry.training.run import Run

_SECONDS = 0.4
"""How long a request waits for a comparison; most take less."""
_KEPT = 128
_QUEUED = 16

logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())

_Key = tuple[str, int, int, int]


class EpochComparisons:
    """What changed between epochs, and one thread that finds it out. Thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "registry-compare")
        self._lock = Lock()
        self._known: OrderedDict[_Key, Future[EpochChanges]] = OrderedDict()

    def of(self, run: Run, before: int, after: int) -> EpochChanges | None:
        """Return what changed from one epoch to another; None while that is not known yet.

        Raises `EpochError` if one of them is not pinned, and other errors of reading them. Blocks
        for less than a second.
        """
        key = run.log.uid, run.settings.id, before, after
        with self._lock:
            future = self._known.get(key)
            if future is None:
                # A client could ask for any pair of epochs.
                if sum(not each.done() for each in self._known.values()) >= _QUEUED:
                    return None
                future = self._known[key] = self._pool.submit(epoch_changes, run, before, after)
            self._known.move_to_end(key)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        try:
            return future.result(_SECONDS)
        except TimeoutError:
            return None
        except Exception:
            # Not kept: the next request tries again.
            with self._lock:
                self._known.pop(key, None)
            raise

    def close(self) -> None:
        """End the thread after the comparison that it makes now."""
        self._pool.shutdown(wait=False, cancel_futures=True)
