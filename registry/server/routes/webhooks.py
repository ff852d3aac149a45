"""Routes for the webhooks of labeling tools.

A body can contain the token of its project and the passwords of its storage. So no part of it is
stored as it was sent, or logged, except the name of its event.

CVAT and Argilla sign their events. Their routes check the signature before they query the
database, so that an unauthenticated client learns nothing about datasets and costs no query.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError
from registry.io.labeling import argilla as argilla_tool
from registry.io.labeling import mapping_store
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.webhook import apply_event
from registry.io.media import MediaReader
from registry.server import deliveries
from registry.server.deliveries import DeliveryStatus
from registry.server.problems import Problem
from registry.server.request_body import media_type, parse_document
from registry.server.responses import answer
from registry.server.routes.datasets import service_of
from registry.server.schemas import BEARER, JSON, EventAnswer, event_body, failures
from registry.server.service import Service
from registry.server.webhook_signatures import Delivery, check_cvat, check_standard

router: APIRouter = APIRouter(prefix="/v1/datasets/{name}/webhooks", tags=["webhooks"])

_FAILURES = failures(400, 401, 404, 408, 413, 415, 421, 422, 503)
_CVAT_DETAIL = "CVAT's events carry no annotations: export them as COCO and `registry insert` that"


@router.post(
    "/label-studio",
    response_model=EventAnswer,
    responses={**_FAILURES, **failures(403, 429)},
    dependencies=[BEARER],
    openapi_extra=event_body(),
)
async def label_studio(name: str, request: Request) -> Response:
    """Apply an event of Label Studio, which sends a token as a custom header.

    Label Studio never sends an event again, whatever the answer. So an event that is ignored or
    rejected is answered with 200 and the reason.
    """
    service = service_of(request)
    await service.auth.require(request, "write", name)
    dataset = await service.open(name)
    # Not answered with 200, as Label Studio never sends this: the client is another one.
    if media_type(request) != JSON:
        raise Problem(415, f"send {JSON}")
    async with service.bodies.read(request) as body:
        event = await service.pools.parse(body, lambda: parse_document(body))
        result = await service.media_events.write(
            lambda media: dataset.use(lambda opened: _apply(service, opened, event, media)),
            fetches=await service.names_media(dataset),
        )
    service.metrics.events.labels(dataset.name, "label-studio", result.status).inc()
    return answer(result)


@router.post(
    "/cvat",
    response_model=EventAnswer,
    responses=_FAILURES,
    openapi_extra=event_body(),
)
async def cvat(name: str, request: Request) -> Response:
    """Record an event of CVAT, signed with the dataset's secret in ``X-Signature-256``."""
    service = service_of(request)
    secrets = _secrets(service, name, "cvat")
    async with service.bodies.read(request) as body:
        event, digest = await service.pools.parse(body, lambda: _cvat(secrets, request, body))
        dataset = await service.open(name)
        status = await service.pools.write(
            dataset.use,
            lambda opened: deliveries.record(
                service.registry.engine, opened.id, "cvat", _member(event, "event"), digest
            ),
        )
    service.metrics.events.labels(dataset.name, "cvat", status).inc()
    return answer(EventAnswer(status=status, detail=_CVAT_DETAIL))


@router.post(
    "/argilla",
    response_model=EventAnswer,
    responses={**_FAILURES, **failures(409)},
    openapi_extra=event_body(),
)
async def argilla(name: str, request: Request) -> Response:
    """Apply an event of Argilla, signed as Standard Webhooks are with the dataset's secret.

    Argilla sends an event again, a few times, if the answer is not 2xx. So an event that is
    ignored or rejected is answered with 200 and the reason.
    """
    service = service_of(request)
    secrets = _secrets(service, name, "argilla")
    async with service.bodies.read(request) as body:
        event, sent = await service.pools.parse(body, lambda: _argilla(secrets, request, body))
        dataset = await service.open(name)
        result = await service.media_events.write(
            lambda media: dataset.use(
                lambda opened: _apply_once(service, opened, event, sent, media)
            ),
            fetches=await service.names_media(dataset),
        )
    service.metrics.events.labels(dataset.name, "argilla", result.status).inc()
    if result.status == "replayed":
        raise Problem(409, "this delivery was received already, with this very signature")
    return answer(result)


def _cvat(secrets: Sequence[str], request: Request, body: bytes) -> tuple[Any, bytes]:
    # The signature is of the bytes: check them before they are parsed.
    check_cvat(secrets, request.headers, body)
    return parse_document(body), sha256(body).digest()


def _argilla(secrets: Sequence[str], request: Request, body: bytes) -> tuple[Any, Delivery]:
    sent = check_standard(secrets, request.headers, body)
    return parse_document(body), sent


def _apply(service: Service, dataset: Dataset, event: Any, media: MediaReader) -> EventAnswer:
    settings = mapping_store.settings_of(service.registry.engine, dataset.id, "label-studio")
    try:
        outcome = apply_event(
            dataset,
            settings.mapping,
            event,
            media=media,
            hull=settings.hull,
            consensus=settings.consensus,
        )
    except InvalidSampleError as error:
        return EventAnswer(status="refused", detail=str(error))
    return _event_answer(outcome)


def _apply_once(
    service: Service, dataset: Dataset, event: Any, sent: Delivery, media: MediaReader
) -> EventAnswer:
    """Apply an event and record its delivery in one transaction, so that both or neither is stored.

    The delivery of a rejected event is not recorded.
    """
    engine = service.registry.engine
    digest = sha256(sent.id.encode()).digest()
    delivery = ("argilla", _member(event, "type"), digest, sent.signed)
    status: DeliveryStatus = "recorded"

    def record_delivery(connection: Connection) -> bool:
        # Called again if the transaction is retried: it must set the result each time.
        nonlocal status
        status = deliveries.record_in(connection, dataset.id, *delivery)
        return status == "recorded"

    settings = mapping_store.settings_of(engine, dataset.id, "argilla")
    try:
        outcome = argilla_tool.apply_event(
            dataset,
            settings.mapping,
            event,
            note=record_delivery,
            media=media,
            consensus=settings.consensus,
        )
    except InvalidSampleError as error:
        return EventAnswer(status="refused", detail=str(error))
    if outcome.ignored is not None:  # there was no transaction, so record_delivery() did not run
        status = deliveries.record(engine, dataset.id, *delivery)
    return _event_answer(outcome) if status == "recorded" else EventAnswer(status=status)


def _event_answer(outcome: Outcome) -> EventAnswer:
    if outcome.ignored is not None:
        return EventAnswer(status="ignored", detail=outcome.ignored)
    return EventAnswer(
        status="quarantined" if outcome.quarantined else "applied",
        inserted=outcome.inserted,
        revised=outcome.revised,
        retracted=outcome.retracted,
        unchanged=outcome.unchanged,
        quarantined=outcome.quarantined,
    )


def _member(event: Any, name: str) -> object:
    return event.get(name) if isinstance(event, dict) else None


def _secrets(service: Service, name: str, tool: str) -> tuple[str, ...]:
    """Return the dataset's secrets for a tool; raises `Problem` if there are none.

    The error is the same whether or not the dataset exists: the client is not authenticated yet.
    """
    secrets = service.settings.secrets.get(name, {}).get(tool)
    if not secrets:
        raise Problem(401, f"no secret of {tool} is configured here for this dataset")
    return secrets
