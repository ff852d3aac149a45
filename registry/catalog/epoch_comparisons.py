"""What a server says of epochs: found out in the background or in part, and kept.

An epoch never changes. Only what was erased since is still counted with its class.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from registry.catalog.dataset import Dataset
from registry.catalog.epoch_changes import EpochChanges, epoch_changes
from registry.catalog.epoch_origins import EpochOrigins, epoch_origins
from registry.errors import RegistryError
from registry.training.pin_store import Pin
from registry.training.run import Run
from registry.training.run_store import RunSettings

_SECONDS = 0.4
"""How long a request waits for a comparison; most take less."""
_KEPT = 128
_KEPT_EPOCHS = 4096
_QUEUED = 16

logger: logging.Logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())

_Key = tuple[str, int, int, int]
_Epoch = tuple[str, int, Pin]


class EpochComparisons:
    """What changed between epochs, one thread that finds it out, and origins. Thread-safe."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "registry-compare")
        self._lock = Lock()
        self._known: OrderedDict[_Key, Future[EpochChanges]] = OrderedDict()
        self._origins: OrderedDict[_Epoch, EpochOrigins] = OrderedDict()
        self._counted: set[tuple[str, int]] = set()
        """The runs whose epochs are counted in the background now."""

    def origins(
        self, dataset: Dataset, run: RunSettings, pins: Sequence[Pin]
    ) -> dict[int, EpochOrigins]:
        """Return what `epoch_origins` says of epochs now, and what it said before.

        What it leaves out is found out in the background.
        """
        if self._add_origins(dataset, run, pins):
            with self._lock:
                idle = (dataset.log.uid, run.id) not in self._counted
                self._counted.add((dataset.log.uid, run.id))
            if idle:
                self._pool.submit(self._count_all, dataset, run, pins)
        known = self._known_origins(dataset, run, pins)
        return {number: each for number, each in known.items() if each is not None}

    def _known_origins(
        self, dataset: Dataset, run: RunSettings, pins: Sequence[Pin]
    ) -> dict[int, EpochOrigins | None]:
        with self._lock:
            return {pin.number: self._origins.get((dataset.log.uid, run.id, pin)) for pin in pins}

    def _add_origins(self, dataset: Dataset, run: RunSettings, pins: Sequence[Pin]) -> bool:
        """Find out some of what is not known; return whether there was any progress."""
        known = self._known_origins(dataset, run, pins)
        new = epoch_origins(dataset, run, [pin for pin in pins if known[pin.number] is None])
        with self._lock:
            for pin in pins:
                if pin.number in new:
                    self._origins[dataset.log.uid, run.id, pin] = new[pin.number]
            while len(self._origins) > _KEPT_EPOCHS:
                self._origins.popitem(last=False)
        return bool(new)

    def _count_all(self, dataset: Dataset, run: RunSettings, pins: Sequence[Pin]) -> None:
        try:
            while self._add_origins(dataset, run, pins):
                pass
        except RegistryError as error:  # the next page tries it again
            logger.info("%s: %s", dataset.name, error)
        finally:
            with self._lock:
                self._counted.discard((dataset.log.uid, run.id))

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
