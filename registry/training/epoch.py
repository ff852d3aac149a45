"""One epoch of a run: its samples, in its order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np

from registry.errors import EpochError, ErasedError
from registry.html.card import card_html
from registry.samples.arrays import Positions
from registry.samples.codec import Codec, Column
from registry.samples.features import Features
from registry.samples.fields import Fields
from registry.samples.frames import arrow_reader, arrow_table, pandas_frame, polars_frame
from registry.storage.log.row_texts import RowText
from registry.storage.mirror.local_files import LocalFiles
from registry.training.chunks import batches_of, rows_in_chunk
from registry.training.class_weights import balanced, class_label, count_classes
from registry.training.epoch_table import EpochTable
from registry.training.map_style import (
    GatheredSamples,
    Offsets,
    Sample,
    columns_at,
    is_one,
    sample_at,
    samples_at,
)
from registry.training.packed_chunk import PackedChunk
from registry.training.pinned_samples import PinnedSamples
from registry.training.sharding import ALONE, CHUNK_ROWS, Shard, Share
from registry.training.source import read_columns, read_fields, read_packed

Part = TypeVar("Part")


class Epoch(PinnedSamples):
    """One pinned epoch of a run: a fixed set of samples in a fixed order.

    ``run`` holds the run's settings; ``number``, ``since``, ``watermark``, ``chain``, ``size``,
    ``start`` and ``older`` are as in `pin_store.Pin`; ``schema`` is that of the samples that are
    yielded. A sample is identified by its offset in the epoch's order, ``[0, size)``. Safe to share
    between threads. After unpickling, the source and the index are opened on first use.

    It is a map-style dataset, too, as PyTorch and Grain read it: ``len(epoch)``; ``epoch[i]``, the
    sample at an offset as a dict by feature; ``epoch[2:8]`` and ``epoch[[5, 3]]``, a batch as
    `batches` yields it. Negative offsets count from the end. Raises `OffsetError`, an `IndexError`.

    Raises `ErasedError` if samples of the epoch were erased: when it is opened, or when they are
    read.
    """

    def _repr_html_(self) -> str | None:
        from registry.training.cards import epoch_card  # noqa: PLC0415

        return card_html("Epoch", repr(self), lambda: epoch_card(self))

    @overload
    def __getitem__(self, offset: SupportsIndex) -> Sample: ...
    @overload
    def __getitem__(self, offset: slice | Offsets) -> dict[str, Column]: ...
    def __getitem__(self, offset: Any) -> Sample | dict[str, Column]:
        return sample_at(self, offset) if is_one(offset) else columns_at(self, offset)

    def __getitems__(self, offsets: Offsets) -> GatheredSamples:
        """Return the samples at some offsets, read at once: a sequence of dicts by feature."""
        return samples_at(self, offsets)

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples one by one, in order."""
        for after in range(0, self.size, CHUNK_ROWS):
            for columns in self.columns(np.arange(after, min(self.size, after + CHUNK_ROWS))):
                yield from GatheredSamples(columns)

    @property
    def codec(self) -> Codec:
        """The codec of the epoch's samples."""
        return self.schema.codec

    @property
    def features(self) -> Features:
        return self.schema.features

    def local_files(self) -> LocalFiles | None:
        """Return undamaged files that can be read without Python; None if there are none.

        The files stay for as long as the returned object and the epoch live.
        """
        self._refuse_erased()
        files = self._with_index(self.source.local_files)
        # A withheld row is blank in the files, and would fail the graph that reads them.
        return None if files is None or len(self.held(files.withheld)) else files

    def class_weights(self, feature: str) -> dict[int, float]:
        """Return the weight of each class of a `ClassLabel`, as Keras's ``class_weight`` takes it.

        A class with ``count`` of the epoch's ``n`` samples has the weight ``n / (k * count)``,
        where k classes have samples, so that each of these weighs the same in total. A class
        without samples has the weight 1, which is the mean over the samples. Raises `FeatureError`
        for any other feature.
        """
        label = class_label(self.features, feature)
        self._refuse_erased()
        return balanced(count_classes(self.source, feature, label, self.ranked(CHUNK_ROWS)))

    def packed(self, offsets: Positions, batch_size: int = 1) -> Iterator[PackedChunk]:
        """Yield the samples at these offsets as arrays, in order, a chunk at a time.

        Each chunk holds a multiple of ``batch_size`` samples, except the last.
        """
        width, fixed_width = self.source.record_bytes, self.codec.fixed_width
        rows = rows_in_chunk(width, batch_size, fixed_width=fixed_width)
        return self._gathered(partial(read_packed, self.source, self.schema), offsets, rows)

    def columns(self, offsets: Positions, batch_size: int = 1) -> Iterator[dict[str, Column]]:
        """Yield the samples at these offsets as columns, in order, a chunk at a time.

        Each chunk holds a multiple of ``batch_size`` samples, except the last.
        """
        take = partial(read_columns, self.source, self.schema)
        # More than fit in the cache, which costs less than twice the calls of NumPy.
        chunks = 2 if self.codec.fixed_width else 1
        return self._gathered(take, offsets, chunks * self.chunk_rows(batch_size))

    def gather(self, offsets: Positions) -> dict[str, Column]:
        """Return the samples at these offsets as columns, in order, read at once.

        Negative ones count from the end. Raises `IndexError` where there is no sample.
        """
        positions = self.lookup(offsets)
        try:
            return read_columns(self.source, self.schema, positions)
        except ErasedError as error:
            self._name_erased(error)

    def fields(self, offsets: Positions) -> Iterator[Fields]:
        """Yield the samples at these offsets as records taken apart, a chunk at a time."""
        take = partial(read_fields, self.source, self.schema)
        return self._gathered(take, offsets, self.chunk_rows())

    def samples(
        self, offsets: Positions, batch_size: int
    ) -> Iterator[tuple[Positions, dict[str, Column]]]:
        """Yield positions in the log, and the samples there as columns, in whole batches.

        Each pair holds a multiple of ``batch_size`` samples, except the last.
        """
        return self._gathered(
            lambda positions: (positions, read_columns(self.source, self.schema, positions)),
            offsets,
            self.chunk_rows(batch_size),
        )

    def _gathered(
        self, take: Callable[[Positions], Part], offsets: Positions, rows: int
    ) -> Iterator[Part]:
        """Yield what ``take`` returns for so many positions at a time."""
        positions = self.positions(offsets)
        for after in range(0, len(positions), rows):
            with self._naming_erased():
                part = take(positions[after : after + rows])
            # Outside of the block: an error that the consumer throws in here is not ours to rename.
            yield part

    def chunks(
        self, share: Share, start: int = 0, *, drop_remainder: bool = False
    ) -> Iterator[Positions]:
        """Yield the offsets of a worker's samples from ``start`` on, `Share.chunk` at a time.

        Raises `EpochError` if ``start`` is not in ``[0, size]``.
        """
        if not 0 <= start <= self.size:
            raise EpochError(f"epoch {self.number} has samples [0, {self.size}), not {start}")
        # The steps count from ``start``, not from 0: it need not be a multiple of a step.
        length = self.size - start
        size = share.size(length, drop_remainder=drop_remainder)
        for after in range(0, size, share.chunk):
            yield share.epoch_offsets(after, min(size, after + share.chunk), length) + start

    def chunk_rows(self, batch_size: int = 1) -> int:
        """Return how many samples to gather at a time: a multiple of ``batch_size``, a few MiB."""
        width, fixed_width = self.source.record_bytes, self.codec.fixed_width
        return rows_in_chunk(width, batch_size, fixed_width=fixed_width, as_arrays=False)

    def batches(
        self,
        batch_size: int,
        *,
        shard: Shard = ALONE,
        start: SupportsIndex = 0,
        drop_remainder: bool = False,
        decode_images: bool = False,
        channels: int = 3,
    ) -> Iterator[dict[str, Column]]:
        """Yield the epoch's samples as dicts of arrays with ``batch_size`` rows.

        With ``shard=(index, count)``, yields only that worker's part of every
        ``batch_size * count`` samples. ``start`` is the offset of the first sample, counted over
        all shards. The last batch may be shorter; with ``drop_remainder`` it is left out.

        With ``decode_images``, the column of an `Image` is an object array of uint8 arrays
        ``(height, width, channels)``, the first frame of an animation; ``channels`` is 1, 3 or 4.
        Needs Pillow, the extra ``images``, and raises `ImageError` for an image that cannot be
        decoded. Otherwise images are files, as bytes.
        """
        share = Share.of(batch_size, shard)
        chunks = self.chunks(share, operator.index(start), drop_remainder=drop_remainder)
        decoded = channels if decode_images else None
        logs = [self.source.log] if decode_images else []
        pairs = ((self, chunk) for chunk in chunks)
        return batches_of(pairs, share.batch_size, logs, self.features, decoded)

    def to_arrow(
        self, *, keys: str | None = None, groups: str | None = None, sources: str | None = None
    ) -> Any:
        """Return the samples as a `pyarrow.Table`, in the epoch's order; as `Dataset.to_arrow`.

        ``keys``, ``groups`` and ``sources`` name columns for those of the samples, which are looked
        up in the database.
        """
        return arrow_table(self._as_table(keys, groups, sources))

    def to_pandas(
        self, *, keys: str | None = None, groups: str | None = None, sources: str | None = None
    ) -> Any:
        """Return the samples as a `pandas.DataFrame`, in the epoch's order; as `to_arrow`."""
        return pandas_frame(self._as_table(keys, groups, sources))

    def to_polars(
        self, *, keys: str | None = None, groups: str | None = None, sources: str | None = None
    ) -> Any:
        """Return the samples as a `polars.DataFrame`, in the epoch's order; as `to_arrow`."""
        return polars_frame(self._as_table(keys, groups, sources))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the samples as a stream of Arrow, in the epoch's order, in bounded memory."""
        reader = arrow_reader(self._as_table(None, None, None))
        return reader.__arrow_c_stream__(requested_schema)

    def _as_table(self, keys: str | None, groups: str | None, sources: str | None) -> EpochTable:
        names: dict[RowText, str | None] = {"key": keys, "group_key": groups, "source": sources}
        return EpochTable.of(self, names)
