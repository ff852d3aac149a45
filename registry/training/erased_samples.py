"""The erased samples of an epoch, and the error that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from registry.errors import ErasedError
from registry.samples.arrays import Positions
from registry.storage.mirror.erase import erased_rows
from registry.training.conditions import Conditions
from registry.training.population import Population, contains
from registry.training.source import Source

Erased = Sequence[tuple[int, str]]
"""Positions and keys of erased samples, in ascending order."""


def erased_samples(source: Source, positions: Positions) -> Erased:
    """Return the samples at these positions that were erased."""
    return sorted((row.position, row.key) for row in erased_rows(source.log, positions))


def lost_samples(source: Source, population: Population) -> Erased:
    """Return the erased samples that may have met the conditions of an epoch."""
    since = 0 if population.draw is not None else population.since
    everything = replace(population, since=since, draw=None, conditions=Conditions())
    index, erased = source.index(everything, None), source.erased(population)
    lost = erased[contains(index, everything, erased)] if len(erased) else erased
    return erased_samples(source, lost)


def erased_error(run: str, number: int, end: int, erased: Erased, verb: str) -> ErasedError:
    """Return the error for an epoch, which ends before sample ``end`` of its run."""
    return ErasedError(
        f"epoch {number} of run {run!r}",
        erased,
        "it cannot be replayed; continue with the next epoch: "
        f"run.record(consumed={end}), then run.epoch({number + 1}) or run.stream(…)",
        verb,
    )
