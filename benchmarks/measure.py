"""Timing contenders turn by turn, and what comes of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any, TypeAlias

from benchmarks.server import Server

Work: TypeAlias = Callable[[], int]
"""What is timed; returns the number of rows that it handled."""
Contender: TypeAlias = Callable[[], AbstractContextManager[Work]]
"""Prepares one round, lends its work, and cleans up; only the work is timed."""


@dataclass(frozen=True)
class Bench:
    """What every subject is given: where to run, and how much."""

    server: Server
    rows: int
    rounds: int


@dataclass(frozen=True)
class Timing:
    """The seconds that the same work on ``rows`` rows took, round by round."""

    rows: int
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Rows per second, at the median."""
        return median(self.rates)

    @property
    def rates(self) -> tuple[float, ...]:
        """Rows per second, round by round."""
        return tuple(self.rows / spent for spent in self.seconds)

    @property
    def milliseconds(self) -> float:
        """The time that the work took, at the median."""
        return 1000 * median(self.seconds)


@dataclass(frozen=True)
class Result:
    """A figure, perhaps beside a baseline, perhaps with a requirement.

    A requirement is on ours / baseline or, where there is no baseline, on ours itself. ``seconds``
    lie behind ours and the baseline, round by round: they show how far the rounds differ.
    ``ratios`` are ours / baseline in each round.
    """

    what: str
    unit: str
    ours: float
    baseline: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    seconds: tuple[tuple[float, ...], ...] = ()
    ratios: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Ours / baseline, the median over rounds: some are slow as a whole, their ratio is not."""
        if self.ratios:
            return median(self.ratios)
        return None if self.baseline is None else self.ours / self.baseline

    @property
    def ok(self) -> bool | None:
        """Whether the requirement holds; None where there is none."""
        judged = self.ours if self.ratio is None else self.ratio
        if self.at_least is not None:
            return judged >= self.at_least
        return None if self.at_most is None else judged <= self.at_most

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "ok": self.ok}


def ready(work: Work) -> Contender:
    """Return a contender that needs no preparation."""
    return lambda: nullcontext(work)


def interleave(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Timing]:
    """Time the contenders in turn (A B C A B C …), after a warm-up round that does not count.

    Whatever slows the machine for a while slows all of them, and leaves their ratios alone.
    """
    rows = dict.fromkeys(contenders, 0)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1 + rounds):
        for name, contender in contenders.items():
            with contender() as work:
                gc.collect()  # nobody pays for what another one left behind
                start = perf_counter()
                rows[name] = work()
                spent = perf_counter() - start
            if turn:
                seconds[name].append(spent)
    return {name: Timing(rows[name], tuple(seconds[name])) for name in contenders}


def rate(what: str, ours: Timing) -> Result:
    """Return a rate without a requirement."""
    return Result(what, "rows/s", ours.rate, seconds=(ours.seconds,))


def duration(what: str, ours: Timing, at_most: float | None = None) -> Result:
    """Return a time, which may have a limit in milliseconds."""
    return Result(what, "ms", ours.milliseconds, at_most=at_most, seconds=(ours.seconds,))


def compare_durations(what: str, ours: Timing, baseline: Timing, at_most: float) -> Result:
    """Compare the times that the same work took in two places."""
    _alike(what, ours, baseline)
    return Result(
        what,
        "ms",
        ours.milliseconds,
        baseline.milliseconds,
        at_most=at_most,
        seconds=(ours.seconds, baseline.seconds),
        ratios=_quotients(ours.seconds, baseline.seconds),
    )


def compare(
    what: str,
    ours: Timing,
    baseline: Timing,
    at_least: float | None = None,
    *,
    slow_baseline: bool = False,
) -> Result:
    """Compare two rates; raises `ValueError` unless both handled as many rows.

    A slow baseline may have handled fewer: it would take minutes to tell the same rate.
    """
    if not slow_baseline:
        _alike(what, ours, baseline)
    return Result(
        what,
        "rows/s",
        ours.rate,
        baseline.rate,
        at_least=at_least,
        seconds=(ours.seconds, baseline.seconds),
        ratios=_quotients(ours.rates, baseline.rates),
    )


def _quotients(ours: tuple[float, ...], baseline: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(one / other for one, other in zip(ours, baseline, strict=True))


def _alike(what: str, ours: Timing, baseline: Timing) -> None:
    if ours.rows != baseline.rows:
        raise ValueError(f"{what}: {ours.rows} rows beside {baseline.rows} cannot be compared")
