"""The erased samples of an epoch, and the error that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from registry.errors import ErasedError
from registry.samples.arrays import Positions
from registry.storage.mirror.erase import erased_rows
from registry.training.conditions import Conditions
from registry.training.population import Population, contains
from registry.training.run_store import RunSettings
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


def erased_error(run: RunSettings, number: int, end: int, erased: Erased, verb: str) -> ErasedError:
    """Return the error for an epoch, which ends before sample ``end`` of its run."""
    remedy = on_newer_version(run) or (
        "it cannot be replayed; continue with the next epoch: "
        f"run.record(consumed={end}), then run.epoch({number + 1}) or run.stream(…)"
    )
    return ErasedError(f"epoch {number} of run {run.name!r}", erased, remedy, verb)


def on_newer_version(run: RunSettings) -> str | None:
    """Return what to do for a run that is on a version; None for others, which can continue."""
    if run.watermark is None:
        return None
    return (
        "as do all epochs of this run, which is on a version; take a run of another name, on a "
        "version from after the erasure"
    )
