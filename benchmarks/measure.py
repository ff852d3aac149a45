"""Timing of contenders in turn, and the results with their requirements."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any, Literal, TypeAlias

from benchmarks.server import Server

Work: TypeAlias = Callable[[], int]
"""The code that is timed; returns the number of rows that it handled."""
Unit = Literal["rows/s", "ms"]
Contender: TypeAlias = Callable[[], AbstractContextManager[Work]]
"""Prepares one round, yields its work, and cleans up; only the work is timed."""


@dataclass(frozen=True)
class Bench:
    """The arguments of every subject: the server, the number of rows, and the number of rounds."""

    server: Server
    rows: int
    rounds: int


@dataclass(frozen=True)
class Timing:
    """The seconds that the same work on ``rows`` rows took, round by round."""

    rows: int
    seconds: tuple[float, ...]

    def figures(self, unit: Unit) -> tuple[float, ...]:
        """Return the rate or the time of each round."""
        if unit == "ms":
            return tuple(1000 * spent for spent in self.seconds)
        return tuple(self.rows / spent for spent in self.seconds)

    @property
    def rate(self) -> float:
        """The median of the rates, in rows per second."""
        return median(self.figures("rows/s"))


@dataclass(frozen=True)
class Result:
    """A figure, which may have a baseline and a requirement.

    A requirement is on ours / baseline or, if there is no baseline, on ours. ``seconds`` has the
    times of each round, ours and the baseline's, which show how far the rounds differ. ``ratios``
    has ours / baseline in each round.
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
        """The median of ours / baseline over the rounds: a slow round slows down both."""
        if self.ratios:
            return median(self.ratios)
        return None if self.baseline is None else self.ours / self.baseline

    @property
    def ok(self) -> bool | None:
        """Whether the requirement holds; None if there is none."""
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

    If something else slows the machine for a while, it slows all of them, and their ratios stay.
    """
    rows = dict.fromkeys(contenders, 0)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1 + rounds):
        for name, contender in contenders.items():
            with contender() as work:
                gc.collect()  # else one contender's garbage would be collected in another's time
                start = perf_counter()
                rows[name] = work()
                spent = perf_counter() - start
            if turn:
                seconds[name].append(spent)
    return {name: Timing(rows[name], tuple(seconds[name])) for name in contenders}


def rate(what: str, ours: Timing) -> Result:
    """Return a rate without a requirement."""
    return Result(what, "rows/s", ours.rate, seconds=(ours.seconds,))


def duration(what: str, ours: Timing, at_most: float) -> Result:
    """Return a time, which has a limit in milliseconds."""
    return Result(what, "ms", median(ours.figures("ms")), at_most=at_most, seconds=(ours.seconds,))


def compare(
    what: str,
    ours: Timing,
    baseline: Timing,
    *,
    unit: Unit = "rows/s",
    at_least: float | None = None,
    at_most: float | None = None,
    slow_baseline: bool = False,
) -> Result:
    """Compare two rates, or the times of two works; the limits are for ours / baseline.

    Raises `ValueError` unless both handled the same number of rows. A slow baseline may have
    handled fewer, since its rate does not depend on the number and all rows would take minutes.
    """
    if ours.rows != baseline.rows and not slow_baseline:
        raise ValueError(f"{what}: {ours.rows} rows and {baseline.rows} cannot be compared")
    figures = ours.figures(unit), baseline.figures(unit)
    return Result(
        what,
        unit,
        median(figures[0]),
        median(figures[1]),
        at_least=at_least,
        at_most=at_most,
        seconds=(ours.seconds, baseline.seconds),
        ratios=tuple(one / other for one, other in zip(*figures, strict=True)),
    )
