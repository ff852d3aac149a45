"""Routes for the webhooks of labeling tools.

A body can contain the token of its project and the passwords of its storage. So no part of it is
stored as it was sent, or logged, except the name of its event.

CVAT and Argilla sign their events. Their routes check the signature before they query the
database, so that an unauthenticated client learns nothing about datasets and costs no query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from registry.catalog.dataset import Dataset
from registry.errors import InvalidSampleError
from registry.io.labeling import argilla as argilla_tool
from registry.io.labeling import mapping_store as mappings
from registry.io.labeling.apply import Outcome
from registry.io.labeling.label_studio.webhook import apply_event
from registry.server import schemas as documents
from registry.server.deliveries import Outcome as Received
from registry.server.deliveries import note, record
from registry.server.problems import Problem
from registry.server.request_body import JSON, document, media_type
from registry.server.responses import answer
from registry.server.routes.datasets import service_of
from registry.server.schemas import failures
from registry.server.service import Service
from registry.server.webhook_signatures import Delivery, check_cvat, check_standard

router = APIRouter(prefix="/v1/datasets/{name}/webhooks", tags=["webhooks"])

_REFUSED = failures(400, 401, 404, 408, 413, 415, 421, 503)
_IMPORT = "CVAT's events carry no annotations: export them as COCO and `registry insert` that"


@router.post(
    "/label-studio",
    response_model=documents.Received,
    responses={**_REFUSED, **failures(403, 429)},
    dependencies=[documents.BEARER],
    openapi_extra=documents.event_body(),
)
async def label_studio(name: str, request: Request) -> Response:
    """Apply an event of Label Studio, which sends a token as a custom header.

    Label Studio disables a webhook after some answers other than 2xx, and never sends an event
    again. So an event that is ignored or rejected is answered with 200 and the reason.
    """
    service = service_of(request)
    await service.access.require(request, "write", name)
    opened = await service.open(name)
    if media_type(request) != JSON:
        raise Problem(415, f"send {JSON}")
    async with service.bodies.read(request) as body:
        event = await service.threads.parse(body, lambda: document(body))
        said = await service.threads.write(opened.use, lambda d: _apply(service, d, event))
    service.metrics.events.labels(opened.name, "label-studio", said["status"]).inc()
    return answer(said)


@router.post(
    "/cvat",
    response_model=documents.Received,
    responses=_REFUSED,
    openapi_extra=documents.event_body(),
)
async def cvat(name: str, request: Request) -> Response:
    """Record an event of CVAT, signed with the dataset's secret in ``X-Signature-256``."""
    service = service_of(request)
    secrets = _secrets(service, name, "cvat")
    async with service.bodies.read(request) as body:
        event, digest = await service.threads.parse(body, lambda: _cvat(secrets, request, body))
        opened = await service.open(name)
        found = await service.threads.write(
            opened.use,
            lambda d: record(service.registry.engine, d.id, "cvat", _named(event, "event"), digest),
        )
    service.metrics.events.labels(opened.name, "cvat", found).inc()
    return answer({"status": found, "detail": _IMPORT})


@router.post(
    "/argilla",
    response_model=documents.Received,
    responses={**_REFUSED, **failures(409)},
    openapi_extra=documents.event_body(),
)
async def argilla(name: str, request: Request) -> Response:
    """Apply an event of Argilla, signed as Standard Webhooks are with the dataset's secret.

    Argilla sends an event again, a few times, if the answer is not 2xx. So an event that is
    ignored or rejected is answered with 200 and the reason.
    """
    service = service_of(request)
    secrets = _secrets(service, name, "argilla")
    async with service.bodies.read(request) as body:
        event, sent = await service.threads.parse(body, lambda: _argilla(secrets, request, body))
        opened = await service.open(name)
        said = await service.threads.write(
            opened.use, lambda d: _apply_once(service, d, event, sent)
        )
    service.metrics.events.labels(opened.name, "argilla", said["status"]).inc()
    if said["status"] == "replayed":
        raise Problem(409, "this delivery was received already, with this very signature")
    return answer(said)


def _cvat(secrets: Sequence[str], request: Request, body: bytes) -> tuple[Any, bytes]:
    # The signature is of the bytes: check them before they are parsed.
    check_cvat(secrets, request.headers, body)
    return document(body), sha256(body).digest()


def _argilla(secrets: Sequence[str], request: Request, body: bytes) -> tuple[Any, Delivery]:
    sent = check_standard(secrets, request.headers, body)
    return document(body), sent


def _apply(service: Service, dataset: Dataset, event: Any) -> dict[str, Any]:
    mapping = mappings.mapping_of(service.registry.engine, dataset.id, "label-studio")
    try:
        done = apply_event(dataset, mapping, event)
    except InvalidSampleError as error:
        return {"status": "refused", "detail": str(error)}
    return _said(done)


def _apply_once(service: Service, dataset: Dataset, event: Any, sent: Delivery) -> dict[str, Any]:
    """Apply an event and record its delivery in one transaction, so that both or neither is stored.

    The delivery of a rejected event is not recorded.
    """
    engine = service.registry.engine
    delivery = ("argilla", _named(event, "type"), sha256(sent.id.encode()).digest(), sent.signed)
    found: Received = "recorded"

    def note_it(connection: Connection) -> bool:
        # Called again if the transaction is retried: it must set the result each time.
        nonlocal found
        found = note(connection, dataset.id, *delivery)
        return found == "recorded"

    mapping = mappings.mapping_of(engine, dataset.id, "argilla")
    try:
        done = argilla_tool.apply_event(dataset, mapping, event, note=note_it)
    except InvalidSampleError as error:
        return {"status": "refused", "detail": str(error)}
    if done.ignored is not None:  # there was no transaction, so note_it() was not called
        found = record(engine, dataset.id, *delivery)
    return _said(done) if found == "recorded" else {"status": found}


def _said(done: Outcome) -> dict[str, Any]:
    if done.ignored is not None:
        return {"status": "ignored", "detail": done.ignored}
    counts = {name: count for name, count in asdict(done).items() if name != "ignored"}
    return {"status": "quarantined" if done.quarantined else "applied", **counts}


def _named(event: Any, key: str) -> object:
    return event.get(key) if isinstance(event, dict) else None


def _secrets(service: Service, name: str, tool: str) -> tuple[str, ...]:
    """Return the dataset's secrets for a tool; raises `Problem` if there are none.

    The error is the same whether or not the dataset exists: the client is not authenticated yet.
    """
    found = service.settings.secrets.get(name, {}).get(tool)
    if not found:
        raise Problem(401, f"no secret of {tool} is configured here for this dataset")
    return found
