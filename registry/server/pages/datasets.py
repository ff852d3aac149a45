"""The page of all datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from registry.catalog.overview import MOST_COUNTED, DatasetOverview, overview
from registry.catalog.registry import Registry
from registry.server.pages.viewer import Viewer, show, viewer_of
from registry.server.routes.datasets import service_of

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _Line:
    """A dataset on the page. What is not counted yet is None."""

    overview: DatasetOverview
    grown: int | None = None
    """Live samples more than 30 days ago."""
    trend: Sequence[int] = ()
    """Live samples at the end of each of these days."""
    stored: int | None = None
    """Bytes of the records."""


@router.get("/")
async def datasets_page(request: Request) -> Response:
    """Show the datasets that the viewer may read."""
    viewer = await viewer_of(request, right=None)
    registry = service_of(request).registry
    return await show(request, viewer, "datasets.html", lambda: _values(registry, viewer))


def _values(registry: Registry, viewer: Viewer) -> dict[str, Any]:
    readable = [each for each in overview(registry) if viewer.may("read", each.name)]
    return {
        "lines": [_Line(each) for each in readable],
        "total": sum(each.live for each in readable),
        "most_counted": MOST_COUNTED,
        "crumbs": [],
    }
