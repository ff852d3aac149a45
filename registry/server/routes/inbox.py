"""Routes of the inbox: a tool lists its own rows, and corrects, retries or discards rejected ones.

A row belongs to the token whose name is the row's source: ``Token.source``.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ValidationError

from registry.catalog.dataset import Dataset
from registry.errors import SampleNotFoundError
from registry.io.media import MediaReader
from registry.io.retry_media import retry_row
from registry.samples.json_codec import parse_json
from registry.server.problems import Problem
from registry.server.request_body import media_type, parse_document
from registry.server.responses import answer, commit_answer, spliced
from registry.server.routes.datasets import service_of
from registry.server.schemas import (
    BEARER,
    JSON,
    CommitAnswer,
    InboxCorrection,
    InboxPageAnswer,
    InboxRowAnswer,
    correction_body,
    failures,
)
from registry.server.service import OpenDataset, Service
from registry.storage.log.batch import Report
from registry.storage.log.inbox_retry import RejectedRowNotFoundError
from registry.storage.log.inbox_rows import InboxEntry

router: APIRouter = APIRouter(
    prefix="/v1/datasets/{name}/inbox", tags=["inbox"], dependencies=[BEARER]
)

_FAILURES = failures(401, 403, 404, 421, 422, 429, 503)
_MOST_ROWS = 1000
_Id = Annotated[int, Path(ge=0, lt=1 << 63)]


@router.get("", response_model=InboxPageAnswer, responses=_FAILURES)
async def list_rows(
    name: str,
    request: Request,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="List rows past this id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 100,
) -> Response:
    """List rows of the inbox that wait or were rejected, with the reason.

    Rows that wait are moved to the log first, so those listed as waiting are locked by their tool.
    A token for one dataset lists the rows whose source is its name, or begins with it and ``/``. A
    token for every dataset lists all rows.
    """
    service, dataset, source = await _open(request, name)
    page = await service.pools.write(
        dataset.use, lambda opened: _page(opened, after, limit, source)
    )
    return Response(page, media_type=JSON)


@router.post(
    "/{id}/retry",
    response_model=CommitAnswer,
    responses={**_FAILURES, **failures(400, 408, 413, 415, 507)},
    openapi_extra=correction_body(),
)
async def retry(name: str, request: Request, id: _Id) -> Response:  # noqa: A002  # as in the path
    """Try a rejected row again, with other fields if the body has them.

    The row leaves the inbox. If it still does not fit, it stays as it is, and the answer says why.
    """
    service, dataset, source = await _open(request, name)
    async with service.bodies.read(request) as body:
        fields = await service.pools.parse(body, lambda: _fields(request, body))
        report = await service.media_events.write(
            lambda media: dataset.use(lambda opened: _retry(opened, id, fields, source, media)),
            fetches=await service.names_media(dataset),
        )
    return answer(commit_answer(name, report, None))


@router.delete("/{id}", status_code=204, response_class=Response, responses=_FAILURES)
async def discard(name: str, request: Request, id: _Id) -> Response:  # noqa: A002  # as in the path
    """Remove a rejected row."""
    service, dataset, source = await _open(request, name)
    count = await service.pools.write(
        dataset.use, lambda opened: opened.inbox.discard([id], source)
    )
    if not count:
        raise Problem(404, str(RejectedRowNotFoundError(id)))
    return Response(status_code=204)


async def _open(request: Request, name: str) -> tuple[Service, OpenDataset, str | None]:
    """Return the dataset, and the source of the rows that belong to the token (None: all)."""
    service: Service = service_of(request)
    token = await service.auth.require(request, "write", name.partition("@")[0])
    return service, await service.open(name), None if token is None else token.source


def _page(dataset: Dataset, after: int, limit: int, source: str | None) -> bytes:
    inbox = dataset.inbox  # raises for a version, which has none
    _ = dataset.head  # moves the waiting rows
    rows = inbox.rows(after, limit, source)
    # Rows are few where they are large, so that only the row after the last one shows the end.
    last = rows[-1].id if rows else None
    following = last if last is not None and inbox.rows(last, 1, source) else None
    return spliced(InboxPageAnswer(rows=[], next=following), map(_row, rows))


def _row(entry: InboxEntry) -> bytes:
    status = "waiting" if entry.error is None else "rejected"
    row = InboxRowAnswer.model_validate({**vars(entry), "status": status, "fields": None})
    text = row.model_dump_json(exclude={"fields"})
    # As it was written: Pydantic rejects the lone surrogates that JSON may contain.
    return f'{text[:-1]},"fields":{_valid(entry.fields)}}}'.encode()


def _valid(text: str | None) -> str:
    try:
        parse_json(text or "null")
    except ValueError:
        return "null"
    return text or "null"


def _fields(request: Request, body: bytes) -> dict[str, Any] | None:
    if not body:
        return None
    if media_type(request) != JSON:
        raise Problem(415, f"send {JSON}")
    try:
        return InboxCorrection.model_validate(parse_document(body)).fields
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or None
        raise Problem(422, str(first["msg"]), field=where) from None


def _retry(
    dataset: Dataset,
    number: int,
    fields: dict[str, Any] | None,
    source: str | None,
    media: MediaReader,
) -> Report:
    try:
        return retry_row(dataset, number, fields, source, media)
    except RejectedRowNotFoundError as error:
        raise Problem(404, str(error)) from None
    except SampleNotFoundError as error:
        raise Problem(422, str(error), key=error.key) from None
