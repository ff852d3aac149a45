"""The page of all datasets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from registry.catalog.dataset import Dataset
from registry.catalog.overview import MOST_COUNTED, DatasetOverview, overview
from registry.catalog.statistics.count import StatisticsError
from registry.catalog.statistics.model import Statistics
from registry.server.pages.viewer import Viewer, show, viewer_of
from registry.server.routes.datasets import service_of
from registry.server.service import Service

logger: logging.Logger = logging.getLogger("registry.server")
router: APIRouter = APIRouter(include_in_schema=False)

DAYS: Final = 30
"""Days of which the growth is shown."""


@dataclass(frozen=True)
class _Growth:
    """What was counted of a dataset.

    ``trend`` has its live samples at the end of each of the last days. ``grown`` is by how many
    they grew in this time, ``stored`` the bytes of all its rows. ``counted`` is the share of rows
    that these three are of, 1 for all.
    """

    trend: Sequence[int]
    grown: int
    stored: int
    counted: float

    @classmethod
    def of(cls, statistics: Statistics) -> _Growth:
        trend = _trend(statistics, datetime.now(UTC).date())
        return cls(
            trend[1:],
            trend[-1] - trend[0],
            statistics.stored_bytes,
            statistics.position / statistics.until if statistics.until else 1,
        )


@dataclass(frozen=True)
class _Line:
    """A dataset on the page; ``growth`` is None where the folder of the counts is unusable."""

    overview: DatasetOverview
    growth: _Growth | None


@router.get("/")
async def datasets_page(request: Request) -> Response:
    """Show the datasets that the viewer may read."""
    viewer = await viewer_of(request, right=None)
    service = service_of(request)
    return await show(request, viewer, "datasets.html", lambda: _values(service, viewer))


def _values(service: Service, viewer: Viewer) -> dict[str, Any]:
    lines: list[_Line] = service.overview.get(lambda: _read(service))
    readable = [line for line in lines if viewer.may("read", line.overview.name)]
    return {
        "lines": readable,
        "total": sum(line.overview.live for line in readable),
        "days": DAYS,
        "most_counted": MOST_COUNTED,
        "crumbs": [],
    }


def _read(service: Service) -> list[_Line]:
    known = {each.id: each for each in overview(service.registry)}
    return [
        _Line(known[dataset.id], _growth(service, dataset, known[dataset.id].position))
        for dataset in service.registry.datasets()
        # Not one that was created since the overview was read.
        if dataset.id in known
    ]


def _growth(service: Service, dataset: Dataset, position: int) -> _Growth | None:
    try:
        return _Growth.of(service.counts.of(dataset, position))
    except StatisticsError as error:
        # The page has more to say than this; only its numbers of growth are missing.
        logger.warning("%s", error)
        return None


def _trend(statistics: Statistics, today: date) -> list[int]:
    """Return the live samples before the last `DAYS` days, and at the end of each of them."""
    live = {each.day: each.live for each in statistics.days}
    first = today - timedelta(days=DAYS)
    before = [each.live for each in statistics.days if each.day <= first]
    trend = [before[-1] if before else 0]
    for number in range(1, DAYS + 1):
        # A day without rows ends as it began.
        trend.append(live.get(first + timedelta(days=number), trend[-1]))
    return trend
