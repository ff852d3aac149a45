"""Webhook signatures: they prove who sent a body, that it is unchanged and, if timed, recent.

Secrets are compared by `hmac.compare_digest`. The time that ``==`` takes reveals how many leading
characters of a forged signature are right.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from standardwebhooks import Webhook, WebhookVerificationError

from registry.server.problems import Problem

_REFUSED = "the signature does not fit the body; is the secret the one that the tool has?"


@dataclass(frozen=True)
class Delivery:
    """One delivery of a signed event: the sender's id, and the time of signing.

    ``signed`` is in seconds since the epoch.
    """

    id: str
    signed: int


def check_cvat(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
    """Raise `Problem` unless ``X-Signature-256`` is the HMAC of the body by one of the secrets."""
    given = headers.get("x-signature-256", "").encode()
    expected = (f"sha256={_hmac(secret, body)}".encode() for secret in secrets)
    if not any(hmac.compare_digest(given, each) for each in expected):
        raise Problem(401, _REFUSED)


def check_standard(secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> Delivery:
    """Check a Standard Webhooks signature, and return the delivery that it signs.

    Raises `Problem` unless it fits one of the secrets and was made in the last 5 minutes.
    """
    moment = headers.get("webhook-timestamp", "")
    found = Delivery(
        headers.get("webhook-id", ""),
        int(moment) if moment.isascii() and moment.isdecimal() and len(moment) < 12 else 0,
    )
    if not any(_fits(Webhook(secret), headers, found, body) for secret in secrets):
        raise Problem(401, f"{_REFUSED} It may also be too old: is the sender's clock right?")
    return found


def _fits(hook: Webhook, headers: Mapping[str, str], found: Delivery, body: bytes) -> bool:
    try:
        hook.verify(body, dict(headers), json_parse=False)
        # verify() parses numbers and base64 leniently: it accepts other texts of the same values.
        # So the signature is computed again and compared as text.
        moment = datetime.fromtimestamp(found.signed, UTC)
        expected = hook.sign(found.id, moment, body.decode())
    except (WebhookVerificationError, ValueError):
        return False
    given = headers["webhook-signature"].split(" ")
    return str(found.signed) == headers["webhook-timestamp"] and any(
        hmac.compare_digest(expected.encode(), each.encode()) for each in given
    )


def _hmac(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, sha256).hexdigest()
