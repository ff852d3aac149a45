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
from registry.server.problems import Problem
from registry.server.request_body import media_type, parse_changes
from registry.server.responses import (
    answer,
    answer_list,
    commit_answer,
    dataset_answer,
    head_answer,
    log_page,
    sample_answer,
)
from registry.server.schemas import (
    BEARER,
    JSON,
    CommitAnswer,
    DatasetAnswer,
    HeadAnswer,
    LogPageAnswer,
    LogRowAnswer,
    failures,
    samples_body,
)
from registry.server.service import OpenDataset, Service
from registry.storage.log.batch import Report
from registry.storage.log.changes import Change

router: APIRouter = APIRouter(prefix="/v1/datasets", tags=["datasets"], dependencies=[BEARER])


class _Key(Convertor[str]):
    """Matches the rest of a path, including line breaks, which Starlette's converter does not."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


# Before the routes: Starlette looks "key" up when a route is declared.
register_url_convertor("key", _Key())

_FAILURES = failures(401, 403, 404, 421, 422, 429, 503)
_MOST_ROWS = 1000


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("", response_model=list[DatasetAnswer], responses=failures(401, 421, 429, 503))
async def list_datasets(request: Request) -> Response:
    """List the datasets that the token may read."""
    service = service_of(request)
    token = await service.auth.token(request)

    def readable() -> list[DatasetAnswer]:
        # Filtered rather than rejected: a token for one dataset may list that one.
        return [
            dataset_answer(dataset)
            for dataset in service.registry.datasets()
            if token is None or token.opens(dataset.name, "read")
        ]

    return answer_list(await service.pools.read(readable))


@router.get("/{name}", response_model=DatasetAnswer, responses=_FAILURES)
async def show(name: str, request: Request) -> Response:
    """Show a dataset, or a version of one (``digits@gold``, ``digits@1500:9f86d081``)."""
    service, dataset = await _open(request, name)
    return answer(await service.pools.read(dataset.use, dataset_answer))


@router.get("/{name}/head", response_model=HeadAnswer, responses=_FAILURES)
async def head(name: str, request: Request) -> Response:
    """Show the present head of a dataset's log."""
    service, dataset = await _open(request, name)
    present = await service.pools.read(dataset.use, lambda opened: opened.head)
    return answer(head_answer(name, present))


@router.get("/{name}/samples", response_model=LogPageAnswer, responses=_FAILURES)
async def samples(
    name: str,
    request: Request,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="The first position.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST_ROWS)] = 100,
) -> Response:
    """Read a page of the log. It has fewer rows than ``limit`` if the samples are large."""
    service, dataset = await _open(request, name)
    page = await service.pools.read(dataset.use, lambda opened: log_page(opened, after, limit))
    return Response(page, media_type=JSON)


@router.get("/{name}/samples/{key:key}", response_model=LogRowAnswer, responses=_FAILURES)
async def sample(name: str, key: str, request: Request) -> Response:
    """Show a live sample."""
    service, dataset = await _open(request, name)
    return answer(await service.pools.read(dataset.use, lambda opened: sample_answer(opened, key)))


@router.post(
    "/{name}/samples",
    response_model=CommitAnswer,
    responses={**_FAILURES, **failures(400, 408, 409, 413, 415, 507)},
    openapi_extra=samples_body(),
)
async def post(name: str, request: Request) -> Response:
    """Insert, update or retract samples: all of the request or none.

    The answer is sent after the commit. Sending a request again, with the same keys, adds nothing.
    """
    service = service_of(request)
    base = name.partition("@")[0]
    # Before anything else: an answer about the dataset would reveal to anyone whether it exists.
    await service.auth.require(request, "write", base)
    if base != name:
        raise Problem(409, f"a version never changes; post to {base!r:.140}")
    dataset = await service.open(name)
    content_type = media_type(request)
    async with service.bodies.read(request) as body:
        limit = service.settings.body_rows
        changes = await service.pools.parse(body, lambda: parse_changes(content_type, body, limit))
        keys = None
        if any(change.key is None for change in changes):
            # Generated here rather than by the dataset, so that the answer can contain them.
            changes, keys = _with_keys(changes)
        # Within the block: the parsed changes take the reserved memory until they are stored.
        report = await _commit(service, dataset, changes)
    return answer(commit_answer(name, report, keys))


async def _open(request: Request, name: str) -> tuple[Service, OpenDataset]:
    service = service_of(request)
    await service.auth.require(request, "read", name.partition("@")[0])
    return service, await service.open(name)


def _with_keys(changes: Sequence[Change]) -> tuple[list[Change], list[str]]:
    """Return the changes with a key for each insert that has none, and the keys of all."""
    keyed = [
        replace(change, key=key) if change.key is None and change.action == "insert" else change
        for change, key in zip(changes, make_keys(len(changes)), strict=True)
    ]
    return keyed, [change.key or "" for change in keyed]


async def _commit(service: Service, dataset: OpenDataset, changes: Sequence[Change]) -> Report:
    try:
        return await service.commit(dataset, changes)
    except SampleNotFoundError as error:
        # A group commit has many requests: the row is that of this request, found by its key.
        rows = (row for row, change in enumerate(changes) if change.key == error.key)
        raise Problem(422, str(error), row=next(rows, None), key=error.key) from None
