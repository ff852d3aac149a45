"""Errors as HTTP answers: RFC 9457 problem details, with the row and field of an invalid sample.

Messages of the database can contain values of a request, and the address of the database. Neither
answers nor logs contain them.
"""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

from starlette.responses import Response

from registry.errors import (
    DatasetDroppedError,
    DatasetNotFoundError,
    DiskFullError,
    InvalidSampleError,
    RegistryError,
    SampleNotFoundError,
    TransientError,
    VersionError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1
"""Seconds in the Retry-After header of answers with status 429 and 503."""

logger = logging.getLogger("registry.server")

_AGAIN = "send it again, with the same keys: what was stored after all is not stored twice"
_ABSENT = (SampleNotFoundError, DatasetNotFoundError, DatasetDroppedError, VersionError)
_TITLES = {
    400: "Malformed request",
    401: "No valid token",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Body not sent in time",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported body",
    421: "Wrong host",
    422: "Invalid sample",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
    507: "Storage full",
}


class Problem(Exception):  # noqa: N818  # the term of RFC 9457
    """An error answer, raised in a route; ``facts`` are extension members of its body.

    Facts that are None are left out.
    """

    def __init__(self, status: int, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.facts = facts
        self.headers: dict[str, str] = {}
        if status in (429, 503):
            self.headers["retry-after"] = str(RETRY_AFTER)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def response(self) -> Response:
        facts = {name: value for name, value in self.facts.items() if value is not None}
        body = {
            "type": "about:blank",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            **facts,
        }
        # json.dumps escapes all but ASCII. A lone surrogate in a name of the request would
        # otherwise raise UnicodeEncodeError here, and turn the answer into a 500.
        return Response(json.dumps(body), self.status, self.headers, MEDIA_TYPE)


def problem(error: Exception) -> Problem:
    """Return the answer to an error, and log the errors that the client did not cause."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidSampleError):
        facts = {"row": error.row, "key": error.key, "field": error.feature}
        return Problem(422, str(error), **facts)
    if isinstance(error, _ABSENT):
        return Problem(404, str(error))
    logger.error("%s", _traced(error))
    return _failure(error)


def _failure(error: Exception) -> Problem:
    if isinstance(error, TimeoutError):
        return late()
    if isinstance(error, TransientError):
        return Problem(503, f"the database did not answer in time; {_AGAIN}")
    if isinstance(error, DiskFullError):
        return Problem(507, "the database has no room left; nothing of the request was stored")
    if isinstance(error, RegistryError):
        return Problem(503, "the database cannot serve this now; the server's log says more")
    return Problem(500, "the server failed; its log says where")


def late() -> Problem:
    """Return the answer to a request that took too long."""
    return Problem(503, f"the request took too long; {_AGAIN}")


def _traced(error: BaseException) -> str:
    """Return an error's type and lines, and its causes', without messages.

    Messages may quote a request's values, so that `traceback.format_exception` cannot be used.
    """
    causes = []
    seen: BaseException | None = error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)[-3:]
        places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
        state = getattr(seen, "sqlstate", None)
        causes.append(f"{type(seen).__name__}{f' {state}' if state else ''} at {places}")
        seen = seen.__cause__
    return "; caused by ".join(causes)
