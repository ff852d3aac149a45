"""The routes that begin and end a session."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from registry.html.render import render
from registry.server.pages.responses import html, redirect
from registry.server.pages.viewer import local_path, read_form
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of
from registry.server.service import Service
from registry.server.tokens import digest

router: APIRouter = APIRouter(include_in_schema=False)

_UNKNOWN = "This token is unknown, revoked or expired."
_MOST_BYTES = 1 << 13
"""Bytes of the form. Anybody may send it, and bodies of tools need the memory for theirs."""
_ENDED = "The session has ended. Log in again."


@router.get("/login")
async def login_page(request: Request) -> Response:
    """Show the form that takes a token."""
    service = _checked(request)
    if service.settings.insecure:
        return redirect("/")
    path = local_path(request.query_params.get("next", "/"))
    return _form(request, path, notice=_ENDED if "ended" in request.query_params else None)


@router.post("/login")
async def login(request: Request) -> Response:
    """Begin a session of a token, and lead back to the page that needed it."""
    service = _checked(request)
    if service.settings.insecure:
        return redirect("/")
    fields = await read_form(request, service.sessions.read(request), _MOST_BYTES)
    path = local_path(fields.get("next", ["/"])[0])
    secret = fields.get("token", [""])[0].strip()
    try:
        await service.auth.check_secret(request, secret)
    except Problem as problem:
        if problem.status != 401:
            raise
        return _form(request, path, error=_UNKNOWN)
    response = redirect(path)
    service.sessions.keep(service.sessions.begin(digest(secret)), request, response)
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session."""
    service = _checked(request)
    session = service.sessions.read(request)
    if session is None:
        return redirect("/login")
    await read_form(request, session)
    service.sessions.end(session)
    response = redirect("/login")
    response.delete_cookie(service.sessions.cookie, httponly=True, samesite="lax")
    return response


def _checked(request: Request) -> Service:
    service = service_of(request)
    if service.settings.insecure:
        service.auth.check_host(request)
    return service


def _form(
    request: Request, path: str, *, error: str | None = None, notice: str | None = None
) -> Response:
    sessions = service_of(request).sessions
    session = sessions.read(request) or sessions.begin()
    text = render(
        "login.html", csrf=sessions.form_token(session), next=path, error=error, notice=notice
    )
    response = html(text, 200 if error is None else 401)
    sessions.keep(session, request, response)
    return response
