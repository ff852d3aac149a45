"""Timing of contenders in turn, and the results with their requirements."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter, process_time
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
    """The seconds that the same work on ``rows`` rows took, round by round.

    ``cpu`` has this process's seconds of CPU, which other processes of the machine change less.
    """

    rows: int
    seconds: tuple[float, ...]
    cpu: tuple[float, ...] = ()

    def figures(self, unit: Unit) -> tuple[float, ...]:
        """Return the rate or the time of each round."""
        return self._figures(unit, self.seconds)

    def cpu_figures(self, unit: Unit) -> tuple[float, ...]:
        """Return the rate or the time of each round by the seconds of CPU."""
        return self._figures(unit, self.cpu)

    def _figures(self, unit: Unit, seconds: tuple[float, ...]) -> tuple[float, ...]:
        if unit == "ms":
            return tuple(1000 * spent for spent in seconds)
        return tuple(self.rows / spent for spent in seconds)

    @property
    def rate(self) -> float:
        """The median of the rates, in rows per second."""
        return median(self.figures("rows/s"))


@dataclass(frozen=True)
class Result:
    """A figure, which may have a baseline and a requirement.

    A requirement is on ours / baseline or, if there is no baseline, on ours. ``seconds`` has the
    times of each round, ours and the baseline's, which show how far the rounds differ. ``ratios``
    has ours / baseline in each round, and ``cpu_ratios`` the same by the seconds of CPU.
    """

    what: str
    unit: str
    ours: float
    baseline: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    seconds: tuple[tuple[float, ...], ...] = ()
    ratios: tuple[float, ...] = ()
    cpu_ratios: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """The median of ours / baseline over the rounds: a slow round slows down both."""
        if self.ratios:
            return median(self.ratios)
        return None if self.baseline is None else self.ours / self.baseline

    @property
    def cpu_ratio(self) -> float | None:
        """The ratio by the seconds of CPU; None if they were not measured."""
        return median(self.cpu_ratios) if self.cpu_ratios else None

    @property
    def ok(self) -> bool | None:
        """Whether the requirement holds; None if there is none."""
        judged = self.ours if self.ratio is None else self.ratio
        if self.at_least is not None:
            return judged >= self.at_least
        return None if self.at_most is None else judged <= self.at_most

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "cpu_ratio": self.cpu_ratio, "ok": self.ok}


def ready(work: Work) -> Contender:
    """Return a contender that needs no preparation."""
    return lambda: nullcontext(work)


def interleave(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Timing]:
    """Time the contenders in turn (A B C A B C …), after a warm-up round that does not count.

    If something else slows the machine for a while, it slows all of them, and their ratios stay.
    """
    rows = dict.fromkeys(contenders, 0)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1 + rounds):
        for name, contender in contenders.items():
            with contender() as work:
                gc.collect()  # else one contender's garbage would be collected in another's time
                start, cpu_start = perf_counter(), process_time()
                rows[name] = work()
                spent, cpu_spent = perf_counter() - start, process_time() - cpu_start
            if turn:
                seconds[name].append(spent)
                cpu[name].append(cpu_spent)
    return {name: Timing(rows[name], tuple(seconds[name]), tuple(cpu[name])) for name in contenders}


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
    other_rows: bool = False,
) -> Result:
    """Compare two rates, or the times of two works; the limits are for ours / baseline.

    Raises `ValueError` unless both handled the same number of rows. With ``other_rows`` they need
    not: where all rows would take a slow baseline minutes, and its rate does not depend on them.
    """
    if ours.rows != baseline.rows and not other_rows:
        raise ValueError(f"{what}: {ours.rows} rows and {baseline.rows} cannot be compared")
    figures = ours.figures(unit), baseline.figures(unit)
    cpu_figures = ours.cpu_figures(unit), baseline.cpu_figures(unit)
    return Result(
        what,
        unit,
        median(figures[0]),
        median(figures[1]),
        at_least=at_least,
        at_most=at_most,
        seconds=(ours.seconds, baseline.seconds),
        ratios=_ratios(*figures),
        cpu_ratios=_ratios(*cpu_figures),
    )


def _ratios(ours: tuple[float, ...], baseline: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(one / other for one, other in zip(ours, baseline, strict=True))
