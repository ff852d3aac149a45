"""Routes of datasets, their logs and their samples.

FastAPI publishes the docstring of a route as its description.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from registry.errors import SampleNotFoundError
from registry.samples.keys import make_keys
from registry.server import responses as answers
from registry.server import schemas as documents
from registry.server.problems import Problem
from registry.server.request_body import JSON, media_type, parse
from registry.server.responses import answer
from registry.server.schemas import failures
from registry.server.service import Opened, Service
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[documents.BEARER])


class _Key(Convertor[str]):
    """Matches the rest of a path, including line breaks, which Starlette's converter does not."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("key", _Key())

_REFUSED = failures(401, 403, 404, 421, 422, 429, 503)
_LIMIT = 1000


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


@router.get("", response_model=list[documents.DatasetFacts], responses=failures(401, 421, 429, 503))
async def list_datasets(request: Request) -> Response:
    """List the datasets that the token may read."""
    service = service_of(request)
    token = await service.access.token(request)

    def facts() -> list[object]:
        found = service.registry.datasets()
        return [answers.facts(d) for d in found if token is None or token.opens(d.name, "read")]

    return answer(await service.threads.read(facts))


@router.get("/{name}", response_model=documents.DatasetFacts, responses=_REFUSED)
async def show(name: str, request: Request) -> Response:
    """Show a dataset, or a version of one (``digits@1500:9f86d081``)."""
    service, opened = await _opened(request, name)
    return answer(await service.threads.read(opened.use, answers.facts))


@router.get("/{name}/head", response_model=documents.Head, responses=_REFUSED)
async def head(name: str, request: Request) -> Response:
    """Show the present head of a dataset's log."""
    service, opened = await _opened(request, name)
    found = await service.threads.read(opened.use, lambda dataset: dataset.head)
    return answer(answers.head_of(name, found))


@router.get("/{name}/samples", response_model=documents.Rows, responses=_REFUSED)
async def samples(
    name: str,
    request: Request,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="The first position.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_LIMIT)] = 100,
) -> Response:
    """Read a page of the log. It has fewer rows than ``limit`` if the samples are large."""
    service, opened = await _opened(request, name)
    found = await service.threads.read(opened.use, lambda d: answers.rows(d, after, limit))
    return Response(found, media_type=JSON)


@router.get("/{name}/samples/{key:key}", response_model=documents.Row, responses=_REFUSED)
async def sample(name: str, key: str, request: Request) -> Response:
    """Show a live sample."""
    service, opened = await _opened(request, name)
    return answer(await service.threads.read(opened.use, lambda d: answers.sample(d, key)))


@router.post(
    "/{name}/samples",
    response_model=documents.Stored,
    responses={**_REFUSED, **failures(400, 408, 409, 413, 415, 507)},
    openapi_extra=documents.samples_body(),
)
async def post(name: str, request: Request) -> Response:
    """Insert, update or retract samples: all of the request or none.

    The answer is sent after the commit. Sending a request again, with the same keys, adds nothing.
    """
    service = service_of(request)
    base = name.partition("@")[0]
    # Before anything else: an answer about the dataset would reveal to anyone whether it exists.
    await service.access.require(request, "write", base)
    if base != name:
        raise Problem(409, f"a version never changes; post to {base!r:.140}")
    opened = await service.open(name)
    kind = media_type(request)
    async with service.bodies.read(request) as body:
        rows = service.settings.rows
        changes = await service.threads.parse(body, lambda: parse(kind, body, rows))
        keys = None
        if any(change.key is None for change in changes):
            # Generated here rather than by the dataset, so that the answer can contain them.
            changes, keys = _named(changes)
        report = await _commit(service, opened, changes)
    return answer(answers.stored(name, report, keys))


async def _opened(request: Request, name: str) -> tuple[Service, Opened]:
    service = service_of(request)
    await service.access.require(request, "read", name.partition("@")[0])
    return service, await service.open(name)


def _named(changes: Sequence[Change]) -> tuple[list[Change], list[str]]:
    named = [
        replace(change, key=new) if change.key is None and change.action == "insert" else change
        for change, new in zip(changes, make_keys(len(changes)), strict=True)
    ]
    return named, [change.key or "" for change in named]


async def _commit(service: Service, opened: Opened, changes: Sequence[Change]) -> Report:
    try:
        return await service.commit(opened, changes)
    except SampleNotFoundError as error:
        # A group commit has many requests: the row is that of this request, found by its key.
        rows = (row for row, each in enumerate(changes) if each.key == error.key)
        raise Problem(422, str(error), row=next(rows, None), key=error.key) from None
