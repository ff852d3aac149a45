"""Errors of pages as pages; those of the API stay JSON."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from registry.html.render import render
from registry.server.pages.responses import html, redirect
from registry.server.pages.viewer import LoginRequired
from registry.server.problems import Problem

_PAGES = ("/", "/login", "/logout")
_BELOW = ("/datasets/", "/static/")
_TITLES = {422: "Invalid request"}
"""Titles of what is the error of a sample to a program."""
_API = ("/v1/", "/metrics", "/healthz", "/readyz", "/openapi.json")


def answer_problem(scope: Scope, problem: Problem) -> Response:
    """Return the answer to a request that failed: a page, or JSON for a program."""
    if not _is_page(scope):
        return problem.response()
    if isinstance(problem, LoginRequired):
        return redirect(problem.login)
    details = problem.details
    detail = details.detail if details.field is None else f"{details.field}: {details.detail}"
    # Details begin in lower case, as they follow a name in a log or a colon; or with a name.
    if detail.partition(" ")[0].isalpha():
        detail = detail[:1].upper() + detail[1:]
    title = _TITLES.get(problem.status, details.title)
    text = render("error.html", status=problem.status, title=title, detail=detail)
    response = html(text, problem.status)
    response.headers.update({k: v for k, v in problem.headers.items() if k != "www-authenticate"})
    return response


def _is_page(scope: Scope) -> bool:
    path: str = scope["path"]
    if path in _PAGES or path.startswith(_BELOW):
        return True
    # A path of nothing: browsers ask for HTML, programs for anything.
    return not path.startswith(_API) and "text/html" in HTTPConnection(scope).headers.get(
        "accept", ""
    )
