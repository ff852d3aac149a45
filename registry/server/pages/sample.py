"""The page of one sample, with its revisions side by side, and pictures of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response

from registry.catalog.dataset import Dataset
from registry.catalog.sample_history import (
    MOST_EPOCHS,
    MOST_RUNS,
    HoldingEpochs,
    ListedRevision,
    chain_of_value,
    epochs_holding,
    newest_revisions,
    value_at,
)
from registry.errors import InvalidSampleError, SampleNotFoundError
from registry.html.drawings import SAMPLE, Drawing
from registry.html.render import render
from registry.html.samples import draw_sample, picture_of
from registry.html.thumbnails import Thumbnail, ThumbnailError
from registry.server.pages.paths import dataset_path, picture_path, run_path, sample_path
from registry.server.pages.responses import secured
from registry.server.pages.viewer import address_of, show_shared, viewer_of
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of

router: APIRouter = APIRouter(include_in_schema=False)

_REVISIONS: Final = 6
"""Revisions of a page."""
_LARGEST_SIDE: Final = 2048
_SHARED_SIDE: Final = 512
"""The largest side of pictures that are kept for others for a moment: larger ones take memory."""
_SECONDS: Final = 60
"""How long browsers show a picture again without asking: it may be erased, or the session end."""

_Tagged = tuple[str, Thumbnail | None]
_Position = Annotated[int, Path(ge=0, lt=1 << 63)]
_Side = Annotated[int, Query(ge=16, le=_LARGEST_SIDE)]
_Before = Annotated[int | None, Query(ge=0, lt=1 << 63)]


@dataclass(frozen=True)
class _Column:
    """A revision on the page: its drawings by feature, and the epochs that held it."""

    revision: ListedRevision
    drawings: Mapping[str, Drawing]
    epochs: Sequence[tuple[HoldingEpochs, str]]

    @property
    def state(self) -> str:
        """Why there is nothing to draw; empty if there is something."""
        entry = self.revision.entry
        if self.revision.sample is not None:
            return ""
        if entry.action == "retract":
            return "Retracted: later epochs do not hold the sample."
        if entry.erased:
            return "Erased: its content was removed permanently."
        return f"Not shown: the record has {self.revision.size / 1e6:,.0f} MB."


@router.get("/datasets/{name}/samples/{key:key}")
async def sample_page(name: str, key: str, request: Request, before: _Before = None) -> Response:
    """Show the revisions of a sample, the newest first."""
    return await show_sample(name, key, request, before)


async def show_sample(name: str, key: str, request: Request, before: int | None) -> Response:
    """Return the page of a sample."""
    viewer = await viewer_of(request, name)
    service = service_of(request)
    return await show_shared(
        request,
        viewer,
        "sample.html",
        lambda: service.open_here(name).use(lambda opened: _values(opened, name, key, before)),
    )


@router.get("/datasets/{name}/images/{position}/{feature:key}")
async def picture(
    name: str,
    position: _Position,
    feature: str,
    request: Request,
    side: _Side = 352,
    within: bool = False,
) -> Response:
    """Send the picture of a value; one that cannot be drawn is a picture that says why."""
    await viewer_of(request, name)
    return await _send_picture(name, position, feature, request, side, within=within)


@router.get("/datasets/{name}/images/{position}")
async def picture_of_parameter(
    name: str,
    position: _Position,
    request: Request,
    feature: str = "",
    side: _Side = 352,
    within: bool = False,
) -> Response:
    """Send a picture as `picture` does, of a feature whose name is no part of a path."""
    await viewer_of(request, name)
    return await _send_picture(name, position, feature, request, side, within=within)


async def _send_picture(
    name: str, position: int, feature: str, request: Request, side: int, *, within: bool
) -> Response:
    service = service_of(request)
    opened = await service.open(name)
    known = request.headers.get("if-none-match", "")

    def work() -> _Tagged:
        return opened.use(lambda dataset: _picture(dataset, position, feature, side, known, within))

    # In a pool of few threads, as each one may hold a large image in memory.
    if known or side > _SHARED_SIDE:
        tag, file = await service.pools.draw(work)
    else:
        key, pictures = address_of(request), service.shared_pictures
        kept = pictures.kept(key)
        if kept is None:
            kept = await service.pools.draw(lambda: pictures.get(key, work))
        tag, file = kept
    status, data, media_type = (
        (304, b"", None) if file is None else (200, file.data, file.media_type)
    )
    response = Response(data, status, media_type=media_type)
    if tag:
        response.headers["etag"] = tag
    return secured(response, cache=f"private, max-age={_SECONDS}")


def _picture(
    dataset: Dataset, position: int, feature: str, side: int, known: str, within: bool
) -> _Tagged:
    """Return the tag of a picture, and the picture unless the browser has the one with this tag."""
    chain = chain_of_value(dataset, position)
    # Which value it is, and how it is drawn; the path has the rest.
    tag = "" if chain is None else f'"{chain.hex()}-{side}"'
    if tag and tag in known:
        return tag, None
    value = value_at(dataset, position, feature) if tag else None
    if value is None:
        return "", _placeholder("there is no picture here", within)
    try:
        return tag, picture_of(dataset.features[feature], value, side)
    except ThumbnailError as error:
        return tag, _placeholder(str(error), within)


def _placeholder(reason: str, within: bool) -> Thumbnail:
    """Return a picture of a reason; within a page, one without a height.

    Only when the picture is decoded, the server learns that there is none: the page, with boxes
    that lie over it, was made before. They disappear with its height.
    """
    if within:
        text = '<svg xmlns="http://www.w3.org/2000/svg" width="16000" height="1"/>'
        return Thumbnail(text.encode(), "image/svg+xml", 16_000, 1)
    text = render("placeholder.svg", reason=reason)
    return Thumbnail(text.encode(), "image/svg+xml", 160, 120)


def _values(dataset: Dataset, name: str, key: str, before: int | None) -> dict[str, Any]:
    try:
        # One more than are shown: the last one is compared with it.
        revisions = newest_revisions(dataset, key, before=before, limit=_REVISIONS + 1)
    except InvalidSampleError as error:
        raise Problem(404, str(error)) from None
    if not revisions:
        raise Problem(404, str(SampleNotFoundError(key)))
    shown = revisions[:_REVISIONS]
    held = epochs_holding(dataset, shown)
    columns = [
        _column(dataset, name, revision, older, epochs)
        for revision, older, epochs in zip_longest(shown, revisions[1 : len(shown) + 1], held)
    ]
    newest = shown[0].entry
    group = newest.group
    more = len(revisions) > _REVISIONS
    return {
        "name": name,
        "key": key,
        "columns": columns,
        "features": list(dataset.features),
        "split": dataset.split_of(key),
        "has_splits": bool(dataset.splits),
        "group": group,
        "is_newest": before is None,
        "newest": shown[0],
        "older_url": sample_path(name, key, shown[-1].entry.position) if more else None,
        "newest_url": sample_path(name, key) if before is not None else None,
        "most_epochs": MOST_EPOCHS,
        "most_runs": MOST_RUNS,
        "crumbs": [
            (name, dataset_path(name)),
            ("Samples", dataset_path(name, "samples")),
            (key, None),
        ],
    }


def _column(
    dataset: Dataset,
    name: str,
    revision: ListedRevision,
    older: ListedRevision | None,
    epochs: Sequence[HoldingEpochs],
) -> _Column:
    base = name.partition("@")[0]
    position = revision.entry.position
    style = replace(
        SAMPLE,
        address=lambda feature: picture_path(base, position, feature, 2 * SAMPLE.side, within=True),
        large=lambda feature: picture_path(base, position, feature, _LARGEST_SIDE),
    )
    drawings: dict[str, Drawing] = {}
    if revision.sample is not None:
        before = None if older is None else older.sample
        drawn = draw_sample(dataset.features, revision.sample, style, before)
        drawings = {each.name: each for each in drawn}
    return _Column(revision, drawings, [(each, run_path(base, each.run)) for each in epochs])
