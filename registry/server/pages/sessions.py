"""Sessions: a signed cookie that names a token, and the tokens of forms.

A cookie holds the digest of the session's token, not the token: with the cookie alone nobody can
call the API. The digest is looked up for each request, so a session ends with its token. A cookie
without a digest is that of a visitor who has not logged in; it makes forms safe, also on a server
that asks for no token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection
from starlette.responses import Response

_MOST_ENDED: Final = 10_000
"""Sessions that are remembered as logged out, at most. Only valid ones are."""


@dataclass(frozen=True)
class Session:
    """What a cookie says: a random id, and the digest of the session's token, if there is one."""

    id: str
    digest: bytes | None = None


class Sessions:
    """Signs and checks the cookies of one server; for one event loop."""

    def __init__(self, key: bytes, address: str, seconds: int) -> None:
        """``address`` is that of the database; ``seconds`` is how long a session lasts."""
        self._serializer = URLSafeTimedSerializer(
            key, "registry session", signer_kwargs={"digest_method": hashlib.sha256}
        )
        self._key = key
        self._seconds = seconds
        self._ended: OrderedDict[str, float] = OrderedDict()
        # Browsers send cookies to every port of a host: servers of two databases need two names.
        self.cookie: Final = f"registry_{hashlib.sha256(address.encode()).hexdigest()[:10]}"

    def read(self, request: HTTPConnection) -> Session | None:
        """Return the session of a request; None without a valid cookie, or after its end."""
        cookie = request.cookies.get(self.cookie)
        if cookie is None:
            return None
        try:
            stored: dict[str, Any] = self._serializer.loads(cookie, max_age=self._seconds)
        except BadSignature:
            return None
        if stored["id"] in self._ended:
            return None
        digest = stored["token"]
        return Session(stored["id"], None if digest is None else b64decode(digest))

    @staticmethod
    def begin(digest: bytes | None = None) -> Session:
        """Return a new session, of the token with this digest or of a visitor."""
        # With another id after the login: a cookie that somebody planted before is then worthless.
        return Session(secrets.token_urlsafe(16), digest)

    def end(self, session: Session) -> None:
        """Refuse a session from now on, also where a copy of its cookie was kept.

        Another process, and this server after a restart, does not know of it.
        """
        now = time.monotonic()
        while self._ended and next(iter(self._ended.values())) < now:
            self._ended.popitem(last=False)
        self._ended[session.id] = now + self._seconds
        if len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)

    def keep(self, session: Session, request: HTTPConnection, response: Response) -> None:
        """Set the cookie of a session."""
        digest = session.digest
        value = self._serializer.dumps(
            {"id": session.id, "token": None if digest is None else b64encode(digest).decode()}
        )
        response.set_cookie(
            self.cookie,
            str(value),
            max_age=self._seconds,
            httponly=True,
            # Not strict: a link to a page in a message would then always lead to the login.
            samesite="lax",
            secure=request.url.scheme == "https",
        )

    def form_token(self, session: Session) -> str:
        """Return the token that each form of a session must send back."""
        return hmac.new(self._key, f"form {session.id}".encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, session: Session, text: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), text.encode())
