"""One epoch of a run: its samples, in its order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NoReturn, Self, SupportsIndex, TypeVar

import numpy as np

from registry.errors import DivergenceError, EpochError, ErasedError, MirrorError
from registry.html.card import card_html
from registry.samples.arrays import Positions
from registry.samples.codec import Codec, Column
from registry.samples.features import Features
from registry.samples.fields import Fields
from registry.samples.frames import arrow_reader, arrow_table, pandas_frame, polars_frame
from registry.samples.schema import Schema
from registry.storage.mirror.index import Index
from registry.storage.mirror.local_files import LocalFiles
from registry.training.chunks import batches_of, rows_in_chunk
from registry.training.class_weights import balanced, class_label, count_classes
from registry.training.epoch_table import EpochTable
from registry.training.erased_samples import Erased, erased_error, erased_samples, lost_samples
from registry.training.packed_chunk import PackedChunk
from registry.training.permutation import Permutation
from registry.training.pin_store import Pin
from registry.training.population import Population, contains
from registry.training.run_store import RunSettings
from registry.training.sharding import ALONE, CHUNK_ROWS, Shard, Share
from registry.training.source import Source, read_columns, read_fields, read_packed
from registry.training.sources import Sources

Part = TypeVar("Part")
_OPENED = {"source", "index"}
"""Attributes that are not pickled, since they belong to one process."""


class Epoch:
    """One pinned epoch of a run: a fixed set of samples in a fixed order.

    ``run`` holds the run's settings; ``number``, ``since``, ``watermark``, ``chain``, ``size``,
    ``start`` and ``older`` are as in `pin_store.Pin`; ``schema`` is that of the samples that are
    yielded. A sample is identified by its offset in the epoch's order, ``[0, size)``. Safe to share
    between threads. After unpickling, the source and the index are opened on first use.

    Raises `ErasedError` if samples of the epoch were erased: when it is opened, or when they are
    read.
    """

    def __init__(
        self, run: RunSettings, pin: Pin, schema: Schema, population: Population, sources: Sources
    ) -> None:
        self.run = run
        self.schema = schema
        self.number = pin.number
        self.since = pin.since
        self.watermark = pin.watermark
        self.chain = pin.chain
        self.size = pin.size
        self.start = pin.start
        self.older = pin.older
        self.order = Permutation.keyed(pin.size, run.seed, pin.number)
        self._log_end = pin.log_end
        self._population = population
        self._sources = sources

    @classmethod
    def open(
        cls,
        run: RunSettings,
        pin: Pin,
        schema: Schema,
        population: Population,
        sources: Sources,
        source: Source | None = None,
    ) -> Self:
        """Return a pinned epoch whose source and index are open.

        ``source`` is one that is open at the pin's watermark already. Raises `ErasedError` where
        samples of the epoch were erased, and `DivergenceError` where the log has another number of
        samples for it.
        """
        epoch = cls(run, pin, schema, population, sources)
        if source is not None:
            epoch.source = source
        # Used now, so that these errors are raised here and not by the first batch.
        _ = epoch.index
        epoch._refuse_erased()
        return epoch

    def in_schema(self, schema: Schema) -> Self:
        """Return the epoch with its samples in another schema of the dataset."""
        if schema.number == self.schema.number:
            return self
        other = object.__new__(type(self))
        vars(other).update(vars(self), schema=schema)
        # The mirror's files may have an older layout than this schema.
        if schema.number > self.schema.number:
            vars(other).pop("source", None)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Without memory maps and locks, which another process cannot use.
        return {name: value for name, value in vars(self).items() if name not in _OPENED}

    # Cached without a lock: two threads may both open it, and either result is right.
    @cached_property
    def source(self) -> Source:
        """The mirror or the database, from which samples are read."""
        return self._sources.open(self._log_end, self.schema.number)

    @cached_property
    def index(self) -> Index:
        """The positions in the log of the epoch's samples, by rank."""
        return self._make_index(self.size)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<epoch {self.number} of run {self.run.name!r}: {self.size} samples>"

    def _repr_html_(self) -> str | None:
        from registry.training.cards import epoch_card  # noqa: PLC0415

        return card_html("Epoch", repr(self), lambda: epoch_card(self))

    @property
    def codec(self) -> Codec:
        """The codec of the epoch's samples."""
        return self.schema.codec

    @property
    def features(self) -> Features:
        return self.schema.features

    def positions(self, offsets: Positions) -> Positions:
        """Return the positions in the log of the samples at these offsets."""

        def located(index: Index) -> Positions:
            # Made again for another index, since they are overwritten: fresh memory would cost as
            # much as a few passes over it.
            ranks = self.order(offsets)
            return index.positions(ranks, ranks)

        return self._with_index(located)

    def ranked(self, rows: int) -> Iterator[Positions]:
        """Yield the positions of all samples in the order of the log, ``rows`` at a time.

        Those that a replay draws come last, in no order.
        """
        for after in range(0, self.size, rows):
            yield self._at_ranks(np.arange(after, min(self.size, after + rows)))

    def erased_positions(self) -> Positions:
        """Return the positions of the epoch's samples that were erased, in ascending order."""
        return self.held(self.source.erased(self._population))

    def _at_ranks(self, ranks: Positions) -> Positions:
        return self._with_index(lambda index: index.positions(ranks))

    def _with_index(self, use: Callable[[Index], Part]) -> Part:
        """Return what ``use`` returns, with a new index where the present one is damaged."""
        try:
            return use(self.index)
        except MirrorError:
            # With the size given, the damaged file would be mapped again instead of replaced.
            self.index = self._make_index(None, follow=False)
            return use(self.index)

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

    def to_arrow(self) -> Any:
        """Return the samples as a `pyarrow.Table`, in the epoch's order; as `Dataset.to_arrow`."""
        return arrow_table(EpochTable(self))

    def to_pandas(self) -> Any:
        """Return the samples as a `pandas.DataFrame`, in the epoch's order."""
        return pandas_frame(EpochTable(self))

    def to_polars(self) -> Any:
        """Return the samples as a `polars.DataFrame`, in the epoch's order."""
        return polars_frame(EpochTable(self))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the samples as a stream of Arrow, in the epoch's order, in bounded memory."""
        return arrow_reader(EpochTable(self)).__arrow_c_stream__(requested_schema)

    @contextmanager
    def _naming_erased(self) -> Iterator[None]:
        """Name the epoch in an `ErasedError` that is raised while reading."""
        try:
            yield
        except ErasedError as error:
            # First with all erased samples of the epoch; else with those that were just read.
            self._refuse_erased()
            self._refuse(list(zip(error.positions, error.keys, strict=True)))

    def _refuse_erased(self) -> None:
        """Raise `ErasedError` with all samples of the epoch that are known to be erased."""
        # An erased sample is retracted, too: later epochs do not hold it, and ask for no key.
        erased = self.source.erased(self._population)
        held = self.held(erased)
        # Where an older sample that met the conditions is lost, the same ranks draw other samples.
        # Every machine must find that, also one that has the index that was made before.
        if self.older is not None and not len(held) and len(erased) and erased[0] < self.since:
            self.index = self._make_index(None)
        if samples := erased_samples(self.source, held):
            self._refuse(samples)

    def held(self, positions: Positions) -> Positions:
        """Return which of these positions, in ascending order, hold samples of the epoch."""
        if not len(positions):
            return positions
        return positions[
            self._with_index(lambda index: contains(index, self._population, positions))
        ]

    def _refuse(self, erased: Erased, verb: str = "held") -> NoReturn:
        end = self.start + self.size
        raise erased_error(self.run, self.number, end, erased, verb) from None

    def _make_index(self, size: int | None, *, follow: bool = True) -> Index:
        index = self.source.index(self._population, size, self.older, follow=follow)
        # Another size is another set of samples: training on it would not be a replay.
        if (index.size, index.older) != (self.size, self.older):
            # Samples that were erased are left out where there are conditions.
            if self._population.conditions and (
                lost := lost_samples(self.source, self._population)
            ):
                self._refuse(lost, "may have held")
            raise DivergenceError(
                f"{self!r} was pinned with {self.size} samples, but the log has {index.size} for it"
            )
        return index
