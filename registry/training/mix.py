"""Mixes: streams of the samples of several runs, in fixed shares.

Each place of a mix belongs to a part by a fixed schedule (`schedule`), and each part goes through
its own run's sequence: the r-th place of part j has the r-th sample of run j. So the position of a
mix is one integer, from which the positions of all runs follow, and the other way round. Nothing of
a mix is stored but what its runs have consumed (`mix_store`).
"""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from itertools import count
from typing import SupportsIndex

from registry.errors import (
    FeatureError,
    MixPositionError,
    RewindError,
)
from registry.html.card import card_html
from registry.samples.arrays import Positions
from registry.samples.codec import Column
from registry.samples.features import Features
from registry.samples.schema import Schema
from registry.storage.log.reader import Log
from registry.training.chunks import batches_of
from registry.training.consumed import consumed_count
from registry.training.interleave import Interleaved
from registry.training.mix_parts import Part, parse_parts, shared_features
from registry.training.mix_reader import MixReader
from registry.training.mix_store import MixStore
from registry.training.not_an_array import NotAnArray
from registry.training.run import Run
from registry.training.run_request import END
from registry.training.schedule import Schedule
from registry.training.sharding import ALONE, Shard, Share

_TRIES, _PAUSE = 20, 0.1
"""How often the runs of several databases are read until another process has recorded in all."""


def mix(runs: Mapping[Run, float] | Iterable[tuple[Run, float]], *, seed: SupportsIndex = 0) -> Mix:
    """Return the mix of runs with these weights, of one or several datasets or databases.

    Weights are finite numbers, 0 or more; only their ratios matter. A run of weight 0 is never
    drawn. All runs must have the same features; the order may differ, and the encodings of images.

    The order of the runs, their weights and the ``seed`` determine which run each place belongs to.
    Give the same ones to continue. Raises `FeatureError` for a weight, a run or a seed that is not
    valid, and for runs of which the features differ.
    """
    number = operator.index(seed)
    if not 0 <= number < END:
        raise FeatureError(f"seed {number} is not in [0, 2**63)")
    return Mix(parse_parts(runs), number)


class Mix(NotAnArray):
    """An endless stream of the samples of several runs, in shares by weight.

    In any 10,000 samples in a row, the share of each run is within 0.1 % of its weight. Each run
    goes through its own samples and epochs as it does alone. A run under the policy "new" or
    `Replay` that has nothing new repeats its newest samples, so that it never stops the others.

    A position is the number of samples before it. Safe to share between threads.
    """

    def __init__(self, parts: tuple[Part, ...], seed: int) -> None:
        self.parts = parts
        """The runs with their weights, ``part.run`` and ``part.weight``."""
        self.seed = seed
        self._schedule = Schedule.of([part.weight for part in parts], seed)
        self._drawn = [number for number, each in enumerate(self._schedule.counts) if each]
        runs = [parts[number].run for number in self._drawn]
        self._store = MixStore([(run.log, run.settings) for run in runs])
        # One schema for each dataset, as classes may be added while its runs are opened.
        self._schemas: dict[str, Schema] = {}
        for part in parts:
            schema, uid = part.run.schema, part.run.log.uid
            if schema.number >= self._schemas.get(uid, schema).number:
                self._schemas[uid] = schema
        elements = [(part, self._schemas[part.run.log.uid].features) for part in parts]
        self.schema: Schema = Schema(0, 0, shared_features(elements))

    @property
    def features(self) -> Features:
        """The features of the samples, those of the datasets when the runs were opened."""
        return self.schema.features

    @cached_property
    def logs(self) -> list[Log]:
        """The logs of the parts, each once, in the order of their numbers (`log_positions`)."""
        logs = {part.run.log.uid: part.run.log for part in self.parts}
        return [logs[uid] for uid in self._schemas]

    @property
    def name(self) -> str:
        """What backups of a model are recognized by: names of the runs, and a digest of the mix."""
        names = [part.run.name for part in self.parts]
        uids = [part.run.log.uid for part in self.parts]
        text = repr((names, uids, self._schedule.counts, self.seed))
        digest = blake2b(text.encode(), digest_size=4).hexdigest()
        return f"{' + '.join(names[:3])}{' + …' if names[3:] else ''} ({digest})"

    def __repr__(self) -> str:
        named = [f"{part.name} ({part.weight:g})" for part in self.parts[:5]]
        more = [f"{len(self.parts) - 5} others"] if len(self.parts) > 5 else []
        return f"<mix of {', '.join([*named, *more])}: seed {self.seed}>"

    def _repr_html_(self) -> str | None:
        from registry.training.cards import mix_card  # noqa: PLC0415

        return card_html("Mix", self.name, lambda: mix_card(self))

    @property
    def consumed(self) -> int:
        """How many of the mix's samples are recorded as trained on; read from the databases.

        Raises `MixPositionError` if the runs have consumed other numbers of samples.
        """
        for attempt in count(1):
            consumed = self._store.consumed()
            position = self._position(consumed)
            if position is not None:
                return position
            # Others read the databases one by one, too, while a worker records in all of them.
            if attempt == _TRIES or len(self._store.databases) == 1:
                break
            time.sleep(_PAUSE)
        raise self._no_position(consumed)

    def record(self, consumed: SupportsIndex, *, rewind: bool = False) -> None:
        """Store that the mix's first ``consumed`` samples have been trained on, in all its runs.

        Raises `RewindError` if more of a run are recorded already, unless ``rewind`` is true.
        """
        samples = consumed_count(consumed)
        counts = self._before(samples)

        def change(stored: list[int]) -> list[int]:
            if not rewind and any(map(operator.gt, stored, counts)):
                if self._position(stored) is None:
                    raise self._no_position(stored)
                raise RewindError(repr(self), sum(stored), samples)
            return counts

        self._store.change(change)

    def record_at_least(self, consumed: SupportsIndex) -> None:
        """Store that the first ``consumed`` samples were trained on, unless more are recorded."""
        counts = self._before(consumed_count(consumed))
        self._store.change(
            lambda stored: stored if any(map(operator.gt, stored, counts)) else counts
        )

    def advance(self, samples: SupportsIndex) -> int:
        """Add to the number of samples that have been trained on; return the new number.

        Concurrent calls add up, as with `Run.advance`. Raises `MixPositionError` as ``consumed``.
        """
        added = consumed_count(samples)

        def change(stored: list[int]) -> list[int]:
            position = self._position(stored)
            if position is None:
                raise self._no_position(stored)
            return self._before(consumed_count(position + added))

        return sum(self._store.change(change, retried=False))

    def skip(self, consumed: SupportsIndex) -> None:
        """Record as by `record`, and pin the epochs that the runs have up to there.

        Continues after an epoch that cannot be read because samples in it were erased.
        """
        samples = consumed_count(consumed)
        for part, rank in zip(self._drawn, self._before(samples), strict=True):
            self.parts[part].run.pin_until(rank)
        self.record(samples)

    def batches(
        self,
        batch_size: int,
        *,
        shard: Shard = ALONE,
        start: SupportsIndex | None = None,
        decode_images: bool = False,
        channels: int = 3,
    ) -> Iterator[dict[str, Column]]:
        """Yield batches of ``batch_size`` samples endlessly, as dicts of arrays.

        ``start`` is the number of samples to skip, counted over all shards; None continues after
        those recorded as consumed. Other arguments are as in `Epoch.batches`.

        Raises `EpochError` that names a run without samples, before the first batch. A run's epoch
        is pinned when the first batch that has a sample of it is made, but the first epochs of all
        runs when the mix begins.
        """
        share = Share.of(batch_size, shard)
        chunks = self.chunks(share, self.consumed if start is None else consumed_count(start))
        decoded = channels if decode_images else None
        return batches_of(chunks, share.batch_size, self.logs, self.features, decoded)

    def chunks(
        self, share: Share, start: int, batches: int | None = None
    ) -> Iterator[tuple[Interleaved, Positions]]:
        """Yield a worker's samples from ``start`` on, at most ``batches`` batches of them.

        They are pairs of chunks and the offsets of all samples in them.
        """
        reader = MixReader(self.parts, self._schedule, self.schema.codec, self._schemas)
        return reader.chunks(share, start, batches)

    def begin(self, place: int) -> None:
        """Raise the errors of a mix that begins at a place, and pin the runs' first epochs.

        `DivergenceError` if a run has not pinned the epochs before it, and `EpochError` if it has
        no sample.
        """
        for part, rank in zip(self._drawn, self._before(place), strict=True):
            run = self.parts[part].run
            if run.locate(rank)[0] == 0:
                run.repeat(0)

    def schema_of(self, run: Run) -> Schema:
        """Return the schema in which the mix has samples of a run's dataset, or the run's."""
        return self._schemas.get(run.log.uid, run.schema)

    def _before(self, place: int) -> list[int]:
        counts = self._schedule.before(place)
        return [counts[part] for part in self._drawn]

    def _position(self, consumed: list[int]) -> int | None:
        """Return the place before which each run has this number of samples; None if none has."""
        place = sum(consumed)
        return place if self._before(place) == consumed else None

    def _no_position(self, consumed: list[int]) -> MixPositionError:
        names = [self.parts[part].name for part in self._drawn]
        reached = min(map(self._schedule.place, self._drawn, consumed))
        return MixPositionError(repr(self), list(zip(names, consumed, strict=True)), reached)
