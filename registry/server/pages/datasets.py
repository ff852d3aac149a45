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
from registry.server.pages.paging import named_page
from registry.server.pages.viewer import Viewer, show, viewer_of
from registry.server.routes.datasets import service_of
from registry.server.service import Service

logger: logging.Logger = logging.getLogger("registry.server")
router: APIRouter = APIRouter(include_in_schema=False)

_DATASETS: Final = 100
"""Datasets of a page."""
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


class _Datasets:
    """All datasets as they were read at once."""

    def __init__(self, service: Service) -> None:
        self.overviews: Final = overview(service.registry)
        # Without those that were dropped meanwhile.
        self.opened: Final = {dataset.id: dataset for dataset in service.registry.datasets()}


@dataclass(frozen=True)
class _Line:
    """A dataset on the page; ``growth`` is None where the folder of the counts is unusable."""

    overview: DatasetOverview
    growth: _Growth | None


@router.get("/")
async def datasets_page(request: Request, after: str = "") -> Response:
    """Show the datasets that the viewer may read, those with names after ``after``."""
    viewer = await viewer_of(request, right=None)
    service = service_of(request)
    return await show(request, viewer, "datasets.html", lambda: _values(service, viewer, after))


def _values(service: Service, viewer: Viewer, after: str) -> dict[str, Any]:
    datasets: _Datasets = service.overview.get(lambda: _Datasets(service))
    readable = [each for each in datasets.overviews if viewer.may("read", each.name)]
    shown, following = named_page(readable, after, _DATASETS, "/")
    here = {
        each.id: (dataset, each.position)
        for each in shown
        if (dataset := datasets.opened.get(each.id)) is not None
    }
    growths: dict[int, _Growth | None] = service.growths.get(
        tuple(here), lambda: {number: _growth(service, *each) for number, each in here.items()}
    )
    return {
        "lines": [_Line(each, growths.get(each.id)) for each in shown],
        "count": len(readable),
        "total": sum(each.live for each in readable),
        "days": DAYS,
        "most_counted": MOST_COUNTED,
        "first_url": "/" if after else None,
        "next_url": following,
        "crumbs": [],
    }


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
