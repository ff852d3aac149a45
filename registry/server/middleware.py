"""The outermost middleware: the limit on requests, the metrics, and the last error handler."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.server.connections import STATE_KEY
from registry.server.pages.errors import answer_problem
from registry.server.pages.viewer import kept_page
from registry.server.problems import Problem, problem_of
from registry.server.service import Service

HEALTH = "/healthz"
"""This path is answered even when the server is at its limit of requests."""


class RequestMiddleware:
    """ASGI middleware that limits and measures requests, and answers unhandled exceptions.

    An exception that reached uvicorn would be logged with its message, which can hold a request's
    values.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_and_keep_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        self._in_progress += 1  # no lock: all requests are on one event loop
        self._service.metrics.requests_in_progress.inc()
        try:
            app = self._app
            if self._in_progress > self._service.connections.limit and scope["path"] != HEALTH:
                app = _reject
            # Before the router, which takes several times as long as the answer.
            elif (page := await kept_page(Request(scope))) is not None:
                app = page
            await app(scope, receive, send_and_keep_status)
        except Exception as error:  # noqa: BLE001  # the last handler; its log holds no values
            answer = answer_problem(scope, problem_of(error))
            if not status:  # once an answer has started, a second start is a protocol error
                await answer(scope, receive, send_and_keep_status)
        finally:
            self._in_progress -= 1
            self._service.metrics.requests_in_progress.dec()
            self._measure(scope, status, time.perf_counter() - started)
            # In all cases: a request that is never counted as answered keeps its connection from
            # being closed by the deadline.
            if (connection := scope["state"].get(STATE_KEY)) is not None:
                connection.answered()

    def _measure(self, scope: Scope, status: int, seconds: float) -> None:
        # The pattern of the route, not the path: a client that invents paths would create a time
        # series for each of them.
        route = getattr(scope.get("route"), "path", "none")
        metrics = self._service.metrics
        method = scope["method"] if route != "none" else "any"
        metrics.requests.labels(method, route, status).inc()
        metrics.request_seconds.labels(route).observe(seconds)


async def _reject(scope: Scope, receive: Receive, send: Send) -> None:
    answer = answer_problem(scope, Problem(503, "too many requests at a time; send it again"))
    await answer(scope, receive, send)
