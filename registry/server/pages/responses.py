"""The answers of pages, with the headers that confine what a browser does with them."""

from __future__ import annotations

from typing import Final

from starlette.responses import HTMLResponse, Response

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The content security policy: no script or style within a page, and nothing from elsewhere."""
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def secured(response: Response, *, cache: str = "no-store") -> Response:
    """Add the headers of pages to an answer.

    ``cache`` is its Cache-Control. By default nothing is kept: on a shared computer, the next
    person would see the pages of a session that has ended.
    """
    response.headers.update({**_HEADERS, "cache-control": cache})
    return response


def html(text: str, status: int = 200) -> Response:
    # Values may contain lone surrogates, which UTF-8 does not have.
    return secured(HTMLResponse(text.encode("utf-8", "replace"), status))


def redirect(path: str) -> Response:
    """Return an answer that has the browser GET another page of this server."""
    return secured(Response(status_code=303, headers={"location": path}))
