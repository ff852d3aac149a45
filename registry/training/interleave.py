"""Samples of several epochs, interleaved: the chunks of a mix.

They are gathered epoch by epoch, and then brought into the order of the mix, a few MiB at a time.
No Python runs per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from registry.errors import ErasedError
from registry.samples.arrays import Positions
from registry.samples.codec import Codec, Column
from registry.training.epoch import Epoch
from registry.training.erased_samples import on_newer_version
from registry.training.log_positions import in_log
from registry.training.packed_chunk import PackedChunk
from registry.training.run_store import RunSettings

Group = tuple["Member", Positions]
"""An epoch of a mix, and the offsets of some of its samples."""
Fields = Sequence[tuple[slice, slice]]


@dataclass(frozen=True, eq=False)
class Member:
    """An epoch of a part of a mix.

    ``log`` is the number of its log. ``fields`` are the bytes of values of fixed width in the mix's
    records, and those of the epoch's that they are copied from. All samples of the epoch are before
    the place that ``end`` returns.
    """

    epoch: Epoch
    log: int
    fields: Fields
    end: Callable[[], int]

    @contextmanager
    def naming_erased(self) -> Iterator[None]:
        """Have an `ErasedError` say how the mix continues."""
        try:
            yield
        except ErasedError as error:
            raise skipping(error, self.epoch.number, self.epoch.run, self.end()) from None


def skipping(error: ErasedError, number: int, run: RunSettings, end: int) -> ErasedError:
    """Return the error for a mix; all samples of the epoch are before its place ``end``."""
    remedy = on_newer_version(run) or (
        f"the mix cannot yield the rest of it; mix.skip({end}) continues after the epoch, without "
        "the samples of other runs up to there"
    )
    samples = zip(error.positions, error.keys, strict=True)
    return ErasedError(f"epoch {number} of run {run.name!r}", samples, remedy)


def fields(codec: Codec, other: Codec) -> Fields:
    """Return where records of a codec have the values of fixed width of another one's.

    Both have the same features, perhaps in another order.
    """
    if list(codec.features) == list(other.features):
        whole = slice(0, codec.header.itemsize)
        return [(whole, whole)]
    own, others = _bytes(codec), _bytes(other)
    return [(own[name], others[name]) for name in codec.features.fixed]


def value_order(codec: Codec, other: Codec) -> list[int]:
    """Return which value of variable width of another codec's records each of a codec's is."""
    others = list(other.features.variable)
    return [others.index(name) for name in codec.features.variable]


def _bytes(codec: Codec) -> dict[str, slice]:
    places = [codec.header.fields[name] for name in codec.header.names or ()]  # type: ignore[index]
    return {
        name: slice(offset, offset + field.itemsize)
        for name, (field, offset, *_) in zip(codec.features.fixed, places, strict=False)
    }


@dataclass(frozen=True, eq=False)
class Interleaved:
    """Samples of epochs in the order of a mix.

    Sample i is at ``offsets[i]`` in the epoch of ``members[owners[i]]``. ``codec`` is that of the
    mix. Each epoch has the same features, perhaps in another order.
    """

    members: Sequence[Member]
    owners: Positions
    offsets: Positions
    codec: Codec

    def packed(self, offsets: Positions, batch_size: int) -> Iterator[PackedChunk]:
        for part in self._parts(offsets, batch_size):
            rows = np.empty((len(part), self.codec.header.itemsize), np.uint8)
            after = 0
            groups, ranks = self._groups(part)
            gathered: list[PackedChunk] = []
            for member, own in groups:
                values = value_order(self.codec, member.epoch.codec)
                with member.naming_erased():
                    for some in member.epoch.packed(own):
                        own_rows = rows[after : after + len(some)]
                        for to, origin in member.fields:
                            own_rows[:, to] = some.rows[:, origin]
                        begins, counts = some.begins[:, values], some.counts[:, values]
                        gathered.append(PackedChunk(own_rows, some.units, begins, counts))
                        after += len(some)
            joined = PackedChunk.joined(gathered)
            begins, counts = joined.begins.take(ranks, axis=0), joined.counts.take(ranks, axis=0)
            yield PackedChunk(rows.take(ranks, axis=0), joined.units, begins, counts)

    def columns(self, offsets: Positions, batch_size: int = 1) -> Iterator[dict[str, Column]]:
        for part in self._parts(offsets, batch_size):
            groups, ranks = self._groups(part)
            gathered: list[dict[str, Column]] = []
            for member, own in groups:
                with member.naming_erased():
                    gathered += member.epoch.columns(own)
            yield self._joined(gathered, ranks)

    def samples(
        self, offsets: Positions, batch_size: int
    ) -> Iterator[tuple[Positions, dict[str, Column]]]:
        for part in self._parts(offsets, batch_size):
            groups, ranks = self._groups(part)
            positions: list[Positions] = []
            gathered: list[dict[str, Column]] = []
            for member, own in groups:
                with member.naming_erased():
                    for some, columns in member.epoch.samples(own, 1):
                        positions.append(in_log(member.log, some))
                        gathered.append(columns)
            yield np.concatenate(positions).take(ranks), self._joined(gathered, ranks)

    def _parts(self, offsets: Positions, batch_size: int) -> Iterator[Positions]:
        """Yield the offsets a few MiB of samples at a time, in whole batches."""
        if not len(offsets):
            return
        rows = min(member.epoch.chunk_rows(batch_size) for member in self.members)
        # Half of them: rows are there twice, in both orders. With more, they no longer stay in the
        # processor's cache, which costs a sixth of the speed.
        rows = max(1, rows // 2 // batch_size) * batch_size
        for after in range(0, len(offsets), rows):
            yield offsets[after : after + rows]

    def _groups(self, offsets: Positions) -> tuple[list[Group], Positions]:
        """Return samples by their epochs, and the rank of each sample in that order."""
        owners = self.owners.take(offsets)
        # NumPy sorts integers of 16 bits by radix, several times as fast.
        narrow = owners.astype(np.min_scalar_type(len(self.members)))
        order = np.argsort(narrow, kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        own, by_owner = self.offsets.take(offsets.take(order)), narrow.take(order)
        starts = np.append(0, np.flatnonzero(by_owner[1:] != by_owner[:-1]) + 1)
        parts = np.split(own, starts[1:])
        members = [self.members[owner] for owner in by_owner[starts].tolist()]
        return list(zip(members, parts, strict=True)), ranks

    def _joined(self, gathered: list[dict[str, Column]], ranks: Positions) -> dict[str, Column]:
        return {
            name: np.concatenate([columns[name] for columns in gathered]).take(ranks, axis=0)
            for name in self.codec.features
        }
