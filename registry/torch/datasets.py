"""Training runs as PyTorch's iterable datasets.

How samples are divided: a rank gets the batches of its shard, as `Epoch.batches` yields them for
``shard=(rank, ranks)``. Of these, worker i of n gets batches i, i + n, i + 2n …, and a DataLoader
takes the batches of its workers in turn. So a rank has the same batches in the same order for any
number of workers. Without a batch size, single samples are divided in this way.

How a position is saved: a worker's state is the number of items that it has yielded, and what it
belongs to. The DataLoader of torchdata saves the state of each worker, and restores it there.
"""

from __future__ import annotations

import multiprocessing
import operator
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

from torch.utils.data import IterableDataset

from registry.errors import EpochError, TrainingError
from registry.samples.arrays import Positions
from registry.samples.features import Features
from registry.storage.log.reader import Log
from registry.torch.tensors import batch_of
from registry.torch.workers import rank_shard, worker_shard
from registry.training.chunks import Samples, batches_of
from registry.training.epoch import Epoch
from registry.training.mix import Mix
from registry.training.run import Run
from registry.training.sharding import ALONE, Shard, Share

WAIT = 5.0
"""Seconds after which a stream that waits for a sample checks that its DataLoader is alive."""

State = dict[str, Any]
Chunks = Iterator[tuple[Samples, Positions]]


class _DividedDataset(IterableDataset[Any]):  # type: ignore[misc]  # PyTorch may be missing
    """Samples that ranks and workers divide, from a position that can be saved."""

    def __init__(
        self,
        features: Features,
        batch_size: SupportsIndex | None,
        shard: Shard | None,
        channels: int | None,
    ) -> None:
        self.features = features
        self.batch_size: int | None = None if batch_size is None else operator.index(batch_size)
        self._shard = shard
        self._channels = channels
        self._yielded = 0
        """Items that the last iterator of this process has yielded, and those before it."""
        self._restored = False
        _ = self._share  # raises the errors of its arguments

    def __getstate__(self) -> State:
        # A worker that is spawned does not know its rank.
        return {**vars(self), "_shard": self._rank}

    @property
    def _rank(self) -> Shard | None:
        return self._shard or rank_shard()

    @property
    def _share(self) -> Share:
        """The part of this process's rank."""
        return Share.of(self._item_size, self._rank or ALONE)

    @property
    def _item_size(self) -> int:
        return 1 if self.batch_size is None else self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Not in the generator, which begins later: a state is restored by one iterator only.
        skip, self._restored = self._yielded if self._restored else 0, False
        self._yielded = skip
        return self._items(self._chunks(self._share, worker_shard(), skip))

    def _items(self, chunks: Chunks) -> Iterator[dict[str, Any]]:
        logs, size = self._logs, self._item_size
        for columns in batches_of(chunks, size, logs, self.features, self._channels):
            batch = batch_of(columns)
            # Before it is yielded: a state is read while the generator waits in `yield`.
            self._yielded += 1
            yield batch if self.batch_size else {name: values[0] for name, values in batch.items()}
        self._yielded = 0

    @abstractmethod
    def _chunks(self, share: Share, worker: Shard, skip: int) -> Chunks:
        """Yield a worker's samples, without its first ``skip`` items."""

    @property
    @abstractmethod
    def _logs(self) -> Sequence[Log]:
        """The logs of the samples, which errors of images name."""

    @property
    @abstractmethod
    def _identity(self) -> State:
        """What a state belongs to, in plain values."""

    def state_dict(self) -> State:
        """Return the position of this process's last iterator, in plain values.

        With worker processes, use `torchdata.stateful_dataloader.StatefulDataLoader`, which saves
        the position of each.
        """
        parts = {"shard": list(self._rank or ALONE), "worker": list(worker_shard())}
        return {**self._identity, "batch_size": self.batch_size, **parts, "yielded": self._yielded}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iterator continue where a state was saved, in the same order.

        Raises `TrainingError` if it is the state of other samples, of another batch size, or of
        another number of ranks or workers.
        """
        if not isinstance(state_dict, Mapping):
            raise TrainingError(f"a state is what state_dict() returns, not {state_dict!r:.140}")
        here, yielded = self.state_dict(), state_dict.get("yielded")
        names = [name for name in here if name != "yielded" and here[name] != state_dict.get(name)]
        if names or not isinstance(yielded, int) or yielded < 0:
            differences = [f"{name} {state_dict.get(name)!r}, not {here[name]!r}" for name in names]
            raise TrainingError(
                f"the state is of another dataset ({'; '.join(differences) or 'no position'}): "
                "make the dataset and its DataLoader as they were when it was saved, or begin at "
                "another sample by start="
            )
        self._yielded, self._restored = yielded, True


class EpochDataset(_DividedDataset):
    """One epoch's samples, each once, as dicts by feature: batches, or single samples.

    With ``batch_size``, an item is a batch, which a DataLoader passes on with ``batch_size=None``;
    otherwise a sample. Values of fixed width are tensors, `Text`, `Bytes` and files of `Image` are
    ``str`` and ``bytes``, and `Ragged` is a tensor ``(n, *shape)``; in a batch these are lists.
    With ``decode_images``, an `Image` is a uint8 tensor ``(height, width, channels)``, in a batch a
    list of them.

    Ranks of `torch.distributed`, or ``shard=(index, count)``, and the workers of a DataLoader
    divide the samples. The batches of a rank are those of `Epoch.batches`, whose other arguments
    these are, in the same order for any number of workers. ``len`` is the number of a rank's items.
    """

    def __init__(
        self,
        epoch: Epoch,
        *,
        batch_size: SupportsIndex | None = None,
        shard: Shard | None = None,
        start: SupportsIndex = 0,
        drop_remainder: bool = False,
        decode_images: bool = False,
        channels: int = 3,
    ) -> None:
        if not isinstance(epoch, Epoch):
            raise TrainingError(
                f"EpochDataset takes an epoch, such as run.epoch(0), not {epoch!r:.140}; "
                "StreamDataset takes a run"
            )
        super().__init__(epoch.features, batch_size, shard, channels if decode_images else None)
        self.epoch = epoch
        self.start: int = operator.index(start)
        self.drop_remainder = drop_remainder
        if not 0 <= self.start <= epoch.size:
            raise EpochError(f"{epoch!r} has no sample {self.start} to start at")

    def __len__(self) -> int:
        share = self._share
        size = share.size(self.epoch.size - self.start, drop_remainder=self.drop_remainder)
        return (size + share.batch_size - 1) // share.batch_size

    def _chunks(self, share: Share, worker: Shard, skip: int) -> Chunks:
        length, drop = self.epoch.size - self.start, self.drop_remainder
        for offsets in share.worker_offsets(worker, length, skip=skip, drop_remainder=drop):
            yield self.epoch, offsets + self.start

    @property
    def _logs(self) -> Sequence[Log]:
        return [self.epoch.source.log] if self._channels else []

    @property
    def _identity(self) -> State:
        epoch = self.epoch
        pinned = {"run": epoch.run.name, "epoch": epoch.number, "chain": epoch.chain.hex()}
        return {**pinned, "start": self.start, "drop_remainder": self.drop_remainder}


class StreamDataset(_DividedDataset):
    """A run's samples without end, epoch after epoch, or those of a mix, in its order.

    Items are as in `EpochDataset`; full batches can span two epochs. ``start`` is the number of
    samples, of all ranks, before the first one; None stands for those that were recorded as
    consumed when this object was made. Each iterator begins there: make another object to continue
    after what was recorded since, or restore a state. An epoch is pinned when its first sample is
    read, a little before it is trained on. Items have the features that the dataset had when the
    run was opened.
    """

    def __init__(
        self,
        run: Run | Mix,
        *,
        batch_size: SupportsIndex | None = None,
        shard: Shard | None = None,
        start: SupportsIndex | None = None,
        decode_images: bool = False,
        channels: int = 3,
    ) -> None:
        if not isinstance(run, Run | Mix):
            raise TrainingError(
                f"StreamDataset takes a run or a mix, not {run!r:.140}; EpochDataset takes an epoch"
            )
        super().__init__(run.features, batch_size, shard, channels if decode_images else None)
        self.run = run
        # Now, and not by each worker: the first batch may be recorded before the last one begins.
        self.start: int = run.consumed if start is None else operator.index(start)

    def state_dict(self) -> State:
        """Return the position, as `EpochDataset.state_dict` does."""
        return {**super().state_dict(), "start": self.start}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a state was saved, as by `EpochDataset.load_state_dict`."""
        given = isinstance(state_dict, Mapping)
        super().load_state_dict({**state_dict, "start": self.start} if given else state_dict)
        self.start = state_dict["start"]

    def _chunks(self, share: Share, worker: Shard, skip: int) -> Chunks:
        number, workers = worker
        # Its batch i is the rank's batch ``i * workers + number``, as in an epoch.
        index, count = number * share.count + share.index, share.count * workers
        part = Share.of(share.batch_size, (index, count))
        start = self.start + skip * part.step
        if isinstance(self.run, Mix):
            yield from self.run.chunks(part, start)
            return
        for chunk in self.run.chunks(part, start, WAIT):
            if chunk is not None:
                yield chunk
            elif (parent := multiprocessing.parent_process()) and not parent.is_alive():
                return

    @property
    def _logs(self) -> Sequence[Log]:
        return self.run.logs

    @property
    def _identity(self) -> State:
        return {"run": self.run.name, "datasets": [log.uid for log in self.run.logs]}
