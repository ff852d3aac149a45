"""The ASGI application: routes, exception handlers, and the shutdown of its threads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from registry.catalog.registry import Registry
from registry.errors import RegistryError
from registry.server.middleware import RequestMiddleware
from registry.server.pages import dataset as dataset_page
from registry.server.pages import datasets as datasets_page
from registry.server.pages import login, rejected, runs, sample, static
from registry.server.pages.errors import answer_problem
from registry.server.problems import Problem, problem_of
from registry.server.routes import datasets, health, inbox, webhooks
from registry.server.service import Service
from registry.server.settings import ServerSettings

_DESCRIPTION = "Samples from labeling tools, into datasets that grow while models train on them."


def application(registry: Registry, settings: ServerSettings | None = None) -> FastAPI:
    """Return the ASGI application that serves a registry's datasets."""
    service = Service(registry, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        # uvicorn continues here after the last answer. Closed earlier, the pools would reject the
        # requests that are still in progress.
        service.close()

    app = FastAPI(
        title="Registry",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            Problem: _answer_error,
            RegistryError: _answer_error,
            HTTPException: _answer_unrouted,
            RequestValidationError: _answer_invalid,
        },
    )
    app.state.service = service
    # Outermost of the application's own middleware, so that it measures every answer.
    app.add_middleware(RequestMiddleware, service=service)
    pages = (datasets_page, dataset_page, sample, runs, rejected, login, static)
    for routes in (datasets, inbox, webhooks, health, *pages):
        app.include_router(routes.router)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    return answer_problem(request.scope, problem_of(error))


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(error.status_code, str(error.detail))
    problem.headers.update(error.headers or {})
    # Starlette sets Allow from the first route of the path, which leaves out the other routes.
    if error.status_code == 405:
        problem.headers["Allow"] = ", ".join(_methods(request))
    return answer_problem(request.scope, problem)


def _methods(request: Request) -> list[str]:
    """Return the methods of all routes that match the path of a request."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Name the invalid parameter, but do not repeat its value: it may be confidential."""
    assert isinstance(error, RequestValidationError)
    # The location ends in the parameter's name. Errors of bodies are answered by the routes.
    first = error.errors()[0]
    problem = Problem(422, str(first["msg"]), field=str(first["loc"][-1]))
    return answer_problem(request.scope, problem)
