"""Errors as HTTP answers: RFC 9457 problem details, with the row and field of an invalid sample.

Messages of the database can contain values of a request, and the address of the database. Neither
answers nor logs contain them.
"""

from __future__ import annotations

import json
import logging
import traceback

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
from registry.server.schemas import PROBLEM_JSON, ProblemDetails

RETRY_AFTER = 1
"""Seconds in the Retry-After header of answers with status 429 and 503."""

logger: logging.Logger = logging.getLogger("registry.server")

_SEND_AGAIN = "send it again, with the same keys: what was stored after all is not stored twice"
_NOT_FOUND = (SampleNotFoundError, DatasetNotFoundError, DatasetDroppedError, VersionError)
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
    """An error answer, raised in a route.

    ``row``, ``key``, ``field`` and ``line`` say which part of the request it is about.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        row: int | None = None,
        key: str | None = None,
        field: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        # Not validated: Pydantic rejects lone surrogates, and one in a key of the request would
        # turn this answer into a 500.
        self.details: ProblemDetails = ProblemDetails.model_construct(
            type="about:blank",
            title=_TITLES.get(status, "Error"),
            status=status,
            detail=detail,
            row=row,
            key=key,
            field=field,
            line=line,
        )
        self.headers: dict[str, str] = {}
        if status in (429, 503):
            self.headers["retry-after"] = str(RETRY_AFTER)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def response(self) -> Response:
        # Nor written by Pydantic, for the same reason: json.dumps escapes all but ASCII.
        body = json.dumps(self.details.model_dump(exclude_none=True))
        return Response(body, self.status, self.headers, PROBLEM_JSON)


def problem_of(error: Exception) -> Problem:
    """Return the answer to an error, and log the errors that the client did not cause."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidSampleError):
        return Problem(422, str(error), row=error.row, key=error.key, field=error.feature)
    if isinstance(error, _NOT_FOUND):
        return Problem(404, str(error))
    logger.error("%s", _trace(error))
    return _failure(error)


def _failure(error: Exception) -> Problem:
    # From the special to the general: the errors of the database are all RegistryErrors.
    if isinstance(error, TimeoutError):
        return timed_out()
    if isinstance(error, TransientError):
        return Problem(503, f"the database did not answer in time; {_SEND_AGAIN}")
    if isinstance(error, DiskFullError):
        return Problem(507, "the database has no room left; nothing of the request was stored")
    if isinstance(error, RegistryError):
        return Problem(503, "the database cannot serve this now; the server's log says more")
    return Problem(500, "the server failed; its log says where")


def timed_out() -> Problem:
    """Return the answer to a request that took too long."""
    return Problem(503, f"the request took too long; {_SEND_AGAIN}")


def _trace(error: BaseException) -> str:
    """Return an error's type and lines, and its causes', without messages.

    Messages may quote a request's values, so that `traceback.format_exception` cannot be used.
    """
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)[-3:]
        lines = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
        sqlstate = getattr(cause, "sqlstate", None)
        causes.append(f"{type(cause).__name__}{f' {sqlstate}' if sqlstate else ''} at {lines}")
        cause = cause.__cause__
    return "; caused by ".join(causes)
