"""The page of a dataset's rejected rows, and what can be done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError, SampleNotFoundError
from registry.io.media import MediaReader
from registry.io.retry_media import retry_row
from registry.samples.json_codec import parse_json
from registry.server.pages.paths import dataset_path
from registry.server.pages.responses import redirect
from registry.server.pages.viewer import Viewer, read_form, show, show_shared, viewer_of
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of
from registry.server.service import OpenDataset
from registry.storage.log.inbox_changes import reason_of
from registry.storage.log.inbox_retry import RejectedRowNotFoundError

router: APIRouter = APIRouter(include_in_schema=False)

ROWS: Final = 50
"""Rows of a page."""
_LARGEST: Final = 1 << 14
"""Bytes of the largest fields that are shown: more is an image, which nobody corrects as text."""

_After = Annotated[int, Query(ge=0, lt=1 << 63)]
_Count = Annotated[int, Query(ge=0, le=ROWS)]


@dataclass(frozen=True)
class _Audience:
    """Who sees the same rows, and whether they may change them. ``source`` None is all sources."""

    source: str | None
    may_write: bool

    @classmethod
    def of(cls, viewer: Viewer, dataset: str) -> _Audience:
        source = None if viewer.token is None else viewer.token.source
        return cls(source, viewer.may("write", dataset))


@dataclass(frozen=True)
class _Outcome:
    """What became of the rows that were tried again or discarded, as numbers of a URL."""

    stored: int = 0
    rejected: int = 0
    discarded: int = 0
    gone: int = 0


@dataclass(frozen=True)
class _Correction:
    """Fields that somebody wrote for a row, and why they do not fit."""

    id: int
    text: str
    reason: str


@dataclass(frozen=True)
class _Form:
    """What was posted: the rows, whether to discard them, and other fields for one of them."""

    ids: Sequence[int]
    discard: bool
    fields: Mapping[str, Any] | None = None


@router.get("/datasets/{name}/rejected")
async def rejected_page(
    name: str,
    request: Request,
    after: _After = 0,
    stored: _Count = 0,
    rejected: _Count = 0,
    discarded: _Count = 0,
    gone: _Count = 0,
) -> Response:
    """Show the rows of the inbox that were rejected, with the reasons."""
    viewer = await viewer_of(request, name)
    dataset = await service_of(request).open(name)
    outcome = _Outcome(stored, rejected, discarded, gone)
    audience = _Audience.of(viewer, dataset.name)

    def values() -> dict[str, Any]:
        return dataset.use(lambda opened: _values(opened, audience, after, outcome))

    # Not one from before the change that led here, which another server may have made.
    if outcome != _Outcome():
        return await show(request, viewer, "rejected.html", values)
    return await show_shared(request, viewer, "rejected.html", values, audience)


@router.post("/datasets/{name}/rejected")
async def change_rejected(name: str, request: Request, after: _After = 0) -> Response:
    """Try rows again, as they are or with other fields, or discard them."""
    viewer = await viewer_of(request, name, "write")
    service = service_of(request)
    fields = await read_form(request, viewer.session)
    dataset = await service.open(name)
    source = None if viewer.token is None else viewer.token.source
    try:
        form = _parse(fields)
        if form.discard:
            count = await service.pools.write(
                dataset.use, lambda opened: opened.inbox.discard(form.ids, source)
            )
            outcome = _Outcome(discarded=count, gone=len(form.ids) - count)
        else:
            outcome = await service.media_events.write(
                lambda media: dataset.use(lambda opened: _retry(opened, form, source, media)),
                fetches=await service.names_media(dataset),
            )
    except _UnfitError as error:
        correction = _Correction(error.id, fields["fields"][0], str(error))
        return await _show_again(request, viewer, dataset, after, correction)
    service.shared_pages.clear()
    counts = {key: value for key, value in vars(outcome).items() if value}
    return redirect(f"{dataset_path(name, 'rejected')}?{urlencode({**counts, 'after': after})}")


class _UnfitError(Exception):
    """Fields that somebody wrote, and that are no sample."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.id = number


def _parse(fields: Mapping[str, Sequence[str]]) -> _Form:
    """Return what a form asks for; raises `Problem` for one that no page has."""
    discard = "discard" in fields
    (button,) = fields.get("discard" if discard else "retry", [""])[:1]
    try:
        ids = [int(each) for each in (fields.get("id", []) if button == "selected" else [button])]
    except ValueError:
        raise Problem(422, "a row is named by its number") from None
    if len(ids) > ROWS:
        raise Problem(422, f"at most {ROWS} rows are changed at a time")
    if discard or "fields" not in fields:
        return _Form(ids, discard)
    try:
        corrected = parse_json(fields["fields"][0])
    except (ValueError, RecursionError) as error:
        raise _UnfitError(ids[0], f"This is not JSON: {error}") from None
    if not isinstance(corrected, dict):
        raise _UnfitError(ids[0], "Write an object with the features' names, as {…}")
    return _Form(ids, discard, corrected)


def _retry(dataset: Dataset, form: _Form, source: str | None, media: MediaReader) -> _Outcome:
    outcome = _Outcome()
    for number in form.ids:
        try:
            retry_row(dataset, number, form.fields, source, media)
        except RejectedRowNotFoundError:
            outcome = replace(outcome, gone=outcome.gone + 1)
        except (InvalidSampleError, SampleNotFoundError) as error:
            if form.fields is not None:
                raise _UnfitError(number, reason_of(error)) from None
            outcome = replace(outcome, rejected=outcome.rejected + 1)
        else:
            outcome = replace(outcome, stored=outcome.stored + 1)
    return outcome


async def _show_again(
    request: Request, viewer: Viewer, dataset: OpenDataset, after: int, correction: _Correction
) -> Response:
    audience = _Audience.of(viewer, dataset.name)
    return await show(
        request,
        viewer,
        "rejected.html",
        lambda: dataset.use(lambda opened: _values(opened, audience, after, correction=correction)),
        422,
    )


def _values(
    dataset: Dataset,
    audience: _Audience,
    after: int,
    outcome: _Outcome | None = None,
    correction: _Correction | None = None,
) -> dict[str, Any]:
    source = audience.source
    # One more than is shown, to know whether these are the last.
    rows = dataset.inbox.rejected_rows(after, ROWS + 1, source, _LARGEST)
    limits = dataset.inbox.limits
    return {
        "name": dataset.name,
        "description": dataset.description,
        "rows": rows[:ROWS],
        "next": rows[ROWS - 1].id if len(rows) > ROWS else None,
        "after": after,
        "source": source,
        "limits": limits,
        "may_write": audience.may_write,
        "outcome": outcome or _Outcome(),
        "correction": correction,
        "crumbs": [
            (dataset.name, dataset_path(dataset.name)),
            ("Rejected rows", None),
        ],
    }
