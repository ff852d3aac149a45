"""Routes for monitoring: liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from registry.errors import RegistryError
from registry.server import metrics
from registry.server.problems import Problem
from registry.server.responses import answer
from registry.server.routes.datasets import service_of
from registry.server.schemas import BEARER, StatusAnswer, failures
from registry.storage.database import schema

router: APIRouter = APIRouter(tags=["health"])


@router.get("/healthz", response_model=StatusAnswer)
async def healthz() -> Response:
    """Report that the server runs, whatever the state of its database."""
    return answer(StatusAnswer(status="ok"))


@router.get("/readyz", response_model=StatusAnswer, responses=failures(503))
async def readyz(request: Request) -> Response:
    """Report whether the database answers and has the schema that this server needs."""
    service = service_of(request)
    try:
        await service.pools.read(schema.check, service.registry.engine)
    except RegistryError:
        # "from None": anyone may call this, and the error names the database.
        raise Problem(503, "the database cannot be reached, or has another schema") from None
    return answer(StatusAnswer(status="ready"))


@router.get(
    "/metrics",
    responses={200: {"content": {metrics.MEDIA_TYPE: {}}}, **failures(401, 403, 421, 429, 503)},
    dependencies=[BEARER],
)
async def prometheus(request: Request) -> Response:
    """Return the metrics for Prometheus; requires a token for all datasets."""
    service = service_of(request)
    # For all datasets: the metrics name each of them.
    await service.auth.require(request, "read", None)
    return Response(await service.data_metrics.text(), media_type=metrics.MEDIA_TYPE)
