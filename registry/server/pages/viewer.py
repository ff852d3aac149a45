"""Who views a page, and what they may do: `viewer_of`, `show` and `read_form` of each route."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from registry.html.render import render
from registry.server.pages.responses import html
from registry.server.pages.sessions import Session
from registry.server.pages.shared_page import SharedPage
from registry.server.problems import Problem
from registry.server.routes.datasets import service_of
from registry.server.tokens import Right, Token

_FORM: Final = "application/x-www-form-urlencoded"
_SESSION: Final = "<!--session-->"
"""Where the layout has the session of the viewer, if it is not known to the template."""
_CSRF: Final = Markup("<!--csrf-->")
"""Where a page that viewers share has the token of their forms."""
_MOST_FIELDS: Final = 2000
MOST_BYTES: Final = 1 << 20
"""Bytes of a form, at most."""


class LoginRequired(Problem):
    """The page needs a session; answered with the login page, which leads back to ``path``."""

    def __init__(self, path: str, *, ended: bool) -> None:
        super().__init__(401, "log in to see this page")
        self.path = path
        self.ended = ended
        """Whether the browser sent a session, which is over."""

    @property
    def login(self) -> str:
        query = {} if self.path == "/" else {"next": self.path}
        if self.ended:
            query["ended"] = "1"
        return f"/login?{urlencode(query)}" if query else "/login"


@dataclass(frozen=True)
class Viewer:
    """A visitor of a page. ``token`` is None on a server that asks for none."""

    token: Token | None
    session: Session
    csrf: str = field(repr=False)
    begun: bool = False
    """Whether the session begins with this request, so that its cookie must be set."""

    @property
    def name(self) -> str | None:
        return None if self.token is None else self.token.name

    def may(self, right: Right, dataset: str | None) -> bool:
        """Return whether the viewer has a right on a dataset; None means on every dataset."""
        return self.token is None or self.token.opens(dataset, right)


async def viewer_of(
    request: Request, dataset: str | None = None, right: Right | None = "read"
) -> Viewer:
    """Return who views a page of a dataset, whose name may be that of a version.

    Raises `LoginRequired` without a session, and `Problem` if its token has not this right. With
    ``right`` None, any token will do.
    """
    service = service_of(request)
    session = service.sessions.read(request)
    token = None
    if service.settings.insecure:
        service.auth.check_host(request)
    else:
        if session is not None and session.digest is not None:
            token = await service.auth.session_token(request, session.digest)
        if token is None:
            raise _login_required(request, session)
    begun = session is None
    session = session or service.sessions.begin()
    viewer = Viewer(token, session, service.sessions.form_token(session), begun)
    base = None if dataset is None else dataset.partition("@")[0]
    if right is not None and not viewer.may(right, base):
        target = "every dataset" if base is None else f"the dataset {base!r:.140}"
        raise Problem(403, f"the token {viewer.name!r} may not {right} {target}")
    return viewer


def _login_required(request: Request, session: Session | None) -> LoginRequired:
    # A visitor's session has not ended: it never was that of a token.
    ended = service_of(request).sessions.cookie in request.cookies and (
        session is None or session.digest is not None
    )
    # As it was sent: the decoded path of a key may have a "?". A form has the path of its page.
    path, query = (part.decode("ascii", "replace") for part in address_of(request))
    return LoginRequired(f"{path}?{query}" if query else path, ended=ended)


async def show(
    request: Request,
    viewer: Viewer,
    template: str,
    work: Callable[[], Mapping[str, Any]],
    status: int = 200,
) -> Response:
    """Return a page: a template with the values that ``work`` reads, both in another thread."""
    text = await service_of(request).pools.read(
        lambda: render(template, viewer=viewer, csrf=viewer.csrf, **work())
    )
    return _answer(request, viewer, text, status)


async def show_shared(
    request: Request,
    viewer: Viewer,
    template: str,
    work: Callable[[], Mapping[str, Any]],
    *differs: Hashable,
) -> Response:
    """Return a page of a dataset as `show` does, which is the same for all who may see it.

    If it is not the same, ``differs`` is all that the page depends on besides its address. It is
    made again only as often as a person could notice, however many requests there are.
    """
    service, route = service_of(request), request.scope["route"]
    name = request.path_params["name"]
    page = await service.pools.read(
        service.shared_pages.get,
        (*address_of(request), *differs),
        lambda: SharedPage(render(template, viewer=None, csrf=_CSRF, **work()), name, route),
    )
    return _answer_shared(request, viewer, page)


async def kept_page(request: Request) -> Response | None:
    """Return the answer to a request if its page is kept by `show_shared`, for all who may see it.

    Raises what `viewer_of` does.
    """
    if request.method != "GET":
        return None
    page = service_of(request).shared_pages.kept(address_of(request))
    if page is None:
        return None
    # As the router does it: requests are measured by their route.
    request.scope["route"] = page.route
    viewer = await viewer_of(request, page.dataset)
    return _answer_shared(request, viewer, page)


def _answer_shared(request: Request, viewer: Viewer, page: SharedPage) -> Response:
    # No value can hold these: every "<" of one is escaped.
    session = render("session.html", viewer=viewer) if viewer.name else ""
    text = page.text.replace(_SESSION, session, 1)
    if _CSRF not in text:
        # A visitor's session is for forms alone.
        return html(text)
    return _answer(request, viewer, text.replace(_CSRF, viewer.csrf), 200)


def address_of(request: Request) -> tuple[bytes, bytes]:
    """Return the path and the query of a request, as they were sent."""
    return request.scope["raw_path"], request.scope["query_string"]


def _answer(request: Request, viewer: Viewer, text: str, status: int) -> Response:
    response = html(text, status)
    if viewer.begun:
        service_of(request).sessions.keep(viewer.session, request, response)
    return response


async def read_form(
    request: Request, session: Session | None, most: int = MOST_BYTES
) -> dict[str, list[str]]:
    """Return the fields of a form that was posted from one of this server's pages.

    Raises `Problem` for a form from elsewhere, without the token of the session, and for one of
    more than ``most`` bytes.
    """
    service = service_of(request)
    # Browsers send it; with it, a page of another origin is refused, whatever it knows.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(403, "this form was sent by a page of another site")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Problem(415, f"send {_FORM}")
    async with service.bodies.read(request, most) as body:
        fields = await service.pools.parse(body, lambda: _fields(body))
    (token,) = fields.get("csrf", [""])[:1]
    if session is None or not service.sessions.is_form_token(session, token):
        raise Problem(403, "this form is of a session that has ended; open its page again")
    return fields


def local_path(text: str) -> str:
    """Return a path of this server, which ``text`` may name; ``/`` if it leads elsewhere."""
    # "//host" and, to browsers, "/\host" are other servers.
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    is_path = text.startswith("/") and not text.startswith(("//", "/\\"))
    plain = text.isascii() and text.isprintable()
    return text if is_path and plain and not parts.scheme and not parts.netloc else "/"


def _fields(body: bytes) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise Problem(400, "the form cannot be read") from None
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields
