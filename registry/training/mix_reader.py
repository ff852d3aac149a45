"""Reading a mix: the epochs of its parts that are due, and their samples in the order of the mix.

An epoch is pinned when the first batch is made that has a sample of it. So a chunk ends before a
batch for which another epoch is needed, and the next one begins with that batch. The exception are
the first epochs of all parts, which are pinned when the mix begins: a part without any sample is an
error then, and not when its first place is reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count, pairwise

import numpy as np

from registry.errors import ErasedError
from registry.samples.arrays import Positions
from registry.samples.codec import Codec
from registry.samples.schema import Schema
from registry.training.interleave import Interleaved, Member, fields, skipping
from registry.training.mix_parts import Part
from registry.training.schedule import Schedule
from registry.training.sharding import Share


class MixReader:
    """Reads a mix, for one iterator. Has the present epoch of each part.

    ``schemas`` are those of the datasets by the log's uid, in the order of the logs' numbers.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        schedule: Schedule,
        codec: Codec,
        schemas: Mapping[str, Schema],
    ) -> None:
        self._parts = parts
        self._schedule = schedule
        self._codec = codec
        self._schemas = schemas
        uids = list(schemas)
        self._logs = [uids.index(part.run.log.uid) for part in parts]
        # The epoch of each part that is read, the samples ``[start, end)`` of its run that it has,
        # and the number of the next one.
        self._members: dict[int, Member] = {}
        self._next = [0] * len(parts)
        self._starts = np.zeros(len(parts), np.int64)
        self._ends = np.zeros(len(parts), np.int64)

    def chunks(
        self, share: Share, start: int, batches: int | None
    ) -> Iterator[tuple[Interleaved, Positions]]:
        """Yield a worker's samples from place ``start`` on, at most ``batches`` batches of them."""
        for part, rank in enumerate(self._schedule.before(start)):
            if self._schedule.counts[part]:
                self._begin(part, rank)
        size = share.batch_size
        last = None if batches is None else batches * size
        # The first chunk is a single batch, so that training begins soon.
        for after, until in pairwise(chain([0], count(size, share.chunk))):
            stop = until if last is None else min(until, last)
            if after >= stop:
                return
            parts, ranks = self._schedule.locate(share.stream_offsets(after, stop) + start)
            while len(parts):
                ready = ranks < self._ends[parts]
                whole = len(parts) if ready.all() else int(ready.argmin()) // size * size
                # At least a batch: the epochs that it needs are due.
                length = max(whole, size)
                chunk = self._interleave(parts[:length], ranks[:length])
                yield chunk, np.arange(len(chunk.owners))
                parts, ranks = parts[length:], ranks[length:]

    def _interleave(self, parts: Positions, ranks: Positions) -> Interleaved:
        """Return samples of the parts, by their ranks in the runs; pin the epochs they are in."""
        members: list[Member] = []
        numbers = np.zeros(len(self._parts), np.int64)
        owners, offsets = np.empty_like(parts), np.empty_like(ranks)
        left: Positions | slice = slice(None)
        while True:
            own, due = parts[left], ranks[left]
            ready = due < self._ends[own]
            complete = bool(ready.all())
            counts = np.bincount(own if complete else own[ready], minlength=len(numbers))
            present = np.flatnonzero(counts)
            numbers[present] = np.arange(len(members), len(members) + len(present))
            members += [self._members[part] for part in present.tolist()]
            # Those that are not ready get what the next pass replaces.
            owners[left], offsets[left] = numbers[own], due - self._starts[own]
            if complete:
                break
            left = np.arange(len(parts))[left][~ready]
            for part in np.unique(parts[left]).tolist():
                self._enter(part)
        return Interleaved(members, owners, offsets, self._codec)

    def _begin(self, part: int, rank: int) -> None:
        self._next[part] = self._parts[part].run.locate(rank)[0]
        if self._next[part] == 0:
            self._enter(part)

    def _enter(self, part: int) -> None:
        """Go to the next epoch of a part; pin it if it is not pinned yet."""
        run, number = self._parts[part].run, self._next[part]
        try:
            epoch = run.repeat(number).in_schema(self._schemas[run.log.uid])
        except ErasedError as error:
            pin = run.pin(number)
            if pin is None:
                raise
            place = self._schedule.place(part, pin.end)
            raise skipping(error, number, run.settings, place) from None
        end = epoch.start + epoch.size
        self._starts[part], self._ends[part], self._next[part] = epoch.start, end, number + 1
        self._members[part] = Member(
            epoch,
            self._logs[part],
            fields(self._codec, epoch.codec),
            partial(self._schedule.place, part, end),
        )
